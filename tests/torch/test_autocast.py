"""torch.autocast casts convkern's convolutions as it casts torch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convkern

LOW = [torch.bfloat16, torch.float16]
X, W, B = torch.randn(2, 3, 7, 6), torch.randn(4, 3, 3, 2), torch.randn(4)
WINDOW = ((2, 1), (1, 0))


def autocast(dtype: torch.dtype, **keywords: bool) -> torch.autocast:
    return torch.autocast("cpu", dtype, **keywords)


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 4 * torch.finfo(dtype).eps, "atol": 16 * torch.finfo(dtype).eps}


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("bias", [None, B])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_is_the_convolution_of_the_cast_operands(
    low: torch.dtype, bias: torch.Tensor | None, activation: str | None
) -> None:
    with autocast(low):
        y = convkern.conv2d(X, W, bias, *WINDOW, activation=activation)
        theirs = F.conv2d(X, W, bias, *WINDOW)
    assert y.dtype == theirs.dtype == low
    cast = (t if t is None else t.to(low) for t in (X, W, bias))
    assert torch.equal(y, convkern.conv2d(*cast, *WINDOW, activation=activation))
    expected = F.relu(theirs) if activation else theirs
    torch.testing.assert_close(y, expected, **tolerance(low))


@pytest.mark.parametrize("low", LOW)
def test_every_road_to_the_op_is_cast(low: torch.dtype) -> None:
    """The calls are eager, general (padding by name, no batch), by the op, and by the module."""
    layer = convkern.Conv2d(3, 4, (3, 2), bias=False)
    layer.weight.data.copy_(W)
    with autocast(low):
        results = [
            convkern.conv2d(X, W),
            convkern.conv2d(X, W, padding="valid"),
            torch.stack([convkern.conv2d(x, W) for x in X]),
            torch.ops.convkern.conv2d(X, W),
            layer(X),
        ]
    for y in results:
        assert y.dtype == low
        assert torch.equal(y, results[0])


# (dtype of input, dtype of weight), and whether autocast makes them agree.
@pytest.mark.parametrize(
    ("of_x", "of_w"),
    [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.float16, torch.float32),
        (torch.float64, torch.float64),
        (torch.float64, torch.float32),
    ],
    ids=str,
)
def test_mixed_dtypes_do_what_torch_does(of_x: torch.dtype, of_w: torch.dtype) -> None:
    x, w = X.to(of_x), W.to(of_w)
    with autocast(torch.bfloat16):
        if of_x == of_w or torch.float64 not in (of_x, of_w):
            y, expected = convkern.conv2d(x, w), F.conv2d(x, w)
            assert y.dtype == expected.dtype
            torch.testing.assert_close(y, expected, **tolerance(y.dtype))
            return
        with pytest.raises(RuntimeError):
            F.conv2d(x, w)
        with pytest.raises(RuntimeError, match=r"weight type .* should be the same dtype"):
            convkern.conv2d(x, w)


def test_what_autocast_does_not_cast() -> None:
    with autocast(torch.bfloat16):
        integers = convkern.conv2d(X.long(), W.long())
        assert integers.dtype == torch.int64
        assert convkern.conv2d(X.to("meta"), W.to("meta")).dtype == torch.float32
        with autocast(torch.bfloat16, enabled=False):
            assert convkern.conv2d(X, W).dtype == torch.float32
        assert convkern.conv2d(X, W).dtype == torch.bfloat16
    assert convkern.conv2d(X, W).dtype == torch.float32
    assert torch.equal(integers, F.conv2d(X.long(), W.long()))


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_gradients_have_the_dtype_of_the_leaves(low: torch.dtype, activation: str | None) -> None:
    gradients = []
    for conv in (convkern.conv2d, F.conv2d):
        leaves = [t.clone().requires_grad_() for t in (X, W, B)]
        with autocast(low):
            y = conv(*leaves, *WINDOW)
            y = F.relu(y) if activation else y
            if conv is convkern.conv2d and activation:
                y = conv(*leaves, *WINDOW, activation=activation)
        y.float().square().sum().backward()
        gradients.append([t.grad for t in leaves])
    for ours, theirs in zip(*gradients, strict=True):
        assert ours.dtype == torch.float32
        scale = theirs.abs().max().item()
        eps = torch.finfo(low).eps
        torch.testing.assert_close(ours, theirs, rtol=8 * eps, atol=4 * eps * scale)


def test_backward_and_double_backward_within_the_region() -> None:
    results = []
    for conv in (convkern.conv2d, F.conv2d):
        x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
        with autocast(torch.bfloat16):
            y = conv(x, w)
            (gx,) = torch.autograd.grad(y.float().square().sum(), x, create_graph=True)
            (gw,) = torch.autograd.grad(gx.square().sum(), w)
        assert gx.dtype == gw.dtype == torch.float32
        results.append((gx, gw))
    for ours, theirs in zip(*results, strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.02 * scale)


def test_a_weight_is_cast_once() -> None:
    w = W.clone().requires_grad_()

    class Casts(torch.utils._python_dispatch.TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._to_copy.default and args[0].shape == w.shape:
                Casts.count += 1
            return func(*args, **(kwargs or {}))

    with Casts(), autocast(torch.bfloat16):
        y = convkern.conv2d(X, w) + convkern.conv2d(X, w)
        assert y.dtype == torch.bfloat16
    assert Casts.count == 1
    with Casts(), autocast(torch.bfloat16, cache_enabled=False):
        convkern.conv2d(X, w), convkern.conv2d(X, w)
    assert Casts.count == 3


def models() -> tuple[nn.Module, nn.Module]:
    made = []
    for layer in (convkern.Conv2d, nn.Conv2d):
        torch.manual_seed(5)
        made.append(
            nn.Sequential(
                layer(1, 6, 3, stride=2, padding=1), nn.ReLU(), layer(6, 4, 3), nn.Flatten(),
                nn.LazyLinear(3),
            )
        )  # fmt: skip
    return made[0], made[1]


@pytest.mark.parametrize("low", LOW)
def test_training_with_a_scaler(low: torch.dtype) -> None:
    """There are five steps, and one of them overflows and is skipped."""
    images, labels = torch.randn(16, 1, 12, 12), torch.arange(16) % 3
    losses, scales = [], []
    for model in models():
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        model(images)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        trace = []
        for step in range(5):
            optimizer.zero_grad()
            with autocast(low):
                loss = F.cross_entropy(model(images), labels)
            scaler.scale(loss * (float("inf") if step == 2 else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
            trace.append(loss.item())
        losses.append(trace)
        scales.append(scaler.get_scale())
    assert scales[0] == scales[1] == 32.0
    assert losses[0][4] < losses[0][0]
    torch.testing.assert_close(losses[0], losses[1], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_under_autocast(backend: str) -> None:
    torch._dynamo.reset()
    layer = convkern.Conv2d(3, 4, 3, activation="relu")

    def inside(x):
        with autocast(torch.bfloat16):
            y = layer(x)
            with autocast(torch.bfloat16, enabled=False):
                z = layer(x)
        return y, z

    compiled = torch.compile(inside, fullgraph=True, backend=backend)
    around = torch.compile(layer, fullgraph=True, backend=backend)
    y, z = compiled(X)
    expected, full = inside(X)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)
    assert torch.equal(z, full)
    with autocast(torch.bfloat16):
        y = around(X)
    assert torch.equal(y, expected)
    y.float().sum().backward()
    gradient, layer.weight.grad = layer.weight.grad, None
    expected.float().sum().backward()
    assert torch.equal(gradient, layer.weight.grad)
    assert around(X).dtype == torch.float32  # compiled again outside of the region


def test_vmap_under_autocast() -> None:
    w = torch.stack([W, 2 * W])
    with autocast(torch.bfloat16):
        y = torch.vmap(convkern.conv2d, (None, 0, None))(X.bfloat16(), w, B)
        expected = torch.stack([convkern.conv2d(X, v, B) for v in w])
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, **tolerance(torch.bfloat16))


def test_explain_knows_autocast() -> None:
    with autocast(torch.bfloat16):
        assert "_bf16_" in convkern.explain(X, W, B).problem
        assert "_f64_" in convkern.explain(X.double(), W.double(), B.double()).problem
    assert "_f32_" in convkern.explain(X, W, B).problem


@pytest.mark.gpu
@pytest.mark.parametrize("low", LOW)
def test_on_a_gpu(low: torch.dtype) -> None:
    x, w, b = (t.cuda() for t in (X, W, B))
    with torch.autocast("cuda", low):
        y, expected = convkern.conv2d(x, w, b), F.conv2d(x, w, b)
        assert convkern.conv2d(X, W).dtype == torch.float32  # the region is of another device
    assert y.dtype == expected.dtype == low
    torch.testing.assert_close(y, expected, **tolerance(low))
