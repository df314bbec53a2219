"""Models traced and fused, and what their graphs consist of."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

import convkern
from convkern.optimize import Fusions, fuse, trace


def randomise(model: nn.Module) -> nn.Module:
    """Gives a model statistics as after training, in float64, and sets it to inference."""
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 2)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, std=0.1)
    for name, parameter in model.named_parameters():
        if "layer_scale" in name or "head" in name:  # these begin as nearly 0
            nn.init.uniform_(parameter, -0.1, 0.1)
    return model.double().eval()


def census(module: GraphModule) -> dict[str, int]:
    """Returns how often each function or operator of torch is called in a graph."""
    names = Counter(
        getattr(n.target, "__name__", "").partition(".")[0]
        for n in module.graph.nodes
        if n.op == "call_function"
    )
    return dict(names)


def fused(model: nn.Module, *inputs: Tensor) -> tuple[GraphModule, Fusions]:
    """Returns a model's fused graph and the report. Checks the graph and its program against the
    model, and the fake values of its nodes against the values that they compute."""
    module = trace(model, inputs)
    with torch.no_grad():
        expected = pytree.tree_leaves(model(*inputs))
        compare(module(*inputs), expected)
        report = fuse(module)
        compare(Checked(module).run(*inputs), expected)
        compare(pytree.tree_leaves(convkern.optimize(model, *inputs)(*inputs)), expected)
    module.graph.lint()
    return module, report


def compare(actual: list[object], expected: list[object]) -> None:
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        if isinstance(b, Tensor):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * b.abs().max().item())
        else:
            assert a == b


class Checked(torch.fx.Interpreter):
    """Runs a graph and checks the fake value of each node."""

    def run_node(self, n: torch.fx.Node) -> object:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            fake = n.meta["val"]
            assert (value.shape, value.dtype) == (fake.shape, fake.dtype), n
        return value
