"""convkern.optimize: a model for inference is traced to a graph of torch's operators, neighbouring
operators are fused into convolutions and products of matrices, and the graph becomes a native
program.

The steps in their order: trace() makes the graph, fuse() applies the fusions, separable() finds
whether images can be computed on their own, split() cuts the graph into sections, and compiled()
makes the program of a section. The function has the name of this package, so that its modules are
imported as ``from convkern.optimize import trace``."""

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
