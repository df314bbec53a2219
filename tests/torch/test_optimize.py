"""convkern.optimize: programs of whole models against the models."""

from __future__ import annotations

import copy
import io
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convkern
from activations import ACTIVATIONS
from convkern.activations import activated
from convkern.optimize import CannotTrace
from optimized_nets import Function, Net, assert_same, image, net


def test_structures_of_outputs() -> None:
    def call(conv: Any, x: Tensor) -> Any:
        y = conv(x)
        return {"y": y, "list": [y.relu(), 3, None, y], "input": x}

    model, x = Function(call).eval(), image(2)
    fast = convkern.optimize(model, x)
    y, expected = fast(x), model(x)
    assert y.keys() == expected.keys()
    assert y["list"][1:3] == [3, None]
    for a, b in ((y["y"], expected["y"]), (y["list"][0], expected["list"][0]), (y["input"], x)):
        torch.testing.assert_close(a, b)
    assert y["input"].data_ptr() != x.data_ptr()


def test_results_are_not_changed_by_later_calls() -> None:
    model = Function(lambda conv, x: conv(x).permute(0, 2, 3, 1)).eval()
    first, second = image(2), image(2)
    fast = convkern.optimize(model, first)
    y = fast(first)
    fast(second)
    torch.testing.assert_close(y, model(first))


def test_other_shapes_are_planned_once() -> None:
    model = net()
    fast = convkern.optimize(model, image(4))
    for x in (image(2), image(4, 30), image(2), image(4)):
        assert_same(model, fast, x)
    assert len(fast.plans) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    model, x = net().to(dtype), image(2).to(dtype)
    y, expected = convkern.optimize(model, x)(x), net().double()(x.double())
    assert y.dtype == dtype
    error = (y.double() - expected).abs().max()
    theirs = (model(x).double() - expected).abs().max()
    assert error <= 2 * theirs


def test_weights_that_change_are_noticed() -> None:
    model: Any = net()
    x = image(2)
    fast = convkern.optimize(model, x)

    def optimizer() -> None:
        torch.optim.SGD(model.parameters(), lr=0.1).step()

    def step() -> None:
        model.train()
        model(x).sum().backward()
        optimizer()
        model.eval()

    def replace_parameter() -> None:
        model.stem.weight = nn.Parameter(torch.randn_like(model.stem.weight))

    def replace_layer() -> None:
        model.head = nn.Linear(16, 5).eval()

    def load() -> None:
        model.load_state_dict(Net().state_dict())

    def replace_data() -> None:
        model.stem.weight.data = torch.randn_like(model.stem.weight)

    for change in (step, replace_parameter, replace_layer, load, replace_data):
        before = fast(x)
        change()
        assert_same(model, fast, x)
        assert not torch.equal(fast(x), before), change.__name__


def test_copies_and_pickles() -> None:
    model, x = net(), image(2)
    fast = convkern.optimize(model, x)
    copied = copy.deepcopy(fast)
    assert_same(model, copied, x)
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    assert_same(model, torch.load(file, weights_only=False), x)
    with torch.no_grad():
        copied.model.stem.weight.zero_()
    assert_same(model, fast, x)


def test_gradients_are_not_recorded() -> None:
    model, x = net(), image(2).requires_grad_()
    fast = convkern.optimize(model, x)
    assert not fast(x).requires_grad
    with torch.inference_mode():
        y = fast(image(2))
    assert not y.requires_grad


@pytest.mark.parametrize("shared", [False, True])
def test_threads(shared: bool) -> None:
    """Models, or one model, called by several threads at once, also while plans are made."""
    inputs = [image(2), image(4), image(1), image(2, 30)]
    models = [net()] * 4 if shared else [Net().eval() for _ in inputs]
    first = convkern.optimize(models[0], inputs[0])
    fasts = [
        first if shared else convkern.optimize(m, x) for m, x in zip(models, inputs, strict=True)
    ]
    expected = [m(x) for m, x in zip(models, inputs, strict=True)]
    errors: list[BaseException] = []

    def work(i: int) -> None:
        try:
            for _ in range(20):
                torch.testing.assert_close(fasts[i](inputs[i]), expected[i])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_an_error_in_a_step_leaves_the_program_sound() -> None:
    table = torch.randn(10, 3, 1, 1)

    def call(conv: Any, x: Tensor) -> Tensor:
        index = x[:, 0, 0, 0].long()
        return conv(x).mean((2, 3)) + F.embedding(index, table[:, 0, 0])

    model = Function(call).eval()
    x = image(2)
    x[:, 0, 0, 0] = 3
    fast = convkern.optimize(model, x)
    wrong = x.clone()
    wrong[:, 0, 0, 0] = 11
    for _ in range(3):
        assert_same(model, fast, x)
        with pytest.raises(IndexError, match="index out of range"):
            fast(wrong)


