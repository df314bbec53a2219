"""Every way to get one argument wrong, generated. The call must raise F.conv2d's exception class.
The message must be the same in eager, meta and compiled calls, and name the argument and the value.

test_bad_input.py has the cases that need a closer look.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convkern
from counts import count

T = torch.zeros
Case = tuple[Tensor, Tensor, dict[str, Any], str]


def cases() -> dict[str, Case]:
    found: dict[str, Case] = {}

    def add(name: str, x: Tensor, w: Tensor, words: str, **keywords: Any) -> None:
        assert name not in found
        found[name] = (x, w, keywords, words)

    def by(kernel: tuple[int, int]) -> str:
        return "Kernel size: ({} x {})".format(*kernel)

    x, w = T(2, 4, 9, 9), T(6, 4, 3, 3)
    for name, values in (
        (
            "stride",
            (0, -1, (0, 1), (1, 0), (-3, 1), (1, -3), [0, 0], [2, -(2**40)], (0, -1), -(2**62)),
        ),
        ("padding", (-1, (-1, 0), (0, -1), (-5, -5), [3, -1], -(2**31), -(2**62))),
        ("dilation", (0, -1, (0, 1), (1, 0), (-2, 2), (2, -2), [0, 0], -(2**62))),
    ):
        for value in values:
            pair = (value, value) if isinstance(value, int) else tuple(value)
            add(f"{name}={value}", x, w, f"{name}={pair}", **{name: value})
    for name in ("stride", "padding", "dilation"):
        for value in ((1, 1, 1), [1, 1, 1, 1], (), []):
            add(f"{name}={value!r}", x, w, f"{name}={list(value)}", **{name: value})
    for groups in (0, -1, -4, -(2**62)):
        add(f"groups={groups}", x, w, f"groups={groups}", groups=groups)
    for groups in (2, 3, 4, 5, 7, 2**40):
        add(f"groups={groups} of 4 and 6 channels", x, w, f"groups={groups}", groups=groups)
    for channels in (1, 2, 3, 5, 8, 0):
        add(f"{channels} channels for 4", T(2, channels, 9, 9), w, f"got {channels} channels")
        add(
            f"{channels} channels for 4, unbatched",
            T(channels, 9, 9),
            w,
            f"got {channels} channels",
        )
    for sizes in ((), (9,), (9, 9), (1, 2, 4, 9, 9), (1, 1, 2, 4, 9, 9)):
        add(f"input of {len(sizes)} dimensions", T(sizes), w, str(list(sizes)))
    for sizes in ((), (3,), (3, 3), (4, 3, 3), (6, 4, 3, 3, 1)):
        add(f"weight of {len(sizes)} dimensions", x, T(sizes), str(list(sizes)))
    for sizes in ((0,), (1,), (5,), (7,), (6, 1), (1, 6), (1, 6, 1, 1), ()):
        add(f"bias of {list(sizes)}", x, w, str(list(sizes)), bias=T(sizes))
    for kernel in ((10, 3), (3, 10), (10, 10), (99, 1)):
        add(f"kernel of {kernel}", x, T(6, 4, *kernel), by(kernel))
    for kernel, padding in (((12, 3), 1), ((3, 14), 2), ((20, 20), 5)):
        add(
            f"kernel of {kernel} on padding {padding}",
            x,
            T(6, 4, *kernel),
            by(kernel),
            padding=padding,
        )
    for dilation, extents in ((5, (11, 11)), ((9, 1), (19, 3)), ((1, 7), (3, 15))):
        add(f"a dilation of {dilation}", x, w, by(extents), dilation=dilation)
    for groups, channels in ((2, 3), (3, 3), (2, 7), (3, 11)):
        name, words = f"{channels} channels in {groups} groups of 4", f"got {channels} channels"
        add(name, T(1, channels, 9, 9), T(6, 4, 3, 3), words, groups=groups)
    for out in (0, 1, 3, 5):
        words = f"weight of size [{out}, 4, 3, 3]"
        add(f"{out} outputs of 2 groups", T(1, 8, 9, 9), T(out, 4, 3, 3), words, groups=2)
    for kernel in ((0, 3), (3, 0), (0, 0)):
        w0 = T(6, 4, *kernel)
        add(f"kernel of {kernel}", x, w0, str(list(w0.shape)))
    for size in ((0, 9), (9, 0), (0, 0)):
        add(f"input of {size}", T(2, 4, *size), w, str([2, 4, *size]), padding=4)
    others = (
        torch.float64,
        torch.bfloat16,
        torch.float16,
        torch.int32,
        torch.bool,
        torch.complex64,
    )
    for dtype in others:
        kind = str(dtype).removeprefix("torch.")
        add(f"weight of {kind}", x, w.to(dtype), "dtype")
        add(f"bias of {kind}", x, w, "bias", bias=T(6, dtype=dtype))
    for word in ("full", "Same", "", "VALID", "reflect"):
        add(f"padding={word!r}", x, w, f"'{word}'", padding=word)
    for stride in (2, (1, 2), (3, 1)):
        pair = (stride, stride) if isinstance(stride, int) else stride
        add(f"padding='same', stride={stride}", x, w, f"{pair}", padding="same", stride=stride)
    for name in ("padding", "dilation"):  # 2**61 is a valid stride
        add(f"{name}=2**61", x, w, f"{2**61}", **{name: 2**61})
    return found


CASES = cases()


def test_there_are_so_many() -> None:
    assert len(CASES) >= 120


# Here torch's message names its own classes, repeats brackets, or comes from a backend.
OTHER_WORDS = (
    "dilation=", "weight of", "bias of float", "bias of bfloat", "bias of int", "bias of bool",
    "bias of complex", "kernel of (0", "kernel of (3, 0)", "groups=4 of", "groups=5 of",
    "3 outputs", "5 outputs", "padding=2**61",
)  # fmt: skip


def first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]


@pytest.mark.parametrize("name", CASES)
def test_class_message_and_meta_tensors(name: str) -> None:
    x, w, keywords, words = CASES[name]
    with pytest.raises(Exception) as theirs:  # noqa: PT011  (its class is the expectation)
        F.conv2d(x, w, **keywords)
    kind = theirs.type
    with pytest.raises(kind) as ours:
        convkern.conv2d(x, w, **keywords)
    assert type(ours.value) is kind
    assert words in str(ours.value)
    if not name.startswith(OTHER_WORDS):
        assert first_line(theirs.value).strip() in first_line(ours.value)
    assert first_line(ours.value).startswith("conv2d: ")
    meta = {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in keywords.items()}
    with pytest.raises(kind) as fake:
        convkern.conv2d(x.to("meta"), w.to("meta"), **meta)
    assert first_line(fake.value) == first_line(ours.value)
    count("invalid input: cases with torch's exception, eager and on meta tensors")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        n if i % 8 == 0 else pytest.param(n, marks=pytest.mark.exhaustive)
        for i, n in enumerate(CASES)
    ],
)
def test_compiled(name: str) -> None:
    x, w, keywords, words = CASES[name]
    torch._dynamo.reset()
    with pytest.raises(RuntimeError) as compiled:
        torch.compile(convkern.conv2d, backend="eager")(x, w, **keywords)
    assert words in str(compiled.value)


def value_id(value: object) -> str:
    """Returns the repr without an address, because all workers must have the same ids."""
    return "object()" if type(value) is object else repr(value)


WRONG_TYPES = [
    "1",
    b"1",
    1.0,
    None,
    object(),
    True,
    {"a": 1},
    {1},
    1j,
    (1.5, 1),
    [None, 1],
    ("a", "b"),
]


@pytest.mark.parametrize("name", ["stride", "padding", "dilation", "groups"])
@pytest.mark.parametrize("value", WRONG_TYPES, ids=value_id)
def test_wrong_types(name: str, value: object) -> None:
    if name == "padding" and isinstance(value, str):
        pytest.skip("a word is a mode of padding")
    with pytest.raises(TypeError, match=f"conv2d: {name} must be an integer"):
        convkern.conv2d(T(1, 1, 5, 5), T(1, 1, 3, 3), **{name: value})


@pytest.mark.parametrize("name", ["input", "weight", "bias"])
@pytest.mark.parametrize("value", ["1", 1.0, [[1.0]], object(), torch.float32], ids=value_id)
def test_no_tensors(name: str, value: object) -> None:
    arguments = {"input": T(1, 1, 5, 5), "weight": T(1, 1, 3, 3), name: value}
    for conv in (F.conv2d, convkern.conv2d):
        with pytest.raises(TypeError):
            conv(**arguments)
    with pytest.raises(TypeError, match=f"conv2d: {name} must be a Tensor, got "):
        convkern.conv2d(**arguments)
