"""The CUDA kernels under sanitizers, and faults planted in them. The simulator or a sanitizer must
find each fault. This proves that the tests of the kernels can fail."""

import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest

from cases import CUDA_TILES, CUDA_WINDOWS, label
from convkern.problem import DTYPES
from convkern.testing import variant
from cuda_simulator import Fault, Objects, Simulator
from shared_builds import Once

# The faults of each unit, which is named like its algorithm. If a file has a piece several times,
# its surroundings tell which one is meant.
IMPLICIT_GEMM = {
    "no barrier": Fault("", "gemm/pipeline.cuh", "    __syncthreads();\n", "", "is -?nan"),
    "no barrier, as a race": Fault(
        "thread", "gemm/pipeline.cuh", "    __syncthreads();\n", "", "data race"
    ),
    "some threads' barrier": Fault(
        "",
        "gemm/pipeline.cuh",
        "    __syncthreads();",
        "    if (threadIdx.x < 32) __syncthreads();",
        "threads wait for others",
    ),
    "a stage is filled while it is read": Fault(
        "",
        "gemm/pipeline.cuh",
        "    __syncthreads();\n    begin_copies(step + kStages - 1);",
        "    begin_copies(step + kStages - 1);\n    __syncthreads();",
        "is -?nan",
    ),
    "no wait for copies": Fault(
        "",
        "gemm/pipeline.cuh",
        "    wait_for_copies<kStages - 2>();",
        "",
        "copies that were never waited for",
    ),
    "a wait for too few copies": Fault(
        "",
        "gemm/pipeline.cuh",
        "    wait_for_copies<kStages - 2>();",
        "    wait_for_copies<kStages - 1>();",
        "copies that were never waited for|is -?nan",
    ),
    "a tile of one pixel too many": Fault(
        "address",
        "gemm_float/correlate.cuh",
        "if (first >= c.pixels) continue;",
        "if (first > c.pixels) continue;",
        "heap-buffer-overflow",
    ),
    "one term too many": Fault(
        "address",
        "gemm_float/correlate.cuh",
        "term + first_term + t < c.terms",
        "term + first_term + t <= c.terms",
        "heap-buffer-overflow",
    ),
    "a wrong lane": Fault(
        "",
        "gemm_float/tiles.cuh",
        "lane / kLaneColumns",
        "lane % kLaneRows",
        "element .* is .*, not",
        within="lane_row = {}",
    ),
    "a split is left out": Fault(
        "",
        "gemm/passes.h",
        "tiles.splits",
        "tiles.splits - 1",
        "element .* is .*, not",
        within="(partial, {},",
    ),
    "a split of terms is left out": Fault(
        "",
        "gemm/term_splits.h",
        "static_cast<int>(splits.count)",
        "static_cast<int>(splits.count) - 1",
        "element .* is .*, not",
    ),
    "four results that are not aligned": Fault(
        "address",
        "gemm_float/gemm_float.cu",
        "adjacent * sizeof(float)",
        "adjacent * 16",
        "heap-buffer-overflow",
    ),
}
IMPLICIT_GEMM_MMA = {
    "no barrier": Fault("", "gemm/pipeline.cuh", "    __syncthreads();\n", "", "is -?nan"),
    "no barrier, as a race": Fault(
        "thread", "gemm/pipeline.cuh", "    __syncthreads();\n", "", "data race"
    ),
    "a wrong lane": Fault(
        "",
        "gemm_mma/tiles.cuh",
        "k / 2 * 8 + lane() / 4",
        "k / 2 * 8 + lane() % 8",
        "element .* is .*, not",
    ),
    "a wrong row of ldmatrix": Fault(
        "",
        "gemm_mma/tiles.cuh",
        "lane() % 16",
        "lane() % 8",
        "element .* is .*, not",
        within="at(first + row + {}, part * 2",
    ),
    "a wrong row of ldmatrix, transposed": Fault(
        "",
        "gemm_mma/tiles.cuh",
        "part * kPartTerms + lane() % 16",
        "part * kPartTerms + lane() % 8",
        "element .* is .*, not",
    ),
    "rows of terms in the same banks": Fault(
        "", "gemm_mma/tiles.cuh", "(chunk ^ row / 2 % kRowChunks)", "chunk", "same banks"
    ),
    "terms of rows in the same banks": Fault(
        "", "gemm_mma/tiles.cuh", "term % 8", "0", "same banks", within="? {} : term"
    ),
    "lanes that exchange the wrong words": Fault(
        "",
        "gemm_mma/correlate.cuh",
        "upper ? words[i] : words[i | bit]",
        "upper ? words[i | bit] : words[i]",
        "element .* is .*, not",
        within="given = {}",
    ),
    "a tap that stays": Fault(
        "",
        "gemm_mma/correlate.cuh",
        "    at.add(c.stride, c.taps_w, c.chunks);\n",
        "",
        "element .* is .*, not",
    ),
    "a tile of one pixel too many": Fault(
        "address",
        "gemm_mma/correlate.cuh",
        "if (index >= c.pixels) continue;",
        "if (index > c.pixels) continue;",
        "heap-buffer-overflow",
    ),
    "columns beyond the last": Fault(
        "address",
        "gemm_mma/correlate.cuh",
        "(column < c.columns ? column : c.columns - 1)",
        "column",
        "heap-buffer-overflow",
    ),
    "one term too many": Fault(
        "", "gemm_mma/grad_weight.cuh", "i * kStep < left", "i * kStep <= left", "is -?nan"
    ),
}
DIRECT = {
    "no barrier": Fault(
        "",
        "direct/correlate_planes.cuh",
        "    wait_for_copies<0>();\n    __syncthreads();\n",
        "    wait_for_copies<0>();\n",
        "is -?nan",
    ),
    "a term is overwritten while it is read": Fault(
        "thread",
        "direct/correlate_planes.cuh",
        "    __syncthreads();  // all threads have read the previous term\n",
        "",
        "data race",
    ),
    "no wait for copies": Fault(
        "", "direct/sum_planes.cuh", "    wait_for_copies<0>();\n", "", "never waited for"
    ),
    "sums are added before they are there": Fault(
        "thread",
        "direct/sum_planes.cuh",
        "  __syncthreads();\n",
        "",
        "data race",
        within="  }\n{}  const int64_t size",
    ),
    "a column too many": Fault(
        "address",
        "direct/tiles.cuh",
        "is_inside(column, tensor.width)",
        "is_inside(column, tensor.width + 1)",
        "heap-buffer-overflow",
    ),
    "a tap too many": Fault(
        "", "direct/tiles.cuh", "taps >= kTaps", "taps + 1 >= kTaps", "element .* is .*, not"
    ),
    "a worker's last row": Fault(
        "",
        "direct/sum_planes.cuh",
        "least(begin + worker_rows, exist)",
        "least(begin + worker_rows - 1, exist)",
        "element .* is .*, not",
    ),
    "a worker's sums": Fault(
        "",
        "direct/sum_planes.cuh",
        "worker < workers",
        "worker + 1 < workers",
        "element .* is .*, not",
    ),
    "sums of lanes are added before they are there": Fault(
        "thread",
        "gemm/weight_sums.cuh",
        "      __syncthreads();\n",
        "",
        "data race",
        within="{}      if (lane > 0) continue;",
    ),
}
FAULTY_TILES = ("cuda_3x3_20_to_63", "cuda_3x3_36_to_129", "cuda_many_splits")
# The faults of each unit, and the problems and the dtype that show them.
UNITS = {
    "implicit_gemm": (IMPLICIT_GEMM, [c for c in CUDA_TILES if label(c) in FAULTY_TILES], "f32"),
    "implicit_gemm_mma": (IMPLICIT_GEMM_MMA, CUDA_TILES[3:7], "bf16"),
    "direct": (DIRECT, [c for c in CUDA_WINDOWS if label(c) in ("stem", "taps_5x9")], "f32"),
}
# No fault: offsets of 64 bits, which are otherwise for tensors of 2^30 elements and more.
LONG_OFFSETS = Fault("", "gemm/tile_choice.h", "int64_t{1} << 30", "1", "")
PLANTED = [*chain.from_iterable(faults.values() for faults, _, _ in UNITS.values()), LONG_OFFSETS]
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


