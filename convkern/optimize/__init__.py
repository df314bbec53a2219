"""Graphs for inference: a model is traced to a graph of torch's operators, and neighbouring
operators are fused into convolutions and products of matrices."""

from convkern.optimize.fusions import FUSIONS, Fusions, fuse
from convkern.optimize.graphs import CannotTrace
from convkern.optimize.rewriting import Note
from convkern.optimize.trace import trace

__all__ = ["FUSIONS", "CannotTrace", "Fusions", "Note", "fuse", "trace"]
