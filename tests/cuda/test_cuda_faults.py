"""The CUDA kernels under sanitizers, and faults planted in them. The simulator or a sanitizer must
find each fault. This proves that the tests of the kernels can fail."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from cases import CUDA_TILES, CUDA_WINDOWS, label
from convkern.problem import DTYPES
from convkern.testing import variant
from cuda_simulator import Objects, Simulator
from planted import Edit
from shared_builds import Once


class Fault(NamedTuple):
    """An edit of a file of csrc/cuda, the sanitizer that finds it, and a regular expression of what
    is then said."""

    sanitizer: str
    message: str
    edit: Edit


# The faults of each unit, which is named like its algorithm; first those that two units share.
GEMMS = {
    "no barrier": Fault("", "is -?nan", Edit("gemm/pipeline.cuh", "    __syncthreads();\n", "")),
    "no barrier, as a race": Fault(
        "thread", "data race", Edit("gemm/pipeline.cuh", "    __syncthreads();\n", "")
    ),
    "the sums of splits have no residual": Fault(
        "",
        "element .* is .*, not",
        Edit("gemm/term_splits.h", "epilogue.finished(static_cast<float>(sum), i)", "float(sum)"),
    ),
    "four activations of which one is another's": Fault(
        "",
        "element .* is .*, not",
        Edit("epilogue.cuh", "some.values[k]", "some.values[k / 2]", within="values[i + k] = {};"),
    ),
}
IMPLICIT_GEMM = {
    **GEMMS,
    "some threads' barrier": Fault(
        "",
        "threads wait for others",
        Edit(
            "gemm/pipeline.cuh",
            "    __syncthreads();",
            "    if (threadIdx.x < 32) __syncthreads();",
        ),
    ),
    "a stage is filled while it is read": Fault(
        "",
        "is -?nan",
        Edit(
            "gemm/pipeline.cuh",
            "    __syncthreads();\n    begin_copies(step + kStages - 1);",
            "    begin_copies(step + kStages - 1);\n    __syncthreads();",
        ),
    ),
    "no wait for copies": Fault(
        "",
        "copies that were never waited for",
        Edit("gemm/pipeline.cuh", "    wait_for_copies<kStages - 2>();", ""),
    ),
    "a wait for too few copies": Fault(
        "",
        "copies that were never waited for|is -?nan",
        Edit(
            "gemm/pipeline.cuh",
            "    wait_for_copies<kStages - 2>();",
            "    wait_for_copies<kStages - 1>();",
        ),
    ),
    "a tile of one pixel too many": Fault(
        "address",
        "heap-buffer-overflow",
        Edit(
            "gemm_float/correlate.cuh",
            "if (index >= c.pixels) continue;",
            "if (index > c.pixels) continue;",
        ),
    ),
    "one term too many": Fault(
        "address",
        "heap-buffer-overflow",
        Edit(
            "gemm_float/correlate.cuh",
            "term + first_term + t < c.terms",
            "term + first_term + t <= c.terms",
        ),
    ),
    "a wrong lane": Fault(
        "",
        "element .* is .*, not",
        Edit(
            "gemm_float/tiles.cuh",
            "lane / kLaneColumns",
            "lane % kLaneRows",
            within="lane_row = {}",
        ),
    ),
    "a split is left out": Fault(
        "",
        "element .* is .*, not",
        Edit("gemm/passes.h", "tiles.splits", "tiles.splits - 1", within="(partial, {},"),
    ),
    "a split of terms is left out": Fault(
        "",
        "element .* is .*, not",
        Edit(
            "gemm/term_splits.h",
            "static_cast<int>(splits.count)",
            "static_cast<int>(splits.count) - 1",
        ),
    ),
    "four results that are not aligned": Fault(
        "address",
        "heap-buffer-overflow",
        Edit("gemm_float/gemm_float.cu", "adjacent * sizeof(float)", "adjacent * 16"),
    ),
    "an epilogue of each split": Fault(
        "",
        "element .* is .*, not",
        Edit(
            "gemm_float/gemm_float.cu",
            "if (splits.count > 1) c.out = partial, c.bias = nullptr, c.epilogue = {};",
            "if (splits.count > 1) c.out = partial, c.bias = nullptr;",
        ),
    ),
    "four elements of a residual in the wrong order": Fault(
        "",
        "element .* is .*, not",
        Edit("gemm_float/correlate.cuh", "four[k]", "four[3 - k]", within="kFourRows] += {};"),
    ),
    "the residual of another channel": Fault(
        "",
        "element .* is .*, not",
        Edit("gemm_float/correlate.cuh", "c.epilogue.residual[at]", "c.epilogue.residual[at ^ 1]"),
    ),
    "some rows without activation": Fault(
        "",
        "element .* is .*, not",
        Edit("gemm_float/correlate.cuh", "kFourRows", "1", within="k < (kFours ? {} : 1)"),
    ),
}
IMPLICIT_GEMM_MMA = {
    **GEMMS,
    "a wrong lane": Fault(
        "",
        "element .* is .*, not",
        Edit("gemm_mma/tiles.cuh", "k / 2 * 8 + lane() / 4", "k / 2 * 8 + lane() % 8"),
    ),
    "a wrong row of ldmatrix": Fault(
        "",
        "element .* is .*, not",
        Edit(
            "gemm_mma/tiles.cuh",
            "lane() % 16",
            "lane() % 8",
            within="at(first + row + {}, part * 2",
        ),
    ),
    "a wrong row of ldmatrix, transposed": Fault(
        "",
        "element .* is .*, not",
        Edit(
            "gemm_mma/tiles.cuh",
            "part * kPartTerms + lane() % 16",
            "part * kPartTerms + lane() % 8",
        ),
    ),
    "rows of terms in the same banks": Fault(
        "", "same banks", Edit("gemm_mma/tiles.cuh", "(chunk ^ row / 2 % kRowChunks)", "chunk")
    ),
    "terms of rows in the same banks": Fault(
        "", "same banks", Edit("gemm_mma/tiles.cuh", "term % 8", "0", within="? {} : term")
    ),
    "lanes that exchange the wrong words": Fault(
        "",
        "element .* is .*, not",
        Edit(
            "gemm_mma/correlate.cuh",
            "upper ? words[i] : words[i | bit]",
            "upper ? words[i | bit] : words[i]",
            within="given = {}",
        ),
    ),
    "a tap that stays": Fault(
        "",
        "element .* is .*, not",
        Edit("gemm_mma/correlate.cuh", "    at.add(c.stride, c.taps_w, c.chunks);\n", ""),
    ),
    "a tile of one pixel too many": Fault(
        "address",
        "heap-buffer-overflow",
        Edit(
            "gemm_mma/correlate.cuh",
            "if (index >= c.pixels) continue;",
            "if (index > c.pixels) continue;",
            within="{}\n      write_row(",
        ),
    ),
    "columns beyond the last": Fault(
        "address",
        "heap-buffer-overflow",
        Edit("gemm_mma/correlate.cuh", "(column < c.columns ? column : c.columns - 1)", "column"),
    ),
    "an epilogue of each split": Fault(
        "",
        "element .* is .*, not",
        Edit(
            "gemm_mma/correlate.cuh",
            "if (c.split_size > 0) return write_partial(c, block, tile, sums);",
            "if (c.split_size > 0) { finish(c, block, tile, sums);"
            " return write_partial(c, block, tile, sums); }",
        ),
    ),
    "the second of a pair of residuals": Fault(
        "",
        "element .* is .*, not",
        Edit("gemm_mma/correlate.cuh", "two[1]", "two[0]"),
    ),
    "the residual of another channel": Fault(
        "",
        "element .* is .*, not",
        Edit("gemm_mma/correlate.cuh", "row[column * c.out_strides.channel]", "row[column]"),
    ),
    "one term too many": Fault(
        "", "is -?nan", Edit("gemm_mma/grad_weight.cuh", "i * kStep < left", "i * kStep <= left")
    ),
}
DIRECT = {
    "no barrier": Fault(
        "",
        "is -?nan",
        Edit(
            "direct/correlate_planes.cuh",
            "    wait_for_copies<0>();\n    __syncthreads();\n",
            "    wait_for_copies<0>();\n",
        ),
    ),
    "a term is overwritten while it is read": Fault(
        "thread",
        "data race",
        Edit(
            "direct/correlate_planes.cuh",
            "    __syncthreads();  // all threads have read the previous term\n",
            "",
        ),
    ),
    "a residual after the activation": Fault(
        "",
        "element .* is .*, not",
        Edit(
            "epilogue.cuh",
            "Real one[1] = {with_residual(sum, at)};\n    activate(one);\n    return one[0];",
            "Real one[1] = {sum}; activate(one); return with_residual(one[0], at);",
        ),
    ),
    "the residual of a place in shared memory": Fault(
        "",
        "element .* is .*, not",
        Edit("direct/correlate_planes.cuh", "to", "at", within="finished(in[at], {})"),
    ),
    "no wait for copies": Fault(
        "", "never waited for", Edit("direct/sum_planes.cuh", "    wait_for_copies<0>();\n", "")
    ),
    "sums are added before they are there": Fault(
        "thread",
        "data race",
        Edit(
            "direct/sum_planes.cuh",
            "  __syncthreads();\n",
            "",
            within="  }\n{}  const int64_t size",
        ),
    ),
    "a column too many": Fault(
        "address",
        "heap-buffer-overflow",
        Edit(
            "direct/tiles.cuh",
            "is_inside(column, tensor.width)",
            "is_inside(column, tensor.width + 1)",
        ),
    ),
    "a tap too many": Fault(
        "", "element .* is .*, not", Edit("direct/tiles.cuh", "taps >= kTaps", "taps + 1 >= kTaps")
    ),
    "a worker's last row": Fault(
        "",
        "element .* is .*, not",
        Edit(
            "direct/sum_planes.cuh",
            "least(begin + worker_rows, exist)",
            "least(begin + worker_rows - 1, exist)",
        ),
    ),
    "a worker's sums": Fault(
        "",
        "element .* is .*, not",
        Edit("direct/sum_planes.cuh", "worker < workers", "worker + 1 < workers"),
    ),
    "sums of lanes are added before they are there": Fault(
        "thread",
        "data race",
        Edit(
            "gemm/weight_sums.cuh",
            "      __syncthreads();\n",
            "",
            within="{}      if (lane > 0) continue;",
        ),
    ),
}
FAULTY_TILES = ("cuda_3x3_20_to_63", "cuda_3x3_36_to_129", "cuda_many_splits")
# With residuals: chunks of channels and fours of pixels, or not, and terms that are split. In the
# order of these lists the layouts of forward alternate.
EPILOGUES = [
    "n1c15h7w7k40r1s1_f32_nchw_fwd+bias+residual+silu#epilogue_of_chunks",
    "n1c15h4w8k40r1s1_f32_nchw_fwd+bias+residual+relu6#epilogue_of_fours",
    "n1c15h4w8k21r1s1_f32_nchw_fwd+residual+silu#epilogue_of_fours_of_pixels",
    "n1c15h7w7k21r1s1_f32_nchw_fwd+bias+residual+gelu#epilogue_of_tails",
    "n1c96h5w5k12r3s3p1q1_f32_nchw_fwd+bias+residual+sigmoid#epilogue_of_splits",
]
# The faults of each unit, and the problems and the dtype that show them.
UNITS = {
    "implicit_gemm": (
        IMPLICIT_GEMM,
        [*EPILOGUES, *(c for c in CUDA_TILES if label(c) in FAULTY_TILES)],
        "f32",
    ),
    "implicit_gemm_mma": (IMPLICIT_GEMM_MMA, [*EPILOGUES, *CUDA_TILES[3:7]], "bf16"),
    "direct": (
        DIRECT,
        [*EPILOGUES[:2], *(c for c in CUDA_WINDOWS if label(c) in ("stem", "taps_5x9"))],
        "f32",
    ),
}
# No fault: offsets of 64 bits, which are otherwise for tensors of 2^30 elements and more.
LONG_OFFSETS = Edit("gemm/tile_choice.h", "int64_t{1} << 30", "1")
# Units share some edits, and some faults are the same edit, found in two ways.
PLANTED = [
    *dict.fromkeys(fault.edit for faults, _, _ in UNITS.values() for fault in faults.values()),
    LONG_OFFSETS,
]
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
    texts = problems([*EPILOGUES, *cases[::step]], dtype)
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
    number = 1 + PLANTED.index(planted.edit)
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
        done = large.run_program(
            algorithm, problems([*EPILOGUES, *CUDA_TILES[::2]], dtype), fault=number
        )
        assert done.returncode == 0, done.stdout + done.stderr
