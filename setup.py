"""Builds the native libraries below convkern/_native with tools/native_build.py.

Metadata needs no torch: it is looked for only when something is compiled. CONVKERN_CUDA chooses the
CUDA kernels: "auto" (the default) builds them where nvcc is found and torch has CUDA, "1" insists,
"0" leaves them out. No GPU is needed to build. CONVKERN_TORCH_DIRS lists the torch packages to
build bindings for, separated by colons, instead of the installed one.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
OLDEST_SETUPTOOLS = 77  # the first that knows the metadata's license field

if int(setuptools.__version__.split(".")[0]) < OLDEST_SETUPTOOLS:
    sys.exit(
        f"convkern: building needs setuptools {OLDEST_SETUPTOOLS} or later, and "
        f"{setuptools.__version__} is installed: run `pip install --upgrade setuptools`."
    )
sys.path.insert(0, str(ROOT / "tools"))
from native_build import BuildError, Torch, build  # noqa: E402  (setuptools comes first)


def torches() -> list[Torch]:
    folders = os.environ.get("CONVKERN_TORCH_DIRS")
    if folders:
        return [Torch.at(Path(folder)) for folder in folders.split(os.pathsep)]
    try:
        spec = importlib.util.find_spec("torch")
    except ValueError:  # something else in sys.modules has that name
        spec = None
    if spec is None or spec.origin is None:
        sys.exit(
            "convkern: building needs torch, and it is not installed in this environment.\n"
            "convkern: run `pip install torch`, then install with --no-build-isolation."
        )
    return [Torch.at(Path(spec.origin).parent)]


class BuildNative(build_ext):
    """Builds with ninja, then copies the libraries into the package. For an editable install this
    is the package of the source tree, and otherwise that of the wheel."""

    def run(self) -> None:
        in_place = self.inplace or getattr(self, "editable_mode", False)
        # pip uses a new folder each time, where everything would be compiled again.
        built = ROOT / "build" / "native" if in_place else Path(self.build_temp, "native").resolve()
        package = (ROOT if in_place else Path(self.build_lib)) / "convkern" / "_native"
        try:
            paths = build(built, torches())
        except BuildError as error:
            sys.exit(f"convkern: {error}")
        for former in package.parent.glob("_C.*.so"):  # Python would prefer such a file to _C.py
            former.unlink()
        shutil.rmtree(package, ignore_errors=True)
        for path in paths:
            (package / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(built / path, package / path)

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


setup(
    # Only its name matters: it makes the wheel specific to a platform and a Python.
    ext_modules=[Extension("convkern._native", sources=[])],
    cmdclass={"build_ext": BuildNative},
)
