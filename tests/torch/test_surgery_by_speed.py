"""Layers that replace_layers keeps because torch computes them faster."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import convkern
from convkern import keeping, measuring


def test_measure_keeps_layers_that_torch_computes_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    def model() -> nn.Sequential:
        layers = (
            nn.Conv2d(3, 4, 3, padding="same"),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 3, bias=False),
        )
        return nn.Sequential(
            *layers, nn.Conv2d(4, 4, 3, bias=False), nn.Flatten(2), nn.Linear(16, 2)
        )

    calls: list[float] = []

    def seconds(call: Callable[[], object], /) -> float:
        call()
        calls.append(0)
        return float(len(calls))  # torch's call comes first and takes less

    monkeypatch.setattr(measuring, "seconds", seconds)
    for training in (False, True):
        calls.clear()
        plain = model().train(training)
        before = copy.deepcopy(plain.state_dict())
        result = convkern.replace_layers(plain, measure=True, example=torch.randn(2, 3, 8, 8))
        assert result.replaced == []
        assert all("torch was measured to be faster: 0." in why for why in result.kept.values())
        assert len(result.kept) == 4
        assert len(calls) == 8  # the input of each layer has another size
        assert all(torch.equal(t, before[name]) for name, t in plain.state_dict().items())
        assert all(p.grad is None for p in plain.parameters())
    monkeypatch.setattr(measuring, "seconds", lambda call: 1.0)
    result = convkern.replace_conv2d(model(), measure=True, example=(torch.randn(2, 3, 8, 8),))
    assert len(result.replaced) == 3
    with pytest.raises(ValueError, match="measure=True needs an example"):
        convkern.replace_layers(model(), measure=True)


@pytest.mark.parametrize(
    ("layer", "faster"),
    [
        (nn.Conv2d(8, 8, 3), False),
        (nn.Conv2d(8, 8, 3, groups=8), False),
        (nn.Conv2d(8, 8, 3, groups=2), True),
        (nn.Conv2d(8, 8, 3, groups=2).bfloat16(), False),
        (nn.Conv2d(8, 8, 13, groups=8), True),
    ],
)
def test_kinds_of_layers_that_are_replaced_on_cuda(layer: nn.Conv2d, faster: bool) -> None:
    assert keeping._is_faster_on_cuda(layer) == faster
