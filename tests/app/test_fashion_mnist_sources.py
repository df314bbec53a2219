"""The sources of Fashion-MNIST without an explicit directory, with tiny files and no network."""

import functools
import hashlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torchvision.datasets import FashionMNIST

from convkern.fashion_mnist import sources
from convkern.fashion_mnist.files import SHA256, DatasetError, DatasetNotFoundError
from fashion_mnist_files import (
    TEST,
    TRAIN,
    TRAIN_IMAGES,
    arrays_fixture,  # noqa: F401
    cache_fixture,  # noqa: F401
    cached,
    files_below,
    files_fixture,  # noqa: F401
    write,
)


def serve(folder: Path) -> http.server.ThreadingHTTPServer:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


@pytest.fixture
def mirror(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Puts gzipped files behind a local web server, from which torchvision downloads."""
    folder = write(tmp_path / "mirror", files, gz=True)
    server = serve(folder)
    resources = [
        (f"{name}.gz", hashlib.md5((folder / f"{name}.gz").read_bytes()).hexdigest())
        for name in files
    ]
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    yield folder
    server.shutdown()
    server.server_close()


# --- the sources without one ---------------------------------------------------------------


def test_installed_debian_package_comes_first(cache: Path, files: dict[str, bytes]) -> None:
    write(sources.DEBIAN_DIRECTORY, files, gz=True)
    write(cache / "FashionMNIST" / "raw", files)
    source = sources.read_fashion_mnist().source
    assert "installed Debian package" in source
    assert str(sources.DEBIAN_DIRECTORY) in source


def test_cache_comes_second(mirror: Path, cache: Path, files: dict[str, bytes]) -> None:
    write(cache / "FashionMNIST" / "raw", files)
    assert sources.read_fashion_mnist().source == f"the cache in {cache}"


def test_download_fills_the_cache(mirror: Path, cache: Path, files: dict[str, bytes]) -> None:
    found = sources.read_fashion_mnist()
    assert found.source == f"torchvision's download in {cache}"
    assert len(found.train) == TRAIN
    assert files_below(cache) == cached(files)
    shutil.rmtree(mirror)
    assert sources.read_fashion_mnist().source == f"the cache in {cache}"


def test_corrupt_cache_is_replaced(mirror: Path, cache: Path, files: dict[str, bytes]) -> None:
    write(cache / "FashionMNIST" / "raw", files | {TRAIN_IMAGES: b"rubbish"})
    assert "download" in sources.read_fashion_mnist().source
    assert (cache / "FashionMNIST" / "raw" / TRAIN_IMAGES).read_bytes() == files[TRAIN_IMAGES]


def test_corrupt_debian_package_is_passed_over(cache: Path, files: dict[str, bytes]) -> None:
    write(sources.DEBIAN_DIRECTORY, files | {TRAIN_IMAGES: b"rubbish"})
    write(cache / "FashionMNIST" / "raw", files)
    assert sources.read_fashion_mnist().source == f"the cache in {cache}"


def test_wrong_download_does_not_enter_the_cache(
    mirror: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SHA256, TRAIN_IMAGES, "0" * 64)
    with pytest.raises(DatasetNotFoundError, match="0" * 64):
        sources.read_fashion_mnist()
    assert f"FashionMNIST/raw/{TRAIN_IMAGES}" not in files_below(cache)


def test_failed_download_leaves_nothing(mirror: Path, cache: Path) -> None:
    (mirror / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DatasetNotFoundError, match="404"):
        sources.read_fashion_mnist()
    assert files_below(cache) == []


def test_silent_mirror_is_given_up(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SOCKET_SECONDS", 0.2)
    before = socket.getdefaulttimeout()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{port}/"])
        start = time.perf_counter()
        with pytest.raises(DatasetNotFoundError, match="timed out"):
            sources.read_fashion_mnist()
    assert time.perf_counter() - start < 5
    assert socket.getdefaulttimeout() == before
    assert files_below(cache) == []


def test_interrupted_install_is_completed_later(
    mirror: Path, cache: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path) -> bytes:
        if path.name.startswith("t10k"):
            raise KeyboardInterrupt
        return path.read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr(sources, "verified", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sources.read_fashion_mnist()
    assert files_below(cache) == [path for path in cached(files) if "train" in path]
    assert "download" in sources.read_fashion_mnist().source
    assert files_below(cache) == cached(files)


def test_remains_of_a_killed_fetch_are_ignored(
    mirror: Path, cache: Path, files: dict[str, bytes]
) -> None:
    write(cache / "fetch-killed" / "FashionMNIST" / "raw", {TRAIN_IMAGES: b"half"})
    assert len(sources.read_fashion_mnist().train) == TRAIN


def test_unwritable_cache_is_a_reason(tmp_path: Path, files: dict[str, bytes]) -> None:
    (tmp_path / "xdg").write_text("a file where the cache should be")
    with pytest.raises(DatasetNotFoundError, match="Not a directory"):
        sources.read_fashion_mnist()


@pytest.mark.parametrize("setting", [None, "", "relative/path"])
def test_cache_without_a_usable_xdg_setting(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, setting: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME")
    if setting is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", setting)
    expected = tmp_path / ".cache" / "convkern"
    write(expected, files)
    assert sources.read_fashion_mnist().source == f"the cache in {expected}"


def test_every_failed_source_is_named_with_its_reason() -> None:
    with pytest.raises(DatasetNotFoundError) as error:
        sources.read_fashion_mnist()
    heading, *attempts, advice = str(error.value).splitlines()
    expected = [
        ("installed Debian package", "is not in"),
        ("cache", "is not in"),
        ("torchvision's download", "Connection refused"),
        ("archive of the Debian package", "apt-get"),
    ]
    assert "not found" in heading
    assert len(attempts) == len(expected)
    for attempt, (source, reason) in zip(attempts, expected, strict=True):
        name, _, why = attempt.partition(":")
        assert source in name
        assert reason in why
    assert "dataset-fashion-mnist" in advice
    assert "--data" in advice


def test_missing_torchvision_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(DatasetNotFoundError, match=r"download: import of torchvision"):
        sources.read_fashion_mnist()


# --- the archive of the Debian package -----------------------------------------------------

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is missing")


@pytest.fixture
def apt_get(tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Installs a stand-in for apt-get that delivers a real package of the tiny files.

    Its lists are missing while `no-lists` exists in the returned folder. `update` makes new lists
    only where its configuration says.
    """
    root = tmp_path / "package"
    monkeypatch.setattr(sources, "DEBIAN_DIRECTORY", Path("/nowhere/share/datasets/fashion-mnist"))
    write(root / "nowhere/share/datasets/fashion-mnist", files, gz=True)
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN" / "control").write_text(
        "Package: dataset-fashion-mnist\nVersion: 1\nArchitecture: all\n"
        "Maintainer: Test <test@example.org>\nDescription: tiny\n"
    )
    programs = tmp_path / "programs"
    programs.mkdir()
    script = programs / "apt-get"
    script.write_text(
        f"""#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in
    -o) shift ;;
    -c) config=$2; lists=$(sed -n 's/Dir::State::Lists "\\(.*\\)";/\\1/p' "$2"); shift ;;
    update) cp "$config" "{programs}/config" && touch "$lists/partial/fresh"; exit ;;
    download)
        if [ -e "{programs}/no-lists" ] && ! [ -e "$lists/partial/fresh" ]; then
            echo "W: some warning" >&2
            echo "E: Unable to locate package $2" >&2
            exit 100
        fi
        exec cp "{tmp_path}/tiny.deb" "$2_1_all.deb" ;;
    esac
    shift
done
"""
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.defpath}")
    build = ["dpkg-deb", "--build", "--root-owner-group", str(root), str(tmp_path / "tiny.deb")]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    return programs


