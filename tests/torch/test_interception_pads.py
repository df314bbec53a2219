"""Pads directly in front of convolutions, inside convkern.enabled."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.overrides import TorchFunctionMode

import convkern
from convkern import interception, pads
from convkern.pads import PaddedInput

Sides = tuple[tuple[int, int], ...]


@pytest.fixture(autouse=True)
def _small_inputs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pads, "_LEAST_ELEMENTS", 0)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Sides, str]]:
    """The sides and the mode of each pad that is not computed by itself."""
    found: list[tuple[Sides, str]] = []
    sides_taken = interception._sides_taken

    def noted(ours: Any, input: PaddedInput, *rest: Any) -> Any:
        assert type(input.input) is Tensor
        sides = sides_taken(ours, input, *rest)
        if sides is not None:
            found.append((sides, input.mode))
        return sides

    monkeypatch.setattr(interception, "_sides_taken", noted)
    return found


def sequence(pad: nn.Module, conv: nn.Module) -> Callable[[], nn.Module]:
    return lambda: copy.deepcopy(nn.Sequential(pad, conv))


class Ending(nn.Conv2d):
    """A class of someone else that leaves its pads to torch."""


# The model, the shape of its input, and the sides and the mode that the convolution gets.
TAKEN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Sides, str]] = {
    "reflect": (
        lambda: nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="reflect"),
        (2, 3, 9, 8), ((1, 1), (2, 2)), "reflect",
    ),
    "same": (
        lambda: nn.Conv2d(3, 4, (2, 3), padding="same", padding_mode="replicate", dilation=2),
        (3, 9, 8), ((1, 1), (2, 2)), "replicate",
    ),
    "sequences": (
        lambda: nn.Conv1d(3, 4, 4, padding="same", padding_mode="circular"),
        (2, 3, 9), ((1, 2),), "circular",
    ),
    "subclass": (
        lambda: Ending(3, 4, 3, padding=1, padding_mode="reflect"),
        (2, 3, 9, 8), ((1, 1), (1, 1)), "reflect",
    ),
    "zeros": (
        sequence(nn.ZeroPad2d((1, 2, 0, 3)), nn.Conv2d(3, 4, 3)),
        (2, 3, 9, 8), ((0, 3), (1, 2)), "zeros",
    ),
    "zeros twice": (
        sequence(nn.ConstantPad2d((1, 2, 0, 3), 0.0), nn.Conv2d(3, 4, 3, padding=(1, 0))),
        (2, 3, 9, 8), ((1, 4), (1, 2)), "zeros",
    ),
    "zeros and valid": (
        sequence(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3, padding="valid", stride=2)),
        (2, 3, 9, 8), ((1, 1), (1, 1)), "zeros",
    ),
    "reflected": (
        sequence(nn.ReflectionPad2d((1, 2, 3, 0)), convkern.Conv2d(3, 4, 3)),
        (2, 3, 9, 8), ((3, 0), (1, 2)), "reflect",
    ),
    "replicated": (
        sequence(nn.ReplicationPad2d(2), nn.Conv2d(3, 4, 3, groups=1)),
        (3, 9, 8), ((2, 2), (2, 2)), "replicate",
    ),
    "circular": (
        sequence(nn.CircularPad2d(2), nn.Conv2d(3, 4, 3)),
        (2, 3, 9, 8), ((2, 2), (2, 2)), "circular",
    ),
    "causal": (
        sequence(nn.ConstantPad1d((4, 0), 0.0), nn.Conv1d(3, 4, 3, dilation=2)),
        (2, 3, 9), ((4, 0),), "zeros",
    ),
    "causal, convkern's": (
        sequence(nn.ReflectionPad1d((4, 0)), convkern.Conv1d(3, 4, 3, dilation=2)),
        (3, 9), ((4, 0),), "reflect",
    ),
}  # fmt: skip


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    y = model(x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *model.parameters()])]


@pytest.mark.parametrize("name", TAKEN)
def test_taken(name: str, taken: list[Any]) -> None:
    build, shape, sides, mode = TAKEN[name]
    torch.manual_seed(0)
    model, x = build().double(), torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        with convkern.enabled():
            y = model(x)
    torch.testing.assert_close(y, expected)
    assert type(y) is Tensor
    assert taken == [(sides, mode)]


@pytest.mark.parametrize("name", TAKEN)
def test_without_the_stand_in(name: str) -> None:
    build, shape, _, _ = TAKEN[name]
    model, x = build().double(), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    expected = gradients(model, x)
    with convkern.enabled():
        torch.testing.assert_close(gradients(model, x), expected)
        with torch.no_grad():
            torch.testing.assert_close(model(x), expected[0])


@pytest.mark.parametrize("name", TAKEN)
def test_the_input_may_be_changed_before_the_backward_pass(name: str, taken: list[Any]) -> None:
    build, shape, _, _ = TAKEN[name]
    model = build()

    def step() -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        x = torch.randn(shape)
        y = model(x)
        x.add_(1)
        return torch.autograd.grad(y.square().sum(), list(model.parameters()))

    expected = step()
    with convkern.enabled():
        torch.testing.assert_close(step(), expected, rtol=1e-4, atol=1e-4)
    assert taken == []


def test_small_inputs_have_torchs_pad(taken: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    model = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(1, 1, 3)).requires_grad_(False)
    found = []
    monkeypatch.setattr(
        interception,
        "padded_input",
        lambda *args, **options: found.append(pads.padded_input(*args, **options)) or found[-1],
    )
    with convkern.enabled():
        for size in (255, 256):
            model(torch.randn(1, 1, size, 256))
    assert [type(each) for each in found] == [type(None), PaddedInput]


def test_transforms_have_torchs_pad(taken: list[Any]) -> None:
    model = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 4, 3)).requires_grad_(False)
    x = torch.randn(5, 2, 3, 9, 8)
    expected = torch.vmap(model)(x)
    with convkern.enabled():
        torch.testing.assert_close(torch.vmap(model)(x), expected)
    assert taken == []


@pytest.mark.parametrize("name", ["reflect", "zeros twice", "circular"])
def test_gradients_of_two_orders(name: str) -> None:
    build, shape, _, _ = TAKEN[name]
    torch.manual_seed(0)
    model = convkern.enabled()(build().double().forward)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert gradcheck(model, x, fast_mode=True)
    assert gradgradcheck(model, x, fast_mode=True)


def with_hook(kind: str, place: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3))
        getattr(model[place], f"register_{kind}")(lambda *_: None)
        return model

    return build


def with_own_forward() -> nn.Module:
    model = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3))
    inner = model[1].forward
    model[1].forward = lambda x: inner(x + 1)  # type: ignore[method-assign]
    return model


class Adding(nn.Sequential):
    """Its forward is another."""

    def forward(self, input: Tensor) -> Tensor:
        padded: Tensor = self[0](input)
        y: Tensor = self[1](padded + 1)
        return y


def twice() -> nn.Module:
    pad = nn.ZeroPad2d(1)
    return nn.Sequential(pad, pad, nn.Conv2d(3, 4, 3))


KEPT: dict[str, Callable[[], nn.Module]] = {
    "value": sequence(nn.ConstantPad2d(1, 2.0), nn.Conv2d(3, 4, 3)),
    "cropping": sequence(nn.ZeroPad2d((-1, 1, 0, 0)), nn.Conv2d(3, 4, 3)),
    "nothing follows": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ZeroPad2d(1)),
    "something else follows": sequence(nn.ZeroPad2d(1), nn.ReLU()),
    "a subclass follows": sequence(nn.ZeroPad2d(1), Ending(3, 4, 3)),
    "transposed": sequence(nn.ZeroPad2d(1), nn.ConvTranspose2d(3, 4, 3)),
    "own forward": with_own_forward,
    "another forward": lambda: Adding(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3)),
    "in two places": twice,
    **{
        f"{kind} {place}": with_hook(kind, place)
        for kind in ("forward_hook", "forward_pre_hook", "full_backward_hook")
        for place in (0, 1)
    },
}


@pytest.mark.parametrize("name", KEPT)
def test_kept(name: str, taken: list[Any]) -> None:
    torch.manual_seed(0)
    model, x = KEPT[name](), torch.randn(2, 3, 9, 8)
    model.requires_grad_(False)
    expected = model(x)
    with convkern.enabled():
        torch.testing.assert_close(model(x), expected)
    assert taken == []


def test_functions_of_the_program(taken: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program has put in the place of torch's functions sees tensors."""
    model = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3)).requires_grad_(False)
    x, seen = torch.randn(2, 3, 9, 8), []

    def noting(function: Any) -> Any:
        def inner(*args: Any, **kwargs: Any) -> Any:
            seen.extend(type(value) for value in args if isinstance(value, (Tensor, PaddedInput)))
            return function(*args, **kwargs)

        return inner

    places: list[tuple[Any, str]] = [
        (F, "conv2d"), (nn.Conv2d, "forward"), (nn.Conv2d, "_conv_forward"),
        (nn.ConstantPad2d, "forward"), (nn.Module, "_call_impl"),
    ]  # fmt: skip
    for home, name in places:
        with monkeypatch.context() as patch, convkern.enabled():
            patch.setattr(home, name, noting(getattr(home, name)))
            model(x)
    assert Tensor in seen
    assert PaddedInput not in seen
    assert taken == []


