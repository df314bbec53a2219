"""What is installed, compiled and detected: the facts that a bug report needs."""

from __future__ import annotations

import os
import platform

import torch

from convkern import _C, __version__


def info() -> dict[str, str]:
    """Versions, build, processor, threads and GPUs, as name -> text, in print order."""
    build = _C.build_info()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    kernels = _C.kernels()
    return {
        "convkern": __version__,
        "torch": f"{torch.__version__} (built against {build['torch']})",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "compiler": build["compiler"],
        "CUDA": build["cuda"] or "not built: nvcc was not found, or CONVKERN_CUDA=0",
        "GPUs": ", ".join(gpus) or "none found",
        "CPU features": " ".join(_C.cpu_features()) or "none beyond the baseline",
        "ISA": f"{_C.available_isa()} available, capped at {_C.isa_cap()}",
        "threads": f"{torch.get_num_threads()} of torch, {_C.threads_at_work()} at work in kernels",
        "processors": str(os.cpu_count()),
        "CPU kernels": str(sum(k["device"] == "cpu" for k in kernels)),
        "CUDA kernels": str(sum(k["device"] == "cuda" for k in kernels)),
        "environment": " ".join(
            f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("CONVKERN_")
        )
        or "no CONVKERN_* variables",
    }
