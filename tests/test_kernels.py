"""Every kernel, forced by name, over the case table against float64."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import convkern
from cases import (
    DEPTHWISE,
    EMPTY_BATCH,
    FEW,
    GROUPED,
    HALF_CHUNKS,
    MATMUL,
    NON_EMPTY,
    WIDE,
    WINOGRAD,
    label,
)
from convkern import _C
from convkern.testing import assert_accurate, operands, oracle, run, variant

ISAS = ["baseline", "avx2", "avx512"]
PASSES = ["fwd", "gx", "gw"]
CPU_KERNELS = [k for k in _C.kernels() if k["device"] == "cpu"]


def kernel_names(algorithm: str, half: bool = False) -> list[str]:
    """Of any or several dtypes; or those of bfloat16 and float16."""
    fields = [k["name"].split(".") for k in CPU_KERNELS]
    return [".".join(f) for f in fields if f[1] == algorithm and (f[3] == "half") == half]


MATMULS = kernel_names("implicit_gemm")
ANY_SHAPE = kernel_names("direct_batchlane") + kernel_names("direct_columnlane") + MATMULS
CHANNELLANE = kernel_names("direct_channellane")
# How many rounding errors of the largest sum of absolute products they may make: their transforms
# multiply by up to 8 and 5 and add up to 6 terms, twice, before and after the products.
WINOGRAD_ERRORS = {"winograd_4x4": 100, "winograd_2x2": 4}
WINOGRADS = [name for algorithm in WINOGRAD_ERRORS for name in kernel_names(algorithm)]
HALF_CHANNELLANE = kernel_names("direct_channellane", half=True)
HALF = [
    name
    for algorithm in ("direct_batchlane", "direct_columnlane", "implicit_gemm")
    for name in kernel_names(algorithm, half=True)
]


def is_available(name: str) -> bool:
    levels = [*ISAS, "avx512bf16"]
    return levels.index(name.split(".")[-1]) <= levels.index(_C.available_isa())


def available(name: str) -> None:
    if not is_available(name):
        pytest.skip(f"this processor lacks the instruction set of {name}")


def operands_of_magnitude(case: str, name: str) -> convkern.testing.Operands:
    """Absolute operands, whose sums nothing cancels."""
    text = variant(case.replace("+relu", ""), pass_=name.split(".")[0])
    return operands(text).map(torch.abs)


def of_kernel(name: str, text: str) -> str:
    """The problem in the kernel's pass, and in its dtype, where it has only one."""
    pass_, _, _, dtype, _ = name.split(".")
    return variant(text, pass_=pass_, dtype=None if dtype in ("any", "half") else dtype)


def forced_result(name: str, text: str) -> tuple[torch.Tensor, convkern.testing.Operands]:
    ops = operands(of_kernel(name, text))
    with convkern.use_kernel(name):
        assert _C.plan(ops.problem)["kernel"] == name
        return run(ops), ops


def has_lanes_for(name: str, case: str) -> bool:
    """What direct_channellane of this width computes, written anew."""
    dtype, isa = name.split(".")[-2:]
    lanes = {"baseline": 4, "avx2": 8, "avx512": 16}[isa]
    if dtype == "f64" and isa != "baseline":
        lanes //= 2
    problem = _C.Problem(case)
    terms, columns = problem.weight_size[1], problem.weight_size[0] // problem.groups
    if name.startswith("gx."):
        terms, columns = columns, terms
    undilated = problem.dilation[1] == 1 and (problem.stride[1] <= 2 or name.startswith("gx."))
    return lanes % columns == 0 and terms <= columns and undilated


def has_pairs_for(name: str, case: str) -> bool:
    """What the bfloat16 kernels compute, written anew."""
    pass_, _, _, dtype, _ = name.split(".")
    problem = _C.Problem(case)
    terms = {"fwd": problem.weight_size[1], "gx": problem.weight_size[0] // problem.groups, "gw": 0}
    return dtype != "bf16" or terms[pass_] % 2 == 0


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, case, id=f"{name}-{label(case)}")
        for names, cases in [
            (ANY_SHAPE, NON_EMPTY),
            (kernel_names("direct_columnlane"), WIDE),
            (MATMULS, MATMUL),
            (CHANNELLANE, DEPTHWISE + GROUPED),
        ]
        for name in names
        for case in cases
        if (case not in GROUPED or has_lanes_for(name, case)) and has_pairs_for(name, case)
    ],
)
def test_kernel(name: str, case: str, layout: str) -> None:
    available(name)
    result, ops = forced_result(name, variant(case, layout=layout))
    assert_accurate(result, ops)


