"""Times models in inference by convkern.optimize and by its peers."""

from __future__ import annotations

import copy
import io
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

import torch
from torch import Tensor, nn

from convkern import _C
from convkern._show.tables import Table
from convkern.bench.models import check_models
from convkern.bench.nets import NETS
from convkern.bench.results import Result, check_samples, mean_cells
from convkern.bench.timing import Call, Sample, time_in_turn
from convkern.choices import Precision
from convkern.optimize import optimize

INFERENCE_MODELS: Final = (
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "regnet_y_800mf",
    "convnext_tiny",
    "densenet121",
    "shufflenet_v2_x1_0",
    *NETS,
)


_UNTIMED_CALLS = 4
_PAUSE = 0.03  # seconds


@dataclass(frozen=True)
class InferenceRow:
    """One model with one batch size.

    Attributes:
        samples: the times by library: "convkern" at the default precision, "medium" under that
            precision where it was measured, and the peers.
    """

    model: str
    batch: int
    samples: dict[str, Sample]

    def __post_init__(self) -> None:
        check_samples(self.samples, "convkern")

    def ratio_to(self, peer: str, ours: str = "convkern") -> float | None:
        """Returns the time of a peer as a multiple of ours, or None if one was not measured."""
        theirs, own = self.samples.get(peer), self.samples.get(ours)
        return None if theirs is None or own is None else theirs.median / own.median

    def ratio(self, ours: str = "convkern") -> float | None:
        """Returns the time of the fastest peer as a multiple of ours, or None without peers."""
        ratios = [self.ratio_to(name, ours) for name in self.samples if name in PEERS]
        return min((ratio for ratio in ratios if ratio is not None), default=None)


@dataclass(frozen=True)
class InferenceTimes(Result):
    """A run over several models."""

    source = "bench inference"

    rows: list[InferenceRow]


def time_inference(
    names: Sequence[str],
    batches: Sequence[int],
    peers: Sequence[str],
    seconds: float = 1.0,
    size: int = 224,
    *,
    medium: bool = False,
    report: Callable[[str], None] = lambda name: None,
) -> InferenceTimes:
    """Times models on images of size x size, by convkern.optimize and by the peers in turn.

    Args:
        names: of torchvision's models, or of those in :mod:`convkern.bench.nets`.
        medium: whether convkern is also timed under float32 precision "medium".

    Raises:
        ValueError: there is no model or peer of a name, its package is not installed, or a batch
            has no images.
    """
    check_inference(names, batches, peers)
    before = _C.float32_precision()
    times = InferenceTimes.begin()
    for name in names:
        model = _model(name)
        for batch in batches:
            x = torch.randn(batch, 3, size, size)
            calls: dict[str, Call] = {"convkern": _convkern(model, x)}
            if medium:
                calls["medium"] = _convkern(model, x, "medium")
            calls |= {peer: PEERS[peer](model, x) for peer in peers}
            try:
                samples = time_in_turn(calls, seconds, _settled)
            finally:
                _C.set_float32_precision(before)
            times.rows.append(InferenceRow(name, batch, samples))
        report(name)
    return times


def check_inference(names: Sequence[str], batches: Sequence[int], peers: Sequence[str]) -> None:
    """Raises ValueError unless all models and peers are known and installed, and all batches have
    images. Nothing is timed for that, and torchvision is imported last."""
    for peer in peers:
        if peer not in PEERS:
            raise ValueError(f"peers must be among {', '.join(PEERS)}, got {peer!r}")
        missing = [name for name in _PACKAGES.get(peer, ()) if find_spec(name) is None]
        if missing:
            needed = " and ".join(missing)
            raise ValueError(f"peer {peer} needs {needed}: pip install 'convkern[peers]'")
    if not batches:
        raise ValueError("batches must be one number or several, got none")
    for batch in batches:
        if batch < 1:
            raise ValueError(f"batches must be at least 1, got {batch}")
    check_models(names, NETS)


def inference_table(rows: Sequence[InferenceRow]) -> Table:
    """Returns milliseconds with their spread, and the time of the fastest peer as a multiple of
    convkern's. The last row has the geometric means of these ratios."""
    names = list(dict.fromkeys(name for row in rows for name in row.samples))
    ours = [name for name in ("convkern", "medium") if name in names]
    heads = [f"{name}, ms" for name in names] + [f"best peer / {name}" for name in ours]
    result = Table(("model", "batch"), heads)
    for row in rows:
        cells = [
            f"{s.median * 1e3:.2f} ±{s.spread:.0%}" if (s := row.samples.get(name)) else ""
            for name in names
        ]
        ratios = [row.ratio(name) for name in ours]
        cells += ["" if ratio is None else f"{ratio:.2f}x" for ratio in ratios]
        result.add_row(row.model, str(row.batch), *cells)
    means = mean_cells(rows, ours)
    result.add_row("geometric mean", "", *[""] * len(names), *means)
    return result


def _settled(call: Call) -> Callable[[], float]:
    """The stopwatch. Threads of other libraries spin for a while after their calls and would slow
    down the next one, so that a measurement begins with a pause. After it the processor needs some
    calls to reach its full speed again, which are not timed: of mobilenet_v2 the first took 2.6 ms,
    the second 2.2, the fifth and all later ones 1.95."""

    def measure() -> float:
        time.sleep(_PAUSE)
        for _ in range(_UNTIMED_CALLS):
            call()
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return measure


def _model(name: str) -> nn.Module:
    if name in NETS:
        return NETS[name]().eval()
    from torchvision.models import get_model

    model: nn.Module = get_model(name, weights=None)
    return model.eval()


def _nhwc(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _convkern(model: nn.Module, x: Tensor, precision: Precision = "high") -> Call:
    x = _nhwc(x)
    fast = optimize(model, x)

    def call() -> None:
        _C.set_float32_precision(precision)
        fast(x)

    return call


def _torch(model: nn.Module, x: Tensor) -> Call:
    model, x = copy.deepcopy(model).to(memory_format=torch.channels_last), _nhwc(x)
    return _without_gradients(lambda: model(x))


def _inductor(model: nn.Module, x: Tensor) -> Call:
    """Returns the model compiled by inductor, whose weights are constants."""
    import torch._inductor.config as inductor

    model, x = copy.deepcopy(model).to(memory_format=torch.channels_last), _nhwc(x)
    torch._dynamo.reset()
    with inductor.patch(freezing=True), torch.no_grad():
        compiled = torch.compile(model)
        compiled(x)
    return _without_gradients(lambda: compiled(x))


def _onnxruntime(model: nn.Module, x: Tensor) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        _onnx(model, x), options, providers=["CPUExecutionProvider"]
    )
    feeds = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feeds)


def _openvino(model: nn.Module, x: Tensor) -> Call:
    import openvino

    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    read = core.read_model(io.BytesIO(_onnx(model, x)))
    request = core.compile_model(read, "CPU", options).create_infer_request()
    feeds = {0: x.numpy()}
    return lambda: request.infer(feeds)


def _onnx(model: nn.Module, x: Tensor) -> bytes:
    file: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), file, dynamo=False, opset_version=17)
    return bytes(file.getvalue())


def _without_gradients(call: Call) -> Call:
    def run() -> None:
        with torch.inference_mode():
            call()

    return run


PEERS: Final[Mapping[str, Callable[[nn.Module, Tensor], Call]]] = {
    "torch": _torch,
    "inductor": _inductor,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
_PACKAGES: Final = {
    "onnxruntime": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
}
