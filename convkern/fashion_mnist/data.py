"""Fashion-MNIST as data loaders: the files are found or fetched, and always verified."""

import gzip
import hashlib
import os
import socket
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
)

from convkern.fashion_mnist.parallel import ALONE, Processes

# SHA-256 of the decompressed content: the same data travels under several gzip headers.
SHA256: Final = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
DEBIAN_PACKAGE: Final = "dataset-fashion-mnist"
DEBIAN_DIRECTORY = Path("/usr/share/datasets/fashion-mnist")

SOCKET_SECONDS = 5.0  # silence of a mirror after which it counts as unreachable
APT_SECONDS = 5  # the same for apt
COMMAND_SECONDS = 900.0  # the longest a 30 MB package may take to download or to unpack

Loader = DataLoader[tuple[Tensor, ...]]


class DatasetError(RuntimeError):
    """Fashion-MNIST cannot be had; the message says why."""


class DatasetNotFoundError(DatasetError):
    """The files are in none of the places where they were looked for."""


class DatasetCorruptError(DatasetError):
    """A file is there, but its content is not that of Fashion-MNIST."""


@dataclass(frozen=True)
class FashionMNISTData:
    """Both splits, 60000 and 10000 samples, in memory (about 220 MB).

    Each split holds images, float32 of shape (N, 1, 28, 28) in [0, 1], and labels, int64 of
    shape (N,) in 0..9. `source` says in words where the files came from.
    """

    source: str
    train: TensorDataset
    test: TensorDataset


def load_fashion_mnist(
    batch_size: int = 512,
    num_workers: int = 0,
    *,
    data_dir: str | Path | None = None,
    seed: int | None = None,
) -> tuple[Loader, Loader]:
    """Return `(train_iter, test_iter)`: `make_loaders` over `read_fashion_mnist(data_dir)`."""
    return make_loaders(read_fashion_mnist(data_dir), batch_size, num_workers, seed=seed)


def make_loaders(
    data: FashionMNISTData,
    batch_size: int = 512,
    num_workers: int = 0,
    *,
    seed: int | None = None,
    processes: Processes = ALONE,
) -> tuple[Loader, Loader]:
    """Return `(train_iter, test_iter)`; each batch is a pair (images, labels).

    Images are float32 (N, 1, 28, 28) in [0, 1] and labels int64 (N,), with N = `batch_size`
    but for a smaller last batch. The training split is shuffled anew each epoch, in an order
    that depends on `seed` alone when one is given; the test split keeps its order.

    A batch is taken from memory by its indices at once. `num_workers` processes do so, at most
    one a CPU; with 0 the calling process does, which was fastest on two cores: an epoch of
    loading takes some 0.1 s, less than workers take to start and to send the batches.

    Several `processes`, with the same seed, get disjoint shares of the batches that one would get:
    of the training split equal ones, for which a batch that they do not divide begins anew, of the
    test split each sample once.

    Raises:
        ValueError: several processes, and no seed or a batch that not all get a share of.
    """
    if processes.count > 1 and (seed is None or batch_size < processes.count):
        raise ValueError(
            f"{processes.count} processes need a seed and a batch size of at least as many, "
            f"got seed={seed}, batch_size={batch_size}"
        )
    workers = min(num_workers, _usable_cpus())
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    order = RandomSampler(data.train, generator=generator)

    def loader(split: TensorDataset, order: Sampler[int], *, padded: bool) -> Loader:
        batches = BatchSampler(order, batch_size, drop_last=False)
        shares = _Shares(batches, processes, padded=padded) if processes.count > 1 else batches
        # batch_size=None: what the sampler gives, a list of indices, is what the data set gets.
        return DataLoader(
            split, batch_size=None, sampler=shares, num_workers=workers, generator=generator
        )

    test_order = SequentialSampler(data.test)
    return loader(data.train, order, padded=True), loader(data.test, test_order, padded=False)


