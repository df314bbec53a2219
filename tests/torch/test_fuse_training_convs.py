"""convkern.fuse_training: a ReLU is computed by the convolution before it where nothing else sees
the convolution's result; and the calls of squeeze-and-excitation are recognised."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import convkern
from convkern import functional
from convkern.training import blocks
from convkern.training.fused import compiled
from fused_nets import EXAMPLE, Parts, assert_trains_as, parts, step

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


def calls_of(net: nn.Module, x: Tensor) -> list[tuple[Any, dict[str, Any]]]:
    """Returns the calls of the fused graph, with their arguments by name."""
    found = []

    def keep(module: torch.fx.GraphModule, example: Any) -> Callable[..., Any]:
        call, _ = compiled(module, example, False)
        nodes = [*module.graph.nodes]
        for child in module.children():
            nodes += child.graph.nodes if isinstance(child, torch.fx.GraphModule) else []
        found.extend((n.target, n.kwargs) for n in nodes if n.op.startswith("call"))
        return call

    torch.compile(copy.deepcopy(net), backend=keep)(x)
    torch._dynamo.reset()
    return found


def function(net: Parts, x: Tensor) -> Tensor:
    return F.relu(net.conv(x))


def in_place(net: Parts, x: Tensor) -> Tensor:
    return F.relu(net.conv(x), inplace=True) * 2


def method_in_place(net: Parts, x: Tensor) -> Tensor:
    return net.conv(x).relu_()


def dropped_in_place(net: Parts, x: Tensor) -> Tensor:
    y = net.conv(x)
    y.relu_()
    return y * 2


def with_bias(net: Parts, x: Tensor) -> Tensor:
    return torch.relu(net.point(x))


def keywords(net: Parts, x: Tensor) -> Tensor:
    x = net.point(net.conv(x))
    y = F.relu(F.conv2d(x, net.point.weight, bias=net.point.bias, stride=2))
    return F.relu(F.conv2d(y, weight=net.conv.weight, padding=1, dilation=1, groups=1))


def all_keywords(net: Parts, x: Tensor) -> Tensor:
    return F.relu(input=F.conv2d(input=net.conv(x), weight=net.conv.weight, padding="same"))


def padding_by_name(net: Parts, x: Tensor) -> Tensor:
    return F.relu(F.conv2d(net.conv(x), net.conv.weight, padding="same"))


def one_image(net: Parts, x: Tensor) -> Tensor:
    return F.relu(net.conv(x[0]))


def relu_twice(net: Parts, x: Tensor) -> Tensor:
    return F.relu(F.relu(net.conv(x)))


def relu_then_other(net: Parts, x: Tensor) -> Tensor:
    return F.silu(F.relu(net.conv(x)))


def chain(net: Parts, x: Tensor) -> Tensor:
    return F.relu(net.conv2(F.relu(net.conv(F.relu(net.point(x))))))


def then_norm(net: Parts, x: Tensor) -> Tensor:
    return F.relu(net.bn(F.relu(net.conv(x))) + x)


def as_residual(net: Parts, x: Tensor) -> Tensor:
    y = F.relu(net.conv(x))
    return F.relu(net.bn(net.conv2(y)) + y)


def changed_later(net: Parts, x: Tensor) -> Tensor:
    y = F.relu(net.conv(x)).clone()
    y[:, :2] *= 3
    return y


def in_a_checkpoint(net: Parts, x: Tensor) -> Tensor:
    return checkpoint(function, net, x.sin(), use_reentrant=False)


TAKEN: dict[Callable[..., Any], int] = {
    function: 1, in_place: 1, method_in_place: 1, dropped_in_place: 0, with_bias: 1, keywords: 2,
    padding_by_name: 1, one_image: 1, relu_twice: 1, relu_then_other: 1, chain: 3, then_norm: 1,
    as_residual: 1, changed_later: 1, in_a_checkpoint: 1,
}  # fmt: skip


def used_elsewhere(net: Parts, x: Tensor) -> Tensor:
    y = net.conv(x)
    return F.relu(y) + y


def used_before_in_place(net: Parts, x: Tensor) -> Tensor:
    y = net.conv(x)
    z = y.sin()
    return F.relu(y * 1, inplace=True) + z


def returned(net: Parts, x: Tensor) -> tuple[Tensor, Tensor]:
    y = net.conv(x)
    return F.relu(y), y


def relu6(net: Parts, x: Tensor) -> Tensor:
    return F.relu6(net.conv(x) * 5) + F.relu6(net.conv2(x))


def view_between(net: Parts, x: Tensor) -> Tensor:
    return F.relu(net.conv(x)[:, 1:])


def relu_without_gradients(net: Parts, x: Tensor) -> Tensor:
    y = net.conv(x)
    with torch.no_grad():
        z = F.relu(y)
    return z + x


def relu_in_place_without_gradients(net: Parts, x: Tensor) -> Tensor:
    y = net.conv(x)
    with torch.no_grad():
        z = y.relu_()
    return z + x


def relu_under_autocast(net: Parts, x: Tensor) -> Tensor:
    y = net.conv(x)
    with torch.autocast("cpu", torch.bfloat16):
        return F.relu(y)


NOT_TAKEN: list[Callable[..., Any]] = [
    all_keywords, used_elsewhere, used_before_in_place, returned, relu6, view_between,
    relu_without_gradients, relu_in_place_without_gradients, relu_under_autocast,
]  # fmt: skip


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("call", [*TAKEN, *NOT_TAKEN], ids=lambda call: call.__name__)
def test_a_relu_after_a_convolution_trains_as_torchs(
    call: Callable[..., Any], recompute: bool
) -> None:
    net = parts(call)
    peer = copy.deepcopy(net)
    convkern.fuse_training(net, EXAMPLE, recompute=recompute)
    assert_trains_as(net, peer)


@pytest.mark.parametrize("call", [*TAKEN, *NOT_TAKEN], ids=lambda call: call.__name__)
def test_which_relus_are_computed_by_the_convolution(call: Callable[..., Any]) -> None:
    calls = calls_of(parts(call), EXAMPLE)
    taken = [kwargs for _, kwargs in calls if kwargs.get("activation") == "relu"]
    assert len(taken) == TAKEN.get(call, 0)


def test_convkerns_own_layers_keep_their_activations() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain = convkern.Conv2d(4, 4, 3, padding=1)
            self.active = convkern.Conv2d(4, 4, 3, padding=1, activation="silu")

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.active(F.relu(self.plain(x))))
            return F.relu(convkern.conv2d(y, self.plain.weight, activation="hardswish"))

    net = Net().double()
    peer = copy.deepcopy(net)
    convkern.fuse_training(net, torch.randn(2, 4, 9, 9, dtype=torch.float64))
    for _ in range(2):
        x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
        torch.testing.assert_close(step(net, x), step(peer, x))


def test_hooks_see_the_convolution_before_the_relu() -> None:
    net = parts(function)
    seen: list[Tensor] = []
    net.conv.register_forward_hook(lambda m, x, y: seen.append(y.detach().clone()))
    peer = copy.deepcopy(net)
    convkern.fuse_training(net, EXAMPLE)
    seen.clear()
    assert_trains_as(net, peer)
    assert len(seen) == 4
    torch.testing.assert_close(seen[0::2], seen[1::2])
    assert all((y < 0).any() for y in seen)


def test_second_derivatives_of_a_convolution_with_its_relu() -> None:
    for call in (function, chain, as_residual):
        torch._dynamo.reset()
        net = parts(call)
        peer = copy.deepcopy(net)
        convkern.fuse_training(net, EXAMPLE)
        results = []
        for model in (net, peer):
            x = EXAMPLE.clone().requires_grad_()
            (gx,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
            results.append(torch.autograd.grad(gx.square().sum(), [x, *model.parameters()],
                                               allow_unused=True))  # fmt: skip
        torch.testing.assert_close(results[0], results[1])


def test_relu_of_a_result_that_is_changed_raises_torchs_error() -> None:
    def call(net: Parts, x: Tensor) -> Tensor:
        y = F.relu(net.conv(x))
        y *= 2
        return y

    net = parts(call)
    peer = copy.deepcopy(net)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        peer(EXAMPLE).sum().backward()
    convkern.fuse_training(net, EXAMPLE)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        net(EXAMPLE).sum().backward()


def scaled(net: Parts, x: Tensor) -> Tensor:
    return net.conv(x) * torch.sigmoid(F.adaptive_avg_pool2d(x, 1))


def scaled_in_other_order(net: Parts, x: Tensor) -> Tensor:
    return torch.mul(torch.sigmoid(F.adaptive_avg_pool2d(x, (1, 1))), net.conv(x))


def scaled_by_layers(net: Parts, x: Tensor) -> Tensor:
    return net.conv(x) * nn.AdaptiveAvgPool2d([1, 1])(x).sigmoid()


def scaled_by_keywords(net: Parts, x: Tensor) -> Tensor:
    return net.conv(x) * F.adaptive_avg_pool2d(input=x, output_size=1).sigmoid()


def scaled_by_size_keyword(net: Parts, x: Tensor) -> Tensor:
    return net.conv(x) * F.adaptive_avg_pool2d(x, output_size=(1, 1)).sigmoid()


PRODUCTS = [
    scaled, scaled_in_other_order, scaled_by_layers, scaled_by_keywords, scaled_by_size_keyword,
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("call", PRODUCTS, ids=lambda call: call.__name__)
def test_squeeze_and_excitation_is_recognised(call: Callable[..., Any], dtype: torch.dtype) -> None:
    net, x = parts(call).to(dtype), EXAMPLE.to(dtype)
    targets = [target for target, _ in calls_of(net, x)]
    assert (blocks.mean_of_pixels in targets) == (dtype != torch.bfloat16)
    assert (blocks.channel_product in targets) == (dtype == torch.float32)
    for layout in (torch.contiguous_format, torch.channels_last):
        model = parts(call).to(dtype).to(memory_format=layout)
        peer, image = copy.deepcopy(model), x.contiguous(memory_format=layout)
        convkern.fuse_training(model, image)
        ours, theirs = step(model, image), step(peer, image)
        torch.testing.assert_close(
            ours, theirs, **({"rtol": 0.1, "atol": 0.1} if dtype == torch.bfloat16 else
                             {"rtol": 1e-3, "atol": 1e-4})
        )  # fmt: skip


def two_images(net: Parts, x: Tensor) -> Tensor:
    return net.conv(x) * x


def images_of_one_pixel(net: Parts, x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(net.conv(x), 1) * F.adaptive_avg_pool2d(x, 1)


def other_factors(net: Parts, x: Tensor) -> Tensor:
    y = net.conv(x)
    return (y * 2 * y[:1, :, :1, :1] * y[:, :1, :1, :1] * y[:, :, :1] * net.memory[0, 0, 0, 0]
            * x.mean((2, 3), keepdim=True).double())  # fmt: skip


def other_pools(net: Parts, x: Tensor) -> Tensor:
    y = net.conv(x)
    return (F.adaptive_avg_pool2d(y, (1, None)) + F.adaptive_avg_pool2d(y, 2)[:, :, :1, :1]
            + F.adaptive_avg_pool2d(y[0], 1) + F.adaptive_max_pool2d(y, 1))  # fmt: skip


@pytest.mark.parametrize("call", [two_images, images_of_one_pixel, other_factors, other_pools])
def test_other_products_and_pools_stay_torchs(call: Callable[..., Any]) -> None:
    net = parts(call).float()
    net.memory = net.memory.float()
    peer = copy.deepcopy(net)
    targets = [target for target, _ in calls_of(net, EXAMPLE.float())]
    assert blocks.channel_product not in targets
    assert call is images_of_one_pixel or blocks.mean_of_pixels not in targets
    convkern.fuse_training(net, EXAMPLE.float())
    assert_trains_as(net, peer, dtype=torch.float32)


def test_products_of_batches_of_any_size_and_without_gradients() -> None:
    for call in (scaled, scaled_in_other_order):
        torch._dynamo.reset()
        net = parts(call).float().to(memory_format=torch.channels_last)
        peer = copy.deepcopy(net)
        convkern.fuse_training(net, EXAMPLE.float())
        for shape in ((3, 4, 5, 5), (7, 4, 9, 6), (1, 4, 5, 5), (2, 4, 1, 1), (2, 4, 1, 8)):
            x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(step(net, x), step(peer, x), rtol=1e-3, atol=1e-4)
            with torch.no_grad():
                torch.testing.assert_close(net(x), peer(x), rtol=1e-3, atol=1e-4)


def test_products_under_autocast_have_torchs_dtypes() -> None:
    net = parts(scaled).float()
    peer = copy.deepcopy(net)
    convkern.fuse_training(net, EXAMPLE.float())
    results = []
    for model in (net, peer):
        x = EXAMPLE.float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = model(x)
        y.float().square().sum().backward()
        results.append([y.detach(), x.grad, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(results[0], results[1], rtol=0.05, atol=0.05)


def test_a_convolution_that_takes_a_relu_is_one_call() -> None:
    targets = [target for target, _ in calls_of(parts(chain), EXAMPLE)]
    assert targets == [functional.conv2d] * 3
