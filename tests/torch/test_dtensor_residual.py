"""DTensor's sharding of convolutions with a residual and an activation, against torch's of the
whole tensors."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_dtensor import Letters, close, divides_groups, letters_of, mesh_of, operands, placements

import convkern
from convkern.activations import activated
from processes import Processes


def with_residual(
    name: str, shape: tuple[int, ...], given: list[Letters], activation: str | None, bias: bool
) -> Letters:
    """Checks the result and the gradients with a residual, whose placement comes last. Returns
    the placement of y."""
    from torch.distributed.tensor import distribute_tensor

    arguments, (x, w, b), residual = operands(name)
    plain = [x, w, b, residual] if bias else [x, w, residual]
    mesh = mesh_of(shape)
    exact = [tensor.detach().requires_grad_() for tensor in plain]
    y = activated(F.conv2d(*exact[:-1], **arguments) + exact[-1], activation)
    gradients = torch.autograd.grad(y.sin().sum(), exact)

    spread = [
        distribute_tensor(tensor.detach(), mesh, placements(letters)).requires_grad_()
        for tensor, letters in zip(plain, given, strict=True)
    ]
    ours = convkern.conv2d(*spread[:-1], **arguments, activation=activation, residual=spread[-1])
    close(ours, y)
    ours.sin().sum().backward()
    for tensor, gradient in zip(spread, gradients, strict=True):
        close(tensor.grad, gradient)
    return letters_of(ours)


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize(
    ("name", "shape", "given", "found"),
    [
        ("dense", (2,), ["R", "R", "R", "R"], "R"),
        ("dense", (2,), ["0", "R", "R", "0"], "0"),
        ("dense", (2,), ["0", "R", "0"], "0"),
        ("dense", (2,), ["R", "0", "0", "1"], "1"),
        ("dense", (2,), ["1", "1", "R", "R"], None),
        ("dense", (2,), ["1", "1", "0"], None),
        ("dense", (2,), ["0", "R", "R", "2"], None),
        ("uneven", (3,), ["0", "R", "R", "0"], None),
        ("depthwise", (2,), ["1", "0", "0", "1"], "1"),
        ("odd groups", (2,), ["1", "0", "0", "1"], None),
        ("dense", (2, 2), ["0R", "R0", "R0", "01"], "01"),
    ],
)
def test_a_residual_is_placed_as_the_result(
    name: str,
    shape: tuple[int, ...],
    given: list[Letters],
    found: Letters | None,
    activation: str | None,
    processes: Processes,
) -> None:
    count = math.prod(shape)
    where = processes.run(count, with_residual, name, shape, given, activation, len(given) == 4)
    if found is not None and divides_groups(name):
        assert where == [found] * count