class _Shares(Sampler[list[int]]):
    """One process's share of each batch: every `count`-th sample of it.

    All get equally many where the batch is `padded`, with its first samples again; else a share
    without samples is left out.
    """

    def __init__(self, batches: BatchSampler, processes: Processes, *, padded: bool) -> None:
        self._batches, self._processes, self._padded = batches, processes, padded

    def __iter__(self) -> Iterator[list[int]]:
        rank, count = self._processes.rank, self._processes.count
        for batch in self._batches:
            size = len(batch) + (-len(batch) % count if self._padded else 0)
            if share := [batch[index % len(batch)] for index in range(rank, size, count)]:
                yield share

    def __len__(self) -> int:
        samples = self._batches.sampler
        assert isinstance(samples, Sized)
        last = len(samples) % self._batches.batch_size
        left_out = not self._padded and 0 < last <= self._processes.rank
        return len(self._batches) - left_out


def read_fashion_mnist(data_dir: str | Path | None = None) -> FashionMNISTData:
    """Find the four idx files of Fashion-MNIST, verify them and read them.

    With `data_dir`, the files are read from there, plain or gzipped, either directly or from
    torchvision's `FashionMNIST/raw` below it. Without, the first of these that has them is
    used: the installed Debian package `dataset-fashion-mnist`; the cache,
    `$XDG_CACHE_HOME/convkern` (`~/.cache/convkern` if unset); torchvision's download; the
    package's archive, fetched with `apt-get` and unpacked without root. Both downloads fill
    the cache.

    Raises:
        DatasetNotFoundError: `data_dir` lacks a file or, without `data_dir`, every source
            failed; the message then gives each source's reason.
        DatasetCorruptError: a file in `data_dir` has the wrong SHA-256.
        OSError: a file in `data_dir` cannot be read.
    """
    if data_dir is not None:
        directory = Path(data_dir).expanduser()
        return _read(directory, source=str(directory))
    failures = []
    for name, provide in _SOURCES.items():
        try:
            directory = provide()
            return _read(directory, source=f"{name} in {directory}")
        except (RuntimeError, OSError, ImportError, subprocess.SubprocessError) as error:
            failures.append(f"  {name}: {' '.join(str(error).split())}")
    raise DatasetNotFoundError(
        "\n".join(["Fashion-MNIST was not found. Tried:", *failures])
        + f"\nInstall the Debian package {DEBIAN_PACKAGE}, or put the files "
        + ", ".join(f"{name}.gz" for name in SHA256)
        + " in a directory and pass it as data_dir (--data on the command line)."
    )


def _usable_cpus() -> int:
    # The count with which torch compares num_workers before it warns.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read(directory: Path, source: str) -> FashionMNISTData:
    arrays = {name: _idx_array(_verified(path)) for name, path in _locate(directory).items()}
    train, test = (
        TensorDataset(
            arrays[f"{split}-images-idx3-ubyte"].unsqueeze(1).float().div_(255),
            arrays[f"{split}-labels-idx1-ubyte"].long(),
        )
        for split in ("train", "t10k")
    )
    return FashionMNISTData(source, train, test)


def _locate(directory: Path) -> dict[str, Path]:
    """Map each name of `SHA256` to its file, plain or gzipped, in `directory`."""
    folders = (directory, directory / "FashionMNIST" / "raw")
    files = max((_files_in(folder) for folder in folders), key=len)
    if missing := [name for name in SHA256 if name not in files]:
        raise DatasetNotFoundError(
            f"Fashion-MNIST is not in {directory}: looked there and in FashionMNIST/raw below it "
            f"for {', '.join(missing)} (plain or .gz)"
        )
    return files


def _files_in(folder: Path) -> dict[str, Path]:
    # Plain files come last and win: they need no decompression.
    paths = [folder / f"{name}{suffix}" for suffix in (".gz", "") for name in SHA256]
    return {path.name.removesuffix(".gz"): path for path in paths if path.is_file()}


def _verified(path: Path) -> bytes:
    """Return the decompressed content of `path`; DatasetCorruptError unless it is the data."""
    expected = SHA256[path.name.removesuffix(".gz")]
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        found = hashlib.sha256(content).hexdigest()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        found = f"a broken gzip file ({error})"
    if found != expected:
        raise DatasetCorruptError(
            f"{path} is not the Fashion-MNIST file: its content should have SHA-256 {expected}, "
            f"found {found}"
        )
    return content