def test_fork() -> None:
    model, x = net(), image(1)
    fast = convkern.optimize(model, x)
    expected = fast(x)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # torch's pool of threads does not survive a fork
        same = torch.allclose(fast(x), expected, rtol=1e-4, atol=1e-5)
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    torch.testing.assert_close(fast(x), expected)


def test_text() -> None:
    fast = convkern.optimize(net(), image(4))
    text = str(fast)
    assert "4x3x21x23 float32" in text
    assert "2 batch_norm" in text
    assert "2 residual" in text
    rows = convkern.explain(fast)
    assert len(rows) == len(fast.plans[0].steps)
    assert [e.kernel for _, e in rows] == [s.kernel for s in fast.plans[0].steps]


def test_measure_leaves_to_torch_what_torch_computes_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from convkern.optimize import measured

    model, x = net(), image(2)
    for torchs, ours in ((1.0, 2.0), (2.0, 1.0)):
        times = iter([ours, torchs] * 100)
        monkeypatch.setattr(measured, "seconds", lambda call, times=times: (call(), next(times))[1])
        fast = convkern.optimize(model, x, measure=True)
        assert_same(model, fast, x)
        theirs = [s for s in fast.plans[0].steps if s.what == "aten.conv2d.default"]
        assert bool(theirs) == (torchs < ours)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_is_left_to_torch_computes_the_same(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from convkern.optimize import measured

    monkeypatch.setattr(measured, "_is_torch_faster", lambda *_: True)
    convolution = Function(lambda conv, x: activated(conv(x) + x[:, :1], name)).eval()
    product = nn.Sequential(nn.Linear(23, 4), Function(lambda _, x: activated(x, name))).eval()
    for model in (convolution, product):
        x = image(2)
        fast = convkern.optimize(model, x, measure=True)
        assert all(step.kernel == "torch" for step in fast.plans[0].steps)
        assert_same(model, fast, x)


def test_calls_that_are_not_plain_are_the_models() -> None:
    model: Any = net()
    x = image(2)
    fast = convkern.optimize(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fast(x), model(x))
    _, tangent = torch.func.jvp(fast, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, torch.func.jvp(model, (x,), (torch.ones_like(x),))[1])
    negated = torch._neg_view(x)  # of which memory has the numbers with other signs
    torch.testing.assert_close(fast(negated), model(-x))
    around = nn.Sequential(fast, nn.ReLU()).eval()
    y = image(4)
    torch.testing.assert_close(convkern.optimize(around, y)(y), model(y).relu())
    assert len(convkern.explain(around, y)) > 0


def test_flops_count_all_parts() -> None:
    x = image(4)
    fast = convkern.optimize(net(), x)
    assert fast.plans[0].parts == 4
    one = convkern.optimize(net(), x[:1])
    assert convkern.explain(fast).flops == pytest.approx(4 * convkern.explain(one).flops)
    with pytest.raises(ValueError, match="has no plan yet"):
        convkern.explain(copy.deepcopy(fast))


def test_an_input_that_was_freed_is_refused() -> None:
    x = image(2)
    fast = convkern.optimize(net(), x)
    x.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="its data is not allocated yet"):
        fast(x)


