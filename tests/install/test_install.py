"""The installed package: its import says what is wrong, and its wheel works on its own."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

import convkern
from folders import ROOT


def import_error(before: str) -> str:
    """Returns what an import of convkern prints in a new process, after the code `before`."""
    code = f"import sys, torch\n{before}\nimport convkern"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr


def test_a_torch_without_a_binding_is_named_with_the_remedy() -> None:
    error = import_error("torch.__version__ = '2.9.1'")
    found = re.fullmatch(
        r"ImportError: convkern: it has no native binding for torch 2\.9\.1, which is installed; "
        r"it has bindings for torch (.+)\. Run `pip install --no-build-isolation \.` in the source "
        r"tree to build one\.",
        error.splitlines()[-1],
    )
    assert found is not None
    assert ".".join(torch.__version__.split(".")[:2]) in found[1].split(", ")


def test_a_binding_that_does_not_load_keeps_its_cause() -> None:
    error = import_error(
        "from importlib.machinery import ExtensionFileLoader\n"
        "def create_module(self, spec):\n"
        "    raise ImportError('undefined symbol: _ZN3c10')\n"
        "ExtensionFileLoader.create_module = create_module"
    )
    assert "ImportError: undefined symbol: _ZN3c10\n" in error  # the cause
    assert error.splitlines()[-1].startswith(
        f"ImportError: convkern: the native binding for torch {torch.__version__} could not be "
        "loaded: undefined symbol: _ZN3c10. Run `pip install --no-build-isolation .`"
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


RELEASE = ROOT / "tools" / "release.py"


@pytest.fixture
def release() -> Any:
    spec = importlib.util.spec_from_file_location("release", RELEASE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_tree_that_is_not_ready_is_not_released(tmp_path: Path, release: Any) -> None:
    (tmp_path / "convkern").mkdir()
    (tmp_path / "convkern" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n")

    def git(*arguments: str) -> None:
        run("git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments, cwd=tmp_path)

    git("init", "--quiet")
    changes, section = release.refusals(tmp_path)
    assert changes.startswith("the tree has changes that are not committed:\n?? CHANGELOG.md")
    assert section == "CHANGELOG.md has no section '## 1.2.3'"
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3, a day\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "all")
    assert release.refusals(tmp_path) == []
    git("tag", "v1.2.3")
    assert release.refusals(tmp_path) == [
        "the tag v1.2.3 exists: raise __version__ in convkern/__init__.py"
    ]


def test_the_release_has_the_version_of_the_package(release: Any) -> None:
    assert release.version() == convkern.__version__ == metadata.version("convkern")


@pytest.mark.parametrize(
    ("name", "files", "words"),
    [
        ("convkern-1-cp311-cp311-linux_x86_64.whl", [], "has no manylinux tag"),
        ("convkern-1-cp311-cp311-manylinux_2_28_x86_64.whl", ["tests/a.py"], "holds tests/a.py"),
        (
            "convkern-1-cp311-cp311-manylinux_2_28_x86_64.whl",
            ["convkern/a.py"],
            "lacks convkern/py.typed",
        ),
    ],
)
def test_a_bad_wheel_is_refused(
    tmp_path: Path, release: Any, name: str, files: list[str], words: str
) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as wheel:
        for file in files:
            wheel.writestr(file, "")
    with pytest.raises(SystemExit, match=words):
        release.check(tmp_path / name)


@pytest.mark.exhaustive
def test_the_wheel_of_a_release_works_in_a_new_environment(tmp_path: Path) -> None:
    """Only torch comes from this environment, because it takes 5 GB."""
    pytest.importorskip("auditwheel", reason="needs auditwheel and patchelf")
    wheel = Path(run(sys.executable, RELEASE, "build", "--out", tmp_path, cwd=ROOT).strip())
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
    trained = run(
        python, "-m", "convkern", "train", "--model", "padding2", "--epochs", "1", cwd=tmp_path
    )
    assert float(trained.split()[-1]) > 0.5  # the accuracy
