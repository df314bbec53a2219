"""Facts for a bug report: what is installed, compiled and detected."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from convkern import _C, __version__

_ISAS = ("baseline", "avx2", "avx512", "avx512bf16")  # each includes those before it
# Optional packages, each with what needs it and the extra that installs it.
_OPTIONAL = {
    "torchvision": (
        "bench models, explain of its models, and downloads of Fashion-MNIST",
        "data",
    ),
    "rich": ("bars of progress", "progress"),
    "matplotlib": ("bench --report and compare", "report"),
    "jinja2": ("compare", "report"),
    "scipy": ("compare", "report"),
    "tensorboard": ("compare --tensorboard", "tensorboard"),
    "onnx": ("the peer onnxruntime, and ONNX export", "bench"),
    "onnxruntime": ("the peer onnxruntime", "bench"),
    "onnxscript": ("ONNX export", "onnx"),
}


def info() -> dict[str, str]:
    """Returns facts about versions, build, processor, threads, GPUs and missing parts, as name ->
    text in print order. A text with several lines has a line for each missing part."""
    build = _C.build_info()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    kernels = _C.kernels()
    compiled = {k["isa"] for k in kernels if k["device"] == "cpu"}
    cap = _C.isa_cap()
    versions = {package: _version(package) for package in ("numpy", *_OPTIONAL)}
    return {
        "convkern": __version__,
        "torch": f"{torch.__version__} (built against {build['torch']})",
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {v}" for name, v in versions.items() if v),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": f"{_processor()}, {os.cpu_count()} logical",
        "compiler": build["compiler"],
        "CUDA": build["cuda"] or "not built",
        "GPUs": ", ".join(gpus) or "none found",
        "CPU features": " ".join(_C.cpu_features()) or "none beyond the baseline",
        "ISA compiled": " ".join(isa for isa in _ISAS if isa in compiled),
        "ISA detected": _C.available_isa(),
        "ISA active": f"{min(_C.available_isa(), cap, key=_ISAS.index)} (the cap is {cap})",
        "threads": f"{torch.get_num_threads()} of torch, {_C.threads_at_work()} at work in kernels",
        "CPU kernels": str(sum(k["device"] == "cpu" for k in kernels)),
        "CUDA kernels": str(sum(k["device"] == "cuda" for k in kernels)),
        "environment": " ".join(
            f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("CONVKERN_")
        )
        or "no CONVKERN_* variables",
        "missing": "\n".join(_missing(build["cuda"], bool(gpus), versions)) or "nothing",
    }


def _missing(cuda: str | None, has_gpu: bool, versions: dict[str, str | None]) -> list[str]:
    """Returns lines that say what is missing and how to get it."""
    lines = []
    if cuda is None:
        lines.append(
            "CUDA kernels: install the CUDA toolkit (nvcc), then in the source tree "
            "CONVKERN_CUDA=1 pip install --no-build-isolation ."
        )
    elif not has_gpu:
        built = torch.version.cuda
        lines.append(
            f"a GPU: torch finds none; it needs a driver for CUDA {built}"
            if built
            else "a GPU: this torch is built without CUDA; see https://pytorch.org/get-started"
        )
    for package, (purpose, extra) in _OPTIONAL.items():
        if versions[package] is None:
            lines.append(f"{package}, for {purpose}: pip install 'convkern[{extra}]'")
    return lines


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown"
