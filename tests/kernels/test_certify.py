"""The CPU kernels on integers modulo a prime (tests/kernels/certify), which is exact for every
term. Each run of the tests has the kernels of one dtype and instruction set, some random problems,
and planted faults. `make certify` has all kernels, the case table and CONVKERN_CERTIFY_PROBLEMS
random problems."""

import itertools
import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cases import DEPTHWISE, FFT, FFT_SIZES, GROUPED, MATMUL, NON_EMPTY, WIDE, WINOGRAD
from certify_program import CUDA, SMALL_BLOCKS, UNITS, Certified, CertifyProgram
from convkern import _C
from convkern.testing import variant
from counts import count
from planted import Edit
from shared_builds import Once

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

QUICK = "f32_avx2"
LAYOUTS = ("nchw", "nhwc")
PASSES = ("fwd", "gx", "gw")
PROBLEMS = int(os.environ.get("CONVKERN_CERTIFY_PROBLEMS", "20000"))
SEED = int(os.environ.get("CONVKERN_CERTIFY_SEED", "0"))
# In every pass, with dtypes and layouts in turn.
CASES = [
    variant(case, pass_=pass_, dtype=("f32", "f64")[(i + j) % 2], layout=LAYOUTS[(i // 2 + j) % 2])
    for i, case in enumerate(NON_EMPTY + MATMUL + DEPTHWISE + GROUPED + WINOGRAD + WIDE + FFT)
    for j, pass_ in enumerate(PASSES)
]

TILE, TRANSFORMS = "tiles/correlation-inl.h", "algos/winograd/transforms-inl.h"
GEMM, BATCHES = "algos/implicit_gemm/correlate-inl.h", "algos/batchlane/forward-inl.h"
SKINNY, GROUPS = "algos/skinny_gemm/correlate-inl.h", "algos/channellane/tiles-inl.h"
FOURIER, PERIODS = "algos/fft/transforms-inl.h", "fft_size.cpp"
FAULTS = {
    "a tap at the edge is left out": Edit(TILE, "j > count", "j >= count"),
    "planes are added twice": Edit(
        TILE, "std::min(c.planes, plane + block)", "std::min(c.planes, plane + block + 1)"
    ),
    "the last images are left out": Edit(
        "blocking/reduction-inl.h",
        "near_equal_part(reduction.units, reduction.chunks, chunk)",
        "near_equal_part(reduction.units - 1, reduction.chunks, chunk)",
    ),
    "the last block of numbers is one too early": Edit(
        "tiles/transpose-inl.h", "move(n - width)", "move(n - width - 1)"
    ),
    "a constant of Winograd's is off by the least": Edit(
        TRANSFORMS, "fma(kRatio<1, 24>, wide, sum)", "fma(kRatio<1, 24> + Real(1), wide, sum)"
    ),
    "a transform has a wrong sign": Edit(TRANSFORMS, "add(d[1], d[2])", "sub(d[1], d[2])"),
    "the bias is left out": Edit(GEMM, "bias == nullptr ? Init::zero : Init::bias", "Init::zero"),
    "the bias of the first panel is that of all": Edit(
        GEMM, "bias + channel", "bias + group * all.columns"
    ),
    "the last columns are not masked": Edit(
        "algos/columnlane/grad_weight-inl.h", "p.OW() % kLanes", "(p.OW() - 1) % kLanes"
    ),
    "a lane reads the next one's group": Edit(
        "algos/channellane/groups-inl.h",
        "lane / groups.columns * groups.terms + term",
        "(lane + 1) % kLanes / groups.columns * groups.terms + term",
    ),
    "only the last two blocks of terms are added up": Edit(
        GROUPS, "add(total[r][t], sum)", "sum", within="block == 1 ? sum : {}"
    ),
    "both rows of a tile take the taps of the first": Edit(
        GROUPS, "r * run.tap_step", "0", within="w[r][k] = Vec::load(taps - {} + k * kLanes)"
    ),
    "the zeros beside an image are one column too few": Edit(
        "algos/channellane/shared-inl.h",
        "set_zero(first, before)",
        "set_zero(first, std::max<int64_t>(0, before - kLanes))",
    ),
    "columns beside the image are read": Edit(
        GROUPS, "kInside", "true", within="{} || static_cast<uint64_t>(column)"
    ),
    "a strip begins one column before the image": Edit(
        "algos/channellane/strips-inl.h", "k.begin == 1", "false", within="true, {}, lacks_last"
    ),
    "weights of a strip take a column beyond the image": Edit(
        "algos/channellane/weight_strips-inl.h", "!columns.lacks_last", "true"
    ),
    "the taps of gx are not reversed": Edit(
        "algos/winograd/correlate-inl.h", "(taps.reversed ? 8 - tap : tap)", "tap"
    ),
    "the zeros around an image are not written": Edit(
        BATCHES, "set_zero(memory, buffers.x_floats)", "void()"
    ),
    "the last products of a row are left out": Edit("tiles/dot-inl.h", "left > 0", "left > 1"),
    "a block of products begins one late": Edit(
        SKINNY, "wide.at + k", "wide.at + k + 1", within="add_products({{}, wide"
    ),
    "rows of W are a vector too far apart": Edit(
        SKINNY, "step", "step + kLanes", within="t.b_k = {}"
    ),
    "each block of rows begins the sums anew": Edit(
        "algos/skinny_gemm/grad_weight-inl.h", "Init::accumulate", "Init::zero"
    ),
    "the rows of a patch are taken from one channel": Edit(
        "algos/skinny_gemm/matrices-inl.h", "i / p.R * p.H + i % p.R", "i % p.R"
    ),
    "a root of unity is that of the frequency before": Edit(
        FOURIER, "kTwiddles.factor[b][a]", "kTwiddles.factor[b][a - 1]"
    ),
    "the spectrum of every second row is conjugated": Edit(
        FOURIER, "cpu::sub(mirror.re, z.re)", "cpu::sub(z.re, mirror.re)"
    ),
    "a period is one point too short for what wraps around": Edit(
        PERIODS, "candidate", "candidate + 1", within="wraps = {} >= std::max"
    ),
    "a tile begins one output late": Edit(
        PERIODS, "i * tile", "i * tile + std::min<int64_t>(i, 1)", within="{{}, std::min(y_size"
    ),
    "a guard judges one number too many": Edit(
        "algos/fft/grad_weight-inl.h",
        "s.tap_planes() * s.p.R * s.p.S",
        "s.tap_planes() * s.p.R * s.p.S + 1",
        within="are_safe_results(gw, {})",
    ),
}
# What a run says of these faults. The others give wrong elements.
UNWRITTEN = "from memory that was not written"
MESSAGES = {
    "the zeros around an image are not written": rf"element \d+ comes {UNWRITTEN}",
    "the zeros beside an image are one column too few": rf"element \d+ comes {UNWRITTEN}",
    "a strip begins one column before the image": rf"element \d+ comes {UNWRITTEN}",
    "a guard judges one number too many": f"compares a number {UNWRITTEN}",
}


def kernels_of(unit: str) -> list[str]:
    """Returns the kernels of the product whose algorithms are in the unit."""
    dtype, isa = unit.split("_")
    return [
        k["name"]
        for k in _C.kernels()
        if (k["device"], k["dtype"], k["isa"]) == ("cpu", dtype, isa)
    ]


def test_there_is_a_unit_for_every_kernel() -> None:
    kernels = [k for k in _C.kernels() if k["device"] == "cpu" and k["dtype"] in ("f32", "f64")]
    of_floats = {f"{k['dtype']}_{k['isa']}" for k in kernels}
    assert of_floats <= set(UNITS)


@pytest.fixture(scope="module")
def quick(build_once: Once) -> CertifyProgram:
    folder = build_once("certify_quick", lambda folder: CertifyProgram(folder, [QUICK]).build())
    return CertifyProgram(folder, [QUICK])


@pytest.fixture(scope="module")
def faulty(quick: CertifyProgram, build_once: Once) -> CertifyProgram:
    """Returns the program with small blocks, and with faults that a run can switch on."""
    folder = build_once(
        "certify_faulty",
        lambda folder: quick.edited(folder, SMALL_BLOCKS, list(FAULTS.values())),
    )
    return CertifyProgram(folder, [QUICK])


def check(done: Certified, units: Sequence[str]) -> None:
    assert done.returncode == 0, done.output + done.errors
    assert done.kernels == sum(len(kernels_of(unit)) for unit in units)
    count("kernels modulo a prime: runs that are the plain sum exactly", done.runs)


def test_random_problems(quick: CertifyProgram) -> None:
    check(quick.run(range(2000)), [QUICK])


def test_problems_are_numbered(quick: CertifyProgram) -> None:
    whole, parts = quick.run(range(40)), [quick.run(range(25)), quick.run(range(25, 40))]
    assert whole.runs == sum(part.runs for part in parts)
    assert whole.runs != quick.run(range(40), seed=1).runs


def test_kernels_that_did_not_run_are_a_failure(quick: CertifyProgram) -> None:
    done = quick.run(range(3))
    assert done.returncode == 1
    assert " has not run\n" in done.output
    assert done.faults == 0


def test_given_problems_need_not_run_all_kernels(quick: CertifyProgram) -> None:
    done = quick.run(given=[CASES[0]])
    assert done.returncode == 0
    assert done.problems == 1


def test_bounds_of_a_band_are_in_order(quick: CertifyProgram) -> None:
    """std::clamp demands it, and the assertions of the C++ library check it."""
    (narrow,) = (case for case in MATMUL if case.endswith("#narrow_rows_of_many_channels"))
    assert quick.run(given=[narrow]).returncode == 0


def test_all_sizes_of_fft(quick: CertifyProgram) -> None:
    given = [
        variant(case, pass_=pass_, layout=LAYOUTS[(i + j) % 2])
        for i, case in enumerate(FFT_SIZES)
        for j, pass_ in enumerate(PASSES)
    ]
    done = quick.run(given=given)
    assert done.returncode == 0, done.output + done.errors
    assert done.has_all_periods_of_fft(), done.output


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(faulty: CertifyProgram, fault: str) -> None:
    done = faulty.run(range(900), fault=1 + list(FAULTS).index(fault))
    assert done.returncode == 1
    assert done.faults > 0
    message = MESSAGES.get(fault, r"element \d+ is \d+, not \d+")
    assert re.search(rf"^\w+\.\w+\.f32\.avx2.*: {message}", done.output, re.M)


def test_random_problems_in_small_blocks(faulty: CertifyProgram) -> None:
    check(faulty.run(range(2000)), [QUICK])


def test_cuda_kernels_in_the_simulator(tmp_path: Path) -> None:
    done = CertifyProgram(tmp_path / "certify", [CUDA]).build().run(range(2000))
    assert done.returncode == 0, done.output + done.errors
    assert done.kernels == 3  # the float64 kernels of direct
    count("kernels modulo a prime: runs that are the plain sum exactly", done.runs)


@pytest.fixture(scope="module")
def all_units(build_once: Once) -> CertifyProgram:
    return CertifyProgram(build_once("certify_all", lambda folder: CertifyProgram(folder).build()))


@pytest.mark.exhaustive
def test_the_case_table(all_units: CertifyProgram) -> None:
    done = all_units.run(given=CASES)
    check(done, UNITS)
    assert done.problems == len(CASES)


@pytest.mark.exhaustive
@pytest.mark.parametrize("edits", [[], SMALL_BLOCKS], ids=["", "small_blocks"])
def test_random_problems_in_all_units(
    all_units: CertifyProgram, edits: list[Edit], tmp_path: Path
) -> None:
    program = all_units.edited(tmp_path / "certify", edits) if edits else all_units
    processes = os.cpu_count() or 1
    bounds = [PROBLEMS // 2 * i // processes for i in range(processes + 1)]
    parts = [range(a, b) for a, b in itertools.pairwise(bounds)]
    with ThreadPoolExecutor(processes) as pool:
        for done in pool.map(lambda part: program.run(part, seed=SEED), parts):
            print(done.output)
            check(done, UNITS)
