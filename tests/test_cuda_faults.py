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

# The same for implicit_gemm_mma, with the folder of the file.
MMA_FAULTS = {
    "no barrier": ("", "implicit_gemm/pipeline.cuh", "    __syncthreads();\n", "", "is -?nan"),
    "no barrier, as a race": (
        "thread", "implicit_gemm/pipeline.cuh", "    __syncthreads();\n", "", "data race",
    ),
    "a wrong lane": (
        "", "implicit_gemm_mma/tiles.cuh", "k / 2 * 8 + lane() / 4", "k / 2 * 8 + lane() % 8",
        "element .* is .*, not",
    ),
    "a wrong row of ldmatrix": (
        "", "implicit_gemm_mma/tiles.cuh", "at(first + row + lane() % 16, part * 2",
        "at(first + row + lane() % 8, part * 2", "element .* is .*, not",
    ),
    "a wrong row of ldmatrix, transposed": (
        "", "implicit_gemm_mma/tiles.cuh", "part * kPartTerms + lane() % 16",
        "part * kPartTerms + lane() % 8", "element .* is .*, not",
    ),
    "rows of terms in the same banks": (
        "", "implicit_gemm_mma/tiles.cuh", "(chunk ^ row / 2 % kRowChunks)", "chunk", "same banks",
    ),
    "terms of rows in the same banks": (
        "", "implicit_gemm_mma/tiles.cuh", "? term % 8 : term", "? 0 : term", "same banks",
    ),
    "lanes that exchange the wrong words": (
        "", "implicit_gemm_mma/correlate.cuh", "given = upper ? words[i] : words[i | bit]",
        "given = upper ? words[i | bit] : words[i]", "element .* is .*, not",
    ),
    "a tap that stays": (
        "", "implicit_gemm_mma/correlate.cuh", "    at.add(c.stride, c.taps_w, c.chunks);\n", "",
        "element .* is .*, not",
    ),
    "a tile of one pixel too many": (
        "address", "implicit_gemm_mma/correlate.cuh", "if (index >= c.pixels) continue;",
        "if (index > c.pixels) continue;", "heap-buffer-overflow",
    ),
    "columns beyond the last": (
        "address", "implicit_gemm_mma/correlate.cuh",
        "(column < c.columns ? column : c.columns - 1)", "column", "heap-buffer-overflow",
    ),
    "one term too many": (
        "", "implicit_gemm_mma/grad_weight.cuh", "i * kStep < left", "i * kStep <= left",
        "is -?nan",
    ),
}  # fmt: skip


def problems(cases: list[str], dtype: str = "f32") -> list[str]:
    """Each case in every pass, in alternating layouts."""
    layouts = ("nchw", "nhwc")
    return [
        variant(case, pass_=pass_, dtype=dtype, layout=layouts[(i + j) % 2])
        for i, case in enumerate(cases)
        for j, pass_ in enumerate(("fwd", "gx", "gw"))
    ]


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(CUDA_TILES[1::4], id="some"),
        pytest.param(CUDA_TILES, id="all", marks=pytest.mark.slow),
    ],
)
def test_sanitizers_find_nothing(
    cuda_objects: Callable[[str], Objects], sanitizer: str, cases: list[str], dtype: str
) -> None:
    done = cuda_objects(sanitizer).run_program(problems(cases, dtype))
    assert done.returncode == 0, done.stdout + done.stderr
    kernels = {"f32": 3, "bf16": 2, "f16": 2}[dtype]  # of each pass
    assert done.stdout.endswith(f"{len(cases) * 3 * kernels * 3} runs, 0 faults\n")
    assert done.stderr == ""


def edited(
    objects: Objects, folder: Path, file: str, old: str, new: str, changed: str = UNIT
) -> Objects:
    """The kernels with a piece of their source replaced, and the source `changed` compiled anew."""
    tree = folder / "csrc"
    shutil.copytree(ROOT / "csrc", tree)
    source = tree / "cuda" / file
    text = source.read_text()
    assert text.count(old) == 1
    source.write_text(text.replace(old, new))
    return objects.with_kernels(folder / "objects", tree, changed)


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(
    cuda_objects: Callable[[str], Objects], fault: str, tmp_path: Path
) -> None:
    sanitizer, file, old, new, message = FAULTS[fault]
    faulty = edited(cuda_objects(sanitizer), tmp_path, f"implicit_gemm/{file}", old, new)
    done = faulty.run_program(problems(CUDA_TILES[5:7]))
    assert done.returncode != 0
    assert re.search(message, done.stdout + done.stderr)


@pytest.mark.parametrize("fault", MMA_FAULTS)
def test_planted_fault_of_mma_is_found(
    cuda_objects: Callable[[str], Objects], fault: str, tmp_path: Path
) -> None:
    sanitizer, file, old, new, message = MMA_FAULTS[fault]
    unit = "implicit_gemm_mma.cu"
    faulty = edited(cuda_objects(sanitizer), tmp_path, file, old, new, changed=unit)
    done = faulty.run_program(problems(CUDA_TILES[3:7], "bf16"))
    assert done.returncode != 0
    assert re.search(message, done.stdout + done.stderr)


def test_64_bit_indices(cuda_objects: Callable[[str], Objects], tmp_path: Path) -> None:
    limit = "int64_t{1} << 30"
    large = edited(
        cuda_objects(""), tmp_path, "implicit_gemm/heuristics.h", limit, "int64_t{1}", ""
    )
    assert not Simulator(large.library()).fits_int32(CUDA_TILES[0])
    for dtype in ("f32", "bf16"):
        done = large.run_program(problems(CUDA_TILES[::2], dtype))
        assert done.returncode == 0, done.stdout + done.stderr
