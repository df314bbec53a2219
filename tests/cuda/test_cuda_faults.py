"""The CUDA kernels under sanitizers, and faults planted in them. The simulator or a sanitizer must
find each fault. This proves that the tests of the kernels can fail."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cases import CUDA_TILES, CUDA_WINDOWS, label
from convkern.problem import DTYPES
from convkern.testing import variant
from cuda_simulator import Objects, Simulator
from folders import CSRC

# For each fault: the sanitizer that finds it, the file, the text that is replaced, its replacement,
# and the expected message.
IMPLICIT_GEMM = {
    "no barrier": ("", "gemm/pipeline.cuh", "    __syncthreads();\n", "", "is -?nan"),
    "no barrier, as a race": (
        "thread", "gemm/pipeline.cuh", "    __syncthreads();\n", "", "data race",
    ),
    "some threads' barrier": (
        "", "gemm/pipeline.cuh",
        "    __syncthreads();", "    if (threadIdx.x < 32) __syncthreads();",
        "threads wait for others",
    ),
    "a stage is filled while it is read": (
        "", "gemm/pipeline.cuh",
        "    __syncthreads();\n    begin_copies(step + kStages - 1);",
        "    begin_copies(step + kStages - 1);\n    __syncthreads();",
        "is -?nan",
    ),
    "no wait for copies": (
        "", "gemm/pipeline.cuh", "    wait_for_copies<kStages - 2>();", "",
        "copies that were never waited for",
    ),
    "a wait for too few copies": (
        "", "gemm/pipeline.cuh",
        "wait_for_copies<kStages - 2>", "wait_for_copies<kStages - 1>",
        "copies that were never waited for|is -?nan",
    ),
    "a tile of one pixel too many": (
        "address", "gemm_float/correlate.cuh", "if (first >= c.pixels) continue;",
        "if (first > c.pixels) continue;", "heap-buffer-overflow",
    ),
    "one term too many": (
        "address", "gemm_float/correlate.cuh", "term + first_term + t < c.terms",
        "term + first_term + t <= c.terms", "heap-buffer-overflow",
    ),
    "a wrong lane": (
        "", "gemm_float/tiles.cuh",
        "lane_row = lane / kLaneColumns", "lane_row = lane % kLaneRows",
        "element .* is .*, not",
    ),
    "a split is left out": (
        "", "gemm/passes.h", "(partial, tiles.splits,", "(partial, tiles.splits - 1,",
        "element .* is .*, not",
    ),
    "a split of terms is left out": (
        "", "gemm/term_splits.h", "static_cast<int>(splits.count)",
        "static_cast<int>(splits.count) - 1", "element .* is .*, not",
    ),
    "four results that are not aligned": (
        "address", "gemm_float/gemm_float.cu", "adjacent * sizeof(float)", "adjacent * 16",
        "heap-buffer-overflow",
    ),
}  # fmt: skip

IMPLICIT_GEMM_MMA = {
    "no barrier": ("", "gemm/pipeline.cuh", "    __syncthreads();\n", "", "is -?nan"),
    "no barrier, as a race": (
        "thread", "gemm/pipeline.cuh", "    __syncthreads();\n", "", "data race",
    ),
    "a wrong lane": (
        "", "gemm_mma/tiles.cuh", "k / 2 * 8 + lane() / 4", "k / 2 * 8 + lane() % 8",
        "element .* is .*, not",
    ),
    "a wrong row of ldmatrix": (
        "", "gemm_mma/tiles.cuh", "at(first + row + lane() % 16, part * 2",
        "at(first + row + lane() % 8, part * 2", "element .* is .*, not",
    ),
    "a wrong row of ldmatrix, transposed": (
        "", "gemm_mma/tiles.cuh", "part * kPartTerms + lane() % 16",
        "part * kPartTerms + lane() % 8", "element .* is .*, not",
    ),
    "rows of terms in the same banks": (
        "", "gemm_mma/tiles.cuh", "(chunk ^ row / 2 % kRowChunks)", "chunk", "same banks",
    ),
    "terms of rows in the same banks": (
        "", "gemm_mma/tiles.cuh", "? term % 8 : term", "? 0 : term", "same banks",
    ),
    "lanes that exchange the wrong words": (
        "", "gemm_mma/correlate.cuh", "given = upper ? words[i] : words[i | bit]",
        "given = upper ? words[i | bit] : words[i]", "element .* is .*, not",
    ),
    "a tap that stays": (
        "", "gemm_mma/correlate.cuh", "    at.add(c.stride, c.taps_w, c.chunks);\n", "",
        "element .* is .*, not",
    ),
    "a tile of one pixel too many": (
        "address", "gemm_mma/correlate.cuh", "if (index >= c.pixels) continue;",
        "if (index > c.pixels) continue;", "heap-buffer-overflow",
    ),
    "columns beyond the last": (
        "address", "gemm_mma/correlate.cuh",
        "(column < c.columns ? column : c.columns - 1)", "column", "heap-buffer-overflow",
    ),
    "one term too many": (
        "", "gemm_mma/grad_weight.cuh", "i * kStep < left", "i * kStep <= left",
        "is -?nan",
    ),
}  # fmt: skip


DIRECT = {
    "no barrier": (
        "", "direct/correlate_planes.cuh", "    wait_for_copies<0>();\n    __syncthreads();\n",
        "    wait_for_copies<0>();\n", "is -?nan",
    ),
    "a term is overwritten while it is read": (
        "thread", "direct/correlate_planes.cuh",
        "    __syncthreads();  // all threads have read the previous term\n", "", "data race",
    ),
    "no wait for copies": (
        "", "direct/sum_planes.cuh", "    wait_for_copies<0>();\n", "", "never waited for",
    ),
    "sums are added before they are there": (
        "thread", "direct/sum_planes.cuh", "  }\n  __syncthreads();\n  const int64_t size",
        "  }\n  const int64_t size", "data race",
    ),
    "a column too many": (
        "address", "direct/tiles.cuh", "is_inside(column, tensor.width)",
        "is_inside(column, tensor.width + 1)", "heap-buffer-overflow",
    ),
    "a tap too many": (
        "", "direct/tiles.cuh", "taps >= kTaps", "taps + 1 >= kTaps", "element .* is .*, not",
    ),
    "a worker's last row": (
        "", "direct/sum_planes.cuh", "least(begin + worker_rows, exist)",
        "least(begin + worker_rows - 1, exist)", "element .* is .*, not",
    ),
    "a worker's sums": (
        "", "direct/sum_planes.cuh", "worker < workers", "worker + 1 < workers",
        "element .* is .*, not",
    ),
    "sums of lanes are added before they are there": (
        "thread", "gemm/weight_sums.cuh",
        "      __syncthreads();\n      if (lane > 0) continue;", "      if (lane > 0) continue;",
        "data race",
    ),
}  # fmt: skip
FAULTY_TILES = ("cuda_3x3_20_to_63", "cuda_3x3_36_to_129", "cuda_many_splits")
# For each unit, named like its algorithm: the faults, and the problems and the dtype that show
# them.
UNITS = {
    "implicit_gemm": (IMPLICIT_GEMM, [c for c in CUDA_TILES if label(c) in FAULTY_TILES], "f32"),
    "implicit_gemm_mma": (IMPLICIT_GEMM_MMA, CUDA_TILES[3:7], "bf16"),
    "direct": (DIRECT, [c for c in CUDA_WINDOWS if label(c) in ("stem", "taps_5x9")], "f32"),
}
SANITIZED = [
    ("implicit_gemm", "f32", CUDA_TILES),
    ("implicit_gemm_mma", "bf16", CUDA_TILES),
    ("implicit_gemm_mma", "f16", CUDA_TILES),
    ("implicit_gemm_mma", "f32", CUDA_TILES),
    *(("direct", dtype, CUDA_WINDOWS) for dtype in DTYPES),
    *(("reference", dtype, CUDA_WINDOWS) for dtype in DTYPES),
]


def problems(cases: list[str], dtype: str = "f32") -> list[str]:
    """Returns each case in every pass, in alternating layouts."""
    layouts = ("nchw", "nhwc")
    return [
        variant(case, pass_=pass_, dtype=dtype, layout=layouts[(i + j) % 2])
        for i, case in enumerate(cases)
        for j, pass_ in enumerate(("fwd", "gx", "gw"))
    ]


@pytest.mark.parametrize("step", [5, pytest.param(1, id="all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize(("algorithm", "dtype", "cases"), SANITIZED)
def test_sanitizers_find_nothing(
    cuda_objects: Callable[[str], Objects],
    sanitizer: str,
    algorithm: str,
    dtype: str,
    cases: list[str],
    step: int,
) -> None:
    texts = problems(cases[::step], dtype)
    done = cuda_objects(sanitizer).run_program(algorithm, texts)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f"{len(texts) * 3} runs, 0 faults\n")  # schedules
    assert done.stderr == ""


SOURCES = {
    "implicit_gemm": "gemm_float.cu",
    "implicit_gemm_mma": "gemm_mma.cu",
    "direct": "direct.cu",
}


def edited(objects: Objects, folder: Path, file: str, old: str, new: str, changed: str) -> Objects:
    """Returns the kernels with a piece of their source replaced. Only the source `changed` is
    compiled anew, or all if it is empty."""
    tree = folder / "csrc"
    shutil.copytree(CSRC, tree)
    source = tree / "cuda" / file
    text = source.read_text()
    assert text.count(old) == 1
    source.write_text(text.replace(old, new))
    return objects.with_kernels(folder / "objects", tree, changed)


@pytest.mark.parametrize(
    ("unit", "fault"), [(unit, fault) for unit, (faults, _, _) in UNITS.items() for fault in faults]
)
def test_planted_fault_is_found(
    cuda_objects: Callable[[str], Objects], unit: str, fault: str, tmp_path: Path
) -> None:
    faults, cases, dtype = UNITS[unit]
    sanitizer, file, old, new, message = faults[fault]
    faulty = edited(cuda_objects(sanitizer), tmp_path, file, old, new, SOURCES[unit])
    done = faulty.run_program(unit, problems(cases, dtype))
    assert done.returncode != 0
    assert re.search(message, done.stdout + done.stderr)


def test_64_bit_indices(cuda_objects: Callable[[str], Objects], tmp_path: Path) -> None:
    limit = "int64_t{1} << 30"
    large = edited(cuda_objects(""), tmp_path, "gemm/tile_choice.h", limit, "int64_t{1}", "")
    assert not Simulator(large.link_library()).fits_int32(CUDA_TILES[0])
    for algorithm, dtype in (("implicit_gemm", "f32"), ("implicit_gemm_mma", "bf16")):
        done = large.run_program(algorithm, problems(CUDA_TILES[::2], dtype))
        assert done.returncode == 0, done.stdout + done.stderr
