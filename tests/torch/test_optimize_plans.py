"""convkern.optimize: which plans are kept, and that they are those of the model's weights."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convkern
from convkern.optimize import optimized
from convkern.optimize.optimized import MAX_PLANS, Plan, make_plan
from convkern.optimize.recent import Recent
from optimized_nets import Function, assert_same, image, net


def inputs_of(fast: convkern.optimize.Optimized) -> list[str]:
    return [plan.inputs.split()[0] for plan in fast.plans]


def test_the_plans_that_were_used_last_are_kept() -> None:
    model = net()
    fast = convkern.optimize(model, image(1), max_plans=2)
    for batch in (2, 1, 3, 3):  # 2 is the one that was not used for the longest time
        assert_same(model, fast, image(batch))
    assert inputs_of(fast) == ["1x3x21x23", "3x3x21x23"]
    assert_same(model, fast, image(2))
    assert inputs_of(fast) == ["3x3x21x23", "2x3x21x23"]


def test_so_many_plans_are_kept_if_nothing_is_said() -> None:
    model = nn.Conv2d(3, 4, 3).eval()
    sizes = range(4, 6 + MAX_PLANS)
    fast = convkern.optimize(model, torch.randn(1, 3, 4, 4))
    for size in sizes:
        assert_same(model, fast, torch.randn(1, 3, size, size))
    assert inputs_of(fast) == [f"1x3x{size}x{size}" for size in sizes[-MAX_PLANS:]]
    assert MAX_PLANS == 16  # as docs/inference.md says


def test_what_is_not_kept_is_freed() -> None:
    """No cycle of references holds a plan, so that nothing waits for the garbage collector."""
    fast = convkern.optimize(net(), image(1), max_plans=1)
    gc.disable()
    try:
        plan = weakref.ref(fast.plans[0])
        program = weakref.ref(fast.plans[0].programs[0])
        fast(image(2))
        assert plan() is None
        assert program() is None
    finally:
        gc.enable()


def test_a_plan_runs_on_when_it_is_not_kept_any_more() -> None:
    model, x = net(), image(1)
    fast = convkern.optimize(model, x, max_plans=1)
    plan = fast.plan_for((x,))
    fast(image(2))
    assert plan not in fast.plans
    torch.testing.assert_close(plan.run((x,)), model(x))


@pytest.mark.parametrize("max_plans", [1, 3])
def test_threads_that_take_each_others_plans_away(max_plans: int) -> None:
    model = net()
    inputs = [image(1, size) for size in (9, 11, 13, 15)]
    fast = convkern.optimize(model, inputs[0], max_plans=max_plans)
    expected = [model(x) for x in inputs]
    errors: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for turn in range(12):
                i = (first + turn // 3) % 4
                torch.testing.assert_close(fast(inputs[i]), expected[i])
                assert len(fast.plans) <= max_plans
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_weights_that_change_are_noticed_by_all_plans_that_are_left() -> None:
    table = torch.ones(16, 1, 1)
    model: Any = Function(lambda conv, x: conv(x) * table).eval()
    fast = convkern.optimize(model, image(1), max_plans=2)
    fast(image(2)), fast(image(3))  # the plan of the first is gone
    for change in (table, model.conv.weight):
        with torch.no_grad():
            change.mul_(3)
        for batch in (3, 2, 1):
            assert_same(model, fast, image(batch))
        assert inputs_of(fast) == ["2x3x21x23", "1x3x21x23"]


@pytest.mark.parametrize("first", [False, True])
def test_weights_that_change_while_a_plan_is_made_are_noticed(
    first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = net()
    changes = iter([first, not first])

    def changing(*arguments: Any, **options: Any) -> Plan:
        plan = make_plan(*arguments, **options)
        if next(changes, False):
            with torch.no_grad():
                model.stem.weight.mul_(2)
        return plan

    monkeypatch.setattr(optimized, "make_plan", changing)
    fast = convkern.optimize(model, image(1))
    fast(image(2))
    for batch in (1, 2):
        assert_same(model, fast, image(batch))
    assert len(fast.plans) == 2


def test_copies_keep_as_many_plans() -> None:
    model = net()
    copied = copy.deepcopy(convkern.optimize(model, image(1), max_plans=1))
    assert copied.plans == []
    for batch in (1, 2):
        assert_same(model, copied, image(batch))
    assert inputs_of(copied) == ["2x3x21x23"]


def test_wrong_numbers() -> None:
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"max_plans must be at least 1, got {wrong}"):
            convkern.optimize(net(), image(1), max_plans=wrong)
    for kind in (2.0, True, None):
        with pytest.raises(TypeError, match=f"max_plans must be an int, got {type(kind).__name__}"):
            convkern.optimize(net(), image(1), max_plans=kind)  # type: ignore[arg-type]


def test_compiled_graphs_are_kept_in_the_same_way() -> None:
    """torch.compile passes sizes that change as numbers, which each have a graph of their own."""
    torch._dynamo.reset()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval()
    compiled: list[Any] = []

    def remember(module: torch.fx.GraphModule, example: list[Tensor]) -> Any:
        from convkern.training.fused import backend

        compiled.append(backend(module, example))
        return compiled[-1]

    fast = torch.compile(model, backend=remember, dynamic=True)
    with torch.no_grad():
        for size in (*range(5, 7 + MAX_PLANS), 5):
            x = torch.randn(2, 3, size, size)
            torch.testing.assert_close(fast(x), model(x))
    (graph,) = compiled
    assert len(graph.known.values()) == MAX_PLANS
    torch._dynamo.reset()


def test_recent() -> None:
    table: Recent[str] = Recent(2)
    assert table.get("a") is None
    table = table.added("a", "x").added("b", "y")
    assert table.get("a") == "x"
    older = table
    table = table.added("c", "z")
    assert (table.get("b"), table.values()) == (None, ["x", "z"])
    assert older.values() == ["x", "y"]
    assert table.added("a", "w").values() == ["z", "w"]