@pytest.mark.usefixtures("high_precision")
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("case", WINOGRAD, ids=label)
@pytest.mark.parametrize("name", WINOGRADS)
def test_winograd(name: str, case: str, layout: str) -> None:
    available(name)
    result, ops = forced_result(name, variant(case, layout=layout))
    magnitude = oracle(operands_of_magnitude(case, name)).max().item()
    errors = (result.double() - oracle(ops)).abs().max().item() / magnitude / 2**-23
    assert errors <= WINOGRAD_ERRORS[name.split(".")[1]]


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
    available("avx512")
    plan = _C.plan(_C.Problem(f"{problem}_{pass_}"))
    rejected = dict(plan["rejected"])
    assert why in rejected[f"{pass_}.direct_channellane.any.f32.avx512"]


@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "f16"])
@pytest.mark.parametrize("case", [*FEW, EMPTY_BATCH], ids=label)
@pytest.mark.parametrize("name", kernel_names("reference"))
def test_reference(name: str, case: str, dtype: str) -> None:
    for layout in ("nchw", "nhwc"):
        result, ops = forced_result(name, variant(case, layout=layout, dtype=dtype))
        assert_accurate(result, ops)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, case, id=f"{name}-{label(case)}")
        for names, cases in [(HALF, FEW + HALF_CHUNKS), (HALF_CHANNELLANE, DEPTHWISE[::9])]
        for name in names
        for case in cases
    ],
)
def test_half(name: str, case: str, layout: str, dtype: str) -> None:
    available(name)
    result, ops = forced_result(name, variant(case, layout=layout, dtype=dtype))
    assert_accurate(result, ops)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("isa", ISAS)
def test_half_conversions_are_exact(isa: str, dtype: str) -> None:
    name = f"fwd.implicit_gemm.any.half.{isa}"
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
    """Sums of two numbers, ties, overflows and subnormal numbers among them, as torch rounds."""
    name = f"fwd.implicit_gemm.any.half.{isa}"
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
    tested = ANY_SHAPE + CHANNELLANE + WINOGRADS + kernel_names("reference")
    tested += HALF + HALF_CHANNELLANE
    assert sorted(tested) == sorted(k["name"] for k in CPU_KERNELS)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pass_", PASSES)
def test_a_capped_isa_is_the_one_that_runs(isa: str, pass_: str) -> None:
    available(isa)
    # A batch that fills the lanes of every instruction set.
    ops = operands(variant("n16c2h7w9k3r3s2p1q1_f32_nchw_fwd", pass_=pass_))
    with convkern.use_isa(isa), torch.profiler.profile() as profile:
        run(ops)
    ran = [e.key for e in profile.key_averages() if e.key in {k["name"] for k in CPU_KERNELS}]
    assert ran == [f"{pass_}.direct_batchlane.any.f32.{isa}"]


@pytest.mark.usefixtures("high_precision")
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
@pytest.mark.parametrize("name", ANY_SHAPE)
def test_lanes_that_do_not_count_do_not_leak(name: str, column: int) -> None:
    """NaN and Inf must not be multiplied into lanes without an image, or beyond the columns."""
    available(name)
    ops = operands(of_kernel(name, "n5c2h6w7k2r3s3p1q1_f32_nchw_fwd"))
    ops.x[0, 0, 2, column] = torch.inf
    ops.gy[0, 0, 2, 2] = torch.inf
    with convkern.use_kernel(name):
        result = run(ops)
    expected = convkern.testing.oracle(ops)
    near = 0.1 if ops.x.dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(result.double(), expected, rtol=near, atol=near, equal_nan=True)
    assert not result.isfinite().all()


@pytest.mark.parametrize("relu", ["", "+relu"])
def test_nan_survives_the_epilogue(relu: str) -> None:
    dense = f"n3c2h5w5k1r3s3_f32_nchw_fwd+bias{relu}"
    depthwise = f"n3c16h5w5k16r3s3g16_f32_nhwc_fwd+bias{relu}"
    exact = set(ANY_SHAPE + CHANNELLANE + kernel_names("reference"))
    for name in [k["name"] for k in CPU_KERNELS if k["name"] in exact]:
        if not name.startswith("fwd."):
            continue
        ops = operands(of_kernel(name, depthwise if name in CHANNELLANE else dense))
        ops.x[1, 0, 0, 0] = torch.nan
        if is_available(name):
            with convkern.use_kernel(name):
                assert run(ops).isnan().nonzero().tolist() == [[1, 0, 0, 0]], name


def test_workspace_limit_is_a_reason() -> None:
    problem = _C.Problem("n1c1h1w3000000k1r1s3000000_f32_nchw_gw")
    plan = _C.plan(problem)
    assert plan["reference"]
    assert {reason for _, reason in plan["rejected"]} >= {
        "would need more workspace than a thread may have"
    }
