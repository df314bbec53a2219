"""What models do with nn.Conv2d besides calling it: counting, profiling, modes, parametrizations,
checkpointing, copies, determinism, other dtypes and layouts."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import fusion, parametrizations, prune
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import convkern

pytestmark = pytest.mark.filterwarnings("ignore:convkern. the slow reference kernel")


def pair(*arguments, **keywords) -> tuple[convkern.Conv2d, nn.Conv2d]:
    """Returns convkern's layer and torch's, with the same weights."""
    theirs = nn.Conv2d(*arguments, **keywords)
    ours = convkern.Conv2d(*arguments, **keywords)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def assert_same_step(ours: nn.Module, theirs: nn.Module, x: torch.Tensor) -> None:
    """Checks that results and the gradients of all parameters agree."""
    for module in (ours, theirs):
        module.zero_grad()
        module(x).square().mean().backward()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    for (name, p), (other, q) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == other
        assert p.grad.abs().sum() > 0
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5)


def flops(conv, *tensors: torch.Tensor, **keywords) -> tuple[int, int]:
    """Returns torch's count of FLOPs, forward and forward with backward."""
    counts = []
    for backward in (False, True):
        with FlopCounterMode(display=False) as counter:
            y = conv(*tensors, **keywords)
            if backward:
                y.sum().backward()
        counts.append(counter.get_total_flops())
    return counts[0], counts[1]


@pytest.mark.parametrize("needs_input", [True, False])
@pytest.mark.parametrize(
    "keywords",
    [{}, {"stride": 2, "padding": (1, 2)}, {"groups": 2}, {"padding": "same"}, {"dilation": 2}],
    ids=str,
)
def test_flop_counter_counts_what_it_counts_for_torch(keywords: dict, needs_input: bool) -> None:
    groups = keywords.get("groups", 1)
    x = torch.randn(3, 4, 9, 8, requires_grad=needs_input)
    w = torch.randn(6, 4 // groups, 3, 3, requires_grad=True)
    b = torch.randn(6, requires_grad=True)
    ours = flops(convkern.conv2d, x, w, b, **keywords)
    assert ours == flops(F.conv2d, x, w, b, **keywords)
    assert ours[1] > ours[0] > 0
    assert flops(convkern.conv2d, x, w, b, activation="relu", **keywords) == ours


def test_flop_counter_on_meta_tensors_counts_as_explain_does() -> None:
    x, w = torch.empty(2, 3, 9, 8, device="meta"), torch.empty(4, 3, 3, 3, device="meta")
    with FlopCounterMode(display=False) as counter:
        convkern.conv2d(x, w)
    assert counter.get_total_flops() == convkern.explain(x, w).flops


@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")
def test_profiler_names_op_kernel_and_backward() -> None:
    x = torch.randn(2, 3, 9, 8, requires_grad=True)
    layer = convkern.Conv2d(3, 4, 3)
    kernel = convkern.explain(x, layer.weight, layer.bias).kernel
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        layer(x).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert {"convkern::conv2d", "convkern::conv2d_grad_input", "Conv2dBackward", kernel} <= names
    assert any(name.startswith("gw.") for name in names)


class Logging(torch.Tensor):
    """Wraps a tensor and logs the ops that it meets, as quantisation and distribution do."""

    log: list[str]
    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=inner.device,
            requires_grad=inner.requires_grad,
        )  # fmt: skip

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner.detach()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        cls.log.append(func.name())
        unwrap = lambda t: t.inner if isinstance(t, cls) else t  # noqa: E731
        args, kwargs = torch.utils._pytree.tree_map(unwrap, (args, kwargs or {}))
        wrap = lambda t: cls(t) if isinstance(t, torch.Tensor) else t  # noqa: E731
        return torch.utils._pytree.tree_map(wrap, func(*args, **kwargs))


def test_wrapper_subclasses_see_forward_and_backward() -> None:
    Logging.log = []
    x, w = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)
    wrapped = Logging(x.requires_grad_())
    y = convkern.conv2d(wrapped, w, padding=1)
    assert type(y) is Logging
    y.sum().backward()
    assert {"convkern::conv2d", "convkern::conv2d_grad_input"} <= set(Logging.log)
    assert torch.equal(y.inner, convkern.conv2d(x, w, padding=1))
    expected = torch.autograd.grad(convkern.conv2d(x, w, padding=1).sum(), x)[0]
    assert torch.equal(wrapped.grad.inner, expected)


PARAMETRIZATIONS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    "pruned channels": lambda layer: prune.ln_structured(layer, "weight", 0.5, n=2, dim=0),
    "old weight_norm": nn.utils.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_parametrized_weights(name: str) -> None:
    ours, theirs = pair(3, 4, 3, padding=1)
    for layer in (ours, theirs):
        torch.manual_seed(1)
        PARAMETRIZATIONS[name](layer)
    assert isinstance(ours, convkern.Conv2d)
    assert_same_step(ours, theirs, torch.randn(2, 3, 6, 6))
    theirs.load_state_dict(ours.state_dict())


