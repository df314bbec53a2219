"""torch.func.vmap: each batching rule gives the results of a loop without falling back to one."""

import itertools
import warnings

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import convkern
from op_calls import Count

pytestmark = pytest.mark.filterwarnings(
    "ignore:convkern. the slow reference kernel",
    "error:There is a performance drop",
    "ignore:.torch.jit.script. is deprecated",
)
ops = torch.ops.convkern
V = 3
# (groups, stride, padding, dilation).
WINDOWS = [
    (1, [1, 1], [0, 0], [1, 1]),
    (2, [2, 1], [1, 2], [1, 2]),
    (4, [1, 2], [1, 0], [2, 1]),
]
IN_DIMS = [d for d in itertools.product((None, 0, -1), repeat=2) if d != (None, None)]


def batch(size: tuple[int, ...], dim: int | None) -> torch.Tensor:
    """Returns random numbers that differ in every example, with the batch at `dim`."""
    if dim is None:
        return torch.randn(size, dtype=torch.float64)
    return torch.randn((V, *size), dtype=torch.float64).movedim(0, dim)


def looped(function, in_dims, *tensors: torch.Tensor) -> torch.Tensor:
    return torch.stack(
        [
            function(
                *(t if d is None else t.select(d, i) for t, d in zip(tensors, in_dims, strict=True))
            )
            for i in range(V)
        ]
    )


def assert_vmapped(function, in_dims, *tensors: torch.Tensor, calls: int = 1) -> None:
    """Checks that vmap's result is the loop's, and that one call of the op computes all
    examples."""
    with Count() as count:
        result = vmap(function, in_dims)(*tensors)
    assert list(count.of_convkern.values()) == [calls]
    torch.testing.assert_close(result, looped(function, in_dims, *tensors))


