"""convkern.fuse_training: what else a model may do while it is trained."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
    step,
    two_norms,
)

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


def test_kinds_of_batch_norms() -> None:
    for options in ({"affine": False}, {"track_running_stats": False}, {"momentum": None},
                    {"eps": 0.1, "momentum": 0.5}, {"momentum": 0.0}):  # fmt: skip
        torch._dynamo.reset()
        net = parts(conv_norm_relu)
        net.bn = nn.BatchNorm2d(4, **options).double()  # type: ignore[arg-type]
        peer = copy.deepcopy(net)
        report = convkern.fuse_training(net, EXAMPLE)
        if "momentum" not in options or options["momentum"] is not None:
            assert report.blocks == {"bn": "relu"}
        else:
            assert [*report.blocks, *report.kept] == ["bn"]
        assert_trains_as(net, peer)


def test_frozen_batch_norms_and_parameters() -> None:
    def no_statistics(net: Parts) -> None:
        net.bn.eval()

    def no_norm(net: Parts) -> None:
        net.bn.requires_grad_(False)

    def no_first_layers(net: Parts) -> None:
        net.bn.eval().requires_grad_(False)
        net.conv.requires_grad_(False)

    for freeze in (no_statistics, no_norm, no_first_layers):
        torch._dynamo.reset()
        net = parts(residual_in_place)
        freeze(net)
        peer = copy.deepcopy(net)
        report = convkern.fuse_training(net, EXAMPLE)
        assert report.blocks == {"bn": "relu", "bn2": "residual + relu"}
        assert_trains_as(net, peer)


def test_parameters_that_are_frozen_and_freed_later() -> None:
    net = parts(residual_in_place)
    peer = copy.deepcopy(net)
    convkern.fuse_training(net, EXAMPLE)
    for change in (False, True):
        for model in (net, peer):
            model.requires_grad_(change)
        assert_trains_as(net, peer)
        for model in (net, peer):
            model.bn.train(not change)
        assert_trains_as(net, peer)


def test_a_model_without_gradients_updates_its_statistics() -> None:
    net = parts(residual_in_place)
    peer = copy.deepcopy(net)
    convkern.fuse_training(net, EXAMPLE)
    for turn in range(4):
        x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
        with torch.no_grad() if turn % 2 else torch.inference_mode():
            torch.testing.assert_close(net(x), peer(x))
        torch.testing.assert_close(net.state_dict(), peer.state_dict())
    assert_trains_as(net, peer)


def test_eval_and_train_again() -> None:
    net = parts(residual_in_place)
    peer = copy.deepcopy(net)
    convkern.fuse_training(net, EXAMPLE)
    for _ in range(2):
        assert_trains_as(net, peer)
        net.eval(), peer.eval()
        assert_trains_as(net, peer)
        with torch.no_grad():
            x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
            torch.testing.assert_close(net(x), peer(x))
        net.train(), peer.train()


def test_other_sizes_and_gradients_that_accumulate() -> None:
    net = parts(squeeze_and_excite)
    peer = copy.deepcopy(net)
    convkern.fuse_training(net, EXAMPLE)
    results = []
    for model in (net, peer):
        generator = torch.Generator().manual_seed(1)
        for size in ((2, 5, 5), (3, 5, 5), (5, 9, 7), (1, 4, 4), (2, 5, 5)):
            x = torch.randn(size[0], 4, *size[1:], generator=generator, dtype=torch.float64)
            model(x).square().sum().backward()
        results.append([p.grad for p in model.parameters()] + list(model.buffers()))
    torch.testing.assert_close(results[0], results[1])


def test_hooks_of_modules_are_called() -> None:
    """Each hook sees and returns the same as in the model."""

    def hooked(net: Parts, seen: list[Any]) -> None:
        net.bn.register_forward_hook(lambda m, x, y: seen.append(("forward", y.detach().clone())))
        net.bn2.register_forward_hook(lambda m, x, y: y * 2)
        net.conv2.register_forward_pre_hook(lambda m, x: (x[0] + 1,))
        net.conv.register_full_backward_hook(
            lambda m, gx, gy: seen.append(("backward", gy[0].clone()))
        )
        net.bn.register_full_backward_hook(lambda m, gx, gy: (gx[0] * 3,))
        net.bn2.weight.register_hook(lambda g: g * 5)
        net.register_forward_hook(lambda m, x, y: seen.append(("model", y.detach().clone())))

    net = parts(two_norms)
    peer = copy.deepcopy(net)
    seen: tuple[list[Any], list[Any]] = ([], [])
    hooked(net, seen[0]), hooked(peer, seen[1])
    convkern.fuse_training(net, EXAMPLE)
    seen[0].clear()
    assert_trains_as(net, peer)
    assert [name for name, _ in seen[0]] == [name for name, _ in seen[1]]
    torch.testing.assert_close([t for _, t in seen[0]], [t for _, t in seen[1]])


def test_hooks_of_tensors_are_called() -> None:
    seen: list[Tensor] = []

    def call(net: Parts, x: Tensor) -> Tensor:
        y = net.bn(net.conv(x))
        if y.requires_grad:
            y.register_hook(seen.append)
        return F.relu(y)

    net = parts(call)
    peer = copy.deepcopy(net)
    convkern.fuse_training(net, EXAMPLE)
    assert_trains_as(net, peer)
    half = len(seen) // 2
    assert half >= 1
    torch.testing.assert_close(seen[0::2], seen[1::2])


def test_attributes_that_change() -> None:
    net = parts(residual_in_place)
    peer = copy.deepcopy(net)
    convkern.fuse_training(net, EXAMPLE)
    for turn in range(4):
        for model in (net, peer):
            model.bn.momentum = 0.1 + 0.2 * turn
            model.bn2.eps = 1e-5 + 0.1 * turn
        assert_trains_as(net, peer)
    weight = torch.randn(4, dtype=torch.float64)
    for model in (net, peer):
        model.bn.weight = nn.Parameter(weight.clone())
        model.bn2 = nn.BatchNorm2d(4, momentum=0.3).double()
    assert_trains_as(net, peer)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_penalty_of_gradients(recompute: bool) -> None:
    for call in (residual_in_place, one_norm_twice, squeeze_and_excite):
        torch._dynamo.reset()
        net = parts(call)
        peer = copy.deepcopy(net)
        convkern.fuse_training(net, EXAMPLE, recompute=recompute)
        results = []
        for model in (net, peer):
            generator = torch.Generator().manual_seed(1)
            x = torch.randn(2, 4, 5, 5, dtype=torch.float64, generator=generator).requires_grad_()
            y = model(x)
            (gx,) = torch.autograd.grad((y * y.detach().cos()).sum(), x, create_graph=True)
            (y.square().sum() + gx.square().sum()).backward()
            results.append([x.grad, *(p.grad for p in model.parameters())])
        torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("recompute", [False, True])
def test_a_checkpoint_around_the_model(recompute: bool) -> None:
    net = parts(residual_in_place)
    peer = copy.deepcopy(net)
    convkern.fuse_training(net, EXAMPLE, recompute=recompute)
    results = []
    for model in (net, peer):
        x = torch.ones(2, 4, 5, 5, dtype=torch.float64).cumsum(2).sin().requires_grad_()
        y = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)
        y.square().sum().backward()
        results.append([x.grad, *(p.grad for p in model.parameters()), *model.buffers()])
    torch.testing.assert_close(results[0], results[1])


def residual_and_dropout(net: Parts, x: Tensor) -> Tensor:
    return F.dropout(residual_in_place(net, x))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_parts(recompute: bool, reentrant: bool) -> None:
    """Random numbers are those of the first time when a part is computed again."""

    def call(net: Parts, x: Tensor) -> Tensor:
        y = F.relu(net.bn3(net.conv(x)))
        return net.conv2(checkpoint(residual_and_dropout, net, y, use_reentrant=reentrant))

    net = parts(call)
    peer = copy.deepcopy(net)
    report = convkern.fuse_training(net, EXAMPLE, recompute=recompute)
    assert report.blocks == {"bn": "relu", "bn2": "residual + relu", "bn3": "relu"}
    results = []
    for model in (net, peer):
        torch.manual_seed(3)
        results.append(step(model, EXAMPLE) + step(model, EXAMPLE))
    torch.testing.assert_close(results[0], results[1])


def test_momentum_that_changes_at_each_step_stays_fused() -> None:
    net = parts(conv_norm_relu)
    fast = torch.compile(net, backend="convkern")
    for momentum in (0.1, 0.2, 0.3, 0.4):
        net.bn.momentum = momentum
        assert fast(EXAMPLE).grad_fn.name() == "BatchNormActivationBackward"
