"""convkern.Conv2d is nn.Conv2d in everything but the kernels."""

import copy
import inspect
import io
import pickle

import pytest
import torch
from torch import nn

import convkern

ARGUMENTS = [
    ((3, 4, 3), {}),
    ((3, 4, (2, 3)), {"stride": (2, 1), "padding": (1, 0), "bias": False}),
    ((4, 8, 3), {"groups": 2, "dilation": 2, "padding": "same"}),
    ((3, 4, 4), {"padding": "valid"}),
    ((3, 3, 3), {"groups": 3, "padding": 2, "padding_mode": "reflect"}),
    ((3, 4, 3), {"padding": 1, "padding_mode": "replicate"}),
    ((3, 4, 3), {"padding": (2, 1), "padding_mode": "circular", "stride": 2}),
    ((3, 4, 4), {"padding": "same", "padding_mode": "circular"}),
]


def both(arguments: tuple, keywords: dict) -> tuple[convkern.Conv2d, nn.Conv2d]:
    torch.manual_seed(3)
    ours = convkern.Conv2d(*arguments, **keywords)
    torch.manual_seed(3)
    return ours, nn.Conv2d(*arguments, **keywords)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(("arguments", "keywords"), ARGUMENTS, ids=str)
def test_is_a_drop_in(arguments: tuple, keywords: dict) -> None:
    ours, theirs = both(arguments, keywords)
    assert isinstance(ours, nn.Conv2d)
    assert repr(ours) == repr(theirs)
    for (name, p), (other, q) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == other
        assert torch.equal(p, q)
    x = torch.randn(2, ours.in_channels, 9, 8)
    for image in (x, x[0], x.to(memory_format=torch.channels_last)):
        y, expected = ours(image), theirs(image)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
        # torch's circular pad makes channels_last images contiguous, which is kept here.
        if ours.padding_mode == "circular" and image.stride(-3) == 1:
            assert y.is_contiguous(memory_format=torch.channels_last)
        else:
            assert y.stride() == expected.stride()
    loss, expected_loss = ours(x).square().sum(), theirs(x).square().sum()
    loss.backward()
    expected_loss.backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-4)


def test_state_goes_both_ways() -> None:
    ours, theirs = convkern.Conv2d(2, 3, 3), nn.Conv2d(2, 3, 3)
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.weight, theirs.weight)
    nn.Conv2d(2, 3, 3).load_state_dict(convkern.Conv2d(2, 3, 3, activation="relu").state_dict())


def test_activation() -> None:
    torch.manual_seed(3)
    layer = convkern.Conv2d(2, 3, 3, activation="relu")
    torch.manual_seed(3)
    plain = nn.Conv2d(2, 3, 3)
    x = torch.randn(4, 2, 7, 7)
    torch.testing.assert_close(layer(x), plain(x).relu())
    assert repr(layer) == "Conv2d(2, 3, kernel_size=(3, 3), stride=(1, 1), activation='relu')"
    with pytest.raises(ValueError, match="swish"):
        convkern.Conv2d(2, 3, 3, activation="swish")


@pytest.mark.parametrize("activation", [None, "relu"])
def test_copies(activation: str | None) -> None:
    layer = convkern.Conv2d(2, 3, 3, padding=1, activation=activation)
    x = torch.randn(1, 2, 5, 5)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert other.activation == activation
        assert torch.equal(other(x), layer(x))


def test_constructor_errors_are_those_of_torch() -> None:
    for arguments, keywords in [
        ((3, 4, 3), {"groups": 2}),
        ((3, 4, 3), {"padding": "full"}),
        ((3, 4, 3), {"padding": "same", "stride": 2}),
        ((3, 4, 3), {"padding_mode": "mirror"}),
    ]:
        with pytest.raises(ValueError) as theirs:  # noqa: PT011  (compared below)
            nn.Conv2d(*arguments, **keywords)
        with pytest.raises(ValueError) as ours:  # noqa: PT011
            convkern.Conv2d(*arguments, **keywords)
        assert str(ours.value) == str(theirs.value)


def test_an_nn_conv2d_may_become_one() -> None:
    layer = torch.nn.Conv2d(2, 3, 3)
    x = torch.randn(1, 2, 5, 5)
    expected = layer(x)
    layer.__class__ = convkern.Conv2d
    torch.testing.assert_close(layer(x), expected)


CLASSES = [(convkern.Conv2d, nn.Conv2d), (convkern.LazyConv2d, nn.LazyConv2d)]


@pytest.mark.parametrize(("ours", "theirs"), CLASSES)
def test_the_signature_is_that_of_torch_and_activation(ours: type, theirs: type) -> None:
    def shape(parameters: list[inspect.Parameter]) -> list[tuple]:
        return [(p.name, p.kind, p.default) for p in parameters]

    parameters = list(inspect.signature(ours).parameters.values())
    assert shape(parameters[:-1]) == shape(list(inspect.signature(theirs).parameters.values()))
    assert parameters[-1].name == "activation"
    assert parameters[-1].kind is inspect.Parameter.KEYWORD_ONLY


def test_skip_init() -> None:
    layer = nn.utils.skip_init(convkern.Conv2d, 3, 4, 3, padding=1, activation="relu")
    assert layer.weight.device.type == "cpu"
    assert layer.activation == "relu"
    layer = nn.utils.skip_init(convkern.Conv2d, 3, 4, 3, device="meta", dtype=torch.float64)
    assert (layer.weight.device.type, layer.weight.dtype) == ("meta", torch.float64)


def test_arguments_by_position() -> None:
    arguments = (4, 8, 3, 2, 1, 2, 2, False, "reflect", "meta", torch.float64)
    assert repr(convkern.Conv2d(*arguments)) == repr(nn.Conv2d(*arguments))
    assert repr(convkern.LazyConv2d(*arguments[1:])) == repr(nn.LazyConv2d(*arguments[1:]))
    with pytest.raises(TypeError):
        convkern.Conv2d(*arguments, "relu")
