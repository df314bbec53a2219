"""The CUDA kernels in the simulator: right in every schedule, and the simulator finds faults."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from cases import CUDA_TILES, CUDA_WINDOWS, EMPTY_BATCH, FEW, KERNELS, label
from convkern._C import Problem
from convkern.bench import read_shapes
from convkern.problem import DTYPES
from convkern.testing import as_tf32, assert_accurate, operands, variant
from cuda_simulator import SCHEDULES, Simulator


def kernels(algorithm: str) -> list[str]:
    return [f"{pass_}.{algorithm}" for pass_ in ("fwd", "gx", "gw")]


FLOAT = kernels("implicit_gemm.any.f32.cuda")
MMA = [
    k for dtype in ("bf16", "f16", "f32") for k in kernels(f"implicit_gemm_mma.any.{dtype}.cuda")
]
DIRECT = [k for dtype in DTYPES for k in kernels(f"direct.any.{dtype}.cuda")]


def assert_right(
    simulator: Simulator, name: str, case: str, layout: str, schedules: Sequence[int] = SCHEDULES
) -> None:
    """The kernel is accurate, to the bit the same in every schedule."""
    pass_, algorithm, _, dtype, _ = name.split(".")
    ops = operands(variant(case, pass_=pass_, dtype=dtype, layout=layout))
    first, *others = (simulator.run(name, ops, schedule) for schedule in schedules)
    rounded = (algorithm, dtype) == ("implicit_gemm_mma", "f32")
    # torch's float32 on this device would be cuDNN's, which is not here to compare with.
    assert_accurate(first, as_tf32(ops) if rounded else ops, peer=False)
    assert all(torch.equal(result, first) for result in others)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("case", CUDA_TILES + FEW + KERNELS[::3], ids=label)
@pytest.mark.parametrize("name", FLOAT + MMA)
def test_implicit_gemm(simulator: Simulator, name: str, case: str, layout: str) -> None:
    assert_right(simulator, name, case, layout)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("name", [n for n in FLOAT + MMA if not n.startswith("gw")])
def test_terms_of_many_tiles_are_not_split(simulator: Simulator, name: str, layout: str) -> None:
    """In the other cases terms are split, since tiles are few, or are too few themselves."""
    assert_right(simulator, name, "n1c130h107w107k3r1s1_f32_nchw_fwd", layout, SCHEDULES[:1])


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("case", CUDA_WINDOWS + FEW + KERNELS, ids=label)
@pytest.mark.parametrize("name", DIRECT[:3])
def test_direct(simulator: Simulator, name: str, case: str, layout: str) -> None:
    assert_right(simulator, name, case, layout)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("case", CUDA_WINDOWS[::2], ids=label)
@pytest.mark.parametrize("name", DIRECT[3:])
def test_direct_in_other_dtypes(simulator: Simulator, name: str, case: str, layout: str) -> None:
    assert_right(simulator, name, case, layout, SCHEDULES[:1])


@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "f16"])
@pytest.mark.parametrize("case", FEW[::2], ids=label)
@pytest.mark.parametrize("name", kernels("reference.any.any.cuda"))
def test_reference(simulator: Simulator, name: str, case: str, dtype: str) -> None:
    ops = operands(variant(case, pass_=name.split(".")[0], dtype=dtype))
    assert_accurate(simulator.run(name, ops), ops)


def test_no_images_give_a_gradient_of_zeros(simulator: Simulator) -> None:
    ops = operands(variant(EMPTY_BATCH, pass_="gw"))
    assert_accurate(simulator.run("gw.reference.any.any.cuda", ops), ops)


@pytest.mark.parametrize("channels", ["c8h7w6k16r3s3", "c6h7w6k5r3s3", "c64h4w4k32r1s1"])
@pytest.mark.parametrize("name", FLOAT + MMA + DIRECT)
def test_tensors_may_begin_anywhere(simulator: Simulator, name: str, channels: str) -> None:
    """channels_last of whole chunks of channels is copied 16 bytes at a time only where it is
    aligned, and weights of 1x1 kernels are used where they are."""
    pass_, _, _, dtype, _ = name.split(".")
    ops = operands(f"n2{channels}p1q1_{dtype}_nhwc_{pass_}")

    def moved(t: torch.Tensor) -> torch.Tensor:
        return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)

    def moved_nhwc(t: torch.Tensor) -> torch.Tensor:
        return moved(t.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    shifted = replace(ops, x=moved_nhwc(ops.x), gy=moved_nhwc(ops.gy), w=moved(ops.w))
    assert shifted.x.data_ptr() % 16 == ops.x.element_size()
    assert torch.equal(shifted.x, ops.x)
    assert torch.equal(simulator.run(name, shifted), simulator.run(name, ops))


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
    tested = FLOAT + MMA + DIRECT + kernels("reference.any.any.cuda")
    assert sorted(simulator.kernels()) == sorted(tested)


# A100, H100, B200.
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
    full = 128 * multiprocessors  # pixels: a block for each multiprocessor
    for pixels, width in [(full - 128, 64), (full, 128), (full + 1, 128)]:
        chosen = simulator.tile_columns(pixels=pixels, columns=128, multiprocessors=multiprocessors)
        assert chosen == width


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("shapes", ["fmnist", "mobilenet_v2", "convnext", "replknet"])
def test_blocks_of_the_direct_kernels(
    simulator: Simulator, shapes: str, layout: str, dtype: str
) -> None:
    """Two fit a multiprocessor of compute capability 8.0, which has 164 KiB of shared memory, but
    for float64 in layers of large kernels: of those one fits 8.6's 99 KiB."""
    memory, blocks = (99 << 10, 1) if (shapes, dtype) == ("replknet", "f64") else (164 << 10, 2)
    for text in read_shapes(shapes):
        if Problem(text).groups != Problem(text).input_size[1]:
            continue
        for pass_ in ("fwd", "gx", "gw"):
            plan = simulator.direct_plan(variant(text, pass_=pass_, layout=layout, dtype=dtype))
            assert plan.threads % 32 == 0
            assert plan.threads - 32 < plan.used_threads <= plan.threads <= 256
            assert blocks * (plan.shared_bytes + 1024) <= memory, text  # 1 KiB is the system's
            # A channel alone takes 32 bytes for 4: little beside a large kernel's products only.
            if layout == "nhwc" and Problem(text).groups > 1 and shapes != "replknet":
                assert plan.channels > 1


