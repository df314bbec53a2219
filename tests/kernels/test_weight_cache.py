"""The cache of packed weights."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import convkern
from convkern import _C


@pytest.fixture(autouse=True)
def weight_cache() -> Iterator[None]:
    convkern.set_weight_cache(True)
    yield
    convkern.set_weight_cache(False)


def pair(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(1, 32, 9, 9, dtype=dtype), torch.randn(48, 32, 3, 3, dtype=dtype)


def uncached(x: Tensor, w: Tensor) -> Tensor:
    """Returns the result with a copy of the weight, which is packed for this call."""
    return convkern.conv2d(x, w.detach().clone(), padding=1)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("algorithm", ["implicit_gemm", "winograd_2x2"])
@pytest.mark.usefixtures("restored_precision")
def test_kept_weights_give_the_same_result(
    algorithm: str, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    convkern.set_float32_precision("highest" if algorithm == "implicit_gemm" else "high")
    x, w = (t.contiguous(memory_format=memory_format) for t in pair(dtype))
    held = convkern.weight_cache_bytes()
    results = [convkern.conv2d(x, w, padding=1) for _ in range(3)]
    ran = convkern.explain(x, w, padding=1).algorithm
    assert ran == algorithm or (dtype == torch.bfloat16 and "avx512bf16" in _C.available_isa())
    assert convkern.weight_cache_bytes() - held >= w.numel() * w.element_size()
    convkern.set_weight_cache(False)
    assert all(torch.equal(y, convkern.conv2d(x, w, padding=1)) for y in results)


def test_a_changed_weight_is_packed_anew() -> None:
    x, w = pair()
    convkern.conv2d(x, w, padding=1)
    kept = convkern.weight_cache_bytes()
    w.mul_(2)
    assert torch.equal(convkern.conv2d(x, w, padding=1), uncached(x, w))
    w.data = torch.randn_like(w)  # other memory, but the same version
    assert torch.equal(convkern.conv2d(x, w, padding=1), uncached(x, w))
    del w
    assert convkern.weight_cache_bytes() <= kept  # nothing is left of the clones either


def test_memory_that_is_used_again_is_noticed() -> None:
    """A weight that is given other memory may later get the address of its old memory back."""
    x, w = pair()
    freed, addresses = 0, set()
    for _ in range(200):
        convkern.conv2d(x, w, padding=1)
        w.data = w.data * 2
        w.data = w.data * 0.5 + 0.125
        freed += w.data_ptr() in addresses
        addresses.add(w.data_ptr())
        assert torch.equal(convkern.conv2d(x, w, padding=1), uncached(x, w))
    assert freed > 0
    assert w._version == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@torch.no_grad()
def test_a_layer_that_goes_to_another_dtype_and_back(dtype: torch.dtype) -> None:
    x, layer = pair()[0], convkern.Conv2d(32, 48, 3, padding=1)
    for step in range(100):
        layer(x)
        layer.to(dtype)
        layer.weight.data.add_(step)
        layer.to(torch.float32)
        assert torch.equal(
            layer(x), convkern.conv2d(x, layer.weight.detach().clone(), layer.bias, padding=1)
        )


@pytest.mark.parametrize("swap", [False, True], ids=["data", "swap_tensors"])
def test_weights_that_are_exchanged(swap: bool) -> None:
    x, a = pair()
    b = torch.randn_like(a)
    for _ in range(5):
        for w in (a, b):
            assert torch.equal(convkern.conv2d(x, w, padding=1), uncached(x, w))
        if swap:
            torch.utils.swap_tensors(a, b)
        else:
            a.data, b.data = b.data, a.data


def test_a_weight_that_is_given_another_storage() -> None:
    x, w = pair()
    convkern.conv2d(x, w, padding=1)
    w.set_(torch.randn_like(w))  # type: ignore[call-overload]
    assert torch.equal(convkern.conv2d(x, w, padding=1), uncached(x, w))


def test_old_weights_are_freed_with_their_memory() -> None:
    x, w = pair()
    convkern.conv2d(x, w, padding=1)
    once = convkern.weight_cache_bytes()
    for _ in range(10):
        w.data = w.data * 2
        convkern.conv2d(x, w, padding=1)
        assert convkern.weight_cache_bytes() == once


def test_a_weight_that_shares_its_memory_is_not_kept() -> None:
    """Another tensor may change the memory, and only that tensor's version counter would tell."""
    x, w = pair()
    flat = w.data.view(-1)
    before = convkern.weight_cache_bytes()
    convkern.conv2d(x, w, padding=1)
    assert convkern.weight_cache_bytes() == before
    flat.mul_(2)
    assert w._version == 0
    assert torch.equal(convkern.conv2d(x, w, padding=1), uncached(x, w))
    del flat
    convkern.conv2d(x, w, padding=1)
    assert convkern.weight_cache_bytes() > before


