"""What is installed: an import that says what is wrong, and a wheel that works on its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import torch

import convkern

ROOT = Path(__file__).parent.parent


def import_error(before: str) -> str:
    """What is printed by an import of convkern in a new process, after the code `before`."""
    code = f"import sys, torch\n{before}\nimport convkern"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr


def test_another_torch_is_named_with_the_remedy() -> None:
    error = import_error("torch.__version__ = '2.13.0'")
    assert error.splitlines()[-1] == (
        f"ImportError: convkern: this build is for torch {torch.__version__}, and torch 2.13.0 is "
        "installed: run `pip install --no-build-isolation .` in the source tree."
    )


def test_an_extension_that_does_not_load_keeps_its_cause() -> None:
    error = import_error(
        "class Finder:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path, target=None):\n"
        "        if name == 'convkern._C':\n"
        "            raise ImportError('undefined symbol: _ZN3c10')\n"
        "sys.meta_path.insert(0, Finder)"
    )
    assert "ImportError: undefined symbol: _ZN3c10\n" in error  # the cause
    assert error.splitlines()[-1].startswith(
        "ImportError: convkern: the native extension could not be loaded: undefined symbol: "
        f"_ZN3c10. It must be built against the installed torch {torch.__version__}: run `pip "
    )


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_wheel_from_the_source_distribution_works_in_a_new_environment(tmp_path: Path) -> None:
    """torch alone comes from this environment, since it is 5 GB."""
    build = "from setuptools.build_meta import build_sdist; print(build_sdist({!r}))"
    run(sys.executable, "-c", build.format(str(tmp_path)), cwd=ROOT)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    source = tmp_path / archive.name.removesuffix(".tar.gz")
    bin_ = Path(sys.executable).parent
    run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation",
        "-w", tmp_path, ".",
        cwd=source, CONVKERN_CUDA="0", PATH=f"{bin_}:{os.environ['PATH']}",
    )  # fmt: skip
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "convkern/py.typed" in names
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"convkern"}

    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", wheel, cwd=tmp_path)
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "torch.pth").write_text(f"{Path(torch.__file__).parent.parent}\n")
    printed = run(
        python, "-c",
        "import torch, convkern\n"
        "x, w = torch.randn(2, 3, 9, 9), torch.randn(4, 3, 3, 3, requires_grad=True)\n"
        "convkern.conv2d(x, w, padding=1).sum().backward()\n"
        "print(convkern.__file__, w.grad.shape, convkern.__version__)",
        cwd=tmp_path,
    )  # fmt: skip
    assert printed == (
        f"{packages}/convkern/__init__.py torch.Size([4, 3, 3, 3]) {convkern.__version__}\n"
    )
    assert "not built" in run(python, "-m", "convkern", "info", cwd=tmp_path)
