"""Bad input raises the class that torch raises, with a message that names argument, value and rule.
Eager, fake and compiled calls agree."""

import pytest
import torch
import torch.nn.functional as F

import convkern

T = torch.zeros
BIG = 2**62

# name: (input, weight, keywords, words of the message).
CASES = {
    "negative_padding": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"padding": -1}, "padding=(-1, -1)"),
    "negative_padding_w": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"padding": (0, -2)}, "padding=(0, -2)"),
    "zero_stride": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"stride": 0}, "stride=(0, 0)"),
    "negative_stride": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"stride": (1, -1)}, "stride=(1, -1)"),
    "zero_dilation": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"dilation": 0}, "dilation=(0, 0)"),
    "zero_groups": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"groups": 0}, "groups=0"),
    "negative_groups": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"groups": -1}, "groups=-1"),
    "kernel_exceeds_input": (T(1, 1, 5, 5), T(1, 1, 7, 3), {}, "Kernel size: (7 x 3)"),
    "dilated_kernel_exceeds_input": (
        T(1, 1, 5, 5), T(1, 1, 3, 3), {"dilation": 3, "padding": (1, 0)}, "Kernel size: (7 x 7)"),
    "zero_kernel": (T(1, 1, 5, 5), T(1, 1, 0, 3), {}, "[1, 1, 0, 3]"),
    "channel_mismatch": (T(1, 2, 5, 5), T(1, 1, 3, 3), {}, "2 channels"),
    "unbatched_channel_mismatch": (T(2, 5, 5), T(1, 1, 3, 3), {}, "2 channels"),
    "group_mismatch": (T(1, 4, 5, 5), T(3, 2, 3, 3), {"groups": 2}, "groups=2"),
    "group_channel_mismatch": (T(1, 4, 5, 5), T(4, 4, 3, 3), {"groups": 2}, "4 channels"),
    "no_output_channels": (T(1, 1, 5, 5), T(0, 1, 3, 3), {}, "weight of size [0, 1, 3, 3]"),
    "empty_rows": (T(1, 1, 0, 5), T(1, 1, 3, 3), {"padding": 2}, "[1, 1, 0, 5]"),
    "dtype": (T(1, 1, 5, 5), T(1, 1, 3, 3).double(), {}, "double"),
    "half_dtype": (T(1, 1, 5, 5).half(), T(1, 1, 3, 3), {}, "Half"),
    "bias_dtype": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"bias": T(1).double()}, "bias"),
    "bias_size": (T(1, 1, 5, 5), T(2, 1, 3, 3), {"bias": T(3)}, "[3]"),
    "bias_rank": (T(1, 1, 5, 5), T(2, 1, 3, 3), {"bias": T(2, 1)}, "[2, 1]"),
    "rank_2": (T(5, 5), T(1, 1, 3, 3), {}, "[5, 5]"),
    "rank_5": (T(1, 1, 1, 5, 5), T(1, 1, 3, 3), {}, "[1, 1, 1, 5, 5]"),
    "weight_rank": (T(1, 1, 5, 5), T(1, 3, 3), {}, "[1, 3, 3]"),
    "weight_rank_same": (T(1, 1, 5, 5), T(1, 3, 3), {"padding": "same"}, "[1, 3, 3]"),
    "stride_of_3": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"stride": (1, 2, 3)}, "[1, 2, 3]"),
    "no_stride": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"stride": ()}, "stride=[]"),
    "padding_of_3": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"padding": (1, 2, 3)}, "[1, 2, 3]"),
    "same_with_stride": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"padding": "same", "stride": 2}, "(2, 2)"),
    "padding_word": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"padding": "full"}, "'full'"),
    "padding_overflows": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"padding": BIG}, f"{BIG}"),
    "dilation_of_half_int64": (
        T(1, 1, 5, 5), T(1, 1, 3, 3), {"dilation": 2**61 + 1}, f"{2**61 + 1}"),
    "kernel_extent_overflows": (
        T(1, 1, 5, 5), T(1, 1, 9, 3), {"dilation": 2**59}, "dilated kernel"),
    "output_overflows": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"padding": 2**40}, "output"),
}  # fmt: skip


def call(conv, x, w, keywords):
    return conv(x, w, **keywords)


@pytest.mark.parametrize("name", CASES)
def test_same_exception_as_torch_and_a_message_that_helps(name: str) -> None:
    x, w, keywords, words = CASES[name]
    with pytest.raises(Exception) as theirs:  # noqa: PT011  (its class is the expectation)
        call(F.conv2d, x, w, keywords)
    with pytest.raises(theirs.type) as ours:
        call(convkern.conv2d, x, w, keywords)
    assert type(ours.value) is theirs.type
    assert words in str(ours.value)
    assert "conv2d: " in str(ours.value)


def to_meta(value):
    return value.to("meta") if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("name", CASES)
def test_fakes_raise_the_same(name: str) -> None:
    x, w, keywords, _ = CASES[name]
    with pytest.raises(Exception) as eager:  # noqa: PT011
        call(convkern.conv2d, x, w, keywords)
    with pytest.raises(eager.type) as fake:
        call(convkern.conv2d, to_meta(x), to_meta(w), {k: to_meta(v) for k, v in keywords.items()})
    first_line = str(eager.value).splitlines()[0]
    assert str(fake.value).splitlines()[0] == first_line


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_compiled_calls_raise_the_same(name: str) -> None:
    x, w, keywords, words = CASES[name]
    torch._dynamo.reset()
    with pytest.raises(RuntimeError) as compiled:
        torch.compile(convkern.conv2d, backend="eager")(x, w, **keywords)
    assert words in str(compiled.value)


