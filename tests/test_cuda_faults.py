"""The CUDA kernels under sanitizers; and faults planted in them, each of which the simulator or a
sanitizer must find: proof that the tests of the kernels can fail."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cases import CUDA_TILES
from convkern.testing import variant
from cuda_simulator import ROOT, Objects, Simulator

UNIT = "implicit_gemm.cu"
# The sanitizer that finds it, the file, what is replaced by what, and what is then said.
FAULTS = {
    "no barrier": ("", "pipeline.cuh", "    __syncthreads();\n", "", "is -?nan"),
    "no barrier, as a race": ("thread", "pipeline.cuh", "    __syncthreads();\n", "", "data race"),
    "some threads' barrier": (
        "", "pipeline.cuh", "    __syncthreads();", "    if (threadIdx.x < 32) __syncthreads();",
        "threads wait for others",
    ),
    "a stage is filled while it is read": (
        "", "pipeline.cuh",
        "    __syncthreads();\n    begin_copies(step + kStages - 1);",
        "    begin_copies(step + kStages - 1);\n    __syncthreads();",
        "is -?nan",
    ),
    "no wait for copies": (
        "", "pipeline.cuh", "    wait_for_copies<kStages - 2>();", "",
        "copies that were never waited for",
    ),
    "a wait for too few copies": (
        "", "pipeline.cuh", "wait_for_copies<kStages - 2>", "wait_for_copies<kStages - 1>",
        "copies that were never waited for|is -?nan",
    ),
    "a tile of one pixel too many": (
        "address", "correlate.cuh", "if (index >= c.pixels) continue;",
        "if (index > c.pixels) continue;", "heap-buffer-overflow",
    ),
    "one term too many": (
        "address", "correlate.cuh", "term + first_term + t < c.terms",
        "term + first_term + t <= c.terms", "heap-buffer-overflow",
    ),
    "a wrong lane": (
        "", "tiles.cuh", "lane_row = lane / kLaneColumns", "lane_row = lane % kLaneRows",
        "element .* is .*, not",
    ),
    "a split is left out": (
        "", "weight_sums.cuh", "split < splits", "split + 1 < splits", "element .* is .*, not",
    ),
}  # fmt: skip


def problems(cases: list[str]) -> list[str]:
    """Each case in every pass, in alternating layouts."""
    layouts = ("nchw", "nhwc")
    return [
        variant(case, pass_=pass_, layout=layouts[(i + j) % 2])
        for i, case in enumerate(cases)
        for j, pass_ in enumerate(("fwd", "gx", "gw"))
    ]


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(CUDA_TILES[1::4], id="some"),
        pytest.param(CUDA_TILES, id="all", marks=pytest.mark.slow),
    ],
)
def test_sanitizers_find_nothing(
    cuda_objects: Callable[[str], Objects], sanitizer: str, cases: list[str]
) -> None:
    done = cuda_objects(sanitizer).run_program(problems(cases))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f"{len(cases) * 3 * 2 * 3} runs, 0 faults\n")
    assert done.stderr == ""


def edited(
    objects: Objects, folder: Path, file: str, old: str, new: str, changed: str = UNIT
) -> Objects:
    """The kernels with a piece of their source replaced, and the source `changed` compiled anew."""
    tree = folder / "csrc"
    shutil.copytree(ROOT / "csrc", tree)
    source = tree / "cuda" / "implicit_gemm" / file
    text = source.read_text()
    assert text.count(old) == 1
    source.write_text(text.replace(old, new))
    return objects.with_kernels(folder / "objects", tree, changed)


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(
    cuda_objects: Callable[[str], Objects], fault: str, tmp_path: Path
) -> None:
    sanitizer, file, old, new, message = FAULTS[fault]
    faulty = edited(cuda_objects(sanitizer), tmp_path, file, old, new)
    done = faulty.run_program(problems(CUDA_TILES[5:7]))
    assert done.returncode != 0
    assert re.search(message, done.stdout + done.stderr)


def test_64_bit_indices(cuda_objects: Callable[[str], Objects], tmp_path: Path) -> None:
    limit = "int64_t{1} << 30"
    large = edited(cuda_objects(""), tmp_path, "heuristics.h", limit, "int64_t{1}", changed="")
    assert not Simulator(large.library()).fits_int32(CUDA_TILES[0])
    done = large.run_program(problems(CUDA_TILES[::2]))
    assert done.returncode == 0, done.stdout + done.stderr
