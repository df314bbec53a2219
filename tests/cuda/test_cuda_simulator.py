"""The CUDA kernels in the simulator are right in every schedule, and the simulator finds faults."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product

import pytest
import torch

import padded_cases
from activations import ACTIVATIONS
from cases import CUDA_TILES, CUDA_WINDOWS, EMPTY_BATCH, FEW, KERNELS, problem_id
from convkern._C import Problem
from convkern.bench import read_shapes
from convkern.problem import DTYPES
from convkern.testing import Accuracy, as_tf32, assert_accurate, operands, variant
from counts import count
from cuda_simulator import SCHEDULES, Simulator
from named_kernels import check_accurate, check_equal, every_failure

FIELDS: dict[str, tuple[str, str, str]] = {}  # (pass, algorithm, dtype) by kernel name


def kernels(algorithm: str, dtype: str) -> list[str]:
    named = {f"{p}.{algorithm}.{dtype}.cuda": (p, algorithm, dtype) for p in ("fwd", "gx", "gw")}
    FIELDS.update(named)
    return list(named)


FLOAT = kernels("implicit_gemm", "f32")
MMA = [k for dtype in ("bf16", "f16", "f32") for k in kernels("implicit_gemm_mma", dtype)]
DIRECT = [k for dtype in DTYPES for k in kernels("direct", dtype)]
REFERENCE = kernels("reference", "any")
# The cases that each kernel must compute, with their layouts and schedules.
BOTH = ("nchw", "nhwc")
CASES = [
    (FLOAT + MMA, CUDA_TILES + FEW + KERNELS[::3], BOTH, SCHEDULES),
    (DIRECT[:3], CUDA_WINDOWS + FEW + KERNELS, BOTH, SCHEDULES),
    (DIRECT[3:], CUDA_WINDOWS[::2], BOTH, SCHEDULES[:1]),
    (REFERENCE, FEW[::2], BOTH[:1], SCHEDULES[:1]),
    (FLOAT + MMA + DIRECT + REFERENCE, padded_cases.CUDA, BOTH, SCHEDULES[:1]),
    # In the other cases terms are split because there are few tiles, or the terms themselves are
    # few.
    (
        [name for name in FLOAT + MMA if FIELDS[name][0] != "gw"],
        ["n1c130h107w107k3r1s1_f32_nchw_fwd#terms_of_many_tiles"],
        BOTH,
        SCHEDULES[:1],
    ),
]


def problems_of_kernels() -> dict[str, list[tuple[str, Sequence[int]]]]:
    """Returns each problem with the kernels that must compute it and their schedules."""
    problems: dict[str, list[tuple[str, Sequence[int]]]] = {}
    for names, table, layouts, schedules in CASES:
        for name, case, layout in product(names, table, layouts):
            pass_, _, dtype = FIELDS[name]
            for own in DTYPES if dtype == "any" else [dtype]:
                text = variant(case, pass_=pass_, dtype=own, layout=layout)
                problems.setdefault(text, []).append((name, schedules))
    return problems


PROBLEMS = problems_of_kernels()


def rounds_to_tf32(name: str) -> bool:
    return FIELDS[name][1:] == ("implicit_gemm_mma", "f32")


@pytest.mark.parametrize("problem", PROBLEMS, ids=problem_id)
def test_kernels(simulator: Simulator, problem: str) -> None:
    """Each kernel is accurate, and gives the same bits in every schedule."""
    ops = operands(problem)

    @cache
    def accuracy(tf32: bool) -> Accuracy:
        # torch is no peer here, because its float32 on this device would be cuDNN's.
        return Accuracy(as_tf32(ops) if tf32 else ops, peer=False)

    with every_failure(problem) as failures:
        for name, schedules in PROBLEMS[problem]:
            with failures.of(name):
                first, *others = (simulator.run(name, ops, schedule) for schedule in schedules)
                check_accurate(accuracy(rounds_to_tf32(name)), first)
                for schedule, result in zip(schedules[1:], others, strict=True):
                    with failures.of(f"{name} in schedule {schedule}"):
                        check_equal(result, first)
                count("CUDA simulator: results of kernels in a schedule", len(schedules))


EPILOGUES = [
    residual + activation
    for residual in ("", "+residual")
    for activation in ("", *(f"+{name}" for name in ACTIVATIONS))
]


@pytest.mark.parametrize("layout", BOTH)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "sizes",
    [
        "n3c15h7w7k40r1s1",  # whole chunks of channels, but no fours of pixels
        "n2c6h4w9k42r1s1g2",  # fours of pixels, but no pairs of channels
        "n1c96h5w5k12r3s3p1q1",  # in which the terms are split
        "n2c3h9w10k6r3s3p1q1g3",
    ],
)
def test_epilogues(simulator: Simulator, sizes: str, dtype: str, layout: str) -> None:
    """Each activation, with and without a residual, by all forward kernels."""
    named = {name: simulator.fields(name) for name in simulator.kernels()}
    with every_failure(f"{sizes}_{dtype}_{layout}") as failures:
        for epilogue in EPILOGUES:
            ops = operands(f"{sizes}_{dtype}_{layout}_fwd+bias{epilogue}")
            accuracies = [Accuracy(ops, peer=False)]
            if dtype == "f32":
                accuracies.append(Accuracy(as_tf32(ops), peer=False))
            for name, (pass_, _, of) in named.items():
                if pass_ == "fwd" and of in (dtype, "any"):
                    with failures.of(f"{name}, {epilogue}"):
                        result = simulator.run(name, ops)
                        check_accurate(accuracies[rounds_to_tf32(name)], result)
                        count("CUDA simulator: results of kernels in a schedule", 1)


def test_no_images_give_a_gradient_of_zeros(simulator: Simulator) -> None:
    ops = operands(variant(EMPTY_BATCH, pass_="gw"))
    assert_accurate(simulator.run("gw.reference.any.cuda", ops), ops)


@pytest.mark.parametrize("channels", ["c8h7w6k16r3s3", "c6h7w6k5r3s3", "c64h4w4k32r1s1"])
@pytest.mark.parametrize("name", FLOAT + MMA + DIRECT)
def test_tensors_may_begin_anywhere(simulator: Simulator, name: str, channels: str) -> None:
    """In channels_last, whole chunks of channels are copied 16 bytes at a time only if they are
    aligned. Weights of 1x1 kernels are used in place."""
    pass_, _, dtype = FIELDS[name]
    residual = "+residual" if pass_ == "fwd" else ""
    ops = operands(f"n2{channels}p1q1_{dtype}_nhwc_{pass_}{residual}")

    def moved(t: torch.Tensor) -> torch.Tensor:
        return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)

    def moved_nhwc(t: torch.Tensor) -> torch.Tensor:
        return moved(t.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    shifted = replace(ops, x=moved_nhwc(ops.x), gy=moved_nhwc(ops.gy), w=moved(ops.w))
    assert shifted.x.data_ptr() % 16 == ops.x.element_size()
    assert torch.equal(shifted.x, ops.x)
    expected = simulator.run(name, ops)
    assert torch.equal(simulator.run(name, shifted), expected)
    if ops.residual is not None:
        alone = replace(ops, residual=moved_nhwc(ops.residual))
        assert torch.equal(simulator.run(name, alone), expected)


def test_cases_run_all_tiles(simulator: Simulator) -> None:
    widths = set()
    for case in CUDA_TILES:
        problem = Problem(case)
        n, _, height, width = problem.output_size
        widths.add(
            simulator.tile_columns(
                pixels=n * height * width,
                columns=problem.weight_size[0] // problem.groups,
                groups=problem.groups,
                multiprocessors=3,  # simulator.h
            )
        )
    assert widths == {32, 64, 128}


def test_the_simulators_own_primitives(simulator: Simulator) -> None:
    assert simulator.broken_primitive() == ""


def test_every_kernel_is_tested(simulator: Simulator) -> None:
    tested = {name for kernels in PROBLEMS.values() for name, _ in kernels}
    assert sorted(simulator.kernels()) == sorted(tested)


# Multiprocessors of A100, H100 and B200.
MULTIPROCESSORS = [108, 132, 148]


@pytest.mark.parametrize("multiprocessors", MULTIPROCESSORS)
def test_tiles_are_as_wide_as_the_columns(simulator: Simulator, multiprocessors: int) -> None:
    chosen = [
        simulator.tile_columns(pixels=1 << 20, columns=n, multiprocessors=multiprocessors)
        for n in (1, 32, 33, 64, 65, 128, 129, 2048)
    ]
    assert chosen == [32, 32, 64, 64, 128, 128, 128, 128]


@pytest.mark.parametrize("multiprocessors", MULTIPROCESSORS)
def test_tiles_are_narrower_where_blocks_are_too_few(
    simulator: Simulator, multiprocessors: int
) -> None:
    full = 128 * multiprocessors  # pixels that give each multiprocessor a block
    for pixels, width in [(full - 128, 64), (full, 128), (full + 1, 128)]:
        chosen = simulator.tile_columns(pixels=pixels, columns=128, multiprocessors=multiprocessors)
        assert chosen == width


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("shapes", ["fmnist", "mobilenet_v2", "convnext", "replknet"])
def test_blocks_of_the_direct_kernels(
    simulator: Simulator, shapes: str, layout: str, dtype: str
) -> None:
    """Two blocks fit on a multiprocessor of compute capability 8.0, which has 164 KiB of shared
    memory. For float64 layers with large kernels it is one, which fits 8.6's 99 KiB."""
    memory, blocks = (99 << 10, 1) if (shapes, dtype) == ("replknet", "f64") else (164 << 10, 2)
    for text in read_shapes(shapes):
        if Problem(text).groups != Problem(text).input_size[1]:
            continue
        for pass_ in ("fwd", "gx", "gw"):
            plan = simulator.direct_plan(variant(text, pass_=pass_, layout=layout, dtype=dtype))
            assert plan.threads % 32 == 0
            assert plan.threads - 32 < plan.used_threads <= plan.threads <= 256
            assert blocks * (plan.shared_bytes + 1024) <= memory, text  # the system takes 1 KiB
            # A single channel uses 4 of the 32 bytes that are read. Only beside the many products
            # of a large kernel is this cost small.
            if layout == "nhwc" and Problem(text).groups > 1 and shapes != "replknet":
                assert plan.channels > 1


