"""The fusions in the order in which they are applied."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch.fx import GraphModule

from convkern.optimize.canonical import AveragePools, Layers, Means, Shapes, Silu
from convkern.optimize.folds import BatchNorms, Scales, ScaleShifts, Shifts
from convkern.optimize.graphs import tidy
from convkern.optimize.joins import Activations, Residuals
from convkern.optimize.picks import Channels
from convkern.optimize.rewriting import Fusion, Note

_FORMS: tuple[Fusion, ...] = (Layers(), Means(), AveragePools(), Shapes(), Silu())
_FOLDS: tuple[Fusion, ...] = (BatchNorms(), Scales(), Shifts())
_JOINS: tuple[Fusion, ...] = (ScaleShifts(), Residuals(), Activations(), Channels())
FUSIONS: tuple[Fusion, ...] = (*_FORMS, *_FOLDS, *_JOINS)


@dataclass(frozen=True)
class Fusions:
    """The outcome of :func:`fuse`. ``str()`` gives it as text.

    Attributes:
        fused: how many nodes each fusion has rewritten, by its name.
        kept: the nodes that a fusion is about and that stay, with the reasons.
    """

    fused: dict[str, int]
    kept: list[Note]

    def __str__(self) -> str:
        lines = [f"{name}: {count}" for name, count in self.fused.items()]
        lines += [f"kept {note.node} ({note.fusion}): {note.kept}" for note in self.kept]
        return "\n".join(lines)


def fuse(module: GraphModule, fusions: tuple[Fusion, ...] = FUSIONS) -> Fusions:
    """Applies fusions to a graph of :func:`convkern.optimize.trace`, in place.

    Those that change weights are repeated as long as one of them finds something, because a batch
    norm may follow a product and a product a batch norm.
    """
    notes: list[Note] = []
    folds = [fusion for fusion in fusions if fusion in _FOLDS]
    for fusion in fusions:
        if fusion not in folds:
            notes += fusion.apply(module)
        elif fusion is folds[0]:
            notes += _fold(module, folds)
    tidy(module)
    left = {node.name for node in module.graph.nodes}
    counts = Counter(note.fusion for note in notes if note.kept is None)
    kept = [note for note in notes if note.kept is not None and note.node in left]
    return Fusions({f.name: counts[f.name] for f in fusions}, kept)


def _fold(module: GraphModule, folds: list[Fusion]) -> list[Note]:
    """Applies the fusions that change weights until none finds anything. Returns what was fused,
    and what stays in the end."""
    notes: list[Note] = []
    while True:
        last = [note for fusion in folds for note in fusion.apply(module)]
        fused = [note for note in last if note.kept is None]
        if not fused:
            return notes + last
        notes += fused
