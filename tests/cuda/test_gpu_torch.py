"""The ops behave on a GPU as users of torch expect: streams, graphs, devices, training, memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import convkern
from convkern.testing import assert_accurate, operands, run

pytestmark = pytest.mark.gpu

DENSE = "n4c16h14w14k32r3s3p1q1_f32_nchw_fwd+bias+relu"
DEPTHWISE = "n4c16h14w14k16r7s7p3q3g16_f32_nchw_fwd+bias"
problems = pytest.mark.parametrize("problem", [DENSE, DEPTHWISE])


@pytest.fixture(autouse=True)
def _exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@problems
def test_work_is_on_the_current_stream(problem: str) -> None:
    """A kernel on another stream would read x before the slow stream has written it."""
    ops = operands(problem, device="cuda")
    x = torch.zeros_like(ops.x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # type: ignore[no-untyped-call]
        x.copy_(ops.x)
        y = run(ops.map(lambda t: x if t is ops.x else t))
    stream.synchronize()
    assert_accurate(y, ops)


@problems
def test_a_call_does_not_wait_for_the_gpu(problem: str) -> None:
    ops = operands(problem, device="cuda")
    run(ops)
    torch.cuda.synchronize()
    torch.cuda._sleep(1_000_000_000)  # type: ignore[no-untyped-call]
    run(ops)
    assert not torch.cuda.current_stream().query()
    torch.cuda.synchronize()


@problems
def test_training_steps_are_captured_in_a_graph(problem: str) -> None:
    ops = operands(problem, device="cuda")
    x, w, b = (t.clone().requires_grad_() for t in (ops.x, ops.w, ops.b) if t is not None)

    def step() -> tuple[Tensor, ...]:
        stride, padding, dilation, groups = ops.window
        y = convkern.conv2d(x, w, b, stride, padding, dilation, groups)
        return (y, *torch.autograd.grad(y, (x, w, b), ops.gy))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
        w.copy_(torch.randn_like(w))
    graph.replay()
    for replayed, eager in zip(captured, step(), strict=True):
        assert torch.equal(replayed, eager)


@problems
def test_results_repeat_bitwise(problem: str) -> None:
    for pass_ in ("fwd", "gx", "gw"):
        ops = operands(
            problem.replace("fwd+bias+relu", pass_).replace("fwd+bias", pass_), device="cuda"
        )
        first = run(ops)
        assert all(torch.equal(run(ops), first) for _ in range(5))


@problems
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_a_device_that_is_not_current(problem: str) -> None:
    ops = operands(problem, device="cuda:1")
    assert torch.cuda.current_device() == 0
    y = run(ops)
    assert y.device == torch.device("cuda:1")
    assert_accurate(y, ops)
    assert torch.cuda.current_device() == 0


def test_operands_on_different_devices_are_refused() -> None:
    x, w = torch.randn(1, 2, 5, 5, device="cuda"), torch.randn(3, 2, 3, 3)
    with pytest.raises(RuntimeError, match="device"):
        convkern.conv2d(x, w)


def models() -> tuple[nn.Module, nn.Module]:
    def build(conv: Callable[..., nn.Module]) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            conv(1, 8, 5, padding=2), nn.ReLU(), conv(8, 8, 3, groups=8, stride=2), nn.ReLU(),
            conv(8, 32, 3), nn.Flatten(), nn.Linear(32 * 11 * 11, 10),
        ).cuda()  # fmt: skip

    return build(convkern.Conv2d), build(nn.Conv2d)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_training_follows_torchs(dtype: torch.dtype | None) -> None:
    x, target = torch.randn(16, 1, 28, 28).cuda(), torch.randint(10, (16,)).cuda()
    losses = []
    for model in models():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        history = []
        for _ in range(10):
            with torch.autocast("cuda", dtype, enabled=dtype is not None):
                loss = nn.functional.cross_entropy(model(x), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        losses.append(history)
    assert losses[0][-1] < losses[0][0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if dtype is None else 3e-2)


def test_memory_does_not_grow() -> None:
    ops = [operands(problem, device="cuda") for problem in (DENSE, DEPTHWISE)]
    for o in ops:
        run(o)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(100):
        for o in ops:
            run(o)
    assert torch.cuda.memory_allocated() == before


def test_out_of_memory_is_torchs_error_and_the_next_call_works() -> None:
    x = torch.empty(1, 1, 1, 1, device="cuda").expand(1, 1, 1 << 15, 1 << 15)
    w = torch.empty(1 << 12, 1, 1, 1, device="cuda")  # y would have 16 TiB
    with pytest.raises(torch.OutOfMemoryError):
        convkern.conv2d(x, w)
    ops = operands(DENSE, device="cuda")
    assert_accurate(run(ops), ops)
