"""Models traced for inference: outputs, constants, operators in place, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils import _pytree as pytree

from convkern.optimize import CannotTrace, trace
from traced import census, compare, fused, randomise


class Model(nn.Module):
    """A model of a function, with a layer, a buffer and a tensor that is neither."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.register_buffer("table", torch.rand(4, dtype=torch.float64))
        self.plain = torch.rand(4, 1, 1, dtype=torch.float64)
        self.call = forward
        self.double().eval()

    def forward(self, *inputs: Tensor) -> Any:
        return self.call(self, *inputs)


def image() -> Tensor:
    return torch.randn(2, 4, 7, 6, dtype=torch.float64)


def test_outputs_and_inputs_of_any_form() -> None:
    model = Model(lambda m, x, y: {"a": (x + y, [y]), "b": None, "c": 3, "d": m.table})
    inputs = image(), image()
    module = trace(model, inputs)
    assert [n.op for n in module.graph.nodes].count("placeholder") == 2
    actual = pytree.tree_unflatten(module(*inputs), module.output_spec)
    expected = model(*inputs)
    assert actual.keys() == expected.keys()
    assert type(actual["a"]) is tuple
    compare(pytree.tree_leaves(actual), pytree.tree_leaves(expected))


def test_constants_are_the_models_own_tensors() -> None:
    model = Model(lambda m, x: m.conv(x) * m.plain + m.table.sum())
    module = trace(model, (image(),))
    tensors = [getattr(module, n.target) for n in module.graph.find_nodes(op="get_attr")]
    own = [model.conv.weight, model.conv.bias, model.plain]
    assert [id(t) for t in tensors[:3]] == [id(t) for t in own]
    assert module.sources.keys() == {"computed0"}
    assert module.sources["computed0"][0] is model.table


def test_what_depends_on_no_input_is_computed_once() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        mask = x.new_zeros(7, 6)
        for row in range(7):
            mask[row, row % 3 :] = row
        return x * mask.t().contiguous().t() + torch.arange(6) * m.table[1] + torch.tensor(2.0)

    module, _ = fused(Model(forward), image())
    assert census(module) == {"mul": 1, "add": 2}


def test_parametrized_weights_are_constants() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), nn.BatchNorm2d(4))
    model = randomise(model)
    module, _ = fused(model, image())
    assert census(module) == {"conv2d": 1}
    found = {id(t) for tensors in module.sources.values() for t in tensors}
    assert found == {id(t) for n, t in model.state_dict(keep_vars=True).items() if "num_b" not in n}


