"""The study of padding and stride: four models over several seeds, judged and drawn."""

from convkern.fashion_mnist.study.results import Run, Shape, Study, Summary
from convkern.fashion_mnist.study.run import Plan, Watcher, run_study, time_epochs
from convkern.fashion_mnist.study.verdicts import Verdict, dead_seeds, judge, steadiness

__all__ = [
    "Plan",
    "Run",
    "Shape",
    "Study",
    "Summary",
    "Verdict",
    "Watcher",
    "dead_seeds",
    "judge",
    "run_study",
    "steadiness",
    "time_epochs",
]
