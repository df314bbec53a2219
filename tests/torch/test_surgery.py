"""replace_conv2d and restore_conv2d, on small modules and on torchvision's models."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torchvision
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations, parametrize

import convkern
from processes import Processes


class Scaled(nn.Conv2d):
    """Does more than a plain layer."""

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
    assert report.replaced == ["0", "2.0", "4"]
    assert report.kept == {"5": "it is a convkern.Conv2d"}
    assert str(report).splitlines() == ["3 of 4 layers replaced", "kept 5: it is a convkern.Conv2d"]
    assert type(model[0]) is type(model[2][0]) is convkern.Conv2d
    assert isinstance(model[4], Scaled)
    assert not isinstance(model[4], convkern.Conv2d)
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == state
    torch.testing.assert_close(model(x), expected)
    assert calls == [1]

    assert convkern.replace_conv2d(model).replaced == []
    assert convkern.restore_conv2d(model) == ["0", "2.0", "4"]
    assert [type(module) for module in model.modules()] == before
    assert convkern.restore_conv2d(model) == []


def test_copies_and_pickles_can_be_restored() -> None:
    model = small_model()
    convkern.replace_conv2d(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(copied[0]) is convkern.Conv2d
        assert type(copied[4]) is type(model[4])
        assert convkern.restore_conv2d(copied) == ["0", "2.0", "4"]
        assert type(copied[4]) is Scaled
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


class Known(Tensor):
    """Overrides torch's functions, as weights for quantisation do."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


def with_weight(change: Callable[[Tensor], Any]) -> nn.Conv2d:
    layer = nn.Conv2d(3, 4, 3)
    layer.weight = change(layer.weight.detach())
    return layer


def without_weight() -> nn.Conv2d:
    layer = nn.Conv2d(3, 4, 3)
    del layer.weight
    return layer


def with_padding(padding: Any) -> nn.Conv2d:
    layer = nn.Conv2d(3, 4, 3)
    layer.padding = padding
    return layer


ODD = {
    "None": (lambda: with_weight(lambda w: None), "it has no weight"),
    "deleted": (without_weight, "it has no weight"),
    "other channels": (
        lambda: with_weight(lambda w: nn.Parameter(w[:, :2].clone())),
        "it cannot be computed: conv2d: Given groups=1",
    ),
    "one dimension": (
        lambda: with_weight(lambda w: nn.Parameter(w.flatten())),
        "it cannot be computed: conv2d: ",
    ),
    "padding of no kind": (lambda: with_padding(1.5), "it cannot be computed: conv2d: padding"),
    "sparse": (
        lambda: with_weight(lambda w: nn.Parameter(w.to_sparse())),
        "no fast kernel for torch.float32 in torch.sparse_coo",
    ),
    "subclass": (
        lambda: with_weight(lambda w: nn.Parameter(w.as_subclass(Known))),
        "its weight is a Known, which may know torch's conv2d only",
    ),
    "parametrized": (
        lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
        "it is a subclass of nn.Conv2d, ParametrizedConv2d",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_layers_are_kept_and_the_others_replaced(name: str) -> None:
    build, why = ODD[name]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), build(), nn.Conv2d(4, 4, 3))
    report = convkern.replace_conv2d(model)
    assert report.replaced == ["0", "2"]
    assert report.kept.keys() == {"1"}
    assert why in report.kept["1"]
    assert not isinstance(model[1], convkern.Conv2d)
    assert convkern.restore_conv2d(model) == ["0", "2"]


def test_a_model_is_replaced_whole_or_not_at_all() -> None:
    model = small_model()
    before = [type(module) for module in model.modules()]

    def fails_later(name: str, layer: nn.Conv2d) -> bool:
        if name == "2.0":
            raise KeyError(name)
        return True

    with pytest.raises(KeyError):
        convkern.replace_conv2d(model, when=fails_later)
    assert [type(module) for module in model.modules()] == before
    assert convkern.restore_conv2d(model) == []


def test_weights_without_data() -> None:
    with FakeTensorMode() as mode:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
        assert convkern.replace_conv2d(model).kept == {}
        assert convkern.restore_conv2d(model) == ["0", "1"]
    assert convkern.replace_conv2d(model).kept == {}
    with mode:
        assert model(torch.empty(2, 3, 9, 9)).shape == (2, 4, 5, 5)
    with torch.device("meta"):
        model = small_model()
        assert convkern.replace_conv2d(model).replaced == ["0", "2.0", "4"]


