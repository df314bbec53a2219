"""convkern.fuse_training: numbers, memory, copies, reports and torch.compile."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convkern
from fused_nets import (
    EXAMPLE,
    Parts,
    assert_trains_as,
    conv_norm_relu,
    parts,
    two_norms,
)

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


def saved_elements(model: nn.Module, x: Tensor) -> int:
    """Returns how many numbers a step saves in different tensors."""
    found: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        found[t.untyped_storage().data_ptr()] = t.numel()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(x)
    return sum(found.values())


def deep() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3)]
    for _ in range(3):
        layers += [nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def test_recomputed_activations_are_not_saved() -> None:
    x = torch.randn(4, 3, 18, 18)
    numbers = []
    for recompute in (None, False, True):
        model = deep()
        if recompute is not None:
            convkern.fuse_training(model, x, recompute=recompute)
        numbers.append(saved_elements(model, x))
    activation = 4 * 8 * 16 * 16
    assert numbers[1] <= numbers[0]
    assert numbers[2] <= numbers[1] - 3 * activation


def test_the_loss_of_many_steps_is_as_near_to_float64_as_torchs() -> None:
    torch.manual_seed(1)
    start, x, target = deep(), torch.randn(8, 3, 12, 12), torch.randint(4, (8,))
    runs = []
    for kind in ("float64", "torch", "fused", "recomputed"):
        model = copy.deepcopy(start)
        images = x.double() if kind == "float64" else x
        model.to(images.dtype)
        if kind in ("fused", "recomputed"):
            convkern.fuse_training(model, x, recompute=kind == "recomputed")
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        losses = []
        for _ in range(20):
            loss = F.cross_entropy(model(images), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        runs.append(torch.tensor(losses, dtype=torch.float64))
    assert runs[0][-1] < 0.5 * runs[0][0]
    errors = [(run - runs[0]).abs().max().item() for run in runs[1:]]
    assert errors[1] <= 3 * errors[0] + 1e-6
    assert errors[2] <= 3 * errors[0] + 1e-6


def test_under_autocast() -> None:
    net = parts(two_norms).float()
    peer = copy.deepcopy(net)
    convkern.fuse_training(net, EXAMPLE.float())
    results = []
    for model in (net, peer):
        x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = model(x)
        y.float().square().sum().backward()
        results.append([y, x.grad, *(p.grad for p in model.parameters()), *model.buffers()])
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype
        error, rms = (a.double() - b.double()).abs().max(), b.double().square().mean().sqrt()
        assert error <= 0.05 * rms + 1e-6


def test_copies_are_not_fused_and_train_alike() -> None:
    net = parts(two_norms)
    peer = copy.deepcopy(net)
    convkern.fuse_training(net, EXAMPLE)
    assert not convkern.restore_training(copy.deepcopy(net))
    assert convkern.fuse_training(copy.deepcopy(net), EXAMPLE).blocks
    assert_trains_as(copy.deepcopy(net), copy.deepcopy(peer))
    copied = pickle.loads(pickle.dumps(net))
    assert not convkern.restore_training(copied)
    assert_trains_as(copied, copy.deepcopy(peer))
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    assert_trains_as(torch.load(file, weights_only=False), copy.deepcopy(peer))
    assert_trains_as(net, peer)


def test_state_dicts_stay_as_they_are() -> None:
    net = parts(two_norms)
    peer = copy.deepcopy(net)
    convkern.fuse_training(net, EXAMPLE)
    assert list(net.state_dict()) == list(peer.state_dict())
    torch.testing.assert_close(net.state_dict(), peer.state_dict())
    other = {name: t + 1 for name, t in peer.state_dict().items()}
    net.load_state_dict(other), peer.load_state_dict(other)
    assert_trains_as(net, peer)
    other = {name: t.clone() for name, t in other.items()}
    net.load_state_dict(other, assign=True), peer.load_state_dict(other)
    assert_trains_as(net, peer)


def test_data_parallel_on_the_cpu() -> None:
    net = parts(two_norms)
    peer = copy.deepcopy(net)
    convkern.fuse_training(net, EXAMPLE)
    assert_trains_as(nn.DataParallel(net, device_ids=[]), peer)


def test_other_dtypes_and_layouts_after_fusing() -> None:
    net = parts(two_norms).float()
    peer = copy.deepcopy(net)
    convkern.fuse_training(net, EXAMPLE.float())
    net.double(), peer.double()
    assert_trains_as(net, peer)
    for model in (net, peer):
        model.to(memory_format=torch.channels_last)
    assert_trains_as(net, peer)
    net.float(), peer.float()
    assert_trains_as(net, peer, dtype=torch.float32)


def test_restoring() -> None:
    net = parts(two_norms)
    peer = copy.deepcopy(net)
    assert not convkern.restore_training(net)
    first = convkern.fuse_training(net, EXAMPLE)
    assert convkern.fuse_training(net, EXAMPLE, recompute=True) == first
    assert_trains_as(net, peer)
    assert convkern.restore_training(net)
    assert not convkern.restore_training(net)
    assert vars(net).keys() == vars(peer).keys()
    assert net(EXAMPLE).grad_fn.name() == peer(EXAMPLE).grad_fn.name()
    assert_trains_as(net, peer)


def test_a_model_that_raises_is_not_fused() -> None:
    def call(net: Parts, x: Tensor) -> Tensor:
        if x.shape[0] == 3:
            raise KeyError("three images")
        return conv_norm_relu(net, x)

    net = parts(call)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    with pytest.raises(KeyError, match="three images"):
        convkern.fuse_training(net, torch.randn(3, 4, 5, 5, dtype=torch.float64))
    with pytest.raises(RuntimeError):
        convkern.fuse_training(net, torch.randn(2, 5, 5, 5, dtype=torch.float64))
    assert not convkern.restore_training(net)
    assert net._compiled_call_impl is None
    torch.testing.assert_close(net.state_dict(), before)


def test_wrong_arguments() -> None:
    message = r"model must be a torch.nn.Module, got function"
    with pytest.raises(TypeError, match=message):
        convkern.fuse_training(conv_norm_relu, EXAMPLE)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=message):
        convkern.restore_training(conv_norm_relu)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="model must be in training mode"):
        convkern.fuse_training(parts(two_norms).eval(), EXAMPLE)


def test_many_models_whose_forward_is_torchs() -> None:
    for _ in range(2 * torch._dynamo.config.recompile_limit):
        report = convkern.fuse_training(nn.Sequential(nn.BatchNorm2d(4)), EXAMPLE.float())
        assert report.blocks == {"0": ""}


@pytest.mark.skipif(
    "isolate_recompiles" not in inspect.signature(torch.compile).parameters,
    reason="this torch counts the graphs of all models of a class together",
)
def test_many_models_of_one_class() -> None:
    for _ in range(2 * torch._dynamo.config.recompile_limit):
        report = convkern.fuse_training(parts(conv_norm_relu), EXAMPLE)
        assert report.blocks == {"bn": "relu"}


def test_a_model_whose_forward_is_torchs_with_hooks_of_its_own() -> None:
    net = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()).double()
    net.register_forward_pre_hook(lambda _, given: (given[0] + 1,))
    net.register_forward_hook(lambda _, given, y: y * given[0])
    peer = copy.deepcopy(net)
    assert convkern.fuse_training(net, EXAMPLE).blocks == {"0": "relu"}
    assert_trains_as(net, peer)
    assert convkern.restore_training(net)
    assert_trains_as(net, peer)


def test_several_arguments() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm2d(4)

        def forward(self, x: Tensor, y: Tensor, scale: float = 1) -> Tensor:
            return F.relu(self.bn(x) + y) * scale

    model = Two()
    report = convkern.fuse_training(model, (EXAMPLE.float(), EXAMPLE.float(), 2.0))
    assert report.blocks == {"bn": "residual + relu"}


def test_random_numbers_and_buffers_are_put_back() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout())
    buffers = [b.clone() for b in model.buffers()]
    state = torch.get_rng_state()
    convkern.fuse_training(model, torch.ones(2, 3, 2, 2))
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(list(model.buffers()), buffers)
    assert all(p.grad is None for p in model.parameters())


def test_the_report_as_text() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    assert str(convkern.fuse_training(model, torch.randn(2, 3, 16, 16))) == (
        "1 of 1 batch norms fused\n"
        "  batch norm + relu (1)\n"
        "1 convolutions and linear layers computed by convkern"
    )
    torch._dynamo.reset()

    class Unseen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn, self.unused = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.flat, self.average = nn.BatchNorm1d(4), nn.BatchNorm2d(4, momentum=None)

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn(x)
            x = x + 1
            x += y
            return self.flat(self.average(x).mean((2, 3)))

    report = convkern.fuse_training(Unseen(), torch.randn(2, 4, 5, 5))
    assert report.blocks == {"bn": ""}
    assert report.kept["bn"] == "the other summand is changed in place"
    assert report.kept["flat"] == "its input is no batch of images"
    assert report.kept["unused"] == "torch captured no graph with it, or it was not called"
    assert "momentum" in report.kept["average"]
    assert "1 of 4 batch norms fused" in str(report)


@pytest.mark.parametrize("options", [None, {}, {"recompute": True}])
def test_the_backend_of_torch_compile(options: dict[str, Any] | None) -> None:
    net = parts(two_norms)
    peer = copy.deepcopy(net)
    fast = torch.compile(net, backend="convkern", options=options)
    assert_trains_as(fast, peer)
    y = fast(EXAMPLE)
    assert y.grad_fn.name() == "BatchNormActivationBackward"


def test_unknown_options_of_the_backend() -> None:
    fast = torch.compile(parts(two_norms), backend="convkern", options={"recomputes": True})
    with pytest.raises(Exception, match="options of the backend convkern are: recompute"):
        fast(EXAMPLE)


def test_a_model_of_torchvision() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.mobilenet_v3_small(num_classes=4).double()
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    peer = copy.deepcopy(model)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    report = convkern.fuse_training(model, x, recompute=True)
    assert len(report.blocks) == 34
    assert not report.kept
    results = []
    for net in (model, peer):
        net(x).square().sum().backward()
        results.append([*(p.grad for p in net.parameters()), *net.buffers()])
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-7)
