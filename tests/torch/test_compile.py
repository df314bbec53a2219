"""torch.compile: whole graphs, static and dynamic shapes, training, and the results of eager
mode."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import convkern

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
QUICK = ["eager", "aot_eager"]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Net(nn.Module):
    """Uses every path of convkern.conv2d: stride, groups, a fused ReLU, padding by name and by
    mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first = convkern.Conv2d(3, 8, 3, padding=1, stride=2, activation="relu")
        self.second = convkern.Conv2d(8, 8, (3, 2), groups=4, bias=False, padding="same")
        self.third = convkern.Conv2d(8, 4, 3, padding=1, padding_mode="circular")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(F.gelu(self.second(self.first(x)))).mean((2, 3))


class Graphs:
    """A backend that records the graphs it is given and runs them unchanged."""

    def __init__(self) -> None:
        self.all: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, _inputs: list) -> torch.fx.GraphModule:
        self.all.append(graph)
        return graph


def step(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Returns the result, and the gradients of input and parameters."""
    x = x.clone().requires_grad_()
    y = module(x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *module.parameters()])]


def test_one_graph_that_names_the_op() -> None:
    graphs = Graphs()
    compiled = torch.compile(Net(), fullgraph=True, backend=graphs)
    compiled(torch.randn(2, 3, 9, 8))
    assert len(graphs.all) == 1
    called = [str(n.target) for n in graphs.all[0].graph.nodes if n.op == "call_function"]
    assert called.count("convkern.conv2d") == 3
    assert not torch._dynamo.explain(Net())(torch.randn(2, 3, 9, 8)).graph_break_count


def assert_steps_agree(compiled: nn.Module, net: nn.Module, x: torch.Tensor) -> None:
    """Checks the result to the bit, and gradients up to rounding. In eager mode a kernel sums the
    bias's gradient, and in compiled graphs torch does."""
    (y, *ours), (expected, *eager) = step(compiled, x), step(net, x)
    assert torch.equal(y, expected)
    torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", QUICK)
def test_training_step_is_that_of_eager_mode(backend: str) -> None:
    net, x = Net(), torch.randn(4, 3, 9, 8)
    assert_steps_agree(torch.compile(net, fullgraph=True, backend=backend), net, x)


@pytest.mark.parametrize("how", ["mark_dynamic", "automatic", "dynamic=True"])
def test_another_batch_needs_no_other_graph(how: str) -> None:
    net, graphs = Net(), Graphs()
    compiled = torch.compile(
        net, fullgraph=True, backend=graphs, dynamic=True if how == "dynamic=True" else None
    )
    for n in (4, 7, 2, 16, 33):
        x = torch.randn(n, 3, 9, 8)
        if how == "mark_dynamic":
            torch._dynamo.mark_dynamic(x, 0)
        assert torch.equal(compiled(x), net(x))
    # Automatic dynamic shapes need the second batch to learn that sizes vary.
    assert len(graphs.all) == (2 if how == "automatic" else 1)


def test_another_image_size_needs_no_other_graph() -> None:
    layer, graphs = convkern.Conv2d(3, 4, 3, padding=1, stride=2), Graphs()
    compiled = torch.compile(layer, fullgraph=True, backend=graphs, dynamic=True)
    for h, w in [(9, 8), (12, 31), (7, 7), (64, 5)]:
        x = torch.randn(2, 3, h, w)
        assert torch.equal(compiled(x), layer(x))
    assert len(graphs.all) == 1


def test_another_batch_needs_no_other_training_graph() -> None:
    net, x = Net(), torch.randn(4, 3, 9, 8)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=True)
    step(compiled, x)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for n in (5, 9):
            assert_steps_agree(compiled, net, torch.randn(n, 3, 9, 8))


def test_symbolic_window() -> None:
    """The padding comes with the call, as an integer that the graph does not fix."""

    def conv(x: torch.Tensor, w: torch.Tensor, padding: int) -> torch.Tensor:
        return convkern.conv2d(x, w, padding=padding)

    graphs = Graphs()
    compiled = torch.compile(conv, fullgraph=True, backend=graphs, dynamic=True)
    x, w = torch.randn(2, 3, 9, 8), torch.randn(4, 3, 3, 3)
    for padding in (2, 3, 5):
        assert torch.equal(compiled(x, w, padding), conv(x, w, padding))
    assert len(graphs.all) == 1


