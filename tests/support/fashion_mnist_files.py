"""Tiny files that pass for Fashion-MNIST, and a cache without a network.

The fixtures serve the modules that import them. `cache` then surrounds each of their tests.
"""

import functools
import gzip
import hashlib
import io
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.datasets import FashionMNIST

from convkern.fashion_mnist import build_convnet, checkpoint, sources
from convkern.fashion_mnist.files import SHA256

TRAIN, TEST = 20, 7
TRAIN_IMAGES = "train-images-idx3-ubyte"


def idx(array: Tensor) -> bytes:
    header = struct.pack(f">BBBB{array.dim()}I", 0, 0, 8, array.dim(), *array.shape)
    return header + bytes(array.flatten().tolist())


def stand_ins(arrays: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Returns the content of idx files with the arrays, and makes it pass for the real data."""
    content = {name: idx(array) for name, array in arrays.items()}
    for name, blob in content.items():
        monkeypatch.setitem(SHA256, name, hashlib.sha256(blob).hexdigest())
    return content


@pytest.fixture(name="arrays")
def arrays_fixture() -> dict[str, Tensor]:
    """Returns random uint8 pictures and labels by file name."""
    generator = torch.Generator().manual_seed(1)
    draw = functools.partial(torch.randint, generator=generator, dtype=torch.uint8)
    return {
        TRAIN_IMAGES: draw(256, (TRAIN, 28, 28)),
        "train-labels-idx1-ubyte": draw(10, (TRAIN,)),
        "t10k-images-idx3-ubyte": draw(256, (TEST, 28, 28)),
        "t10k-labels-idx1-ubyte": draw(10, (TEST,)),
    }


@pytest.fixture(name="files")
def files_fixture(arrays: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Returns the content of tiny data files, which pass for the real ones."""
    return stand_ins(arrays, monkeypatch)


@pytest.fixture(name="cache", autouse=True)
def cache_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns an empty cache and makes every other source unreachable."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed_port = server.getsockname()[1]
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{closed_port}/"])
    monkeypatch.setattr(sources, "DEBIAN_DIRECTORY", tmp_path / "usr" / "share" / "fashion")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "xdg" / "convkern"


def write(folder: Path, files: dict[str, bytes], *, gz: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if gz:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
        else:
            (folder / name).write_bytes(content)
    return folder


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def cached(files: dict[str, bytes]) -> list[str]:
    return sorted(f"FashionMNIST/raw/{name}" for name in files)


def bright_rows(count: int) -> tuple[Tensor, Tensor]:
    """Returns pictures of noise, uint8, with two bright rows whose height is the label."""
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(60, (count, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count, dtype=torch.uint8) % 10
    for image, label in zip(images, labels.tolist(), strict=True):
        image[2 * label + 4 : 2 * label + 6] = 255
    return images, labels


@pytest.fixture(name="data_dir")
def data_dir_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a directory of tiny idx files, which pass for Fashion-MNIST."""
    arrays = {}
    for split, count in (("train", 60), ("t10k", 30)):
        images, labels = bright_rows(count)
        arrays |= {f"{split}-images-idx3-ubyte": images, f"{split}-labels-idx1-ubyte": labels}
    return write(tmp_path / "data", stand_ins(arrays, monkeypatch))


def checkpoint_parts(path: Path) -> dict[str, Any]:
    """Returns the parts of a checkpoint."""
    content = path.read_bytes()[len(checkpoint._sealed(b"")) :]
    parts: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    return parts


def write_checkpoint(path: Path, parts: object) -> None:
    """Writes a checkpoint with any parts, and with the checksum that belongs to it."""
    content = io.BytesIO()
    torch.save(parts, content)
    path.write_bytes(checkpoint._sealed(content.getvalue()))


@contextmanager
def interrupted_in_step(module: ModuleType, step: int) -> Iterator[None]:
    """Stops the training that the module builds, as Ctrl-C does, in the given step, from 1."""
    steps = 0

    class Cost(nn.CrossEntropyLoss):
        def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
            nonlocal steps
            steps += 1
            if steps == step:
                raise KeyboardInterrupt
            return super().forward(scores, labels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module, "build_convnet", lambda *a, **o: (*build_convnet(*a, **o)[:2], Cost())
        )
        yield
