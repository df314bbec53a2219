"""convkern.optimize: batches whose images are computed one by one, and those where they meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convkern
from convkern.optimize.optimized import make_plan
from optimized_nets import Function, assert_same, image, net


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 8])
def test_batches(batch: int, layout: torch.memory_format) -> None:
    model, x = net(), image(batch).contiguous(memory_format=layout)
    fast = convkern.optimize(model, x)
    assert_same(model, fast, x)
    threads = torch.get_num_threads()
    whole = batch == 1 or batch % threads != 0
    assert fast.plans[0].parts == (1 if whole else batch)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_compute_the_same(parts: int) -> None:
    model, x = net().double(), image(4).double()
    torch.testing.assert_close(make_plan(model, (x,), parts=parts).run((x,)), model(x))


MIXING = {
    "mean of the batch": lambda conv, x: conv(x) - conv(x).mean(0, keepdim=True),
    "softmax over it": lambda conv, x: conv(x).softmax(0),
    "flipped": lambda conv, x: conv(x).flip(0),
    "concatenated": lambda conv, x: torch.cat([conv(x), conv(x)]),
    "reshaped": lambda conv, x: conv(x).reshape(2, -1),
    "normalised": lambda conv, x: F.layer_norm(conv(x), conv(x).shape),
    "a number": lambda conv, x: conv(x).sum(),
    "permuted": lambda conv, x: conv(x).permute(1, 0, 2, 3),
    "by position": lambda conv, x: conv(x) + torch.arange(4.0).view(4, 1, 1, 1),
    "residual by position": lambda conv, x: conv(x) + torch.ones(4, 16, 6, 8),
    "product and position": lambda conv, x: (
        F.linear(conv(x), torch.ones(8, 8)) + torch.arange(3072.0).view(4, 16, 6, 8)
    ),
    "keys by position": lambda conv, x: F.scaled_dot_product_attention(
        conv(x), torch.ones(4, 16, 6, 8), torch.arange(3072.0).view(4, 16, 6, 8)
    ),
    "computed weight": lambda conv, x: F.linear(conv(x)[0, 0], conv(x)[:, 0, 0]),
}


@pytest.mark.parametrize("name", MIXING)
def test_batches_whose_images_meet_are_computed_as_a_whole(name: str) -> None:
    model, x = Function(MIXING[name]).eval(), image(4, 6)
    fast = convkern.optimize(model, x)
    assert fast.plans[0].parts == 1
    assert fast.plans[0].together is not None
    assert_same(model, fast, x)


APART: dict[str, Callable[[Any, Tensor], Any]] = {
    "reshaped": lambda conv, x: conv(x).flatten(1)[:, 3:9],
    "shuffled": lambda conv, x: conv(x).view(x.shape[0], 4, 4, -1).transpose(1, 2).flatten(1, 2),
    "split": lambda conv, x: torch.cat([*reversed(conv(x).chunk(3, 1))], 1),
    "attention": lambda conv, x: F.scaled_dot_product_attention(*[conv(x)] * 3),
    "same for all": lambda conv, x: conv(x) * torch.arange(16.0).view(1, 16, 1, 1),
    "enlarged": lambda conv, x: F.interpolate(conv(x), scale_factor=2.0, mode="nearest"),
    "padded": lambda conv, x: F.pad(conv(x), (1, 2)),
    "constant": lambda conv, x: conv(x) + torch.ones(1, 16, 1, 1).expand(x.shape[0], 16, 1, 1),
}


@pytest.mark.parametrize("name", APART)
def test_other_batches_are_computed_in_parts(name: str) -> None:
    model, x = Function(APART[name]).eval(), image(2 * torch.get_num_threads(), 6)
    fast = convkern.optimize(model, x)
    assert fast.plans[0].parts == len(x), fast.plans[0].together
    assert_same(model, fast, x)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "batch last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "columns before rows": lambda x: x.mT.contiguous().mT,
    "cut": lambda x: F.pad(x, (1, 1, 1, 1))[..., 1:-1, 1:-1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_have_the_strides_of_the_whole_batch(layout: str) -> None:
    def call(conv: Any, x: Tensor) -> tuple[Tensor, ...]:
        turned = x.permute(0, 3, 2, 1)
        return conv(x), x, x + 1, conv(x) * 2, turned.flatten(1).view(turned.shape)

    x = LAYOUTS[layout](image(2 * torch.get_num_threads(), 6))
    model = Function(call).eval()
    fast = convkern.optimize(model, x)
    assert fast.plans[0].parts == len(x), fast.plans[0].together
    with torch.no_grad():
        for ours, theirs in zip(fast(x), model(x), strict=True):
            torch.testing.assert_close(ours, theirs)
            assert ours.stride() == theirs.stride()
