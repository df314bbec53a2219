"""convkern.optimize: a model for inference is traced to a graph of torch's operators, neighbouring
operators are fused into convolutions and products of matrices, and the graph becomes a native
program."""

from convkern.optimize.fusions import FUSIONS, Fusions, fuse
from convkern.optimize.graphs import CannotTrace
from convkern.optimize.optimized import Optimized, Plan, optimize
from convkern.optimize.rewriting import Note
from convkern.optimize.trace import trace

__all__ = [
    "FUSIONS",
    "CannotTrace",
    "Fusions",
    "Note",
    "Optimized",
    "Plan",
    "fuse",
    "optimize",
    "trace",
]
