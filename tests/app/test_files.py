"""Files are written as a whole, and one process at a time locks a folder."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from convkern import _files as files
from convkern._files import check_writable, locked, write_file

OLD, NEW = b"old" * 1000, b"new" * 100_000


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, OLD)
    assert path.read_bytes() == OLD
    write_file(path, "ä\n")
    assert path.read_bytes() == b"\xc3\xa4\n"
    assert names(tmp_path) == ["file"]
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "new", NEW)
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    path.chmod(0o604)
    write_file(path, NEW)
    assert path.stat().st_mode & 0o777 == 0o604


def test_a_folder_that_cannot_be_synced_is_no_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_sync_folder", failing(OSError(22, "Invalid argument")))
    write_file(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == NEW


def test_a_link_leads_to_the_file_that_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")
    write_file(tmp_path / "link", NEW)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "file").read_bytes() == NEW


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_file(tmp_path / "pipe", OLD)
    assert os.read(reader, 10_000) == OLD
    os.close(reader)
    assert names(tmp_path) == ["pipe"]
    write_file(Path(os.devnull), OLD)
    assert not Path(os.devnull).is_file()


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("moment", ["os.fsync", "Path.replace"])
def test_a_failure_leaves_the_file_before(
    moment: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    with monkeypatch.context() as patch:
        patch.setattr(f"convkern._files.{moment}", failing(error))
        with pytest.raises(type(error)) as raised:
            write_file(path, NEW)
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["file"]
    if isinstance(error, OSError):
        assert str(raised.value) == f"[Errno 28] No space left on device: '{path}'"


def _write_limited(path: Path, most: int) -> None:
    """Writes as on a disk with room for `most` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    for action in (lambda: write_file(path, NEW), lambda: check_writable(path)):
        try:
            action()
        except OSError:
            continue
        os._exit(1)
    os._exit(0)


def in_process(function: Callable[..., None], *arguments: object) -> int | None:
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def test_a_full_disk_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    assert in_process(_write_limited, path, len(NEW) // 2) == 0
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["file"]


def _write_for_ever(path: Path) -> None:
    while True:
        for content in (OLD, NEW):
            write_file(path, content)


def test_a_kill_leaves_a_whole_file(tmp_path: Path) -> None:
    """Two processes write at the same time. They are killed at moments spread over many
    writings."""
    path = tmp_path / "file"
    path.write_bytes(OLD)
    for attempt in range(10):
        writers = [
            multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(path,))
            for _ in range(2)
        ]
        for writer in writers:
            writer.start()
        time.sleep(0.01 + 0.003 * attempt)
        for writer in writers:
            writer.kill()
            writer.join()
            assert writer.exitcode == -signal.SIGKILL
        assert path.read_bytes() in (OLD, NEW)


def test_folders_are_made_and_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "a" / "b" / "file", tmp_path / "a" / "other")
    assert names(tmp_path / "a") == ["b"]
    assert names(tmp_path / "a" / "b") == []
    with pytest.raises(IsADirectoryError, match=str(tmp_path / "a" / "b")):
        check_writable(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=str(tmp_path / "file")):
        check_writable(tmp_path / "file" / "below")
    with pytest.raises(OSError, match="/proc/convkern"):
        check_writable(Path("/proc/convkern/file"))
    monkeypatch.setattr(files, "TemporaryFile", failing(OSError(30, "Read-only file system", "x")))
    with pytest.raises(OSError, match=f"Read-only file system: '{tmp_path}'"):
        check_writable(tmp_path / "file")


def test_devices_and_links_are_checked_where_they_lead(tmp_path: Path) -> None:
    check_writable(Path("/dev/null"))
    (tmp_path / "link").symlink_to("there/file")
    check_writable(tmp_path / "link")
    assert (tmp_path / "there").is_dir()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        check_writable(tmp_path / "loop")


def test_an_open_file_is_written_in_place(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        number = file.fileno()
        write_file(Path(f"/proc/self/fd/{number}"), NEW)
        assert os.fstat(number).st_size == len(NEW)


# --- locks ---------------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from convkern._files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(folder: Path) -> "subprocess.Popen[str]":
    """Starts a process that locks the folder until it gets a line."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("end", ["killed", "regular"])
def test_a_folder_is_one_process_s_until_that_ends(tmp_path: Path, end: str) -> None:
    process = holder(tmp_path)
    with pytest.raises(ValueError, match=rf"{tmp_path} is in use by another training"):  # noqa: SIM117
        with locked(tmp_path):
            pytest.fail("locked twice")
    if end == "killed":
        process.kill()
    process.communicate("\n")
    with locked(tmp_path):
        pass
    assert names(tmp_path) == []


def test_a_lock_removes_litter_and_no_file_of_the_user(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("mine")
    (tmp_path / ".convkern-0123").touch()
    (tmp_path / ".convkern-folder").mkdir()
    (tmp_path / ".convkern-folder" / "part").touch()
    with locked(tmp_path):
        assert names(tmp_path) == [".convkern.lock", ".lock"]
    assert (tmp_path / ".lock").read_text() == "mine"


def _count(folder: Path) -> None:
    counter = folder / "counter"
    done = 0
    while done < 50:
        try:
            with locked(folder):
                counter.write_text(str(int(counter.read_text()) + 1))
                done += 1
        except ValueError:
            pass


def test_processes_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_count, args=(tmp_path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "counter").read_text() == "200"


def test_a_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """The child is like a loader's worker, which may outlive the killed process."""
    release = multiprocessing.get_context("fork").Event()
    with locked(tmp_path):
        child = multiprocessing.get_context("fork").Process(target=release.wait)
        child.start()
    with locked(tmp_path):
        pass
    release.set()
    child.join()
