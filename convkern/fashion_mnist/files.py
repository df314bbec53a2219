"""Finds, verifies and reads the four idx files of Fashion-MNIST in a folder."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

# SHA-256 of the decompressed content, because gzip headers differ between copies of the same data.
SHA256: Final = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
# Bytes of the decompressed content. Files are not read beyond this.
SIZES: Final = {
    "train-images-idx3-ubyte": 16 + 60_000 * 28 * 28,
    "train-labels-idx1-ubyte": 8 + 60_000,
    "t10k-images-idx3-ubyte": 16 + 10_000 * 28 * 28,
    "t10k-labels-idx1-ubyte": 8 + 10_000,
}


class DatasetError(RuntimeError):
    """Fashion-MNIST is not available; the message says why."""


class DatasetNotFoundError(DatasetError):
    """The files are in none of the places that were searched."""


class DatasetCorruptError(DatasetError):
    """A file exists, but its content is not that of Fashion-MNIST."""


@dataclass(frozen=True)
class FashionMNISTData:
    """Both splits, 60000 and 10000 samples, in memory (about 220 MB).

    Each split holds images, float32 of shape (N, 1, 28, 28) in [0, 1], and labels, int64 of
    shape (N,) in 0..9. `source` says in words where the files came from.
    """

    source: str
    train: TensorDataset
    test: TensorDataset


def read_files(directory: Path, source: str) -> FashionMNISTData:
    arrays = {name: _idx_array(verified(path)) for name, path in locate(directory).items()}
    train, test = (
        TensorDataset(
            arrays[f"{split}-images-idx3-ubyte"].unsqueeze(1).float().div_(255),
            arrays[f"{split}-labels-idx1-ubyte"].long(),
        )
        for split in ("train", "t10k")
    )
    return FashionMNISTData(source, train, test)


def locate(directory: Path) -> dict[str, Path]:
    """Maps each name in `SHA256` to its file in `directory`, plain or gzipped."""
    folders = (directory, directory / "FashionMNIST" / "raw")
    files = max((_files_in(folder) for folder in folders), key=len)
    if missing := [name for name in SHA256 if name not in files]:
        raise DatasetNotFoundError(
            f"Fashion-MNIST is not in {directory}: looked there and in FashionMNIST/raw below it "
            f"for {', '.join(missing)} (plain or .gz)"
        )
    return files


def _files_in(folder: Path) -> dict[str, Path]:
    # Plain files come last and win, because they need no decompression.
    paths = [folder / f"{name}{suffix}" for suffix in (".gz", "") for name in SHA256]
    return {path.name.removesuffix(".gz"): path for path in paths if path.is_file()}


def verified(path: Path) -> bytes:
    """Returns the decompressed content of `path`. Raises DatasetCorruptError unless it is the
    data."""
    name = path.name.removesuffix(".gz")
    content, found = b"", "more than the data's size"
    try:
        # Neither a plain nor a gzipped file may be larger; gzip adds less than a thousandth.
        if path.stat().st_size <= SIZES[name] * 1.001 + 1024:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                content = file.read(SIZES[name] + 1)
            if len(content) <= SIZES[name]:
                found = hashlib.sha256(content).hexdigest()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        found = f"a broken gzip file ({error})"
    if found != SHA256[name]:
        raise DatasetCorruptError(
            f"{path} is not the Fashion-MNIST file: its content should have SHA-256 "
            f"{SHA256[name]}, found {found}"
        )
    return content


def _idx_array(content: bytes) -> Tensor:
    # The file has two zero bytes, a type code (8: uint8), the rank, the sizes as big-endian uint32,
    # and the data.
    rank = content[3]
    shape = struct.unpack_from(f">{rank}I", content, offset=4)
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * rank)
    return data.reshape(shape)
