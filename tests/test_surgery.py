"""replace_conv2d and restore_conv2d, on small modules and on torchvision's models."""

import copy
import pickle

import pytest
import torch
import torchvision
from torch import Tensor, nn

import convkern


class Scaled(nn.Conv2d):
    """More than a plain layer."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def small_model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(8, 8, 3, groups=8, padding="same"), nn.BatchNorm2d(8)),
        nn.ConvTranspose2d(8, 8, 3),
        Scaled(8, 8, 1),
        convkern.Conv2d(8, 4, 3, activation="relu"),
    )


def test_replaces_in_place_and_restores() -> None:
    model = small_model()
    x = torch.randn(2, 3, 9, 8)
    expected = model(x)
    modules, parameters = list(model.modules()), list(model.parameters())
    before = [type(module) for module in modules]
    state = list(model.state_dict())
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))

    report = convkern.replace_conv2d(model)
    assert report.replaced == ["0", "2.0"]
    assert report.kept == {
        "4": "it is a subclass of nn.Conv2d, Scaled",
        "5": "it is a convkern.Conv2d",
    }
    assert str(report).splitlines() == [
        "2 of 4 layers replaced",
        "kept 4: it is a subclass of nn.Conv2d, Scaled",
        "kept 5: it is a convkern.Conv2d",
    ]
    assert type(model[0]) is type(model[2][0]) is convkern.Conv2d
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == state
    torch.testing.assert_close(model(x), expected)
    assert calls == [1]

    assert convkern.replace_conv2d(model).replaced == []
    assert convkern.restore_conv2d(model) == ["0", "2.0"]
    assert [type(module) for module in model.modules()] == before
    assert convkern.restore_conv2d(model) == []


def test_copies_and_pickles_can_be_restored() -> None:
    model = small_model()
    convkern.replace_conv2d(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(copied[0]) is convkern.Conv2d
        assert convkern.restore_conv2d(copied) == ["0", "2.0"]
    assert type(model[0]) is convkern.Conv2d


def test_when_narrows_and_the_model_may_be_a_layer() -> None:
    model = small_model()
    report = convkern.replace_conv2d(model, when=lambda name, layer: layer.groups > 1)
    assert report.replaced == ["2.0"]
    assert report.kept["0"] == "`when` is False for it"
    layer = nn.Conv2d(3, 4, 3)
    assert convkern.replace_conv2d(layer).replaced == [""]
    assert type(layer) is convkern.Conv2d
    assert convkern.restore_conv2d(layer) == [""]
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got int"):
        convkern.replace_conv2d(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.Conv2d(3, 4, 3, dtype=torch.complex64), "no fast kernel for torch.complex64"),
        (nn.LazyConv2d(4, 3), "a subclass of nn.Conv2d, LazyConv2d"),
    ],
    ids=["complex", "lazy"],
)
def test_keeps_what_would_be_slower_or_is_something_else(layer: nn.Module, why: str) -> None:
    report = convkern.replace_conv2d(layer)
    assert report.replaced == []
    assert why in report.kept[""]
    assert "kept the model itself: " in str(report)


def test_keeps_a_layer_whose_forward_was_replaced() -> None:
    layer = nn.Conv2d(3, 4, 3)
    layer.forward = lambda x: x  # type: ignore[method-assign]
    assert convkern.replace_conv2d(layer).kept == {"": "its forward was replaced"}


MODELS = [
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "convnext_tiny",
    "resnext50_32x4d",
    "efficientnet_b0",
    "densenet121",
    "shufflenet_v2_x1_0",
]


def output_and_gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    y = model(x)
    gradients = torch.autograd.grad(y.square().mean(), list(model.parameters()))
    return y.double(), torch.cat([g.flatten() for g in gradients]).double()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_torchvision_models(name: str, memory_format: torch.memory_format) -> None:
    """Outputs and gradients are at most twice as far from float64 as torch's, in the 2-norm."""
    model = torchvision.models.get_model(name, weights=None).eval()
    x = torch.randn(2, 3, 64, 64).contiguous(memory_format=memory_format)
    exact = output_and_gradients(copy.deepcopy(model).double(), x.double())
    theirs = output_and_gradients(model, x)
    report = convkern.replace_conv2d(model)
    assert report.kept == {}
    with torch.profiler.profile() as profile:
        ours = output_and_gradients(model, x)
    ran = {event.key for event in profile.key_averages()}
    assert "aten::convolution" not in ran
    assert "aten::convolution_backward" not in ran
    for result, peer, expected in zip(ours, theirs, exact, strict=True):
        assert (result - expected).norm() <= 2 * (peer - expected).norm()