def test_a_layer_in_two_places_is_one() -> None:
    layer = nn.Conv2d(3, 3, 3)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    expected = model(x := torch.randn(1, 3, 9, 9))
    assert convkern.replace_conv2d(model).replaced == ["0"]
    copied = copy.deepcopy(model)
    assert copied[0] is copied[2]
    for one in (model, copied):
        torch.testing.assert_close(one(x), expected)
        assert convkern.restore_conv2d(one) == ["0"]
        assert type(one[2]) is nn.Conv2d


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.torch.jit")
def test_replaced_models_can_be_scripted() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, bias=False, padding=1, padding_mode="reflect"),
    )
    expected = model(x := torch.randn(2, 3, 7, 7))
    convkern.replace_conv2d(model)
    scripted = torch.jit.script(model)
    assert str(scripted.inlined_graph).count("convkern::conv2d") == 2
    torch.testing.assert_close(scripted(x), expected)


NORMS = [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal]


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: norm.__name__)
def test_parametrized_since(norm: Callable[[nn.Module], nn.Module]) -> None:
    """The layer is restored beneath the class that torch has added, which stays."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    convkern.replace_conv2d(model)
    norm(model[0])
    expected, copied = model(x := torch.randn(2, 3, 6, 6)), copy.deepcopy(model)
    assert convkern.restore_conv2d(model) == ["0"]
    assert convkern.restore_conv2d(model) == []
    assert parametrize.type_before_parametrizations(model[0]) is nn.Conv2d
    assert not isinstance(model[0], convkern.Conv2d)
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(copy.deepcopy(model)(x), expected)
    model(x).sum().backward()
    parametrize.remove_parametrizations(model[0], "weight")
    assert type(model[0]) is nn.Conv2d
    torch.testing.assert_close(model(x), expected)
    # The copy is not changed.
    assert isinstance(copied[0], convkern.Conv2d)
    assert torch.equal(copied(x), expected)
    parametrize.remove_parametrizations(copied[0], "weight")
    assert convkern.restore_conv2d(copied) == ["0"]
    assert type(copied[0]) is nn.Conv2d


class Twice(convkern.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


@pytest.mark.parametrize("parametrized", [False, True])
def test_a_class_of_someone_else_stays_with_a_warning(parametrized: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    convkern.replace_conv2d(model)
    model[0].__class__ = Twice
    if parametrized:
        parametrizations.weight_norm(model[0])
    before, expected = type(model[0]), model(x := torch.randn(2, 3, 6, 6))
    with pytest.warns(UserWarning, match=f"leaves 0 as it is: .*{before.__name__}"):
        assert convkern.restore_conv2d(model) == ["1"]
    assert type(model[0]) is before
    torch.testing.assert_close(model(x), expected)
    model[0].__class__ = Scaled  # it is no longer convkern's class
    assert convkern.restore_conv2d(model) == []
    assert type(model[0]) is Scaled


def sharded_since() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    expected = model(x := torch.randn(2, 3, 9, 9))
    convkern.replace_conv2d(model)
    other = fully_shard(convkern.Conv2d(3, 4, 3), mesh=mesh)
    parametrizations.weight_norm(model[1])
    for layer in (model[0], model[1], model):
        fully_shard(layer, mesh=mesh)
    assert convkern.restore_conv2d(model) == ["0", "1", "2"]
    assert [isinstance(layer, FSDPModule) for layer in model] == [True, True, False]
    assert not any(isinstance(layer, convkern.Conv2d) for layer in model)
    assert parametrize.is_parametrized(model[1])
    assert isinstance(other, convkern.Conv2d)  # fully_shard made the same class for it
    torch.testing.assert_close(model(x), expected)
    model(x).sum().backward()
    # These weights are in parts, but fully_shard has not changed the layers' class.
    plain = fully_shard(nn.Sequential(nn.Conv2d(3, 4, 3)), mesh=mesh)
    assert convkern.replace_conv2d(plain).replaced == ["0"]
    assert plain(x).shape == (2, 4, 7, 7)
    kept = convkern.replace_conv2d(fully_shard(nn.Conv2d(3, 4, 3), mesh=mesh)).kept
    assert kept == {"": "it is a subclass of nn.Conv2d, FSDPConv2d"}


def dtensor_weights() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_module, distribute_tensor

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))

    def split(name: str, module: nn.Module, mesh: Any) -> None:
        for key, p in list(module.named_parameters(recurse=False)):
            setattr(module, key, nn.Parameter(distribute_tensor(p.data, mesh, [Shard(0)])))

    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    expected = model(x := torch.randn(2, 3, 9, 9))
    distribute_module(model, mesh, split)
    assert convkern.replace_conv2d(model).kept == {}
    y = model(distribute_tensor(x, mesh)).full_tensor()
    torch.testing.assert_close(y, expected)
    assert convkern.restore_conv2d(model) == ["0", "1"]


@pytest.mark.parametrize("test", [sharded_since, dtensor_weights])
def test_distributed_weights(test: Callable[[], None], processes: Processes) -> None:
    processes.run(2, test)


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
