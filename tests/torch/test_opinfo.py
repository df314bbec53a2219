"""PyTorch's own tests of nn.functional.conv2d and nn.Conv2d, with convkern in their place. They are
the samples, errors and modules in torch.testing."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.func import vmap

import convkern

pytest.importorskip("expecttest", reason="torch.testing._internal needs expecttest")
pytestmark = pytest.mark.filterwarnings(
    "ignore:convkern. the slow reference kernel",
    "ignore:Using padding='same'",
    "ignore:.torch.jit.script. is deprecated",
    "error:There is a performance drop",
)
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
OTHERS = [torch.complex64, torch.complex128, torch.int64]


@pytest.fixture(scope="module")
def info() -> Any:
    """torch's OpInfo. Its import takes seconds, which other tests should not pay."""
    from torch.testing._internal.common_methods_invocations import op_db

    return next(op for op in op_db if op.name == "nn.functional.conv2d")


def samples(
    info: Any, dtype: torch.dtype, *, grad: bool = False, every: int = 1
) -> Iterator[tuple[str, tuple, dict]]:
    """Yields description, tensors and keywords of every `every`-th sample."""
    for sample in list(info.reference_inputs("cpu", dtype, requires_grad=grad))[::every]:
        tensors = (sample.input, *sample.args)
        sizes = [None if t is None else tuple(t.shape) for t in tensors]
        yield f"{sizes} {sample.kwargs}", tensors, sample.kwargs


def assert_close(ours: Any, theirs: Any, what: str) -> None:
    dtype = next(t.dtype for t in torch.utils._pytree.tree_leaves(theirs))
    tolerance = {} if dtype == torch.int64 else {"rtol": (eps := torch.finfo(dtype).eps * 16)}
    torch.testing.assert_close(
        ours, theirs, atol=64 * eps if tolerance else 0, rtol=tolerance.get("rtol", 0),
        msg=lambda message: f"{what}: {message}",
    )  # fmt: skip


def leaves(tensors: tuple) -> list[torch.Tensor]:
    return [t for t in tensors if isinstance(t, torch.Tensor) and t.requires_grad]


def test_there_are_samples(info: Any) -> None:
    assert len(list(samples(info, torch.float32))) >= 30
    assert set(FLOATS + OTHERS) <= info.dtypes


@pytest.mark.parametrize("dtype", FLOATS + OTHERS, ids=str)
def test_results_and_gradients(info: Any, dtype: torch.dtype) -> None:
    for what, tensors, keywords in samples(info, dtype, grad=dtype.is_floating_point):
        y = convkern.conv2d(*tensors, **keywords)
        expected = F.conv2d(*tensors, **keywords)
        assert_close(y, expected, what)
        assert y.stride() == expected.stride(), what
        if not dtype.is_floating_point:
            continue
        gy = torch.randn_like(y)
        ours = torch.autograd.grad(y, leaves(tensors), gy)
        theirs = torch.autograd.grad(expected, leaves(tensors), gy)
        if dtype in (torch.float64, torch.float32):
            assert_close(ours, theirs, what)
        else:  # torch rounds its own gradients more than once
            exact = [t if t is None else t.double().detach() for t in tensors]
            exact = [t if t is None else t.requires_grad_() for t in exact]
            wanted = torch.autograd.grad(
                F.conv2d(*exact, **keywords), leaves(tuple(exact)), gy.double()
            )
            assert_close(ours, tuple(g.to(dtype) for g in wanted), what)


def test_errors(info: Any) -> None:
    errors = list(info.error_inputs("cpu"))
    assert len(errors) >= 10
    for error in errors:
        sample = error.sample_input
        with pytest.raises(error.error_type) as ours:
            convkern.conv2d(sample.input, *sample.args, **sample.kwargs)
        assert type(ours.value) is error.error_type
        assert re.search(error.error_regex, str(ours.value))
        # If convkern hands the call to torch, the message is torch's alone.
        assert str(ours.value).startswith("conv2d: ") == sample.input.is_floating_point()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_views_that_are_not_contiguous_negated_or_conjugated(info: Any, dtype: torch.dtype) -> None:
    for what, tensors, keywords in samples(info, dtype):
        expected = F.conv2d(*tensors, **keywords)
        spread = [None if t is None else torch.stack([t, t + 1], -1)[..., 0] for t in tensors]
        assert not spread[0].is_contiguous()
        assert_close(convkern.conv2d(*spread, **keywords), expected, what)
        x, *others = tensors
        negated = torch._neg_view(-x)
        assert negated.is_neg()
        assert_close(convkern.conv2d(negated, *others, **keywords), expected, what)
        if dtype.is_complex:
            conjugated = x.conj().resolve_conj().conj()
            assert conjugated.is_conj()
            assert_close(convkern.conv2d(conjugated, *others, **keywords), expected, what)


def check_gradients(info: Any, dtype: torch.dtype, *, fast: bool, every: int = 1) -> None:
    for what, tensors, keywords in samples(info, dtype, grad=True, every=every):
        inputs = tuple(leaves(tensors))

        def conv(*inputs: torch.Tensor, keywords=keywords) -> torch.Tensor:
            return convkern.conv2d(*inputs, **keywords)

        assert gradcheck(
            conv, inputs, fast_mode=fast, check_forward_ad=True, check_batched_grad=True,
            check_batched_forward_grad=True,
        ), what  # fmt: skip
        assert gradgradcheck(conv, inputs, fast_mode=fast, check_batched_grad=fast), what
        assert gradgradcheck(
            conv, inputs, fast_mode=fast, check_fwd_over_rev=True, check_rev_over_rev=False,
            check_undefined_grad=False,
        ), what  # fmt: skip