class Watching(TorchFunctionMode):
    """Another mode, which sees what functions get and return."""

    def __init__(self) -> None:
        self.seen: set[type] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen |= {type(value) for value in (*args, result)}
        return result


def test_other_modes_see_tensors(taken: list[Any]) -> None:
    model, x = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3)), torch.randn(2, 3, 9, 8)
    with torch.no_grad():
        with convkern.enabled(), Watching() as inner:
            model(x)
        assert taken == []
        with Watching() as outer, convkern.enabled():
            model(x)
    assert len(taken) == 1
    assert PaddedInput not in inner.seen | outer.seen


def test_modes_that_cannot_be_added_are_computed_one_by_one(taken: list[Any]) -> None:
    model = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 4, 3, padding=2))
    same = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3, padding="same"))
    for each in (model, same):
        expected = each(x := torch.randn(2, 3, 9, 8))
        with convkern.enabled():
            torch.testing.assert_close(each(x), expected)
    assert taken == []


def test_pads_that_torch_refuses() -> None:
    """The message is torch's."""
    models = [
        nn.Conv2d(3, 4, 3, padding=4, padding_mode="reflect"),
        nn.Sequential(nn.CircularPad2d(5), nn.Conv2d(3, 4, 3)),
    ]
    for model in models:
        with pytest.raises(RuntimeError, match=r"[Pp]adding") as theirs:
            model(torch.randn(1, 3, 4, 4))
        with convkern.enabled(), pytest.raises(RuntimeError) as ours:
            model(torch.randn(1, 3, 4, 4))
        assert str(ours.value) == str(theirs.value)


