"""The four networks: their shapes, their parameters, and how they are built."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from convkern import Conv2d
from convkern.fashion_mnist import (
    CONVS,
    MODELS,
    ConvNetPadding,
    ConvNetPaddingStride,
    ConvNetPlain,
    build_convnet,
)

# By name: the picture's side after each convolution, and the number of parameters. The latter is k
# * k + 1 for each kernel of side k, and 10 * (features + 1) for the linear layer.
SIDES = {
    "plain": [15, 6],
    "padding2": [17, 10],
    "padding3": [19, 14, 10],
    "stride": [19, 16, 8],
}
PARAMETERS = {
    "plain": 197 + 101 + 370,
    "padding2": 197 + 101 + 1010,
    "padding3": 197 + 101 + 82 + 1010,
    "stride": 197 + 65 + 26 + 650,
}


def parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())


def same_parameters(one: nn.Module, other: nn.Module) -> bool:
    mine, yours = parameters(one), parameters(other)
    return mine.keys() == yours.keys() and all(torch.equal(mine[key], yours[key]) for key in mine)


def test_tables_are_about_the_same_models() -> None:
    assert MODELS.keys() == SIDES.keys() == PARAMETERS.keys()


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize("name", MODELS)
def test_shapes_through_the_layers(name: str, conv: str) -> None:
    model, _, _ = build_convnet(name, conv)
    sides = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            assert type(layer) is CONVS[conv]
            layer.register_forward_hook(lambda *call: sides.append(call[2].shape))
    logits = model(torch.rand(3, 1, 28, 28))
    assert sides == [(3, 1, side, side) for side in SIDES[name]]
    assert logits.shape == (3, 10)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("name", MODELS)
def test_number_of_parameters(name: str) -> None:
    model, _, _ = build_convnet(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", MODELS)
def test_relu_follows_each_convolution_and_logits_end_it(name: str) -> None:
    model, _, _ = build_convnet(name, "torch")
    kinds = [type(layer) for layer in model.children()]
    convolutions = len(SIDES[name])
    assert kinds == [nn.Conv2d, nn.ReLU] * convolutions + [nn.Flatten, nn.Linear]


@pytest.mark.parametrize("name", MODELS)
def test_layers_of_convkern_compute_their_relu(name: str) -> None:
    model, _, _ = build_convnet(name)
    for layer in model.children():
        assert not isinstance(layer, nn.ReLU)
        assert not isinstance(layer, Conv2d) or layer.activation == "relu"


@pytest.mark.parametrize("name", MODELS)
def test_initial_parameters_do_not_depend_on_the_convolution(name: str) -> None:
    ours, _, _ = build_convnet(name, "convkern", seed=5)
    theirs, _, _ = build_convnet(name, "torch", seed=5)
    assert same_parameters(ours, theirs)


@pytest.mark.parametrize("name", MODELS)
def test_networks_agree_on_logits(name: str) -> None:
    ours, _, _ = build_convnet(name, "convkern", seed=5)
    theirs, _, _ = build_convnet(name, "torch", seed=5)
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(images), theirs(images))


def test_seed_decides_the_parameters_and_spares_the_global_state() -> None:
    state = torch.get_rng_state()
    first, _, _ = build_convnet(seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(10)
    again, _, _ = build_convnet(seed=1)
    other, _, _ = build_convnet(seed=2)
    assert same_parameters(first, again)
    assert not same_parameters(first, other)


def test_parameters_without_a_seed_follow_torch() -> None:
    torch.manual_seed(4)
    first, _, _ = build_convnet()
    second, _, _ = build_convnet()
    torch.manual_seed(4)
    again, _, _ = build_convnet()
    assert same_parameters(first, again)
    assert not same_parameters(first, second)


def test_defaults_of_build_convnet() -> None:
    model, optimizer, cost = build_convnet()
    assert isinstance(model, ConvNetPadding)
    assert len(model) == len(ConvNetPadding(3))
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["lr"] == 0.005
    assert optimizer.param_groups[0]["params"] == list(model.parameters())
    assert type(cost) is nn.CrossEntropyLoss


def test_learning_rate_is_passed_on() -> None:
    _, optimizer, _ = build_convnet(lr=0.25)
    assert optimizer.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("build", [ConvNetPlain, ConvNetPadding, ConvNetPaddingStride])
def test_classes_use_our_convolution_unless_told(build: Callable[..., nn.Module]) -> None:
    def layers(model: nn.Module) -> set[type[nn.Module]]:
        return {type(layer) for layer in model.children() if isinstance(layer, nn.Conv2d)}

    assert layers(build()) == {Conv2d}
    assert layers(build(conv=nn.Conv2d)) == {nn.Conv2d}


@pytest.mark.parametrize("num_layers", [0, 1, 4])
def test_impossible_number_of_layers(num_layers: int) -> None:
    with pytest.raises(ValueError, match=f"2 or 3, not {num_layers}"):
        ConvNetPadding(num_layers)


def test_unknown_names_are_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="plain, padding2, padding3, stride, not 'padding4'"):
        build_convnet("padding4")
    with pytest.raises(ValueError, match="convkern, torch, not 'fast'"):
        build_convnet(conv="fast")