def test_gradients_of_both_orders_and_modes(info: Any) -> None:
    check_gradients(info, torch.float64, fast=True)


@pytest.mark.exhaustive
def test_gradients_element_by_element(info: Any) -> None:
    check_gradients(info, torch.float64, fast=False, every=2)  # without unbatched copies


def test_forward_mode(info: Any) -> None:
    for what, tensors, keywords in samples(info, torch.float64):
        primals = tuple(t for t in tensors if t is not None)
        tangents = tuple(torch.randn_like(t) for t in primals)

        def tangent(conv, primals=primals, tangents=tangents, keywords=keywords):
            return torch.func.jvp(lambda *p: conv(*p, **keywords), primals, tangents)

        assert_close(tangent(convkern.conv2d), tangent(F.conv2d), what)


def test_vmap(info: Any) -> None:
    for what, tensors, keywords in samples(info, torch.float64):
        several = [None if t is None else torch.stack([t, 1 - t, t.sin()]) for t in tensors]
        for batched in [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]:
            if tensors[2] is None and 2 in batched:
                continue
            in_dims = tuple(0 if i in batched else None for i in range(3))
            operands = [s if i in batched else t
                        for i, (s, t) in enumerate(zip(several, tensors, strict=True))]  # fmt: skip

            def conv(x, w, b, keywords=keywords):
                return convkern.conv2d(x, w, b, **keywords)

            y = vmap(conv, in_dims)(*operands)
            loop = [
                F.conv2d(
                    *(t if d is None else t[i] for t, d in zip(operands, in_dims, strict=True)),
                    **keywords,
                )
                for i in range(3)
            ]
            assert_close(y, torch.stack(loop), f"{what} {in_dims}")


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_autocast(info: Any, low: torch.dtype) -> None:
    for what, tensors, keywords in samples(info, torch.float32, grad=True):
        with torch.autocast("cpu", low):
            y, expected = convkern.conv2d(*tensors, **keywords), F.conv2d(*tensors, **keywords)
        assert_close(y, expected, what)
        gradients = torch.autograd.grad(y.float().sum(), leaves(tensors))
        assert {g.dtype for g in gradients} == {torch.float32}, what


def test_fake_tensors_agree_with_real_ones(info: Any) -> None:
    """Compares shapes, strides, dtypes and devices in all calls of a training step."""
    from torch._subclasses.fake_utils import CrossRefFakeMode

    for _, tensors, keywords in samples(info, torch.float32, grad=True):
        with CrossRefFakeMode():
            y = convkern.conv2d(*tensors, **keywords)
            y.sum().backward()


def check_op(info: Any, every: int) -> None:
    for _, tensors, keywords in samples(info, torch.float64, grad=True, every=every):
        if tensors[0].dim() != 4 or isinstance(keywords.get("padding"), str):
            continue  # for the functional form only
        window = [
            list(v) if isinstance(v := keywords.get(name, default), tuple) else [v, v]
            for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
        ]
        arguments = (*tensors, *window, keywords.get("groups", 1))
        torch.library.opcheck(torch.ops.convkern.conv2d.default, arguments)


def test_opcheck(info: Any) -> None:
    check_op(info, every=8)


@pytest.mark.exhaustive
def test_opcheck_of_all(info: Any) -> None:
    check_op(info, every=1)


@pytest.mark.exhaustive
def test_compiled(info: Any) -> None:
    for what, tensors, keywords in samples(info, torch.float32, grad=True):
        torch._dynamo.reset()
        compiled = torch.compile(convkern.conv2d, fullgraph=True, backend="aot_eager")
        y, expected = compiled(*tensors, **keywords), convkern.conv2d(*tensors, **keywords)
        assert torch.equal(y, expected), what
        gradients = [torch.autograd.grad(r.sin().sum(), leaves(tensors)) for r in (y, expected)]
        assert_close(*gradients, what)


@pytest.mark.parametrize("name", ["Conv2d", "LazyConv2d"])
@pytest.mark.parametrize("training", [False, True])
def test_modules(info: Any, name: str, training: bool) -> None:
    """torch's ModuleInfo: every way of construction, with states loaded in both directions."""
    from torch.testing._internal.common_modules import module_db

    theirs_class, ours_class = getattr(torch.nn, name), getattr(convkern, name)
    (module_info,) = [m for m in module_db if m.module_cls is theirs_class]
    inputs = module_info.module_inputs_func(
        module_info, device="cpu", dtype=torch.float32, requires_grad=False, training=training
    )
    assert len(inputs) >= 4
    for given in inputs:
        built = given.constructor_input
        keywords = {k: v for k, v in built.kwargs.items() if k not in ("device", "dtype")}
        theirs = theirs_class(*built.args, **keywords)
        ours = ours_class(*built.args, **keywords)
        arguments = given.forward_input
        expected = theirs(*arguments.args, **arguments.kwargs)
        ours(*arguments.args, **arguments.kwargs)  # a lazy module takes its shape from it
        ours.load_state_dict(theirs.state_dict())
        y = ours(*arguments.args, **arguments.kwargs)
        assert isinstance(ours, convkern.Conv2d)
        assert_close(y, expected, given.desc)


def test_signature() -> None:
    """The parameters are those of torch's documentation, in its order and with its defaults."""
    parameters = inspect.signature(convkern.conv2d).parameters
    assert list(parameters)[:7] == [
        "input", "weight", "bias", "stride", "padding", "dilation", "groups"
    ]  # fmt: skip
    assert [p.default for p in parameters.values()][2:7] == [None, 1, 0, 1, 1]
    assert parameters["activation"].kind is inspect.Parameter.KEYWORD_ONLY
