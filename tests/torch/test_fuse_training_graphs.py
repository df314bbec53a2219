"""convkern.fuse_training: what is fused in graphs of each kind, and that steps are torch's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convkern
from fused_nets import (
    EXAMPLE,
    Parts,
    assert_trains_as,
    conv_norm_relu,
    one_norm_twice,
    parts,
    residual_in_place,
    squeeze_and_excite,
    two_norms,
)

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


def activations(net: Parts, x: Tensor) -> Tensor:
    y = F.relu6(net.bn(net.conv(x)))
    y = F.silu(net.bn2(net.conv2(y)), inplace=True)
    return F.leaky_relu(net.bn3(net.conv(y)), 0.2)


def bounds(net: Parts, x: Tensor) -> Tensor:
    y = F.hardtanh(net.bn(net.conv(x)), -0.5, 2)
    y = net.bn2(net.conv2(y)).clamp(min=-0.25)
    return F.hardswish(net.bn3(net.conv(y)))


def residual_first(net: Parts, x: Tensor) -> Tensor:
    return F.relu(x + net.bn(net.conv(x)))


def residual_by_function(net: Parts, x: Tensor) -> Tensor:
    return torch.relu(torch.add(net.bn(net.conv(x)), x))


def downsample_after(net: Parts, x: Tensor) -> Tensor:
    y = net.bn(net.conv(x))
    identity = net.bn2(net.conv2(x))
    y += identity
    return torch.relu_(y)


def preactivation(net: Parts, x: Tensor) -> Tensor:
    first = net.conv(F.relu(net.bn(x)))
    second = net.conv2(F.relu(net.bn2(first)))
    return torch.cat([first, second, x], 1)


def depthwise(net: Parts, x: Tensor) -> Tensor:
    return F.hardswish(net.bn(net.depthwise(x)))


def three_users(net: Parts, x: Tensor) -> Tensor:
    y = F.relu(net.bn(net.conv(x)))
    return net.conv2(y) + y * 2 + y.sin()


def two_users_of_which_one_uses_it_twice(net: Parts, x: Tensor) -> Tensor:
    y = F.relu(net.bn(net.conv(x)))
    return y * y + net.conv2(y)


def one_norm_twice_in_other_order(net: Parts, x: Tensor) -> Tensor:
    a, b = net.bn(x), net.bn(3 * x + 1)
    second = F.relu(b)
    return F.relu(a) + 2 * second


def statistics_are_read(net: Parts, x: Tensor) -> Tensor:
    y = net.bn(x)
    mean = net.bn.running_mean.clone()
    return F.relu(y) + mean.view(1, -1, 1, 1)


def shared_conv(net: Parts, x: Tensor) -> Tensor:
    return F.relu(net.bn(net.conv(x))) + F.relu(net.bn2(net.conv(2 * x)))


def sum_into_the_other(net: Parts, x: Tensor) -> Tensor:
    y = net.conv(x)
    y += net.bn(x)
    return F.relu(y)


def sum_with_itself(net: Parts, x: Tensor) -> Tensor:
    y = net.bn(x)
    y += y
    return F.silu(y)


def other_sums(net: Parts, x: Tensor) -> Tensor:
    a = F.relu(torch.add(net.bn(x), x, alpha=2))
    b = F.relu(net.bn2(x) + x[:, :1])
    return a + b + F.relu(net.bn3(x) + 1)


def in_place_result_is_dropped(net: Parts, x: Tensor) -> Tensor:
    y = net.bn(x)
    y.add_(x)
    F.silu(y.clone(), inplace=True)
    return y * 2


def view_is_changed(net: Parts, x: Tensor) -> Tensor:
    y = net.bn(x)
    y.view(-1).mul_(2)
    return y.sin()


def part_is_changed(net: Parts, x: Tensor) -> Tensor:
    y = F.silu(net.bn(x))
    part = y[:, :2]
    part *= 3
    return net.conv(y)


def part_is_set(net: Parts, x: Tensor) -> Tensor:
    y = net.bn(x)
    y[:, :1] = 0
    return F.relu(y)


def residual_is_changed_later(net: Parts, x: Tensor) -> Tensor:
    other = net.conv(x)
    y = net.bn(x)
    y += other
    other.mul_(2)
    return F.relu(y) + other


def residual_is_changed_between(net: Parts, x: Tensor) -> Tensor:
    y = net.bn(x)
    net.memory.mul_(1.5)
    return F.relu(y + net.memory)


def views_are_returned(net: Parts, x: Tensor) -> tuple[Tensor, Tensor]:
    y = net.bn(x)
    return y[:1], y[1:]


def norm_without_gradients(net: Parts, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = net.bn(x)
    return F.relu(y) + net.conv(x)


def activation_without_gradients(net: Parts, x: Tensor) -> Tensor:
    y = net.bn(x)
    with torch.no_grad():
        z = F.relu(y)
    return z + net.conv(x)


def detached(net: Parts, x: Tensor) -> Tensor:
    y = F.relu(net.bn(net.conv(x)))
    return net.conv2(y.detach()) + y


def odd_bounds(net: Parts, x: Tensor) -> Tensor:
    return net.bn(x).clamp(2, 1) + F.leaky_relu(net.bn2(x), -0.3) + net.bn3(x).clamp(-1, 1).relu()


def graph_break(net: Parts, x: Tensor) -> Tensor:
    y = F.relu(net.bn(net.conv(x)))
    torch._dynamo.graph_break()
    return F.relu(net.bn2(net.conv2(y)))


def numbers_of_python(net: Parts, x: Tensor) -> Tensor:
    y = net.bn(net.conv(x))
    return F.relu(y) * x.shape[0] if x.shape[2] > 2 else y


# What is fused with each batch norm.
NETS: dict[Callable[..., Any], dict[str, str]] = {
    conv_norm_relu: {"bn": "relu"},
    activations: {"bn": "relu6", "bn2": "silu", "bn3": "leaky_relu(0.2)"},
    bounds: {"bn": "clamp(-0.5,2.0)", "bn2": "clamp(-0.25,inf)", "bn3": "hardswish"},
    residual_in_place: {"bn": "relu", "bn2": "residual + relu"},
    two_norms: {"bn": "relu", "bn2": "residual + relu"},
    residual_first: {"bn": "residual + relu"},
    residual_by_function: {"bn": "residual + relu"},
    downsample_after: {"bn": "residual + relu", "bn2": ""},
    preactivation: {"bn": "relu", "bn2": "relu"},
    squeeze_and_excite: {"bn": "silu"},
    depthwise: {"bn": "hardswish"},
    three_users: {"bn": "relu"},
    two_users_of_which_one_uses_it_twice: {"bn": "relu"},
    one_norm_twice: {"bn": "relu"},
    one_norm_twice_in_other_order: {"bn": "relu"},
    statistics_are_read: {"bn": ""},
    shared_conv: {"bn": "relu", "bn2": "relu"},
    sum_into_the_other: {"bn": ""},
    sum_with_itself: {"bn": ""},
    other_sums: {"bn": "", "bn2": "", "bn3": ""},
    in_place_result_is_dropped: {"bn": ""},
    view_is_changed: {"bn": ""},
    part_is_changed: {"bn": "silu"},
    part_is_set: {"bn": ""},
    residual_is_changed_later: {"bn": "residual"},
    residual_is_changed_between: {"bn": ""},
    views_are_returned: {"bn": ""},
    norm_without_gradients: {"bn": ""},
    activation_without_gradients: {"bn": ""},
    detached: {"bn": "relu"},
    odd_bounds: {"bn": "", "bn2": "leaky_relu(-0.3)", "bn3": "clamp(-1.0,1.0)"},
    graph_break: {"bn": "relu", "bn2": "relu"},
    numbers_of_python: {"bn": "relu"},
}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("call", NETS, ids=lambda call: call.__name__)
def test_training_is_torchs(call: Callable[..., Any], recompute: bool) -> None:
    net = parts(call)
    peer = copy.deepcopy(net)
    report = convkern.fuse_training(net, EXAMPLE, recompute=recompute)
    assert report.blocks == NETS[call]
    assert report.graphs == (2 if call is graph_break else 1)
    assert_trains_as(net, peer)


@pytest.mark.parametrize("recompute", [False, True])
def test_training_is_torchs_in_channels_last_and_float32(recompute: bool) -> None:
    for call in (residual_in_place, squeeze_and_excite, preactivation):
        torch._dynamo.reset()
        net = parts(call).float().to(memory_format=torch.channels_last)
        peer = copy.deepcopy(net)
        convkern.fuse_training(net, EXAMPLE.float(), recompute=recompute)
        x = torch.randn(2, 4, 6, 5).contiguous(memory_format=torch.channels_last)
        assert net(x).stride() == peer(x).stride()
        assert_trains_as(net, peer, dtype=torch.float32)
