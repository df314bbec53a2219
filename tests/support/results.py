"""Made-up results of the benchmarks, from which tests draw charts."""

from convkern.bench import (
    InferenceRow,
    InferenceTimes,
    ModelRow,
    ModelTimes,
    Peaks,
    Row,
    Sample,
    Suite,
)

LAYERS = {
    "wide": "c64h56w56k64r3s3p1q1_f32_nchw_fwd#net/wide",
    "deep": "c256h14w14k256r3s3p1q1_f32_nchw_fwd#net/deep.batch{n}",
}


def sample(seconds: float) -> Sample:
    return Sample(seconds, 0.9 * seconds, 1.1 * seconds, 9)


def suite(speed: float = 1.0, peaks: bool = True) -> Suite:
    """Returns two layers, the second at two batch sizes, in both passes with 1, 2 and 4 threads.
    One is slower than torch's. onnxruntime computes forward only."""
    rows = []
    for threads in (1, 2, 4):
        for layer, n in (("wide", 8), ("deep", 1), ("deep", 16)):
            for pass_, cost in (("fwd", 1), ("fwd_bwd", 3)):
                seconds = cost * n * 1e-3 / threads**0.8
                samples = {"convkern": sample(seconds / speed), "torch": sample(2 * seconds)}
                samples["torch_channels_last"] = sample((0.8 if layer == "wide" else 13) * seconds)
                if pass_ == "fwd":
                    samples["onnxruntime"] = sample(5 * seconds)
                problem = f"n{n}{LAYERS[layer]}".format(n=n)
                rows.append(Row(problem, pass_, threads, samples, ["fwd.x.f32.avx2"]))
    measured = [Peaks(n, n * 300e9, 20e9 + n * 4e9) for n in (1, 2)] if peaks else []
    return Suite({"torch": "2.14.1", "ISA": "<avx2>"}, "2026-01-02T03:04:05+00:00", rows, measured)


def models() -> ModelTimes:
    rows = [
        ModelRow(name, layout, what, {"torch": sample(0.1 * ratio), "convkern": sample(0.1)})
        for name, ratio in (("resnet18", 1.2), ("resnet50", 0.9))
        for layout in ("nchw", "nhwc")
        for what in ("inference", "training")
    ]
    return ModelTimes({"torch": "2.14.1"}, "2026-01-02T03:04:06+00:00", rows)


def inference() -> InferenceTimes:
    """Returns two models with two batches. openvino has not computed the second."""
    rows = []
    for name, speed in (("resnet18", 1.5), ("unet", 0.8)):
        for batch in (1, 8):
            times = {"convkern": 0.01, "medium": 0.008, "torch": 0.03, "openvino": 0.01 * speed}
            if name == "unet":
                del times["openvino"]
            samples = {by: sample(batch * seconds) for by, seconds in times.items()}
            rows.append(InferenceRow(name, batch, samples))
    return InferenceTimes({"torch": "2.14.1"}, "2026-01-02T03:04:07+00:00", rows)
