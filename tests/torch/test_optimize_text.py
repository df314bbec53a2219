"""convkern.optimize: what is said about a model, and the parts of the model that it names."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convkern
from convkern.optimize import fuse, measured, trace
from convkern.optimize.graphs import path_of
from convkern.optimize.text import grouped
from optimized_nets import Function, image, net


class Pair(nn.Module):
    """Two convolutions with a batch norm each, and activations whose arguments are used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.act = nn.BatchNorm2d(3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = self.norm(self.second(y + self.act(y)))
        return torch.maximum(y.flip(3), self.act(y))


def text(model: nn.Module, *inputs: Tensor, measure: bool = False) -> str:
    return str(convkern.optimize(model.eval(), *inputs, measure=measure).plans[0])


def test_a_plan_says_what_was_fused_and_where_the_rest_comes_from() -> None:
    assert (
        text(net(), image(1))
        == """\
inputs    1x3x21x23 float32
runs      as a whole: it is no batch of several images
fused     2 batch_norm, 2 residual, 8 activation
convkern  17 steps
torch     aten.reshape.default (the model itself)"""
    )


def test_a_plan_says_what_stays_and_why() -> None:
    assert (
        text(Pair(), image(1))
        == """\
inputs    1x3x21x23 float32
runs      as a whole: it is no batch of several images
fused     1 batch_norm
convkern  2 steps
torch     2x aten.relu.default (first: act)
torch     aten.add.Tensor (the model itself)
torch     aten.flip.default (the model itself)
torch     aten.maximum.default (the model itself)
kept      residual: the result of first has 2 users (the model itself)
kept      2x activation: the result of ... has 2 users (first: act)"""
    )


@pytest.mark.parametrize("blocks", [2, 40])
def test_large_models_do_not_print_more_lines(blocks: int) -> None:
    lines = text(nn.Sequential(*(Pair() for _ in range(blocks))), image(1)).splitlines()
    assert lines[2:] == [
        f"fused     {blocks} batch_norm",
        f"convkern  {2 * blocks} steps",
        f"torch     {2 * blocks}x aten.relu.default (first: 0.act)",
        f"torch     {blocks}x aten.add.Tensor (first: 0)",
        f"torch     {blocks}x aten.flip.default (first: 0)",
        f"torch     {blocks}x aten.maximum.default (first: 0)",
        f"kept      {blocks}x residual: the result of ... has 2 users (first: 0)",
        f"kept      {2 * blocks}x activation: the result of ... has 2 users (first: 0.act)",
    ]


def test_changes_of_form_are_no_fusions() -> None:
    class Forms(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = F.adaptive_avg_pool2d(x * x.sigmoid(), 1).flatten(1)
            return y.view(1, 3, 1).transpose(1, 2).contiguous()

    module = trace(Forms().eval(), (image(1),))
    report = fuse(module)
    assert report.forms.items() >= {"layers": 0, "means": 1, "shapes": 3, "silu": 1}.items()
    assert set(report.fused.values()) == {0}
    assert "fused     nothing\n" in text(Forms(), image(1))


def test_measured_layers_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        measured, "_is_torch_faster", lambda module, node, threads: "2" in node.name
    )
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1)),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)),
    )
    lines = text(model, image(1), measure=True).splitlines()
    problem = "n1c{}h21w23k{}r3s3p1q1u1v1d1e1g1_f32_nhwc_fwd+bias"
    assert lines[2:] == [
        "fused     1 activation",
        "convkern  0 steps",
        "torch     4x aten.conv2d.default (first: 0.0)",
        "torch     aten.relu.default (0.0)",
        f"slower    {problem.format(3, 3)}+relu (0.0)",
        f"slower    {problem.format(3, 4)} (0.2)",
        f"slower    2x {problem.format(4, 4)} (first: 1)",
    ]
    plan = convkern.optimize(model, image(1), measure=True).plans[0]
    assert [layer.path for layer in plan.slower] == ["0.0", "0.2", "1", "2.0"]
    assert convkern.optimize(model, image(1)).plans[0].slower == []


def test_steps_have_the_paths_of_their_layers() -> None:
    """A residual or an activation that a layer takes over leaves it its path."""
    plan = convkern.optimize(net(), image(4)).plans[0]
    ours = [step.path for step in plan.steps if step.kernel not in ("torch", "pass")]
    block = ("expand.0", "depthwise", "squeeze", "excite", "project")
    assert ours == ["stem", *(f"blocks.{n}.{part}" for n in (0, 1) for part in block), "head"]


def paths(model: nn.Module) -> dict[str, str | None]:
    module = trace(model.eval(), (image(1),))
    return {n.name: path_of(n) for n in module.graph.nodes if n.op == "call_function"}


def test_a_part_that_is_used_twice_has_its_first_path() -> None:
    conv = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(conv, nn.Sequential(conv, nn.ReLU()))
    assert paths(model) == {"conv2d": "0", "conv2d_1": "0", "relu": "1.1"}


def test_operators_in_place_keep_their_path() -> None:
    assert paths(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True))).popitem()[1] == "1"


def test_an_error_in_a_part_ends_that_part() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError

    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fails, self.act = Fails(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.fails(x)
            except KeyError:
                return self.act(x) + 1

    assert list(paths(Tries()).values()) == ["act", ""]


def test_tracing_leaves_no_hook() -> None:
    model = net()
    trace(model, (image(1),))
    with pytest.raises(convkern.CannotTrace):
        trace(nn.Sequential(model, Function(lambda conv, x: x[x.sum() > 0])).eval(), (image(1),))
    for part in model.modules():
        assert not part._forward_pre_hooks
        assert not part._forward_hooks


def test_calls_by_other_threads_are_not_in_the_paths() -> None:
    class Waits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.entered, self.done = threading.Event(), threading.Event()

        def forward(self, x: Tensor) -> Tensor:
            self.entered.set()
            assert self.done.wait(60)
            return x

    class Starts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Waits()

        def forward(self, x: Tensor) -> Tensor:
            thread = threading.Thread(target=self.part, args=(torch.ones(1),))
            thread.start()
            assert self.part.entered.wait(60)
            y = x + 1
            self.part.done.set()
            thread.join()
            return y

    assert paths(Starts()) == {"add": ""}


def test_texts_are_grouped() -> None:
    known = {"conv2d": "a.b", "conv2d_1": "a.c", "add": ""}
    found = [("the result of conv2d is used", "a"), ("other", None), ("of add", "x")]
    assert grouped(found, known) == ["the result of a.b is used (a)", "other", "of add (x)"]
    found = [("of conv2d", "a"), ("of conv2d_1", "b"), ("of conv2d_2", None), ("other", None)] * 2
    assert grouped(found, known) == ["4x of ... (first: a)", "2x of conv2d_2", "2x other"]
    assert grouped([("conv2d", "a")] * 2, known) == ["2x a.b (first: a)"]
    assert grouped([]) == []
