"""convkern.enabled, enable and disable: torch's convolutions on convkern's functions."""

from __future__ import annotations

import doctest
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils import parametrizations
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import convkern
from as_accurate import assert_as_accurate
from convkern import interception
from op_calls import Count
from processes import Processes

# The shapes of x and w, and the other arguments.
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "conv1d": ((2, 4, 11), (6, 2, 3), {"groups": 2, "padding": 2}),
    "conv2d": ((2, 4, 9, 8), (6, 2, 3, 3), {"groups": 2, "padding": "same"}),
    "conv_transpose1d": ((2, 4, 7), (4, 3, 3), {"groups": 2, "stride": 2}),
    "conv_transpose2d": ((2, 4, 7, 5), (4, 3, 3, 3), {"groups": 2, "stride": 2, "padding": 1}),
}
HOMES = {"torch": torch, "torch.nn.functional": F}


def operands(name: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    shape, weight, _ = CASES[name]
    return [torch.randn(size, dtype=dtype) for size in (shape, weight, (6,))]


def runs_on_convkern(call: Callable[[], Any]) -> bool:
    """Returns whether the call runs on convkern's ops, and checks that torch's are not called
    besides."""
    with Count() as count:
        call()
    theirs = [op for op in count.calls if op.startswith("aten::") and "conv" in op]
    assert bool(count.of_convkern) != bool(theirs)
    return bool(count.of_convkern)


@pytest.fixture
def image() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, 9, 8)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    left = torch._C._len_torch_function_stack()
    convkern.disable()
    assert left == 0


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("name", CASES)
def test_functions(name: str, home: str) -> None:
    function = getattr(HOMES[home], name)
    options = CASES[name][2]
    x, w, b = operands(name)
    inside = convkern.enabled()(function)
    assert runs_on_convkern(lambda: inside(x, w, b, **options))
    assert runs_on_convkern(lambda: inside(bias=b, weight=w, input=x, **options))
    assert not runs_on_convkern(lambda: function(x, w, b, **options))
    assert_as_accurate(
        inside, function, [x, w, b], torch.randn_like(function(x, w, b, **options)), options
    )


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_two_orders(name: str) -> None:
    x, w, b = (t.requires_grad_() for t in operands(name, torch.float64))

    def call(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        with convkern.enabled():
            y: Tensor = getattr(F, name)(x[:1], w, b, **CASES[name][2])
        return y

    assert gradcheck(call, (x, w, b), fast_mode=True)
    assert gradgradcheck(call, (x, w, b), fast_mode=True)


class Doubling(nn.Conv2d):
    """Computes with another weight than its own."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.conv2d(input, 2 * self.weight, self.bias, self.stride)


class Hyper(nn.Module):
    """Makes the weights of a convolution of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Linear(3, 4 * 3 * 3 * 3)

    def forward(self, input: Tensor) -> Tensor:
        weights = self.make(input.mean((2, 3))).view(-1, 3, 3, 3)
        y = F.conv2d(input.reshape(1, -1, *input.shape[2:]), weights, groups=len(input))
        return y.view(len(input), 4, *y.shape[2:])


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Conv2d(3, 4, 3),
    "convkern's": lambda: convkern.Conv2d(3, 4, 3, activation="relu"),
    "subclass": lambda: Doubling(3, 4, 3),
    "weight_norm": lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)).eval(),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Conv2d(3, 4, 3)),
    "hypernetwork": Hyper,
    "transposed": lambda: nn.ConvTranspose2d(3, 4, 3),
    "sequences": lambda: nn.Sequential(
        nn.Flatten(2), nn.Conv1d(3, 4, 3), nn.ConvTranspose1d(4, 4, 3)
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, image: Tensor) -> None:
    layer = LAYERS[name]()
    expected = layer(image)
    grads = torch.autograd.grad(expected.square().sum(), list(layer.parameters()))
    with convkern.enabled():
        assert runs_on_convkern(lambda: layer(image))
        y = layer(image)
    torch.testing.assert_close(y, expected)
    ours = torch.autograd.grad(y.square().sum(), list(layer.parameters()))
    torch.testing.assert_close(ours, grads, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_what_convkern_has_no_kernels_for_reaches_torch(name: str, dtype: torch.dtype) -> None:
    x, w, _ = (t.mul(9).to(dtype) for t in operands(name))
    expected = getattr(F, name)(x, w, **CASES[name][2])
    with convkern.enabled():
        assert not runs_on_convkern(lambda: getattr(F, name)(x, w, **CASES[name][2]))
        y = getattr(F, name)(x, w, **CASES[name][2])
    torch.testing.assert_close(y, expected)


def test_layouts_that_convkern_has_no_kernels_for_reach_torch(image: Tensor) -> None:
    w = torch.randn(4, 3, 3, 3)
    with convkern.enabled():
        y = F.conv2d(image.to_mkldnn(), w.to_mkldnn())
        assert y.is_mkldnn
        torch.testing.assert_close(y.to_dense(), torch.conv2d(image, w), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_errors_are_torchs(name: str) -> None:
    function = getattr(F, name)
    x, w, _ = operands(name)
    with convkern.enabled():
        for wrong in ((x[:, :3], w), (x, w.double()), (x, None), (x,)):
            with pytest.raises((RuntimeError, TypeError)):
                function(*wrong)
    assert not runs_on_convkern(lambda: function(x, w, groups=2))  # the block has ended


def test_autocast(image: Tensor) -> None:
    layer = nn.Conv2d(3, 4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(image)
        with convkern.enabled():
            assert runs_on_convkern(lambda: layer(image))
            y = layer(image)
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected)


def test_blocks_in_blocks_and_errors_inside(image: Tensor) -> None:
    layer = nn.Conv2d(3, 4, 3)
    block = convkern.enabled()
    with block, block, convkern.enabled():
        assert runs_on_convkern(lambda: layer(image))

    @block
    @block
    def fails() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert not runs_on_convkern(lambda: layer(image))
    with block:
        with block:
            pass
        assert runs_on_convkern(lambda: layer(image))


def test_decorator(image: Tensor) -> None:
    @convkern.enabled()
    def computed(x: Tensor, *, layer: nn.Module) -> Tensor:
        """What it does."""
        y: Tensor = layer(x)
        return y

    layer = nn.Conv2d(3, 4, 3)
    assert (computed.__name__, computed.__doc__) == ("computed", "What it does.")
    assert runs_on_convkern(lambda: computed(image, layer=layer))
    assert not runs_on_convkern(lambda: layer(image))


def test_enable_lasts_until_disable(image: Tensor) -> None:
    layer = nn.Conv2d(3, 4, 3)
    convkern.disable()  # of nothing
    with convkern.enabled():
        convkern.enable()
        convkern.enable()
    assert runs_on_convkern(lambda: layer(image))
    with convkern.enabled():
        convkern.disable()
        assert runs_on_convkern(lambda: layer(image))
    assert not runs_on_convkern(lambda: layer(image))


def test_enable_beside_the_default_device(image: Tensor) -> None:
    layer = nn.Conv2d(3, 4, 3)
    with torch.device("meta"):
        convkern.enable()
        assert torch.empty(1).is_meta
    assert not torch.empty(1).is_meta
    assert runs_on_convkern(lambda: layer(image))
    with torch.device("meta"):
        convkern.disable()
        assert torch.empty(1).is_meta
    assert not torch.empty(1).is_meta
    for first in (True, False):
        try:
            if first:
                convkern.enable()
            torch.set_default_device("meta")
            convkern.enable()
            assert torch.empty(1).is_meta
            assert runs_on_convkern(lambda: layer(image))
        finally:
            torch.set_default_device(None)
        assert not torch.empty(1).is_meta
        assert runs_on_convkern(lambda: layer(image))
        convkern.disable()


def test_threads_are_not_in_the_block(image: Tensor) -> None:
    layer, found = nn.Conv2d(3, 4, 3), []
    block = convkern.enabled()

    def run(inside: bool) -> None:
        if inside:
            with block:
                found.append(runs_on_convkern(lambda: layer(image)))
        else:
            found.append(runs_on_convkern(lambda: layer(image)))

    with block:
        for inside in (False, True):
            thread = threading.Thread(target=run, args=(inside,))
            thread.start()
            thread.join()
        assert runs_on_convkern(lambda: layer(image))
    assert found == [False, True]


class Seen(TorchFunctionMode):
    """Another mode, which notes the functions that come by."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(f"{func.__module__}.{func.__name__}")
        return func(*args, **(kwargs or {}))


def test_other_modes(image: Tensor) -> None:
    layer = nn.Conv2d(3, 4, 3)
    with Seen() as outer, convkern.enabled(), Seen() as inner:
        assert runs_on_convkern(lambda: layer(image))
    assert any(name.endswith(".conv2d") for name in inner.names)
    assert "convkern.functional.conv2d" in outer.names


class Known(Tensor):
    """A class that may know torch's functions only."""

    seen: list[Any] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.seen.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_tensor_classes_of_others_get_torchs_function(image: Tensor) -> None:
    layer = nn.Conv2d(3, 4, 3)
    with convkern.enabled():
        for x, w in (
            (image.as_subclass(Known), layer.weight),
            (image, layer.weight.as_subclass(Known)),
        ):
            Known.seen.clear()
            assert isinstance(F.conv2d(x, weight=w), Known)
            assert Known.seen == [torch.conv2d]


def of_dtensors() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    x, w = torch.randn(2, 3, 9, 9), torch.randn(4, 3, 3, 3)
    with convkern.enabled():
        y = F.conv2d(distribute_tensor(x, mesh, [Shard(0)]), distribute_tensor(w, mesh))
    torch.testing.assert_close(y.full_tensor(), F.conv2d(x, w))


def test_dtensors(processes: Processes) -> None:
    processes.run(2, of_dtensors)


def test_transforms(image: Tensor) -> None:
    weights = torch.randn(5, 4, 3, 3, 3)

    def loss(w: Tensor, x: Tensor) -> Tensor:
        return F.conv2d(x, w).square().mean()

    expected = torch.vmap(torch.func.grad(loss), (0, None))(weights, image)
    with convkern.enabled():
        call = torch.vmap(torch.func.grad(loss), (0, None))
        assert runs_on_convkern(lambda: call(weights, image))
        torch.testing.assert_close(call(weights, image), expected)
    inside = torch.vmap(convkern.enabled()(torch.func.grad(loss)), (0, None))
    torch.testing.assert_close(inside(weights, image), expected)


def test_checkpoints_are_in_the_block_of_the_backward_pass(image: Tensor) -> None:
    layer = nn.Conv2d(3, 4, 3)
    expected = torch.autograd.grad(layer(image).square().sum(), layer.weight)
    with convkern.enabled():
        y = checkpoint(layer, image, use_reentrant=False).square().sum()
        assert runs_on_convkern(lambda: y.backward(retain_graph=True))
    torch.testing.assert_close(layer.weight.grad, expected[0])


def test_symbolic_trace_records_torchs_functions(image: Tensor) -> None:
    model = nn.Sequential(Doubling(3, 4, 3), nn.ZeroPad2d(1), nn.Conv2d(4, 4, 3))
    expected = model(image)
    with convkern.enabled():
        graph = torch.fx.symbolic_trace(model)
    called = [node.target for node in graph.graph.nodes if node.op.startswith("call")]
    assert torch.conv2d in called
    assert "2" in called
    assert not any("convkern" in str(target) for target in called)
    assert not runs_on_convkern(lambda: graph(image))
    with convkern.enabled():
        assert runs_on_convkern(lambda: graph(image))
        torch.testing.assert_close(graph(image), expected)


def test_nothing_recurses_when_the_program_has_replaced_the_function(
    image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, integers = nn.Conv2d(3, 4, 3), torch.ones(1, 1, 4, 4).int()
    monkeypatch.setattr(F, "conv2d", convkern.conv2d)
    with convkern.enabled(), convkern.enabled():
        assert runs_on_convkern(lambda: layer(image))
        assert not runs_on_convkern(lambda: F.conv2d(integers, integers))


def test_calls_are_noted(image: Tensor) -> None:
    layer = Doubling(3, 4, 3)
    with interception.Calls() as calls:
        y = layer(image)
    ((function, arguments, options, result),) = calls.found
    assert function is convkern.conv2d
    assert (arguments[0] is image, options, result is y) == (True, {}, True)


def test_examples() -> None:
    names = {"convkern": convkern, "torch": torch, "nn": nn}
    failed, attempted = doctest.testmod(interception, extraglobs=names)
    assert (failed, attempted) == (0, 10)