def test_a_weight_that_norms_give_takes_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = parametrizations.weight_norm(convkern.Conv2d(3, 4, 3))
    monkeypatch.setattr("convkern.functional.torch_conv2d", None)  # torch's conv2d would raise
    assert layer(torch.randn(1, 3, 5, 5)).grad_fn.name() == "Conv2dBackward"


@pytest.mark.parametrize("activation", [None, "relu"])
def test_lazy_layer(activation: str | None) -> None:
    torch.manual_seed(2)
    lazy = convkern.LazyConv2d(4, (3, 2), stride=2, activation=activation)
    assert isinstance(lazy, nn.LazyConv2d)
    x = torch.randn(2, 5, 7, 7)
    copied = pickle.loads(pickle.dumps(lazy))
    torch.manual_seed(4)
    y = lazy(x)
    assert type(lazy) is convkern.Conv2d
    assert lazy.weight.shape == (4, 5, 3, 2)
    assert lazy.activation == activation
    assert y.grad_fn.name() == "Conv2dBackward"
    torch.manual_seed(4)
    theirs = nn.LazyConv2d(4, (3, 2), stride=2)
    expected = theirs(x)
    torch.testing.assert_close(y, expected.relu() if activation else expected)
    theirs.load_state_dict(lazy.state_dict())
    copied.load_state_dict(lazy.state_dict())  # before its first input
    assert torch.equal(copied(x), y)
    fresh = convkern.LazyConv2d(4, (3, 2), stride=2)
    fresh.load_state_dict(convkern.LazyConv2d(4, 3).state_dict())  # it has no shape yet
    assert fresh.has_uninitialized_params()


