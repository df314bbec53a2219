"""The sources of Fashion-MNIST: where its files are found, or downloaded from."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from convkern._files import write_file
from convkern.fashion_mnist.files import (
    SHA256,
    DatasetError,
    DatasetNotFoundError,
    FashionMNISTData,
    locate,
    read_files,
    verified,
)

DEBIAN_PACKAGE: Final = "dataset-fashion-mnist"
DEBIAN_DIRECTORY = Path("/usr/share/datasets/fashion-mnist")

SOCKET_SECONDS = 5.0  # a mirror silent for this long counts as unreachable
APT_SECONDS = 5  # the same for apt
COMMAND_SECONDS = 900.0  # the longest that a 30 MB package may take to download or unpack


def read_fashion_mnist(data_dir: str | Path | None = None) -> FashionMNISTData:
    """Finds the four idx files of Fashion-MNIST, verifies them and reads them.

    With `data_dir`, the files are read from there, plain or gzipped, either directly or from
    torchvision's `FashionMNIST/raw` below it. Otherwise the first of these sources that has them is
    used:

    - the installed Debian package `dataset-fashion-mnist`;
    - the cache, `$XDG_CACHE_HOME/convkern` (`~/.cache/convkern` if unset);
    - torchvision's download;
    - the package's archive, downloaded with `apt-get` and unpacked without root.

    Both downloads fill the cache.

    Raises:
        DatasetNotFoundError: `data_dir` lacks a file or, without `data_dir`, every source
            failed. The message then gives each source's reason.
        DatasetCorruptError: a file in `data_dir` has the wrong SHA-256.
        OSError: a file in `data_dir` cannot be read.
    """
    if data_dir is not None:
        directory = Path(os.path.expanduser(data_dir))  # an unknown user's ~ stays as it is
        return read_files(directory, source=str(directory))
    failures = []
    for name, provide in _SOURCES.items():
        try:
            directory = provide()
            return read_files(directory, source=f"{name} in {directory}")
        except (RuntimeError, OSError, ImportError, subprocess.SubprocessError) as error:
            failures.append(f"  {name}: {' '.join(str(error).split())}")
    raise DatasetNotFoundError(
        "\n".join(["Fashion-MNIST was not found. Tried:", *failures])
        + f"\nInstall the Debian package {DEBIAN_PACKAGE}, or put the files "
        + ", ".join(f"{name}.gz" for name in SHA256)
        + " in a directory and pass it as data_dir (--data on the command line)."
    )


def _cache_directory() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification says to ignore a relative path.
    return (root if root.is_absolute() else Path.home() / ".cache") / "convkern"


@contextmanager
def _scratch_directory() -> Iterator[Path]:
    # Work inside the cache, because its disk has room for the data.
    cache = _cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="fetch-", dir=cache) as scratch:
        yield Path(scratch)


def _install(fetched: Path) -> Path:
    """Verifies the files of `fetched` and moves them into the cache, decompressed.

    Each file appears whole or not at all, so processes that do this at the same time do no harm.
    """
    cache = _cache_directory()
    raw = cache / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, path in locate(fetched).items():
        write_file(raw / name, verified(path))
    return cache


def _download_with_torchvision() -> Path:
    from torchvision.datasets import FashionMNIST

    with _scratch_directory() as scratch, _socket_timeout(SOCKET_SECONDS):
        FashionMNIST(scratch, download=True)
        return _install(scratch)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    # torchvision sets no timeout. Without the process-wide one it may wait forever.
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
        return _install(scratch / "unpacked" / inside)


def _apt_download(scratch: Path) -> Path:
    """Returns the package's archive, even if the system's package lists lack it."""
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
    """Writes a configuration with which apt updates package lists below `scratch` instead of
    root's."""
    lists = scratch / "lists"
    (lists / "partial").mkdir(parents=True)
    config = scratch / "apt.conf"
    config.write_text(
        f'Dir::State::Lists "{lists}";\n'
        f'Dir::Cache "{scratch}";\n'
        # Run as root, apt would drop to a user who cannot enter the scratch directory.
        'APT::Sandbox::User "root";\n'
        # Hooks in the system's configuration would act on the system's own directories.
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
    # apt by default retries each address three times for 30 s, which is too long for a fallback.
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