def test_a_weight_of_another_shape_or_layout_is_packed_anew() -> None:
    x, w = pair()
    convkern.conv2d(x, w, padding=1)
    w.as_strided_((32, 32, 3, 3), (288, 9, 3, 1))
    assert torch.equal(convkern.conv2d(x, w, padding=1), uncached(x, w))
    w.as_strided_((32, 32, 3, 3), (288, 1, 96, 32))
    assert torch.equal(convkern.conv2d(x, w, padding=1), uncached(x, w))


def test_kernels_do_not_share_packed_weights() -> None:
    x, w = pair()
    expected = convkern.conv2d(x.double(), w.double(), padding=1)
    for isa in ("baseline", "avx2", "avx512"):
        with convkern.use_isa(isa):
            y = convkern.conv2d(x, w, padding=1)
        torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)


def test_groups_of_one_weight_are_told_apart() -> None:
    w = torch.randn(64, 16, 3, 3)
    for groups in (1, 2, 4, 1):
        x = torch.randn(1, 16 * groups, 9, 9)
        y = convkern.conv2d(x, w, groups=groups)
        convkern.set_weight_cache(False)
        assert torch.equal(y, convkern.conv2d(x, w, groups=groups))
        convkern.set_weight_cache(True)


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize(
    "kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad]
)
def test_training_sees_each_step(kind: type[torch.optim.Optimizer], options: dict) -> None:
    """This includes fused optimizers, which do not count their changes."""
    layer = convkern.Conv2d(32, 48, 3)
    optimizer = kind(layer.parameters(), lr=0.1, **options)  # type: ignore[call-arg]
    x = torch.randn(2, 32, 9, 9)
    for _ in range(3):
        with torch.no_grad():
            for _ in range(2):
                expected = convkern.conv2d(x, layer.weight.detach().clone(), layer.bias)
                assert torch.equal(layer(x), expected)
        assert convkern.weight_cache_bytes() > 0
        y = layer(x)
        assert torch.equal(y, expected)
        optimizer.zero_grad()
        y.square().mean().backward()
        optimizer.step()


def test_a_weight_that_is_trained_is_not_kept() -> None:
    x, layer = pair()[0], convkern.Conv2d(32, 48, 3)
    with torch.no_grad():
        layer(x)
    assert convkern.weight_cache_bytes() > 0
    layer(x)
    assert convkern.weight_cache_bytes() == 0


@torch.no_grad()
def test_load_state_dict_is_noticed() -> None:
    x, layer, other = torch.randn(1, 32, 9, 9), convkern.Conv2d(32, 48, 3), nn.Conv2d(32, 48, 3)
    layer(x)
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(x), convkern.conv2d(x, other.weight, other.bias))


def test_memory_is_freed_with_the_weights_and_when_switched_off() -> None:
    x, w = pair()
    convkern.conv2d(x, w)
    assert convkern.weight_cache_bytes() > 0
    del w
    assert convkern.weight_cache_bytes() == 0
    x, w = pair()
    convkern.conv2d(x, w)
    convkern.set_weight_cache(False)
    assert convkern.weight_cache_bytes() == 0
    convkern.conv2d(x, w)
    assert convkern.weight_cache_bytes() == 0


def test_tensors_without_a_version_are_not_kept() -> None:
    with torch.inference_mode():
        x, w = pair()
        y = convkern.conv2d(x, w, padding=1)
        assert convkern.weight_cache_bytes() == 0
        w.mul_(2)
        torch.testing.assert_close(convkern.conv2d(x, w, padding=1), 2 * y)


def test_parameters_are_kept_in_inference_mode() -> None:
    x, w = pair()
    with torch.inference_mode():
        convkern.conv2d(x, w)
    assert convkern.weight_cache_bytes() > 0


def test_other_kernels_keep_nothing() -> None:
    x, w = torch.randn(1, 1, 9, 9), torch.randn(1, 1, 3, 3)
    assert "implicit_gemm" not in convkern.explain(x, w).kernel
    convkern.conv2d(x, w)
    assert convkern.weight_cache_bytes() == 0


@pytest.mark.parametrize(("setting", "kept"), [(None, False), ("1", True), ("0", False)])
def test_it_is_off_unless_the_environment_says_so(setting: str | None, kept: bool) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "CONVKERN_WEIGHT_CACHE"}
    if setting is not None:
        environment["CONVKERN_WEIGHT_CACHE"] = setting
    code = "import convkern; print(convkern._C.weight_cache())"
    printed = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert printed.strip() == str(kept)
