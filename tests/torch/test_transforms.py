"""torch.func transforms, forward mode, batched gradients, modes and subclasses."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

import convkern

pytestmark = [
    pytest.mark.filterwarnings("ignore:convkern. the slow reference kernel"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),
]

X, W, B = (torch.randn(*s).double() for s in [(3, 2, 5, 5), (4, 2, 3, 3), (4,)])
WINDOW = (2, 1)


def scalar(conv):
    return lambda x, w, b: conv(x, w, b, *WINDOW).sin().sum()


TRANSFORMS = {
    "grad": lambda conv: grad(scalar(conv), (0, 1, 2))(X, W, B),
    "per_sample_grad": lambda conv: vmap(grad(lambda w, x: scalar(conv)(x[None], w, B)), (None, 0))(
        W, X
    ),
    "vmap_input": lambda conv: vmap(lambda x: conv(x, W, B))(torch.stack([X, 2 * X])),
    "vmap_weight": lambda conv: vmap(lambda w: conv(X, w, B))(torch.stack([W, -W])),
    "vmap_both": lambda conv: vmap(lambda x, w: conv(x, w, B))(
        torch.stack([X, 2 * X]), torch.stack([W, -W])
    ),
    "jvp": lambda conv: jvp(lambda *a: conv(*a, *WINDOW), (X, W, B), (X + 1, W - 1, 2 * B)),
    "jvp_bias": lambda conv: jvp(lambda b: conv(X, W, b, *WINDOW), (B,), (2 * B,)),
    "jacrev": lambda conv: jacrev(lambda w: conv(X, w, B, *WINDOW))(W),
    "jacfwd": lambda conv: jacfwd(lambda w: conv(X, w, B, *WINDOW))(W),
    "hessian": lambda conv: hessian(scalar(conv), (0, 1))(X[:1], W, B),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform(name: str) -> None:
    ours = torch.utils._pytree.tree_leaves(TRANSFORMS[name](convkern.conv2d))
    theirs = torch.utils._pytree.tree_leaves(TRANSFORMS[name](F.conv2d))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_every_mode_of_differentiation(activation: str | None) -> None:
    inputs = tuple(t[:2].clone().requires_grad_() for t in (X, W, B))

    def conv(x, w, b):
        return convkern.conv2d(x, w, b, *WINDOW, activation=activation)

    assert gradcheck(
        conv, inputs, check_forward_ad=True, check_batched_grad=True,
        check_batched_forward_grad=True,
    )  # fmt: skip
    assert gradgradcheck(conv, inputs, check_fwd_over_rev=True, check_rev_over_rev=True)


def test_functional_call() -> None:
    layer = convkern.Conv2d(2, 4, 3).double()
    y = functional_call(layer, {"weight": W, "bias": B}, (X,))
    torch.testing.assert_close(y, F.conv2d(X, W, B))


def test_saved_operands_are_guarded() -> None:
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    y = convkern.conv2d(x, w)
    with torch.no_grad():
        w.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    y = convkern.conv2d(x, w)
    y.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()


def test_only_what_backward_needs_is_saved() -> None:
    saved: list[tuple[int, ...]] = []

    def pack(t: torch.Tensor) -> torch.Tensor:
        saved.append(tuple(t.shape))
        return t

    w = W.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        convkern.conv2d(X, w)
    assert saved == [tuple(X.shape)]  # w is not saved, because x needs no gradient


def test_modes_and_subclasses_see_the_call() -> None:
    calls: list[str] = []

    class FunctionMode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            calls.append(func.__name__)
            return func(*args, **(kwargs or {}))

    class Subclass(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            calls.append(f"subclass {func.__name__}")
            return super().__torch_function__(func, types, args, kwargs or {})

    with FunctionMode():
        y = convkern.conv2d(X, W, B)
    assert calls
    calls.clear()
    z = convkern.conv2d(X.as_subclass(Subclass), W, B)
    assert "subclass conv2d" in calls
    assert isinstance(z, Subclass)
    torch.testing.assert_close(z.as_subclass(torch.Tensor), y)


def test_symbolic_trace_keeps_the_call() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(W.clone())

        def forward(self, x):
            return convkern.conv2d(x, self.w, padding="same")

    net = Net()
    traced = torch.fx.symbolic_trace(net)
    assert convkern.conv2d in [node.target for node in traced.graph.nodes]
    torch.testing.assert_close(traced(X), net(X))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.torch.jit")
def test_jit_trace() -> None:
    layer = convkern.Conv2d(2, 4, 3, padding=1)
    x = X.float()
    traced = torch.jit.trace(layer, x)
    assert "convkern::conv2d" in str(traced.inlined_graph)
    torch.testing.assert_close(traced(x + 1), layer(x + 1))