TYPES = {
    "input_list": ([1.0], T(1, 1, 3, 3), {}, "input"),
    "weight_none": (T(1, 1, 5, 5), None, {}, "weight"),
    "bias_float": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"bias": 1.0}, "bias"),
    "stride_float": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"stride": 1.5}, "stride=1.5"),
    "stride_str": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"stride": "a"}, "stride='a'"),
    "stride_none": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"stride": None}, "stride=None"),
    "stride_bool": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"stride": True}, "stride=True"),
    "stride_floats": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"stride": (1.0, 2.0)}, "stride="),
    "padding_float": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"padding": 0.5}, "padding=0.5"),
    "dilation_none": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"dilation": None}, "dilation=None"),
    "groups_float": (T(1, 1, 5, 5), T(1, 1, 3, 3), {"groups": 1.0}, "groups=1.0"),
}


@pytest.mark.parametrize("name", TYPES)
def test_wrong_types(name: str) -> None:
    x, w, keywords, words = TYPES[name]
    with pytest.raises(TypeError):
        call(F.conv2d, x, w, keywords)
    with pytest.raises(TypeError, match=words.replace("'", ".")):
        call(convkern.conv2d, x, w, keywords)


def test_integers_beyond_int64() -> None:
    with pytest.raises(ValueError, match="verflow"):
        F.conv2d(T(1, 1, 5, 5), T(1, 1, 3, 3), padding=2**64)
    with pytest.raises(ValueError, match="padding"):
        convkern.conv2d(T(1, 1, 5, 5), T(1, 1, 3, 3), padding=2**64)


def test_a_dilation_that_overflows_in_torch_is_named() -> None:
    """F.conv2d computes a wrapped output size from it."""
    with pytest.raises(RuntimeError, match=f"{BIG}"):
        convkern.conv2d(T(1, 1, 5, 5), T(1, 1, 3, 3), dilation=BIG)


def test_mixed_devices() -> None:
    with pytest.raises(RuntimeError, match="same device, got cpu and meta"):
        convkern.conv2d(T(1, 1, 5, 5), T(1, 1, 3, 3, device="meta"))


def test_unknown_activation() -> None:
    for x in (T(1, 1, 5, 5), T(1, 1, 5, 5, dtype=torch.int64), T(1, 1, 5, 5, device="meta")):
        w = torch.zeros(1, 1, 3, 3, dtype=x.dtype, device=x.device)
        with pytest.raises(ValueError, match="got activation='swish'"):
            convkern.conv2d(x, w, activation="swish")


def test_sizes_whose_product_overflows() -> None:
    x = T(1, 1, 1, 1).expand(2**31, 1, 2**31, 1)
    for w in (T(2, 1, 1, 1), T(1, 1, 1, 1).expand(2**40, 1, 1, 1)):
        with pytest.raises(RuntimeError):
            F.conv2d(x, w)
        with pytest.raises(RuntimeError, match="too large"):
            convkern.conv2d(x, w)
        with pytest.raises(RuntimeError, match="too large"):
            convkern.conv2d(x.to("meta"), w.to("meta"))


@pytest.mark.parametrize(
    ("op", "arguments", "words"),
    [
        ("conv2d_grad_input", (T(1, 1, 3, 3), T(1, 1, 3, 3), [1, 1, 6, 5]), "grad_output"),
        ("conv2d_grad_input", (T(1, 1, 3, 3), T(1, 1, 3, 3), [1, 5, 5]), "input_size"),
        ("conv2d_grad_input", (T(1, 3, 3), T(1, 1, 3, 3), [1, 1, 5, 5]), "grad_output"),
        ("conv2d_grad_weight", (T(1, 2, 3, 3), T(1, 1, 5, 5), [1, 1, 3, 3]), "grad_output"),
        ("conv2d_grad_weight", (T(1, 1, 3, 3), T(1, 1, 5, 5), [1, 1, 3]), "weight_size"),
        ("conv2d_grad_weight", (T(1, 1, 3, 3), T(1, 1, 5, 5).double(), [1, 1, 3, 3]), "dtype"),
        ("conv2d_grad_weight", (T(1, 1, 3, 3), T(1, 1, 5, 5), [1, 1, -3, 3]), r"\[1, 1, -3, 3\]"),
        ("conv2d_grad_input", (T(1, 1, 3, 3), T(1, 1, 3, 3), [1, 1, -5, 5]), r"\[1, 1, -5, 5\]"),
        ("conv2d_grad_input", (T(1, 1, 3, 3), T(1, 1, 3, 3), [-1, 1, 5, 5]), "grad_output"),
    ],
)
def test_gradient_ops_check_their_operands(op: str, arguments: tuple, words: str) -> None:
    for convert in (lambda t: t, to_meta):
        with pytest.raises(RuntimeError, match=words):
            getattr(torch.ops.convkern, op)(*map(convert, arguments))