def test_symbolic_kernel_size() -> None:
    """Padding by name is computed from it."""

    def conv(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return convkern.conv2d(x, w, padding="same", dilation=2)

    x, w = torch.randn(6, 3, 19, 18), torch.randn(4, 3, 3, 7)
    traced = make_fx(conv, tracing_mode="symbolic")(x, w)
    graphs = Graphs()
    compiled = torch.compile(conv, fullgraph=True, backend=graphs, dynamic=True)
    for size in [(5, 7), (8, 2), (2, 9)]:
        w = torch.randn(4, 3, *size)
        assert torch.equal(traced(x, w), conv(x, w))
        assert torch.equal(compiled(x, w), conv(x, w))
    assert len(graphs.all) == 1


@torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
def test_a_batch_that_depends_on_data() -> None:
    """A mask picks the images to train on. No compiler can know their number."""
    layer = convkern.Conv2d(3, 4, 3, padding=1, activation="relu")

    def picked(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return layer(x[mask]).sin().sum()

    graphs = Graphs()
    compiled = torch.compile(picked, fullgraph=True, backend=graphs)
    training = torch.compile(picked, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 3, 9, 8)
    for mask in (x[:, 0, 0, 0] > 0, torch.ones(5).bool(), torch.zeros(5).bool()):
        expected = picked(x, mask)
        assert torch.equal(compiled(x, mask), expected)
        ours = torch.autograd.grad(training(x, mask), layer.weight)
        torch.testing.assert_close(ours, torch.autograd.grad(expected, layer.weight))
    assert len(graphs.all) == 1


def test_channels_last_and_a_compiled_module_method() -> None:
    layer = convkern.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    expected = layer(x := torch.randn(2, 3, 9, 8).to(memory_format=torch.channels_last))
    layer.compile(fullgraph=True, backend="aot_eager")
    y = layer(x)
    assert torch.equal(y, expected)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_fake_tensors_and_make_fx() -> None:
    layer, x = convkern.Conv2d(3, 4, 3), torch.randn(2, 3, 9, 8)

    def gradient(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(convkern.conv2d(x, w).sum(), w)[0]

    traced = make_fx(gradient, tracing_mode="symbolic")(x, layer.weight)
    called = [str(n.target) for n in traced.graph.nodes if n.op == "call_function"]
    assert "convkern.conv2d_grad_weight.default" in called
    torch.testing.assert_close(traced(x[:1], layer.weight), gradient(x[:1], layer.weight))
    with FakeTensorMode() as mode:
        fake = torch.func.functional_call(
            layer,
            {k: mode.from_tensor(v) for k, v in layer.named_parameters()},
            (mode.from_tensor(x),),
        )
    assert fake.shape == (2, 4, 7, 6)
    assert fake.device.type == "cpu"


@pytest.mark.parametrize("dynamic", [False, True])
def test_inductor(dynamic: bool) -> None:
    """The graph has one call, which needs no C++ compiler."""
    layer = convkern.Conv2d(3, 8, 3, padding=1, activation="relu").requires_grad_(False)
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic)
    for n in (2, 5):
        x = torch.randn(n, 3, 9, 8)
        assert torch.equal(compiled(x), layer(x))


@pytest.mark.exhaustive
@pytest.mark.parametrize("dynamic", [False, True])
def test_inductor_training_step(dynamic: bool) -> None:
    net, x = Net(), torch.randn(4, 3, 9, 8)
    compiled = torch.compile(net, fullgraph=True, dynamic=dynamic)
    for batch in (x, x[:3]):
        for ours, eager in zip(step(compiled, batch), step(net, batch), strict=True):
            torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_inductor_gives_a_convolution_bit_for_bit(
    dynamic: bool, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    layer = convkern.Conv2d(3, 8, 3, padding=1, activation="relu").to(dtype)
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic)
    for n in (2, 5):
        x = torch.randn(n, 3, 9, 8, dtype=dtype).to(memory_format=layout)
        y, eager = compiled(x), layer(x)
        assert torch.equal(y, eager)
        assert y.stride() == eager.stride()


@pytest.mark.exhaustive
@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_inductor_modes(mode: str) -> None:
    net, x = Net(), torch.randn(4, 3, 9, 8)
    compiled = torch.compile(net, fullgraph=True, mode=mode)
    for ours, eager in zip(step(compiled, x), step(net, x), strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5)


@pytest.mark.exhaustive
def test_inductor_trains_a_model() -> None:
    """Compares the losses of ten steps of a replaced torchvision-like stack, compiled and not."""
    losses = []
    for compile_it in (False, True):
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.Flatten(), nn.Linear(288, 4),
        )  # fmt: skip
        convkern.replace_conv2d(model)
        run = torch.compile(model, fullgraph=True) if compile_it else model
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        images, labels = torch.randn(32, 1, 14, 14), torch.arange(32) % 4
        trace = []
        for _ in range(10):
            optimizer.zero_grad()
            loss = F.cross_entropy(run(images), labels)
            loss.backward()
            optimizer.step()
            trace.append(loss.item())
        losses.append(trace)
    assert losses[0][-1] < 0.5 * losses[0][0]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-4)
