"""Every kernel, forced by name, over the case table against float64. There is one test for each
problem."""

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
import torch

import convkern
import padded_cases
from cases import (
    DEPTHWISE,
    EMPTY_BATCH,
    FEW,
    FFT,
    GROUPED,
    HALF_CHUNKS,
    LARGE_DEPTHWISE,
    MATMUL,
    NON_EMPTY,
    SKINNY,
    WIDE,
    WINOGRAD,
    label,
    problem_id,
)
from convkern import _C
from convkern.testing import Accuracy, operands, oracle, run, variant
from counts import count
from named_kernels import (
    CPU_KERNELS,
    EXACT,
    ISAS,
    PASSES,
    ROWS,
    WINOGRAD_ERRORS,
    available,
    check_accurate,
    check_winograd,
    every_failure,
    forced,
    is_available,
    supporting,
)


def kernel_names(algorithm: str, half: bool = False) -> list[str]:
    """Returns the kernels of the algorithm: those for bfloat16 and float16 if `half`, and the
    others otherwise."""
    return [
        name
        for name, row in ROWS.items()
        if row["algorithm"] == algorithm and (row["dtype"] == "half") == half
    ]


MATMULS = kernel_names("implicit_gemm")
# The algorithms for any shape.
ALGORITHMS = ("direct_batchlane", "direct_columnlane", "implicit_gemm")
ANY_SHAPE = [name for algorithm in ALGORITHMS for name in kernel_names(algorithm)]
CHANNELLANE = kernel_names("direct_channellane")
WINOGRADS = [name for algorithm in WINOGRAD_ERRORS for name in kernel_names(algorithm)]
FFTS = kernel_names("fft")
HALF_FFT, HALF_WINOGRAD = kernel_names("fft", half=True), kernel_names("winograd_2x2", half=True)
HALF_CHANNELLANE = kernel_names("direct_channellane", half=True)
HALF = [name for algorithm in ALGORITHMS for name in kernel_names(algorithm, half=True)]


def of_kernel(name: str, text: str) -> str:
    """Returns the problem in the kernel's pass, and in its dtype if it has only one."""
    pass_, dtype = ROWS[name]["pass_"], ROWS[name]["dtype"]
    return variant(text, pass_=pass_, dtype=None if dtype in ("any", "half") else dtype)


def has_lanes_for(name: str, case: str) -> bool:
    """Returns whether direct_channellane of this width computes the case. The rule is written
    independently."""
    pass_, dtype, isa = ROWS[name]["pass_"], ROWS[name]["dtype"], ROWS[name]["isa"]
    lanes = {"baseline": 4, "avx2": 8, "avx512": 16}[isa]
    if dtype == "f64" and isa != "baseline":
        lanes //= 2
    problem = _C.Problem(case)
    terms, columns = problem.weight_size[1], problem.weight_size[0] // problem.groups
    if pass_ == "gx":
        terms, columns = columns, terms
    undilated = problem.dilation[1] == 1 and (problem.stride[1] <= 2 or pass_ == "gx")
    return lanes % columns == 0 and terms <= columns and undilated