def test_other_code_gets_torchs_tensor() -> None:
    """The values are those at the time of the call, whatever happens to the input later."""
    x, w = torch.randn(2, 3, 9, 8), torch.randn(4, 3, 3, 3)
    expected = F.conv2d(x, w, padding=1)
    array = x.numpy()
    with convkern.enabled():
        padded = F.pad(x, (1, 1, 1, 1))
        assert type(padded) is Tensor
        array[:] = 0
        torch.testing.assert_close(F.conv2d(padded, w), expected)


def test_global_hooks_see_tensors(taken: list[Any]) -> None:
    model, seen = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3)), []
    hook = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: seen.append(type(output))
    )
    try:
        with convkern.enabled():
            model(torch.randn(2, 3, 9, 8))
    finally:
        hook.remove()
    assert set(seen) == {Tensor}
    assert taken == []


def test_whatever_else_meets_a_padded_input_gets_the_tensor() -> None:
    """No code of a program does. It is made here by hand."""
    x = torch.randn(2, 3, 9, 8)
    padded: Any = PaddedInput(x, ((1, 2), (0, 3)), "zeros")
    expected = F.pad(x, (0, 3, 1, 2))
    assert padded.shape == expected.shape
    assert torch.equal(torch.relu(padded), expected.relu())
    assert padded.tensor() is padded.tensor()
    w = torch.randn(3, 4, 3, 3)
    with convkern.enabled():
        y = torch.conv_transpose2d(padded, w)
    torch.testing.assert_close(y, torch.conv_transpose2d(expected, w))


@pytest.mark.parametrize("stride", [1, 2])
def test_timms_layer(stride: int, taken: list[Any]) -> None:
    layers = pytest.importorskip("timm.layers")
    layer = layers.Conv2dSame(3, 4, 3, stride=stride).requires_grad_(False)
    expected = layer(x := torch.randn(2, 3, 9, 8))
    with convkern.enabled():
        torch.testing.assert_close(layer(x), expected)
    assert taken == [(((1, 1), (1, 1) if stride == 1 else (0, 1)), "zeros")]
    taken.clear()
    with convkern.enabled():  # layers that average also pad, for something else
        layers.AvgPool2dSame(3, 2)(x)
        layers.StdConv2dSame(3, 4, 3, stride=2)(x)
    assert taken == []