IN_PLACE: dict[str, Callable[..., Any]] = {
    "chain": lambda m, x: m.conv(x).relu_().mul_(2).add_(x).clamp_(0, 3),
    "old name read later": lambda m, x: [y := m.conv(x), y.relu_(), y + 1],
    "read before": lambda m, x: [(y := m.conv(x)) + 1, y.relu_()],
    "view": lambda m, x: m.conv(x).view(2, -1).relu_(),
    "view made after": lambda m, x: [y := m.conv(x), y.relu_().view(-1), y.flatten()],
    "through detach": lambda m, x: [y := m.conv(x), y.detach().relu_()],
    "through dropout": lambda m, x: [y := m.conv(x), F.dropout(y, 0.5, False).relu_()],
    "other dtype": lambda m, x: m.conv(x).float().add_(x),
    "copy": lambda m, x: torch.zeros_like(x).copy_(x).fill_(2) + x,
    "clone of an input": lambda m, x: x.clone().relu_(),
    "contiguous": lambda m, x: x.permute(0, 2, 3, 1).contiguous().relu_(),
    "clone returned": lambda m, x: x.clone(),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place(name: str) -> None:
    module, _ = fused(Model(IN_PLACE[name]), image())
    called = [n.target for n in module.graph.nodes if n.op == "call_function"]
    assert not any(t._schema.is_mutable for t in called if isinstance(t, torch._ops.OpOverload))


def test_what_has_no_effect_is_removed() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = F.dropout(m.conv(x), 0.5, False).detach().contiguous().to(torch.float64).clone()
        y.sum()
        y = F.dropout2d(y.view(2, 4, 7, 6).expand(2, 4, 7, 6)[:], 0.1, False, inplace=True)
        return y.tanh()

    module = trace(Model(forward), (image(),))
    assert [n.op for n in module.graph.nodes] == [
        "placeholder", "get_attr", "get_attr", "call_function", "call_function", "output"
    ]  # fmt: skip


def set_attribute(m: Any, x: Tensor) -> Tensor:
    m.kept = x + 1
    return m.kept


def set_buffer(m: Any, x: Tensor) -> Tensor:
    m.table = m.table + 1
    return x


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "input": (lambda m, x: x.relu_(), "relu_.default changes an input of the model in place"),
    "view of an input": (lambda m, x: x.view(-1).add_(1), "changes an input of the model"),
    "buffer": (lambda m, x: m.table.add_(x.sum()), "add_.Tensor changes a parameter or buffer"),
    "view of a buffer": (lambda m, x: x + m.table[1:].add_(1).sum(), "or buffer"),
    "other tensor": (lambda m, x: x + m.plain.view(-1).fill_(1).sum(), "or buffer"),
    "buffer by a constant": (lambda m, x: x + m.table.add_(1).sum(), "parameter or buffer"),
    "view of a weight": (lambda m, x: x + m.conv.weight.view(-1).mul_(x.sum()).sum(), "parameter"),
    "view read later": (lambda m, x: [y := m.conv(x), y[:, :2].relu_()], "is read later"),
    "base read later": (lambda m, x: [(y := m.conv(x))[0], y.relu_()], "is read later"),
    "out": (lambda m, x: torch.add(x, 1, out=m.conv(x)), "argument other than the first"),
    "statistics": (
        lambda m, x: F.batch_norm(x, m.table, m.table, training=True), "parameter or buffer"
    ),
    "other statistics": (
        lambda m, x: F.instance_norm(x, s := x.mean((0, 2, 3)), s.clone(), use_input_stats=True),
        "updates running statistics",
    ),
    "autocast": (lambda m, x: autocast(m, x), "autocast"),
    "control flow": (lambda m, x: x if x.sum() > 0 else -x, "cannot be traced .*, Guard"),
    "item": (lambda m, x: x * float(x.sum().item()), "cannot be traced"),
    "wrong sizes": (lambda m, x: m.conv(x[:, :3]), "cannot be traced .*, RuntimeError: .*channels"),
    "attribute": (set_attribute, "replaces its own attribute 'kept'"),
    "replaced buffer": (set_buffer, "replaces its own attribute 'table'"),
    "output": (lambda m, x: m, "returns a Model"),
    "strides": (
        lambda m, x: m.conv(x)[:, 1:].as_strided((3, 3), (1, 1)), "how slice.* lies in memory"
    ),
}  # fmt: skip


def autocast(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu"):
        return x + 1


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    forward, why = REFUSED[name]
    model = Model(forward)
    before = [(id(t), t.clone()) for t in model.buffers()]
    with pytest.raises(CannotTrace, match=why) as error:
        trace(model, (image(),))
    assert "\n" not in str(error.value)
    if "cannot be traced" in str(error.value):
        assert error.value.__cause__ is not None
    for t, (identity, old) in zip(model.buffers(), before, strict=True):
        assert id(t) == identity
        assert torch.equal(t, old)
    assert not hasattr(model, "kept")


def test_training_mode_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout()).eval()
    model[1].train()
    with pytest.raises(ValueError, match=r"call model.eval\(\) before: 1 is in training mode"):
        trace(model, (image(),))


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got function"):
        trace(image, (image(),))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="inputs must be tensors, got int"):
        trace(nn.ReLU().eval(), (3,))  # type: ignore[arg-type]


def test_in_inference_mode() -> None:
    model = Model(lambda m, x: m.conv(x).relu_())
    with torch.inference_mode():
        module, _ = fused(model, image())
    assert census(module) == {"conv2d": 1}
