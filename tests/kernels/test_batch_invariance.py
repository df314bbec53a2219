"""set_batch_invariant: the result for an image does not depend on its batch."""

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import convkern
from cases import CHANNELS, DEPTHWISE, GEOMETRIES, GROUPED, MATMUL, WINOGRAD
from convkern.testing import Operands, operands, run, variant
from counts import count

BATCHES = (1, 2, 3, 7, 16, 17, 64)
KINDS = [(d, x, p) for d in ("f32", "f64", "bf16", "f16") for x in ("nchw", "nhwc")
         for p in ("fwd", "gx")]  # fmt: skip


@pytest.fixture(autouse=True)
def batch_invariant() -> Iterator[None]:
    threads = torch.get_num_threads()
    convkern.set_batch_invariant(True)
    yield
    convkern.set_batch_invariant(False)
    torch.set_num_threads(threads)


def of_64_images(case: str) -> str:
    return re.sub(r"^n\d+", "n64", case)


def random_problem(rng: random.Random) -> str:
    """Returns 64 images of any small geometry, in any dtype, layout and pass."""
    dtype, layout, pass_ = rng.choice(KINDS)
    groups = rng.choice([1, 1, 1, 2, 3, 8, 16, 17])
    c, k = groups * rng.choice([1, 1, 2, 5, 20]), groups * rng.choice([1, 1, 3, 17])
    sizes = [rng.randint(1, 20) for _ in range(2)]
    pads, steps = ([rng.choice([0, 1, 2]) for _ in range(2)], [rng.choice([1, 1, 2]) for _ in "uv"])
    kernel = [min(rng.choice([1, 3, 3, 5, 9]), n + 2 * p) for n, p in zip(sizes, pads, strict=True)]
    epilogue = "+bias+relu" if pass_ == "fwd" and rng.random() < 0.3 else ""
    return (
        f"n64c{c}h{sizes[0]}w{sizes[1]}k{k}r{kernel[0]}s{kernel[1]}p{pads[0]}q{pads[1]}"
        f"u{steps[0]}v{steps[1]}d1e1g{groups}_{dtype}_{layout}_{pass_}{epilogue}"
    )


def part(ops: Operands, first: int, n: int) -> Operands:
    """Returns `n` images from `first` on, in memory of their own."""
    problem = type(ops.problem)(re.sub(r"^n\d+", f"n{n}", str(ops.problem)))

    def images(t: Tensor) -> Tensor:
        return t[first : first + n].clone(memory_format=torch.preserve_format)

    return Operands(problem, images(ops.x), ops.w, ops.b, images(ops.gy))


def differing(text: str, rng: random.Random) -> list[str]:
    """Returns the batches whose images have other results than in the batch of 64."""
    ops = operands(text)
    torch.set_num_threads(1)
    whole = run(ops)
    wrong = []
    for n in BATCHES:
        torch.set_num_threads(rng.choice([1, 2, 3]))
        first = rng.randint(0, 64 - n)
        if not torch.equal(run(part(ops, first, n)), whole[first : first + n]):
            wrong.append(f"{text}: images {first} to {first + n - 1}")
    return wrong


def check(problems: list[str]) -> None:
    rng = random.Random(1)
    wrong = [line for text in problems for line in differing(text, rng)]
    assert wrong == []
    count("batch invariance: comparisons of images in two batches", len(problems) * len(BATCHES))


TABLE = [
    variant(of_64_images(case), dtype=dtype, layout=layout, pass_=pass_)
    for i, case in enumerate(
        GEOMETRIES[::2] + CHANNELS + MATMUL[::7] + GROUPED[::7] + DEPTHWISE[::7]
    )
    for dtype, layout, pass_ in KINDS[i % 5 :: 5]
] + ["n64c16h7w6k16r1s3p2q2u1v1d1e1g16_f64_nhwc_fwd"]  # its kernel divides work by N


def test_of_the_case_table() -> None:
    check(TABLE)


@pytest.mark.parametrize("problems", [150, pytest.param(1000, marks=pytest.mark.exhaustive)])
def test_of_random_problems(problems: int) -> None:
    rng = random.Random(0)
    check([random_problem(rng) for _ in range(problems)])


@pytest.mark.usefixtures("medium_precision")
def test_of_winograd() -> None:
    problems = [
        variant(of_64_images(case), layout=layout, pass_=pass_)
        for case in WINOGRAD[::4]
        for layout in ("nchw", "nhwc")
        for pass_ in ("fwd", "gx")
    ]
    assert any("winograd" in convkern.explain(problem).kernel for problem in problems)
    check(problems)


@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_of_other_instruction_sets(isa: str) -> None:
    with convkern.use_isa(isa):
        check(TABLE[::5])


def test_without_it_another_batch_may_take_another_kernel() -> None:
    """This shows the purpose of the setting: the bits of this layer depend on the batch."""
    text = "n64c1h28w28k1r14s14p2q2_f32_nchw_gx"
    alone = text.replace("n64", "n1")
    assert convkern.explain(text).kernel == convkern.explain(alone).kernel
    assert differing(text, random.Random(0)) == []
    convkern.set_batch_invariant(False)
    assert convkern.explain(text).kernel != convkern.explain(alone).kernel
    assert differing(text, random.Random(0)) != []


def test_the_weight_gradient_is_planned_for_its_batch() -> None:
    text = "n64c20h20w4k17r3s3p1q0_f32_nchw_gw"
    required = convkern.explain(text).kernel
    convkern.set_batch_invariant(False)
    assert convkern.explain(text).kernel == required


def test_results_are_right_and_empty_batches_too() -> None:
    x, w = torch.randn(64, 3, 9, 9, requires_grad=True), torch.randn(8, 3, 3, 3)
    y = convkern.conv2d(x, w)
    torch.testing.assert_close(y, torch.nn.functional.conv2d(x, w))
    (gx,) = torch.autograd.grad(y.square().sum(), x)
    (one,) = torch.autograd.grad(convkern.conv2d(x[5:6], w).square().sum(), x)
    assert torch.equal(gx[5], one[5])
    assert convkern.conv2d(x[:0], w).shape == (0, 8, 7, 7)


@pytest.mark.parametrize(("setting", "required"), [(None, False), ("1", True), ("0", False)])
def test_it_is_off_unless_the_environment_says_so(setting: str | None, required: bool) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "CONVKERN_BATCH_INVARIANT"}
    if setting is not None:
        environment["CONVKERN_BATCH_INVARIANT"] = setting
    code = "import convkern; print(convkern._C.batch_invariant())"
    printed = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert printed.strip() == str(required)