def _idx_array(content: bytes) -> Tensor:
    # Two zero bytes, a type code (8: uint8), the rank, the sizes as big-endian uint32, the data.
    rank = content[3]
    shape = struct.unpack_from(f">{rank}I", content, offset=4)
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * rank)
    return data.reshape(shape)


def _cache_directory() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification says to ignore a relative path.
    return (root if root.is_absolute() else Path.home() / ".cache") / "convkern"


@contextmanager
def _scratch_directory() -> Iterator[Path]:
    # Inside the cache, because only a rename within one file system is atomic.
    cache = _cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="fetch-", dir=cache) as scratch:
        yield Path(scratch)


def _install(fetched: Path, scratch: Path) -> Path:
    """Verify the files of `fetched` and move them into the cache, decompressed.

    Each file appears whole or not at all, so processes that do this at once do no harm.
    """
    cache = _cache_directory()
    raw = cache / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, path in _locate(fetched).items():
        staged = scratch / "staged"
        staged.write_bytes(_verified(path))
        staged.replace(raw / name)
    return cache


def _download_with_torchvision() -> Path:
    from torchvision.datasets import FashionMNIST

    with _scratch_directory() as scratch, _socket_timeout(SOCKET_SECONDS):
        FashionMNIST(scratch, download=True)
        return _install(scratch, scratch)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    # torchvision has no timeout of its own: without the process-wide one it may wait for ever.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _fetch_debian_archive() -> Path:
    with _scratch_directory() as scratch:
        archive = _apt_download(scratch)
        _run("dpkg-deb", "-x", str(archive), "unpacked", cwd=scratch)
        inside = DEBIAN_DIRECTORY.relative_to("/")
        return _install(scratch / "unpacked" / inside, scratch)


def _apt_download(scratch: Path) -> Path:
    """Return the package's archive, also where the system's package lists lack it."""
    try:
        return _apt_get_archive(scratch / "system-lists")
    except DatasetError as error:
        reason = error
    try:
        config = str(_own_lists_config(scratch))
        _apt_get("-c", config, "update", cwd=scratch)
        return _apt_get_archive(scratch / "own-lists", "-c", config)
    except DatasetError as error:
        raise DatasetError(f"{reason}; then, with fresh package lists, {error}") from error


def _own_lists_config(scratch: Path) -> Path:
    """Write a configuration under which apt updates package lists below `scratch`, not root's."""
    lists = scratch / "lists"
    (lists / "partial").mkdir(parents=True)
    config = scratch / "apt.conf"
    config.write_text(
        f'Dir::State::Lists "{lists}";\n'
        f'Dir::Cache "{scratch}";\n'
        # Run as root, apt would drop to a user who cannot enter the scratch directory.
        'APT::Sandbox::User "root";\n'
        # Hooks of the system's configuration would act on the system's own directories.
        "#clear APT::Update::Pre-Invoke;\n"
        "#clear APT::Update::Post-Invoke;\n"
        "#clear APT::Update::Post-Invoke-Success;\n"
    )
    return config


def _apt_get_archive(folder: Path, *options: str) -> Path:
    folder.mkdir()
    _apt_get(*options, "download", DEBIAN_PACKAGE, cwd=folder)
    return next(folder.glob("*.deb"))


def _apt_get(*arguments: str, cwd: Path) -> None:
    # apt's own patience, three retries of 30 s for each address, is too long for a fallback.
    patience = ("-o", "Acquire::Retries=0", "-o", f"Acquire::http::Timeout={APT_SECONDS}")
    _run("apt-get", *patience, *arguments, cwd=cwd)


def _run(*command: str, cwd: Path) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if not line.startswith("W:")]
        raise DatasetError(f"{command[0]} failed: {' '.join(errors)}")


_SOURCES: Final[dict[str, Callable[[], Path]]] = {
    f"the installed Debian package {DEBIAN_PACKAGE}": lambda: DEBIAN_DIRECTORY,
    "the cache": _cache_directory,
    "torchvision's download": _download_with_torchvision,
    "the archive of the Debian package": _fetch_debian_archive,
}
