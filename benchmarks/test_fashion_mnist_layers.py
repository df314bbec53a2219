"""The seven Fashion-MNIST layers, forward and forward+backward, against torch.

    pytest benchmarks/ --benchmark-only

Each group is one layer and pass; the number in brackets behind a row's median is its ratio to the
fastest row of the group. Calls go through the public API, with allocation of the results, and
weights are not prepacked.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture

import convkern
from convkern.testing import operands

SHAPES = Path(__file__).parent / "shapes" / "fmnist.txt"
LAYERS = [line for line in SHAPES.read_text().split() if "#fmnist/" in line]
CONVS: dict[str, Callable[..., torch.Tensor]] = {
    "convkern": convkern.conv2d,
    "torch": F.conv2d,
}


def label(problem: str) -> str:
    return problem.partition("#")[2]


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize("layer", LAYERS, ids=label)
def test_forward(benchmark: BenchmarkFixture, layer: str, conv: str) -> None:
    ops = operands(layer)
    benchmark.group = f"{label(layer)} forward"
    with torch.no_grad():
        y = benchmark(CONVS[conv], ops.x, ops.w, ops.b, *ops.window)
    assert tuple(y.shape) == ops.problem.output_size


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize("layer", LAYERS, ids=label)
def test_forward_backward(benchmark: BenchmarkFixture, layer: str, conv: str) -> None:
    ops = operands(layer)
    assert ops.b is not None
    leaves = [t.requires_grad_() for t in (ops.x, ops.w, ops.b)]
    benchmark.group = f"{label(layer)} forward+backward"

    def step() -> tuple[torch.Tensor, ...]:
        y = CONVS[conv](*leaves, *ops.window)
        return torch.autograd.grad(y, leaves, ops.gy)

    gradients = benchmark(step)
    assert [g.shape for g in gradients] == [t.shape for t in leaves]
