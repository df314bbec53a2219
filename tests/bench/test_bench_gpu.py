"""The suite on a GPU: its clock against a simulated timeline of a GPU, the content of rows, what is
refused, and a tiny run if there is a GPU. No test checks a real time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

import kinds
from convkern import _C
from convkern.bench import Peaks, Row, Sample, Suite, compare, run_suite
from convkern.bench import gpu as gpu_module
from convkern.bench.gpu import EventClock, cudnn_chooses, l2_buffer, require_gpu
from convkern.bench.peers import PEERS
from convkern.bench.roofline import points
from convkern.bench.suite import table
from convkern.bench.timing import time_in_turn
from convkern.cli import main
from convkern.testing import Operands, operands

TINY = "n2c16h8w8k32r3s3_f32_nchw_fwd+bias+relu#resnet50/tiny"
PEERS_OF_TORCH = ["torch", "torch_channels_last"]
US = 1e-6
Flags = tuple[bool, bool, str]  # cuDNN's flags: enabled, benchmark, precision of float32


def cudnn_flags() -> Flags:
    cudnn = torch.backends.cudnn
    return cudnn.enabled, cudnn.benchmark, cudnn.conv.fp32_precision


class Timeline:
    """A GPU that executes what the CPU queues, in simulated seconds.

    Attributes:
        host: the time on the CPU.
        idle_from: the time at which the GPU has finished everything that is queued.
        log: what was queued, in order.
        buffer: the memory that is written to flush its cache.
    """

    def __init__(self) -> None:
        self.host = self.idle_from = 0.0
        self.log: list[str] = []
        self.buffer = torch.ones(1)

    def queue(self, name: str, python: float, seconds: float) -> None:
        """Queues work that takes the GPU `seconds` and takes Python `python` seconds to launch."""
        self.host += python
        self.idle_from = max(self.idle_from, self.host) + seconds
        self.log.append(name)

    def synchronize(self) -> None:
        self.host = max(self.host, self.idle_from)

    def event(self, enable_timing: bool) -> Event:
        assert enable_timing
        return Event(self)

    def sleep(self, cycles: int) -> None:
        clock = 1.5e9  # a GPU slower than the fastest
        self.queue("wait", 5 * US, cycles / clock)


class Event:
    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline

    def record(self) -> None:
        self.timeline.queue("event", 1 * US, 0.0)
        self.time = self.timeline.idle_from

    def query(self) -> bool:
        return self.time <= self.timeline.host

    def synchronize(self) -> None:
        self.timeline.host = max(self.timeline.host, self.time)

    def elapsed_time(self, end: Event) -> float:
        return (end.time - self.time) * 1e3


@pytest.fixture
def timeline(monkeypatch: pytest.MonkeyPatch) -> Timeline:
    result = Timeline()
    monkeypatch.setattr(torch.cuda, "Event", result.event)
    monkeypatch.setattr(torch.cuda, "synchronize", result.synchronize)
    monkeypatch.setattr(torch.cuda, "_sleep", result.sleep)
    monkeypatch.setattr(gpu_module, "perf_counter", lambda: result.host)
    return result


def clock_of(timeline: Timeline) -> EventClock:
    return EventClock(partial(timeline.queue, "flush", 5 * US, 20 * US))


def test_the_events_time_kernels_and_not_their_launches(timeline: Timeline) -> None:
    def call() -> None:
        for _ in range(3):
            timeline.queue("kernel", 100 * US, 7 * US)

    measure = clock_of(timeline)(call)
    assert timeline.log == ["kernel"] * 12  # three calls warm up, and one shows Python's time
    timeline.log.clear()
    assert measure() == pytest.approx(21 * US)
    kernels = ["kernel"] * 3
    assert timeline.log == [*kernels, "wait", "flush", "event", *kernels, "event"]


def test_a_measurement_that_the_gpu_waited_in_is_repeated(timeline: Timeline) -> None:
    python = iter([10 * US] * 5 + [900 * US] + [10 * US] * 100)  # Python is interrupted once

    measure = clock_of(timeline)(lambda: timeline.queue("kernel", next(python), 7 * US))
    timeline.log.clear()
    assert measure() == pytest.approx(7 * US)
    assert timeline.log.count("wait") == 2


def test_a_wait_that_is_too_short_is_doubled_for_good(timeline: Timeline) -> None:
    python = iter([10 * US] * 4 + [400 * US] * 100)  # the processor slows down

    measure = clock_of(timeline)(lambda: timeline.queue("kernel", next(python), 7 * US))
    timeline.log.clear()
    assert measure() == pytest.approx(7 * US)
    assert timeline.log.count("wait") == 5  # 20, 40, 80, 160 and 320 us by the fastest clock
    timeline.log.clear()
    assert measure() == pytest.approx(7 * US)
    assert timeline.log.count("wait") == 1


def test_a_call_that_waits_for_the_gpu_is_said_to(timeline: Timeline) -> None:
    def call() -> None:
        timeline.queue("kernel", 10 * US, 7 * US)
        timeline.synchronize()
        timeline.queue("kernel", 10 * US, 7 * US)

    measure = clock_of(timeline)(call)
    with pytest.warns(RuntimeWarning, match="a call waits for the GPU: its time includes Python's"):
        seconds = measure()
    assert seconds == pytest.approx((7 + 10 + 7) * US)


def test_a_call_without_waits_gives_no_warning(timeline: Timeline) -> None:
    measure = clock_of(timeline)(lambda: timeline.queue("kernel", 500 * US, 7 * US))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measure() == pytest.approx(7 * US)


def test_calls_take_turns_on_the_gpu_too(timeline: Timeline) -> None:
    def call(name: str) -> Callable[[], object]:
        return lambda: timeline.queue(name, 100 * US, (ord(name) - ord("a") + 1) * US)

    samples = time_in_turn({name: call(name) for name in "abc"}, 0.0, clock_of(timeline))
    assert [samples[name].median for name in "abc"] == pytest.approx([1 * US, 2 * US, 3 * US])
    assert {sample.rounds for sample in samples.values()} == {5}
    turns = "".join(name for name in timeline.log if name in "abc")[-30:]
    assert turns == "aabbcc" + "bbccaa" + "ccaabb" + "aabbcc" + "bbccaa"


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch, timeline: Timeline) -> list[Flags]:
    """Makes the suite find a GPU that computes on the CPU. Returns cuDNN's flags in each call."""
    seen: list[Flags] = []

    def prepare(peer: str, ops: Operands, pass_: str) -> Callable[[], object]:
        compute = PEERS[peer](ops, pass_)
        assert compute is not None

        def call() -> None:
            seen.append(cudnn_flags())
            compute()
            timeline.queue(peer, 10 * US, 1 * US)

        return call

    def on_the_cpu(text: str, device: str) -> Operands:
        assert device == "cuda"
        return operands(text)

    suite = "convkern.bench.suite"
    monkeypatch.setattr(f"{suite}.require_gpu", lambda: None)
    monkeypatch.setattr(f"{suite}.l2_buffer", lambda: timeline.buffer)
    monkeypatch.setattr(f"{suite}.prepare", prepare)
    monkeypatch.setattr(f"{suite}.operands", on_the_cpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Pretended GPU")
    return seen


needs_build = pytest.mark.skipif(_C.build_info()["cuda"] is None, reason="a build without CUDA")


@needs_build
@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_rows_name_gpu_kernels_and_precision(
    pretended: list[Flags],
    timeline: Timeline,
    tf32: bool,
    dtype: str,
    tmp_path: Path,
) -> None:
    before = cudnn_flags()
    out = tmp_path / "result.json"
    arguments = ["--device", "cuda", "--shapes", TINY, "--dtype", dtype, "--seconds", "0"]
    assert main(["bench", *arguments, "--out", str(out), *["--tf32"] * tf32]) == 0
    assert set(pretended) == {(True, True, "tf32" if tf32 else "ieee")}
    assert cudnn_flags() == before
    suite = Suite.read(out)
    assert suite.machine["cuDNN"] == str(torch.backends.cudnn.version())
    rows = suite.rows
    assert [(row.pass_, row.threads, row.device) for row in rows] == [
        ("fwd", None, "Pretended GPU"), ("fwd_bwd", None, "Pretended GPU")
    ]  # fmt: skip
    assert [row.tf32 for row in rows] == [tf32 if dtype == "f32" else None] * 2
    algorithm = "implicit_gemm" if dtype == "f32" and not tf32 else "implicit_gemm_mma"
    kernels = [f"{pass_}.{algorithm}.{dtype}.cuda" for pass_ in ("fwd", "gx", "gw")]
    assert rows[1].kernels == kernels
    assert rows[0].kernels == rows[1].kernels[:1]
    assert rows[0].samples.keys() == {"convkern", *PEERS_OF_TORCH}
    assert [row.samples["convkern"].median for row in rows] == pytest.approx([1 * US, 1 * US])
    assert timeline.buffer.item() == 0


@pytest.mark.parametrize("tf32", [False, True])
def test_other_settings_of_torch_do_not_matter(tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends, "fp32_precision", "tf32")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not tf32)
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    with cudnn_chooses(tf32):
        assert cudnn_flags() == (True, True, "tf32" if tf32 else "ieee")
    assert not torch.backends.cudnn.enabled


