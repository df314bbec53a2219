"""Sizes and receptive fields agree with those that gradients show."""

import pytest
import torch
from torch import nn

from convkern import Conv2d
from convkern.fashion_mnist import MODELS, build_convnet
from convkern.fashion_mnist.study.geometry import (
    IMAGE,
    corner_share,
    describe,
    layers_of,
    multiply_adds,
    parameters,
    reads,
)


@pytest.mark.parametrize("model", MODELS)
def test_receptive_fields_are_what_an_output_depends_on(model: str) -> None:
    net = MODELS[model](nn.Conv2d)
    layers = layers_of(net)
    convs = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    image = torch.zeros(1, 1, IMAGE, IMAGE, requires_grad=True)
    y = image
    for conv, layer in zip(convs, layers, strict=True):
        with torch.no_grad():
            conv.weight.fill_(1.0)
        y = conv(y)
        assert y.shape[-1] == layer.size_out
        place = layer.size_out // 2
        (gradient,) = torch.autograd.grad(y[0, 0, place, place], image, retain_graph=True)
        seen = gradient[0, 0].amax(dim=1).nonzero().flatten()
        begin = layer.offset + layer.jump * place
        assert int(seen[0]) == max(0, begin)
        assert int(seen[-1]) == min(IMAGE, begin + layer.field) - 1


def test_the_models_are_known() -> None:
    known = {model: layers_of(build(Conv2d))[-1].field for model, build in MODELS.items()}
    assert known == {"plain": 23, "padding2": 23, "padding3": 31, "stride": 25}
    net, _, _ = build_convnet("plain", seed=0)
    assert parameters(net) == 14 * 14 + 1 + 10 * 10 + 1 + 36 * 10 + 10
    assert multiply_adds(net) == 15**2 * 14**2 + 6**2 * 10**2 + 36 * 10


def test_models_in_words() -> None:
    assert {model: describe(layers_of(build(Conv2d))) for model, build in MODELS.items()} == {
        "plain": "2 layers, kernels 14 and 10, no padding",
        "padding2": "2 layers, kernels 14 and 10, padding 1",
        "padding3": "3 layers, kernels 14, 10 and 9, padding 2",
        "stride": "3 layers, kernels 14, 8 and 5, padding 2, strides 1, 1 and 2",
    }
    assert describe(layers_of(nn.Conv2d(1, 1, 3, 2))) == "1 layer, kernel 3, no padding, stride 2"


def test_multiply_adds_count_channels() -> None:
    assert multiply_adds(nn.Conv2d(3, 8, 5, padding=2), 10) == 10 * 10 * 5 * 5 * 3 * 8


def test_padding_has_the_corner_read_more() -> None:
    plain, padded = (layers_of(nn.Conv2d(1, 1, 3, padding=p)) for p in (0, 1))
    assert reads(plain)[0].tolist()[:4] == [1, 2, 3, 3]
    assert reads(padded)[0].tolist()[:4] == [4, 6, 6, 6]
    assert corner_share(plain) == pytest.approx(1 / 9)
    assert corner_share(padded) == pytest.approx(4 / 9)


def test_layers_that_are_not_square_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size must be the same in rows and columns"):
        layers_of(nn.Conv2d(1, 1, (3, 5)))
    with pytest.raises(ValueError, match="padding must be the same"):
        layers_of(nn.Conv2d(1, 1, 3, padding="same"))