def has_pairs_for(name: str, case: str) -> bool:
    """Returns whether the bfloat16 kernels compute the case. The rule is written independently."""
    pass_, dtype = ROWS[name]["pass_"], ROWS[name]["dtype"]
    problem = _C.Problem(case)
    terms = {"fwd": problem.weight_size[1], "gx": problem.weight_size[0] // problem.groups, "gw": 0}
    return dtype != "bf16" or terms[pass_] % 2 == 0


def is_product(case: str) -> bool:
    """Returns whether skinny_gemm computes the case. The rule is written independently."""
    problem = _C.Problem(case)
    pixels = problem.input_size[2] * problem.input_size[3]
    taps = problem.weight_size[2] * problem.weight_size[3]
    return problem.layout == "nhwc" or taps > 1 or pixels == 1


REFERENCE = kernel_names("reference")
# The cases that each kernel must compute.
CASES = [
    (ANY_SHAPE, NON_EMPTY),
    (kernel_names("direct_columnlane"), WIDE),
    (MATMULS, MATMUL),
    (CHANNELLANE, DEPTHWISE + GROUPED),
    (kernel_names("skinny_gemm"), SKINNY),
    (kernel_names("skinny_gemm", half=True), SKINNY[::9]),
    (REFERENCE, [*FEW, EMPTY_BATCH]),
    (HALF, FEW + HALF_CHUNKS),
    (HALF_CHANNELLANE, DEPTHWISE[::9] + LARGE_DEPTHWISE),
    (FFTS, FFT),
    (HALF_FFT, FFT[::9]),
    (HALF_WINOGRAD, WINOGRAD[::9]),
    (ANY_SHAPE, padded_cases.ANY_SHAPE),
    (MATMULS, padded_cases.MATMUL),
    (CHANNELLANE, padded_cases.DEPTHWISE + padded_cases.GROUPED),
    (FFTS, padded_cases.FFT),
    (HALF, padded_cases.ANY_SHAPE[::5]),
    (HALF_CHANNELLANE, padded_cases.DEPTHWISE[::9]),
]
OWN_DTYPES = {"any": ["f32", "f64", "bf16", "f16"], "half": ["bf16", "f16"]}


def problems_of_kernels() -> dict[str, list[str]]:
    """Returns each problem with the kernels that must compute it."""
    problems: dict[str, list[str]] = {}
    for names, table in CASES:
        for name, case, layout in product(names, table, ["nchw", "nhwc"]):
            grouped = case in GROUPED or case in padded_cases.GROUPED
            if (grouped and not has_lanes_for(name, case)) or not has_pairs_for(name, case):
                continue
            if case in LARGE_DEPTHWISE and (layout == "nchw" or ROWS[name]["pass_"] == "gw"):
                continue
            if case in SKINNY and not is_product(variant(case, layout=layout)):
                continue
            pass_, dtype = ROWS[name]["pass_"], ROWS[name]["dtype"]
            for own in OWN_DTYPES.get(dtype, [dtype]):
                text = variant(case, layout=layout, pass_=pass_, dtype=own)
                problems.setdefault(text, []).append(name)
    return problems


PROBLEMS = problems_of_kernels()
FORCED = "kernels: results of kernels against float64, forced in turn"


@pytest.mark.parametrize("problem", PROBLEMS, ids=problem_id)
def test_kernels(problem: str) -> None:
    names = [name for name in PROBLEMS[problem] if is_available(name)]
    directly = [name for name in names if name not in FFTS]
    ops = operands(problem)
    assert set(names) <= {*directly, *supporting(ops, FFTS)}
    # What is new with a mode is where numbers come from. The sums are those of padded images.
    accuracy = Accuracy(ops, peer=ops.problem.padding_mode == "zeros")
    with every_failure(problem) as failures:
        for name in directly:
            with failures.of(name):
                check_accurate(accuracy, forced(name, ops))
                count(FORCED)
        # Kernels whose edges are in other cases, and transforms, are compared with the rounding
        # errors of a sum of its length. Twice torch's error would be too strict, because torch is
        # lucky in some problems, and a sum of one product has no more than one error.
        if accuracy.problem.dtype == "f32":
            accuracy.torchs_error = None
        others = [name for name in EXACT if name not in directly + REFERENCE]
        for name in supporting(ops, others):
            with failures.of(name):
                check_accurate(accuracy, forced(name, ops))
                count(FORCED)


@pytest.mark.usefixtures("medium_precision")
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("case", WINOGRAD + padded_cases.WINOGRAD, ids=label)
def test_winograd(case: str, pass_: str, layout: str) -> None:
    for dtype in ("f32", "f64"):
        ops = operands(variant(case, pass_=pass_, layout=layout, dtype=dtype))
        accuracy = Accuracy(ops, peer=False)
        with every_failure(ops.problem) as failures:
            for name in filter(is_available, WINOGRADS):
                if (ROWS[name]["pass_"], ROWS[name]["dtype"]) == (pass_, dtype):
                    with failures.of(name):
                        check_winograd(name, accuracy, forced(name, ops))
                        count(FORCED)


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize(
    ("problem", "why"),
    [
        ("n2c32h5w6k32r3s3p1q1_f32_nhwc", "grouped"),
        ("n2c64h5w6k64r3s3p1q1g2_f32_nhwc", "hold whole ones"),
        ("n2c36h5w6k36r3s3p1q1g6_f32_nhwc", "hold whole ones"),
        ("n2c32h9w9k32r3s3p1q1u1v1d1e2g8_f32_nhwc", "dilation of 1"),
    ],
)
def test_channellane_says_what_it_does_not_compute(pass_: str, problem: str, why: str) -> None:
    name = f"{pass_}.direct_channellane.f32.avx512"
    available(name)
    plan = _C.plan(_C.Problem(f"{problem}_{pass_}"))
    assert why in dict(plan["rejected"])[name]


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("isa", ISAS)
def test_half_conversions_are_exact(isa: str, dtype: str) -> None:
    name = f"fwd.implicit_gemm.half.{isa}"
    available(name)
    ops = operands(f"n1c2h256w257k1r1s1_{dtype}_nchw_fwd")
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    every_number = bits.view(ops.x.dtype)
    x, w = torch.zeros_like(ops.x), torch.ones_like(ops.w)
    x[0, 0].view(-1)[: 2**16] = every_number
    with convkern.use_kernel(name):
        same = convkern.conv2d(x, w)[0, 0].view(-1)[: 2**16]
    torch.testing.assert_close(same, every_number, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("isa", ISAS)
def test_half_results_are_rounded_to_nearest_even(isa: str, dtype: str) -> None:
    """Sums of two numbers are rounded as torch does. They include ties, overflows and subnormal
    numbers."""
    name = f"fwd.implicit_gemm.half.{isa}"
    available(name)
    ops = operands(f"n1c2h64w64k1r1s1_{dtype}_nchw_fwd")
    info = torch.finfo(ops.x.dtype)
    small = torch.randint(-8, 9, (64, 64))
    x, w = torch.empty_like(ops.x), torch.ones_like(ops.w)
    for unit, start in [
        (info.eps / 2, 1.0),
        (info.max * info.eps / 16, info.max),
        (info.smallest_normal * info.eps, info.smallest_normal),
    ]:
        x[0, 0], x[0, 1] = start, small * unit
        with convkern.use_kernel(name):
            y = convkern.conv2d(x, w)
        expected = (x[0, 0].float() + x[0, 1].float()).to(x.dtype)
        torch.testing.assert_close(y[0, 0], expected, rtol=0, atol=0)


def test_every_kernel_is_tested() -> None:
    tested = {name for names in PROBLEMS.values() for name in names}
    assert sorted([*tested, *WINOGRADS]) == sorted(CPU_KERNELS)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pass_", PASSES)
def test_a_capped_isa_is_the_one_that_runs(isa: str, pass_: str) -> None:
    name = f"{pass_}.direct_batchlane.f32.{isa}"
    available(name)
    # This batch fills the lanes of every instruction set.
    ops = operands(variant("n16c1h27w7k1r5s4p1q1_f32_nchw_fwd", pass_=pass_))
    with convkern.use_isa(isa), torch.profiler.profile() as profile:
        run(ops)
    ran = [e.key for e in profile.key_averages() if e.key in CPU_KERNELS]
    assert ran == [name]


@pytest.mark.usefixtures("medium_precision")
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("case", WINOGRAD, ids=label)
def test_winograd_does_not_depend_on_threads(case: str, pass_: str) -> None:
    test_results_do_not_depend_on_threads(case, pass_)


@pytest.mark.parametrize("case", NON_EMPTY + MATMUL + GROUPED, ids=label)
@pytest.mark.parametrize("pass_", PASSES)
def test_results_do_not_depend_on_threads(case: str, pass_: str) -> None:
    ops = operands(variant(case, pass_=pass_))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4, 1):
            torch.set_num_threads(threads)
            results.append(run(ops))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("case", FEW + HALF_CHUNKS + MATMUL[::5], ids=label)
@pytest.mark.parametrize("pass_", PASSES)
def test_half_results_do_not_depend_on_threads(case: str, pass_: str) -> None:
    test_results_do_not_depend_on_threads(variant(case, dtype="bf16"), pass_)


def test_python_threads_may_call_at_once() -> None:
    problems = [operands(variant(case, pass_=p)) for case in FEW[:6] for p in PASSES]
    expected = [run(ops) for ops in problems]

    def call_all(_: int) -> bool:
        return all(torch.equal(run(o), y) for o, y in zip(problems, expected, strict=True))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call_all, range(24)))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_kernels_run_on_torch_threads(threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert _C.threads_at_work() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("column", [2, 6])
@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16"])
@pytest.mark.parametrize("pass_", PASSES)
def test_lanes_that_do_not_count_do_not_leak(pass_: str, dtype: str, column: int) -> None:
    """NaN and Inf must not be multiplied into lanes without an image or into columns beyond the
    last."""
    ops = operands(variant("n5c2h6w7k2r3s3p1q1_f32_nchw_fwd", pass_=pass_, dtype=dtype))
    ops.x[0, 0, 2, column] = torch.inf
    ops.gy[0, 0, 2, 2] = torch.inf
    expected = oracle(ops)
    near = 0.1 if dtype == "bf16" else 1e-4
    of_dtype = [n for n in ANY_SHAPE if (ROWS[n]["pass_"], ROWS[n]["dtype"]) == (pass_, dtype)]
    with every_failure(ops.problem) as failures:
        for name in filter(is_available, of_dtype):
            with failures.of(name):
                result = forced(name, ops)
                close = {"rtol": near, "atol": near, "equal_nan": True}
                torch.testing.assert_close(result.double(), expected, **close)
                assert not result.isfinite().all()


@pytest.mark.parametrize("relu", ["", "+relu"])
def test_nan_survives_the_epilogue(relu: str) -> None:
    dense = f"n3c2h5w5k1r3s3_f32_nchw_fwd+bias{relu}"
    depthwise = f"n3c16h5w5k16r3s3g16_f32_nhwc_fwd+bias{relu}"
    for name in filter(is_available, ANY_SHAPE + CHANNELLANE + REFERENCE):
        if not name.startswith("fwd."):
            continue
        ops = operands(of_kernel(name, depthwise if name in CHANNELLANE else dense))
        ops.x[1, 0, 0, 0] = torch.nan
        assert forced(name, ops).isnan().nonzero().tolist() == [[1, 0, 0, 0]], name


def test_workspace_limit_is_a_reason() -> None:
    problem = _C.Problem("n1c1h1w3000000k1r1s3000000q1_f32_nchw_gw")
    plan = _C.plan(problem)
    assert plan["reference"]
    assert {reason for _, reason in plan["rejected"]} >= {
        "would need more workspace than a thread may have"
    }