def test_lazy_layer_errors() -> None:
    with pytest.raises(ValueError, match="swish"):
        convkern.LazyConv2d(4, 3, activation="swish")
    with pytest.raises(RuntimeError, match=r"Expected 3D \(unbatched\) or 4D"):
        convkern.LazyConv2d(4, 3)(torch.randn(5, 5))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(use_reentrant: bool) -> None:
    net = nn.Sequential(
        convkern.Conv2d(3, 8, 3, activation="relu"), convkern.Conv2d(8, 8, 3), nn.Dropout(0.5)
    )
    results = []
    for checkpointed in (False, True):
        net.zero_grad()
        torch.manual_seed(3)
        x = torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8).requires_grad_()
        y = checkpoint(net, x, use_reentrant=use_reentrant) if checkpointed else net(x)
        y.sin().sum().backward()
        results.append([y, x.grad, *(p.grad.clone() for p in net.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        assert torch.equal(plain, recomputed)


def test_saved_tensors_may_be_moved_away() -> None:
    layer, x = convkern.Conv2d(3, 4, 3, activation="relu"), torch.randn(2, 3, 6, 6)
    expected = torch.autograd.grad(layer(x).sum(), layer.weight)
    with torch.autograd.graph.save_on_cpu():
        y = layer(x)
    assert torch.equal(torch.autograd.grad(y.sum(), layer.weight)[0], expected[0])


@pytest.mark.parametrize("channels_last", [False, True])
def test_fusion_with_batch_norm(channels_last: bool) -> None:
    conv, norm = convkern.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
    x = torch.randn(8, 3, 6, 6)
    if channels_last:
        conv, x = (t.to(memory_format=torch.channels_last) for t in (conv, x))
    norm(conv(x))  # updates the statistics
    fused = fusion.fuse_conv_bn_eval(conv.eval(), norm.eval())
    assert type(fused) is convkern.Conv2d
    torch.testing.assert_close(fused(x), norm(conv(x)), rtol=1e-4, atol=1e-5)


def test_averaged_models_and_copies_are_independent() -> None:
    layer = convkern.Conv2d(3, 4, 3, activation="relu")
    average = torch.optim.swa_utils.AveragedModel(layer)
    copied, x = copy.deepcopy(layer), torch.randn(1, 3, 5, 5)
    before = layer(x).detach()
    average.update_parameters(layer)
    with torch.no_grad():
        layer.weight.mul_(-1), layer.bias.mul_(-1)
    assert torch.equal(copied(x), before)
    assert torch.equal(average(x), before)
    assert not torch.equal(layer(x), before)
    average.update_parameters(layer)  # average of w and -w
    assert torch.equal(average(x), torch.zeros_like(before))


def test_construction_on_meta_and_in_other_dtypes() -> None:
    with torch.device("meta"):
        layer = convkern.Conv2d(3, 4, 3)
    assert layer(torch.empty(2, 3, 5, 5, device="meta")).shape == (2, 4, 3, 3)
    state = nn.Conv2d(3, 4, 3, dtype=torch.float64).state_dict()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    expected = F.conv2d(x, state["weight"], state["bias"])
    layer.load_state_dict(state, assign=True)
    torch.testing.assert_close(layer(x), expected)
    emptied = convkern.Conv2d(3, 4, 3, device="meta", dtype=torch.float64).to_empty(device="cpu")
    emptied.load_state_dict(state)
    torch.testing.assert_close(emptied(x), expected)


def test_inference_mode() -> None:
    layer, x = convkern.Conv2d(3, 4, 3, activation="relu"), torch.randn(1, 3, 5, 5)
    with torch.inference_mode():
        y = layer(x)
        assert torch.equal(layer(x.clone()), y)
    assert y.is_inference()
    assert torch.equal(y, layer(x))
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        layer(y[:, :3])


def train(steps: int) -> list[torch.Tensor]:
    """Returns the parameters after some steps from the same start."""
    torch.manual_seed(6)
    net = nn.Sequential(
        convkern.Conv2d(2, 16, 3, padding=1, activation="relu"),
        convkern.Conv2d(16, 16, 5, stride=2, groups=16),
        convkern.Conv2d(16, 8, 1, activation="relu"),
    )
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(9, 2, 17, 18)).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def test_training_is_deterministic_whatever_the_threads() -> None:
    before = torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for threads in (1, 2, 4, 2):
            torch.set_num_threads(threads)
            runs.append(train(3))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(before)
    for run in runs[1:]:
        for ours, of_one_thread in zip(run, runs[0], strict=True):
            assert torch.equal(ours, of_one_thread)


X, W, B = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3), torch.randn(4)


@pytest.mark.parametrize(
    "dtype", [torch.complex64, torch.complex128, torch.int64, torch.int32, torch.uint8, torch.int8]
)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_other_dtypes_do_what_torch_does(dtype: torch.dtype, activation: str | None) -> None:
    x, w, b = ((5 * t).to(dtype) for t in (X, W, B))
    expected = F.conv2d(x, w, b, 2, 1)
    if activation and dtype.is_complex:
        with pytest.raises(RuntimeError) as theirs:
            F.relu(expected)
        with pytest.raises(RuntimeError) as ours:
            convkern.conv2d(x, w, b, 2, 1, activation=activation)
        assert str(ours.value) == str(theirs.value)
        return
    expected = F.relu(expected) if activation else expected
    y = convkern.conv2d(x, w, b, 2, 1, activation=activation)
    assert y.dtype == dtype
    assert torch.equal(y, expected)
    assert convkern.explain(x, w, b, 2, 1).kernel == "torch"


def test_complex_gradients_and_layers() -> None:
    ours, theirs = pair(3, 4, 3, padding=1, dtype=torch.complex64)
    x = torch.randn(2, 3, 6, 6, dtype=torch.complex64)
    for layer in (ours, theirs):
        layer(x).abs().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    assert torch.equal(ours(x), theirs(x))


def quantised(t: torch.Tensor, dtype: torch.dtype = torch.quint8) -> torch.Tensor:
    return torch.quantize_per_tensor(t, 0.1, 0, dtype)


REFUSED = {
    "quantised": lambda: (quantised(X), quantised(W, torch.qint8)),
    "quantised input": lambda: (quantised(X), W),
    "quantised weight": lambda: (X, quantised(W, torch.qint8)),
    "sparse input": lambda: (X.to_sparse(), W),
    "sparse weight": lambda: (X, W.to_sparse()),
    "oneDNN weight": lambda: (X, W.to_mkldnn()),
    "bool": lambda: (X > 0, W > 0),
    "float8": lambda: (X.to(torch.float8_e4m3fn), W.to(torch.float8_e4m3fn)),
    "complex input": lambda: (X.to(torch.complex64), W),
}


@pytest.mark.filterwarnings("ignore:.*quantiz", "ignore:.*deprecated")
@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("padding", [0, "same"])
def test_what_torch_refuses_is_refused_in_its_words(name: str, padding: int | str) -> None:
    x, w = REFUSED[name]()
    with pytest.raises(Exception) as theirs:  # noqa: PT011  (its class is the expectation)
        F.conv2d(x, w, None, 1, padding)
    with pytest.raises(theirs.type) as ours:
        convkern.conv2d(x, w, None, 1, padding)
    assert str(ours.value).splitlines()[0] == str(theirs.value).splitlines()[0]


def test_onednn_layout_is_torchs() -> None:
    x, w = X.to_mkldnn(), W.to_mkldnn()
    y = convkern.conv2d(x, w, padding=1)
    assert y.layout == torch._mkldnn
    assert torch.equal(y.to_dense(), F.conv2d(x, w, padding=1).to_dense())
    assert convkern.explain(x, w).kernel == "torch"