@pytest.mark.usefixtures("pretended")
@needs_build
def test_flags_are_restored_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cudnn_flags()
    monkeypatch.setattr("convkern.bench.suite.time_in_turn", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_suite([TINY], ["fwd"], [], [], 0.0, device="cuda")
    assert cudnn_flags() == before


def row(device: str = "One GPU", tf32: bool | None = False, ratio: float = 2.0) -> Row:
    samples = {name: Sample(t, t, t, 9) for name, t in (("convkern", 1.0), ("torch", ratio))}
    threads = 2 if device == "cpu" else None
    return Row(TINY, "fwd", threads, samples, [], device, tf32)


@pytest.mark.parametrize(
    ("a_row", "where"),
    [
        (row(), "One GPU, exact float32"),
        (row(tf32=True), "One GPU, TF32"),
        (row(tf32=None), "One GPU"),
        (row("cpu", None), "2 threads"),
    ],
)
def test_the_tables_say_where_and_how(a_row: Row, where: str) -> None:
    assert [cells[2] for cells in table([a_row]).rows] == [where, where]
    printed, slower = compare(Suite({}, "", [a_row]), Suite({}, "", [a_row]))
    assert printed.rows[0][2] == where
    assert slower == 0


@pytest.mark.parametrize("other", [row("Other GPU"), row(tf32=True), row("cpu", None)])
def test_rows_of_other_gpus_and_precisions_are_not_compared(other: Row) -> None:
    with pytest.raises(ValueError, match="in common"):
        compare(Suite({}, "", [row()]), Suite({}, "", [other]))


def test_results_from_before_there_were_gpus_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    sample = '{"median": 1.0, "low": 1.0, "high": 1.0, "rounds": 5}'
    path.write_text(
        '{"machine": {}, "started": "", "rows": [{"problem": "' + TINY + '", "pass_": "fwd", '
        '"threads": 2, "samples": {"convkern": ' + sample + '}, "kernels": []}]}'
    )
    [read] = Suite.read(path).rows
    assert (read.device, read.tf32, read.where) == ("cpu", None, "2 threads")


def test_what_is_made_of_results_knows_those_of_a_gpu() -> None:
    assert kinds.ratios_by_kind([row()], threads=2)["ResNet-50 3x3"]["fwd"] == [2.0]
    assert points([row()], [Peaks(2, 1e9, 1e9)]) == []  # the roof is that of a CPU


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--device", "cuda", "--peers", "torch,onnxruntime"],
            "peer onnxruntime is for device cpu",
        ),
        (["--device", "cuda", "--threads", "1"], "threads are the CPU's: device cuda takes none"),
        (["--tf32"], "tf32 is for device cuda"),
    ],
)
def test_the_command_refuses_in_a_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--shapes", TINY, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_command_says_that_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(_C, "build_info", lambda: {"cuda": "13.0"})
    assert main(["bench", "--device", "cuda", "--shapes", TINY]) == 2
    message = "convkern: device cuda: this machine has no GPU that torch can use\n"
    assert capsys.readouterr().err == message
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    require_gpu()
    monkeypatch.setattr(_C, "build_info", lambda: {"cuda": None})
    assert main(["bench", "--device", "cuda", "--shapes", TINY]) == 2
    assert "this build of convkern has no CUDA kernels" in capsys.readouterr().err