@pytest.mark.parametrize("in_dims", IN_DIMS, ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
class TestRule:
    def test_conv2d(self, in_dims: tuple, window: tuple) -> None:
        groups, *rest = window
        x, w = batch((2, 4, 7, 6), in_dims[0]), batch((8, 4 // groups, 2, 3), in_dims[1])
        for b_dim, activation in [(None, None), (0, "relu"), (-1, None), (None, "relu")]:
            b = batch((8,), b_dim)

            def conv(x, w, b, activation=activation):
                return ops.conv2d(x, w, b, *rest, groups, activation)

            assert_vmapped(conv, (*in_dims, b_dim), x, w, b)
        assert_vmapped(lambda x, w: ops.conv2d(x, w, None, *rest, groups), in_dims, x, w)

    def test_grad_input(self, in_dims: tuple, window: tuple) -> None:
        groups, *rest = window
        like = ops.conv2d(torch.empty(2, 4, 7, 6), torch.empty(8, 4 // groups, 2, 3), None, *rest,
                          groups)  # fmt: skip
        gy, w = batch(tuple(like.shape), in_dims[0]), batch((8, 4 // groups, 2, 3), in_dims[1])

        def gradient(gy, w):
            return ops.conv2d_grad_input(gy, w, [2, 4, 7, 6], *rest, groups)

        assert_vmapped(gradient, in_dims, gy, w)

    def test_grad_weight(self, in_dims: tuple, window: tuple) -> None:
        groups, *rest = window
        size = [8, 4 // groups, 2, 3]
        like = ops.conv2d(torch.empty(2, 4, 7, 6), torch.empty(size), None, *rest, groups)
        gy, x = batch(tuple(like.shape), in_dims[0]), batch((2, 4, 7, 6), in_dims[1])

        def gradient(gy, x):
            return ops.conv2d_grad_weight(gy, x, size, *rest, groups)

        assert_vmapped(gradient, in_dims, gy, x)


def test_only_the_bias_is_batched() -> None:
    x, w = batch((2, 4, 5, 5), None), batch((4, 2, 3, 3), None)
    assert_vmapped(
        lambda b: convkern.conv2d(x, w, b, groups=2, activation="relu"), (0,), batch((4,), 0)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_other_dtypes(dtype: torch.dtype) -> None:
    x, w, b = (batch(s, 0).to(dtype) for s in [(2, 4, 6, 6), (3, 4, 3, 3), (3,)])
    result = vmap(convkern.conv2d)(x, w, b)
    assert result.dtype == dtype
    eps = torch.finfo(dtype).eps
    expected = looped(convkern.conv2d, (0, 0, 0), x, w, b)
    torch.testing.assert_close(result, expected, rtol=2 * eps, atol=32 * torch.finfo().eps)


def test_arguments_of_the_functional_form() -> None:
    """Unbatched images, padding by name, channels_last, and an ensemble of modules."""
    x, w = batch((4, 6, 5), 0), batch((2, 4, 2, 2), 0)
    assert_vmapped(lambda x, w: convkern.conv2d(x, w, padding="same"), (0, 0), x, w)
    x = batch((2, 4, 6, 5), 0)
    last = x.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (V, 2))
    torch.testing.assert_close(
        vmap(convkern.conv2d)(last, w), looped(convkern.conv2d, (0, 0), x, w)
    )
    layers = [convkern.Conv2d(4, 2, 2, padding_mode="reflect", padding=1).double() for _ in w]
    parameters, _ = torch.func.stack_module_state(layers)
    y = vmap(lambda p, x: functional_call(layers[0], p, (x,)), (0, None))(parameters, x[0])
    torch.testing.assert_close(y, torch.stack([layer(x[0]) for layer in layers]))


def test_levels() -> None:
    """vmap in vmap, each with a batch that the other lacks, and with a gradient between."""
    x, w = batch((2, 4, 5, 5), 0), torch.randn(2, 3, 4, 3, 3).double()
    both = vmap(vmap(convkern.conv2d, (None, 0)), (0, None))(x, w)
    expected = torch.stack([torch.stack([convkern.conv2d(i, v) for v in w]) for i in x])
    torch.testing.assert_close(both, expected)

    def gradient(w, x):
        return grad(lambda w: vmap(convkern.conv2d, (0, None))(x[None], w).sin().sum())(w)

    result = vmap(gradient, (0, None))(w, x[0])
    expected = torch.stack([gradient(v, x[0]) for v in w])
    torch.testing.assert_close(result, expected)


def test_empty_batches() -> None:
    w = batch((4, 3, 3, 3), None)
    none, images = torch.empty(0, 2, 3, 5, 6).double(), torch.empty(V, 0, 3, 5, 6).double()
    assert vmap(convkern.conv2d, (0, None))(none, w).shape == (0, 2, 4, 3, 4)
    assert vmap(convkern.conv2d, (0, None))(images, w).shape == (V, 0, 4, 3, 4)
    weights = batch((4, 3, 3, 3), 0)
    assert vmap(convkern.conv2d)(images, weights).shape == (V, 0, 4, 3, 4)


@pytest.mark.parametrize(
    ("x", "w", "b", "words"),
    [
        ((2, 3, 5, 5), (4, 2, 3, 3), (4,), "channels"),
        ((2, 4, 5, 5), (4, 4, 3, 3), (1,), "bias"),
        ((2, 4, 5, 5), (4, 4, 3, 3), (4, 1), "bias"),
        ((2, 4, 2, 5), (4, 4, 3, 3), (4,), r"Kernel size: \(3 x 3\)"),
        ((2, 4, 5, 5), (4, 4, 3), (4,), "weight must have 4 dimensions"),
    ],
    ids=str,
)
@pytest.mark.parametrize("in_dims", [(0, 0, 0), (0, None, None), (None, 0, None), (0, None, 0)])
def test_bad_input_is_refused(x, w, b, words: str, in_dims: tuple) -> None:
    tensors = [batch(size, dim) for size, dim in zip((x, w, b), in_dims, strict=True)]
    with pytest.raises(RuntimeError, match="conv2d: .*" + words):
        vmap(convkern.conv2d, in_dims)(*tensors)


X, W, B = batch((V, 2, 5, 5), None), batch((4, 2, 3, 3), None), batch((4,), None)


def loss(w, b, x):
    return convkern.conv2d(x, w, b, padding=1, activation="relu").square().sum()


def test_per_sample_gradients() -> None:
    with Count() as count:
        ours = vmap(grad(loss, (0, 1)), (None, None, 0))(W, B, X)
    assert count.of_convkern == {"convkern::conv2d": 1, "convkern::conv2d_grad_weight": 1}
    each = [grad(loss, (0, 1))(W, B, x) for x in X]
    for result, i in zip(ours, range(2), strict=True):
        torch.testing.assert_close(result, torch.stack([g[i] for g in each]))


def test_torchs_older_per_sample_gradients_refuse() -> None:
    from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

    layer = convkern.Conv2d(2, 4, 3)
    with pytest.raises(RuntimeError, match="Expanded Weights encountered but cannot handle"):
        call_for_per_sample_grads(layer, batch_size=V)(X.float())


def test_jacobians_by_rows_and_by_columns() -> None:
    def conv(x, w, b):
        return convkern.conv2d(x, w, b, 2, 1)

    for argument in range(3):
        rows = jacrev(conv, argument)(X, W, B)
        columns = jacfwd(conv, argument)(X, W, B)
        in_chunks = jacrev(conv, argument, chunk_size=5)(X, W, B)
        torch.testing.assert_close(rows, columns)
        torch.testing.assert_close(rows, in_chunks)
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    vectorized = torch.autograd.functional.jacobian(lambda w: conv(X, w, B), W, vectorize=True)
    torch.testing.assert_close(vectorized, jacrev(conv, 1)(X, W, B))
    y = conv(x, w, B)
    many = torch.randn(5, *y.shape).double()
    batched = torch.autograd.grad(y, (x, w), many, is_grads_batched=True, retain_graph=True)
    for i, gy in enumerate(many):
        single = torch.autograd.grad(y, (x, w), gy, retain_graph=True)
        torch.testing.assert_close(tuple(g[i] for g in batched), single)


def test_second_order() -> None:
    """Hessians in four ways, and a Hessian-vector product, forward over reverse."""

    def objective(w):
        return convkern.conv2d(X, w, B).sin().sum()

    expected = torch.autograd.functional.hessian(objective, W)
    for way in (
        hessian,
        *(lambda f, a=a, b=b: a(b(f)) for a in (jacfwd, jacrev) for b in (jacrev, jacfwd)),
    ):
        torch.testing.assert_close(way(objective)(W), expected)
    v = torch.randn_like(W)
    _, product = jvp(grad(objective), (W,), (v,))
    torch.testing.assert_close(product, torch.tensordot(expected, v, 4))
    _, pull = vjp(grad(objective), W)
    torch.testing.assert_close(pull(v)[0], product)


def test_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vmap(grad(loss, (0, 1)), (None, None, 0))(W, B, X)


def test_compiled() -> None:
    torch._dynamo.reset()
    per_sample = vmap(grad(loss, (0, 1)), (None, None, 0))
    compiled = torch.compile(per_sample, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(W, B, X), per_sample(W, B, X))


@pytest.mark.parametrize("op", ["conv2d", "conv2d_grad_input", "conv2d_grad_weight"])
@pytest.mark.parametrize("operand", [0, 1])
def test_a_tensor_that_has_escaped_from_vmap_is_refused_as_by_torch(op: str, operand: int) -> None:
    x, w, gy = torch.randn(2, 4, 6, 6), torch.randn(4, 4, 3, 3), torch.randn(2, 4, 4, 4)
    operands, sizes = {
        "conv2d": ([x, w], ()),
        "conv2d_grad_input": ([gy, w], (list(x.shape),)),
        "conv2d_grad_weight": ([gy, x], (list(w.shape),)),
    }[op]
    vmap(lambda t: operands.__setitem__(operand, t) or t)(
        operands[operand].expand(V, -1, -1, -1, -1)
    )
    calls = [lambda: getattr(ops, op)(*operands, *sizes)]
    if op == "conv2d":
        calls += [lambda: convkern.conv2d(*operands), lambda: torch.conv2d(*operands)]
    for call in calls:
        with pytest.raises(RuntimeError, match="escaped from inside a function being vmapped"):
            call()