def test_splits_of_terms(simulator: Simulator) -> None:
    def splits(tiles: int, **sizes: int) -> int:
        return simulator.correlation_splits(pixels=tiles * 128, **sizes)

    assert splits(44, columns=128, steps=1000) == 3  # 264 blocks of 64 columns
    assert splits(45, columns=128, steps=1000) == 1  # two would take longer to add than they gain
    assert splits(44, columns=32, steps=1000, groups=2) == 3
    assert splits(1, columns=1, steps=10**9) == 264
    assert splits(1, columns=1, steps=15) == 3  # of at least 4 steps
    assert splits(1, columns=1, steps=11) == 1
    assert splits(1, columns=1, steps=10**9, bytes_=16 << 20) == 4  # of 64 MiB
    assert splits(10**6, columns=512, steps=10**6) == 1


def test_splits_of_pixels(simulator: Simulator) -> None:
    assert simulator.weight_splits(pixels=10**6, blocks=528) == 1
    assert simulator.weight_splits(pixels=10**6, blocks=9) == 59  # 531 blocks
    assert simulator.weight_splits(pixels=1000, blocks=9) == 3  # of at least 256 pixels
    assert simulator.weight_splits(pixels=1, blocks=1) == 1
    assert simulator.weight_splits(pixels=10**9, blocks=1, bytes_=16 << 20) == 4  # of 64 MiB


def test_32_bit_indices_are_for_tensors_that_fit_them(simulator: Simulator) -> None:
    assert simulator.fits_int32("n1c1h32767w32768k1r1s1_f32_nchw_fwd")
    assert not simulator.fits_int32("n1c1h32768w32768k1r1s1_f32_nchw_fwd")  # 2^30
    assert not simulator.fits_int32("n1c1h16384w16384k4r1s1_f32_nchw_fwd")  # the output