def test_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="device must be cpu or cuda, got 'mps'"):
        run_suite([TINY], ["fwd"], [], [1], device="mps")


@pytest.mark.gpu
def test_the_buffer_is_larger_than_the_cache() -> None:
    size = torch.cuda.get_device_properties(0).L2_cache_size
    assert size > 0
    buffer = l2_buffer()
    assert buffer.device.type == "cuda"
    assert buffer.numel() * buffer.element_size() >= size


@pytest.mark.gpu
@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_tiny_run_on_a_gpu(dtype: str, tf32: bool) -> None:
    before = cudnn_flags()
    problem = TINY.replace("f32", dtype)
    passes = ["fwd", "fwd_bwd"]
    rows = run_suite([problem], passes, PEERS_OF_TORCH, [], 0.0, device="cuda", tf32=tf32).rows
    assert cudnn_flags() == before
    assert [row.pass_ for row in rows] == passes
    for row in rows:
        assert row.device == torch.cuda.get_device_name()
        assert row.threads is None
        assert row.tf32 == (tf32 if dtype == "f32" else None)
        assert row.kernels
        assert all(kernel.endswith(".cuda") for kernel in row.kernels)
        assert row.samples.keys() == {"convkern", *PEERS_OF_TORCH}
        assert row.ratio is not None
        assert row.ratio > 0