VIEWS: dict[str, Callable[[Any, Tensor], Any]] = {
    "einsum": lambda conv, x: torch.einsum("nchw->nchw", conv(x)),
    "broadcast": lambda conv, x: torch.broadcast_tensors(conv(x), x[:, :1])[0],
    "chunk": lambda conv, x: conv(x).chunk(1, 1)[0],
    "slice": lambda conv, x: conv(x)[:, :16],
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_keep_the_memory_of_results(name: str) -> None:
    last = nn.Conv2d(16, 16, 1)

    def call(conv: Any, x: Tensor) -> Tensor:
        view = VIEWS[name](conv, x)
        return torch.cat([view, last(last(last(conv(x))))], 1)

    model, x = Function(call).eval(), image(1, 6)
    assert_same(model, convkern.optimize(model, x), x)


OF_MEMORY: dict[str, Callable[[Any, Tensor], Any]] = {
    "strides": lambda conv, x: conv(x).as_strided((2, 5, 3), (96, 7, 1)),
    "strides of a copy": lambda conv, x: torch.as_strided_copy(conv(x), (2, 5, 3), (96, 7, 1), 4),
    "strides of an input": lambda conv, x: conv(x)[..., :1] + x.as_strided((6, 1), (8, 1), 3),
    "complex numbers": lambda conv, x: torch.view_as_complex(conv(x).view(1, 16, 6, 4, 2)).abs(),
    "larger numbers": lambda conv, x: conv(x).view(torch.complex64).abs(),
}


@pytest.mark.parametrize("name", OF_MEMORY)
def test_operators_that_depend_on_how_values_lie_in_memory(name: str) -> None:
    model, x = Function(OF_MEMORY[name]).eval(), image(1, 6)
    assert_same(model, convkern.optimize(model, x), x)


def test_one_tensor_given_twice() -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a - 2 * b

    a, b = image(2), image(2)
    fast = convkern.optimize(Two().eval(), a, a)
    torch.testing.assert_close(fast(a, b), a - 2 * b)


def test_plans_run_with_other_numbers_of_threads() -> None:
    model, x = net(), image(1, 56)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        plan = convkern.optimize(model, x).plan_for((x,))
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            torch.testing.assert_close(plan.run((x,)), model(x))
    finally:
        torch.set_num_threads(before)


def test_constants_that_are_no_parameters_are_watched() -> None:
    table = torch.ones(16, 1, 1)
    model, x = Function(lambda conv, x: conv(x) * table).eval(), image(2)
    fast = convkern.optimize(model, x)
    fast(x)
    table.mul_(3)
    assert_same(model, fast, x)


def test_what_cannot_be_optimized() -> None:
    class Chooses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(CannotTrace, match="the model cannot be traced with inputs of 4x3x21x23, "):
        convkern.optimize(Chooses().eval(), image())
    with pytest.raises(ValueError, match=r"call model\.eval\(\)"):
        convkern.optimize(net().train(), image())
    with pytest.raises(TypeError, match="model must be a torch"):
        convkern.optimize(3, image())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be on the CPU, got meta"):
        convkern.optimize(net().to("meta"), image())
    with pytest.raises(TypeError, match="must be tensors, got <class 'list'>"):
        convkern.optimize(net(), [image()])  # type: ignore[arg-type]
    with pytest.raises(CannotTrace, match="the model is compiled by"):
        convkern.optimize(torch.jit.script(nn.Conv2d(3, 4, 3).eval()), image())
    with torch.autocast("cpu"), pytest.raises(CannotTrace, match="autocast is on"):
        convkern.optimize(net(), image())


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("sizes", [(0, 4), (4, 0), (0, 0)])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_linear_layers_without_inputs_or_outputs(sizes: tuple[int, int], batch: int) -> None:
    model, x = nn.Linear(*sizes).eval(), torch.randn(batch, 2, sizes[0])
    torch.testing.assert_close(convkern.optimize(model, x)(x), model(x), check_stride=True)


@pytest.mark.parametrize(
    ("model", "size"),
    [
        (nn.Identity(), (2, 3)),
        (nn.Conv2d(4, 4, 3), (4, 8, 8)),
        (nn.ConvTranspose2d(4, 4, 3), (4, 8, 8)),
        (nn.Linear(8, 8), (8,)),
        (nn.Linear(8, 1), (1, 5, 1, 8)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (0, 3, 8, 8)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(5)), (0, 3, 8, 8)),
        (nn.BatchNorm2d(5), (0, 3, 8, 8)),
        (Function(lambda conv, x: conv(x).mean((2, 3), True).expand(-1, -1, 2, 2)), (2, 3, 8, 8)),
        (Function(lambda conv, x: F.scaled_dot_product_attention(*[x[:, 0, 0]] * 3)), (4, 3, 8, 8)),
        (Function(lambda conv, x: x[:, 0, 0].expand(4, 4, 8) - x[:, 0, :1]), (4, 3, 8, 8)),
        (
            Function(
                lambda conv, x: F.conv2d(x, torch.ones(1, 1, 3, 3).expand(4, 1, 3, 3), groups=4)
            ),
            (4, 4, 8, 8),
        ),
        (Function(lambda conv, x: conv(x).clamp(min=torch.finfo(torch.float32).min)), (2, 3, 8, 8)),
        (Function(lambda conv, x: conv(x).clamp(2, 1)), (2, 3, 8, 8)),
        (Function(lambda conv, x: F.linear(conv(x), x[0, 0])), (2, 3, 8, 8)),
    ],
)
def test_other_models(model: nn.Module, size: tuple[int, ...]) -> None:
    x = torch.randn(size)
    assert_same(model.eval(), convkern.optimize(model, x), x)
