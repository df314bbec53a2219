"""Times convkern and its peers side by side: ``python -m convkern bench``.

Ratios are between medians. The calls are timed in turn in one process, through the public API.
Allocation of the results is included, and no weights are prepacked.
"""

from convkern.bench.compare import compare
from convkern.bench.inference import (
    INFERENCE_MODELS,
    InferenceRow,
    InferenceTimes,
    check_inference,
    inference_table,
    time_inference,
)
from convkern.bench.inference import PEERS as INFERENCE_PEERS
from convkern.bench.models import (
    LAYOUT_NAMES,
    STEP_NAMES,
    VISION_MODELS,
    ModelRow,
    ModelTimes,
    mean_ratios,
    models_table,
    time_models,
)
from convkern.bench.peers import PASS_NAMES, PASSES, PEERS
from convkern.bench.report import check_report, read_results, write_report
from convkern.bench.suite import (
    Row,
    Suite,
    read_shapes,
    run_suite,
    table,
    with_batch,
)
from convkern.bench.timing import Sample, time_in_turn
from convkern.bench.training import (
    TRAINING_PEERS,
    TrainingRow,
    TrainingTimes,
    check_training,
    time_training,
    training_table,
)
from convkern.peaks import Peaks, measure_peaks

__all__ = [
    "INFERENCE_MODELS",
    "INFERENCE_PEERS",
    "LAYOUT_NAMES",
    "PASSES",
    "PASS_NAMES",
    "PEERS",
    "STEP_NAMES",
    "TRAINING_PEERS",
    "VISION_MODELS",
    "InferenceRow",
    "InferenceTimes",
    "ModelRow",
    "ModelTimes",
    "Peaks",
    "Row",
    "Sample",
    "Suite",
    "TrainingRow",
    "TrainingTimes",
    "check_inference",
    "check_report",
    "check_training",
    "compare",
    "inference_table",
    "mean_ratios",
    "measure_peaks",
    "models_table",
    "read_results",
    "read_shapes",
    "run_suite",
    "table",
    "time_in_turn",
    "time_inference",
    "time_models",
    "time_training",
    "training_table",
    "with_batch",
    "write_report",
]
