"""Writes files as a whole, and locks folders so that one process at a time writes into them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from uuid import uuid4

from filelock import FileLock, Timeout

_PROBE_BYTES = 1 << 20  # more than any file of a training


def write_file(path: Path, content: bytes | str) -> None:
    """Writes `content` as the whole file. Text is written in UTF-8.

    If the process fails or is killed meanwhile, the file has its old or its new content, never a
    part. If several processes write the same file at once, the content of the last one stays.

    Raises:
        OSError: the file cannot be written. It is left as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    if _is_written_in_place(path):
        path.write_bytes(data)
        return
    target = Path(os.path.realpath(path))  # a link is followed to its file
    # The new file is staged in the same folder, because a replacement is atomic only within a file
    # system.
    staged = target.with_name(f".convkern-{uuid4().hex}")
    try:
        with staged.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # the content must be on the disk before its name
        with suppress(OSError):
            shutil.copymode(target, staged)
        staged.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            staged.unlink()
    with suppress(OSError):  # the file is written even if its name is not on the disk yet
        _sync_folder(target.parent)


def check_writable(*files: Path) -> None:
    """Makes the folders of files that will be written later, and checks that they can be written.

    Raises:
        OSError: a folder cannot be made or written into, its disk is full, or a file's name is that
            of a folder.
    """
    for file in files:
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", str(file))
    targets = [Path(os.path.realpath(file)) for file in files if not _is_written_in_place(file)]
    for target in targets:
        if target.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(target))
    for folder in dict.fromkeys(target.parent for target in targets):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with TemporaryFile(dir=folder) as probe:
                probe.write(bytes(_PROBE_BYTES))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(folder)) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of the context for the same folder, which must exist.

    The lock ends with the process, however that ends. Files that killed processes left half written
    are removed.

    Raises:
        ValueError: another process holds the lock.
        OSError: the file `.convkern.lock` in the folder cannot be written.
    """
    path = folder / ".convkern.lock"
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"{folder} is in use by another training: wait for its end, or choose another folder"
        ) from None
    try:
        _remove_litter(folder)
        yield
    finally:
        # Unlink the file while it is locked. After locking, filelock checks whether the file that
        # it opened still has its name, and otherwise tries again.
        with suppress(OSError):
            path.unlink()
        lock.release()


def _is_written_in_place(path: Path) -> bool:
    """Returns whether the path is a pipe or a device, or names an open file, as /dev/stdout
    does."""
    absolute = os.path.abspath(path)
    names_open_file = absolute.startswith(("/dev/std", "/dev/fd/", "/proc/self/fd/"))
    return os.path.exists(path) and (names_open_file or not os.path.isfile(path))


def _remove_litter(folder: Path) -> None:
    for left in folder.glob(".convkern-*"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with suppress(OSError):
                left.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