@needs_dpkg
def test_archive_fills_the_cache(apt_get: Path, cache: Path, files: dict[str, bytes]) -> None:
    found = sources.read_fashion_mnist()
    assert found.source == f"the archive of the Debian package in {cache}"
    assert len(found.test) == TEST
    assert files_below(cache) == cached(files)
    assert not (apt_get / "config").exists()


@needs_dpkg
def test_archive_without_package_lists(apt_get: Path, cache: Path, files: dict[str, bytes]) -> None:
    (apt_get / "no-lists").touch()
    assert "archive" in sources.read_fashion_mnist().source
    assert files_below(cache) == cached(files)
    assert f'Dir::State::Lists "{cache}/fetch-' in (apt_get / "config").read_text()


@needs_dpkg
def test_failures_of_apt_are_both_told(apt_get: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.deb").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"tiny\.deb.*fresh package lists.*tiny"):
        sources.read_fashion_mnist()


@needs_dpkg
def test_warnings_of_apt_are_no_reason(apt_get: Path) -> None:
    (apt_get / "no-lists").touch()
    with pytest.raises(DatasetError, match="Unable to locate package nonsense") as error:
        sources._run("apt-get", "download", "nonsense", cwd=apt_get)
    assert "some warning" not in str(error.value)


@needs_dpkg
def test_broken_archive_is_a_reason(apt_get: Path, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "tiny.deb").write_bytes(b"rubbish")
    with pytest.raises(DatasetNotFoundError, match="dpkg-deb failed"):
        sources.read_fashion_mnist()
    assert files_below(cache) == []


def test_hanging_command_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "no-programs" / "apt-get"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(sources, "COMMAND_SECONDS", 0.2)
    with pytest.raises(DatasetNotFoundError, match=r"timed out after 0\.2 seconds"):
        sources.read_fashion_mnist()


# --- several processes ---------------------------------------------------------------------

RACER = """
import json, sys
from pathlib import Path
from convkern.fashion_mnist import sources
sources.SHA256.update(json.loads(sys.argv[1]))
sources.DEBIAN_DIRECTORY = Path("/nowhere")
print("ready", flush=True)
sys.stdin.readline()
for _ in range(100):
    with sources._scratch_directory():
        sources._install(Path(sys.argv[2]))
    assert sources.read_fashion_mnist().source.startswith("the cache")
"""


def test_racing_processes_both_succeed(
    tmp_path: Path, cache: Path, files: dict[str, bytes]
) -> None:
    source = write(tmp_path / "source", files)
    command = [sys.executable, "-c", RACER, json.dumps(SHA256), str(source)]
    pipe = subprocess.PIPE
    racers = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(2)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        _, errors = racer.communicate(timeout=60)
        assert racer.returncode == 0, errors
    assert files_below(cache) == cached(files)


# --- the real data, from the network -------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.parametrize("lists", ["the system's", "missing"])
def test_real_debian_archive(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, lists: str
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    if lists == "missing":
        (tmp_path / "lists" / "partial").mkdir(parents=True)
        config = tmp_path / "apt.conf"
        config.write_text(f'Dir::State::Lists "{tmp_path}/lists";\n')
        monkeypatch.setenv("APT_CONFIG", str(config))
    found = sources.read_fashion_mnist(sources._fetch_debian_archive())
    assert len(found.train) == 60_000
    assert len(found.test) == 10_000
    assert found.train.tensors[1].bincount().tolist() == [6000] * 10
    assert found.test.tensors[1].bincount().tolist() == [1000] * 10