def test_splits_of_terms(simulator: Simulator) -> None:
    def splits(tiles: int, **sizes: int) -> int:
        return simulator.correlation_splits(pixels=tiles * 128, **sizes)

    assert splits(44, columns=128, steps=1000) == 3  # 264 blocks of 64 columns
    assert splits(45, columns=128, steps=1000) == 1  # two splits gain less than adding them costs
    assert splits(44, columns=32, steps=1000, groups=2) == 3
    assert splits(1, columns=1, steps=10**9) == 264
    assert splits(1, columns=1, steps=15) == 3  # of at least 4 steps each
    assert splits(1, columns=1, steps=11) == 1
    assert splits(1, columns=1, steps=10**9, bytes_=16 << 20) == 4  # of 64 MiB in all
    assert splits(10**6, columns=512, steps=10**6) == 1


def test_splits_of_pixels(simulator: Simulator) -> None:
    assert simulator.weight_splits(pixels=10**6, blocks=528) == 1
    assert simulator.weight_splits(pixels=10**6, blocks=9) == 59  # 531 blocks
    assert simulator.weight_splits(pixels=1000, blocks=9) == 3  # of at least 256 pixels each
    assert simulator.weight_splits(pixels=1, blocks=1) == 1
    assert simulator.weight_splits(pixels=10**9, blocks=1, bytes_=16 << 20) == 4  # of 64 MiB in all


def test_32_bit_indices_are_for_tensors_that_fit_them(simulator: Simulator) -> None:
    assert simulator.fits_int32("n1c1h32767w32768k1r1s1_f32_nchw_fwd")
    assert not simulator.fits_int32("n1c1h32768w32768k1r1s1_f32_nchw_fwd")  # 2^30
    assert not simulator.fits_int32("n1c1h16384w16384k4r1s1_f32_nchw_fwd")  # the output