@pytest.mark.slow
@pytest.mark.parametrize("step", [5, pytest.param(1, id="all", marks=pytest.mark.exhaustive)])
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


@pytest.fixture
def faulty(cuda_objects: Callable[[str], Objects], build_once: Once) -> Callable[[str], Objects]:
    """Returns the CUDA kernels compiled with a sanitizer and all faults. A run has one fault."""

    def compiled(sanitizer: str) -> Objects:
        objects = cuda_objects(sanitizer)
        folder = build_once(
            f"simulator_planted_{sanitizer or 'plain'}",
            lambda folder: objects.with_faults(folder, PLANTED),
        )
        return Objects(folder, sanitizer=sanitizer)

    return compiled


@pytest.mark.parametrize(
    ("unit", "fault"),
    [
        # Kernels take a minute to compile with a sanitizer.
        pytest.param(unit, fault, marks=[pytest.mark.slow] if planted.sanitizer else [])
        for unit, (faults, _, _) in UNITS.items()
        for fault, planted in faults.items()
    ],
)
def test_planted_fault_is_found(faulty: Callable[[str], Objects], unit: str, fault: str) -> None:
    faults, cases, dtype = UNITS[unit]
    planted = faults[fault]
    number = 1 + PLANTED.index(planted)
    done = faulty(planted.sanitizer).run_program(unit, problems(cases, dtype), fault=number)
    assert done.returncode != 0
    assert re.search(planted.message, done.stdout + done.stderr)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    "sanitizer", ["", *(pytest.param(s, marks=pytest.mark.slow) for s in ("address", "thread"))]
)
def test_no_fault_is_found_where_none_is_planted(
    faulty: Callable[[str], Objects], unit: str, sanitizer: str
) -> None:
    _, cases, dtype = UNITS[unit]
    done = faulty(sanitizer).run_program(unit, problems(cases, dtype))
    assert done.returncode == 0, done.stdout + done.stderr


def test_64_bit_offsets(
    faulty: Callable[[str], Objects], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 1 + PLANTED.index(LONG_OFFSETS)
    monkeypatch.setenv("PLANTED", str(number))  # which the library reads when it is loaded
    large = faulty("")
    assert not Simulator(large.link_library(tmp_path)).fits_int32(CUDA_TILES[0])
    for algorithm, dtype in (("implicit_gemm", "f32"), ("implicit_gemm_mma", "bf16")):
        done = large.run_program(algorithm, problems(CUDA_TILES[::2], dtype), fault=number)
        assert done.returncode == 0, done.stdout + done.stderr
