"""torch.compile(backend="convkern")."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convkern.optimize import Optimized

_OURS = """
import sys, torch
assert "convkern" in torch._dynamo.list_backends() and "convkern" not in sys.modules
model = torch.nn.Conv2d(3, 8, 3).eval()
with torch.no_grad():
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(torch.compile(model, backend="convkern")(x), model(x))
assert "convkern" in sys.modules
"""


pytestmark = pytest.mark.usefixtures("fresh_dynamo")


class Net(nn.Module):
    def __init__(self, *, breaks: bool = False) -> None:
        super().__init__()
        self.breaks = breaks
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
        self.second = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.breaks:
            torch._dynamo.graph_break()
        return self.second(y.mean((2, 3)).view(x.shape[0], -1)) + x.shape[0]


def test_torch_finds_the_backend_without_an_import_of_convkern() -> None:
    subprocess.run([sys.executable, "-c", _OURS], check=True, timeout=120)


@pytest.mark.parametrize("dynamic", [None, False, True])
def test_batches(dynamic: bool | None) -> None:
    model = Net().eval()
    fast = torch.compile(model, backend="convkern", dynamic=dynamic, fullgraph=True)
    with torch.no_grad():
        for batch in (2, 4, 6, 1, 2):
            x = torch.randn(batch, 3, 12, 12)
            torch.testing.assert_close(fast(x), model(x))


def test_graph_breaks() -> None:
    model = Net(breaks=True).eval()
    fast = torch.compile(model, backend="convkern")
    with torch.no_grad():
        x = torch.randn(2, 3, 12, 12)
        torch.testing.assert_close(fast(x), model(x))


def test_weights_that_change_are_noticed() -> None:
    model = Net().eval()
    fast = torch.compile(model, backend="convkern")
    x = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        fast(x)
        model.second.weight.mul_(3)
        torch.testing.assert_close(fast(x), model(x))
        model.second.weight = nn.Parameter(torch.randn(4, 16))
        torch.testing.assert_close(fast(x), model(x))


def test_training_is_fused() -> None:
    model = Net()
    peer = copy.deepcopy(model)
    fast = torch.compile(model, backend="convkern")
    x = torch.randn(2, 3, 12, 12)
    for _ in range(2):
        y, expected = fast(x), peer(x)
        torch.testing.assert_close(y, expected)
        y.sum().backward()
        expected.sum().backward()
    for p, q in zip(model.parameters(), peer.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(model.state_dict(), peer.state_dict())
    names = {function.name() for function in graph_of(y)}
    assert "BatchNormActivationBackward" in names
    assert "ReluBackward0" not in names


def test_training_without_gradients_moves_the_statistics() -> None:
    model = Net()
    peer = copy.deepcopy(model)
    fast = torch.compile(model, backend="convkern")
    with torch.no_grad():
        for _ in range(2):
            x = torch.randn(2, 3, 12, 12)
            torch.testing.assert_close(fast(x), peer(x))
    torch.testing.assert_close(model.state_dict(), peer.state_dict())


def graph_of(y: Tensor) -> set[Any]:
    """Returns the functions of the graph that y was computed by."""
    found: set[Any] = set()
    rest = [y.grad_fn]
    while rest:
        function = rest.pop()
        if function is not None and function not in found:
            found.add(function)
            rest += [following for following, _ in function.next_functions]
    return found


def test_a_graph_that_cannot_be_traced_stays_torchs() -> None:
    def mix(x: Tensor) -> Tensor:
        return x.clone().fill_(x.max().item())

    fast = torch.compile(mix, backend="convkern")
    x = torch.randn(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.testing.assert_close(fast(x), mix(x))


def test_the_graph_runs_as_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(Optimized, "forward", lambda self, *x: calls.append(x) or x)
    model = nn.Conv2d(3, 8, 3).eval()
    with torch.no_grad():
        torch.compile(model, backend="convkern")(torch.randn(1, 3, 12, 12))
    assert len(calls) == 1
