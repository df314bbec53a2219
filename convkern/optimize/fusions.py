"""The fusions in the order in which they are applied."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch.fx import GraphModule

from convkern.optimize.canonical import AveragePools, Layers, Means, Shapes, Silu
from convkern.optimize.folds import BatchNorms, Scales, ScaleShifts, Shifts
from convkern.optimize.graphs import paths_of, tidy
from convkern.optimize.joins import Activations, Residuals
from convkern.optimize.picks import Channels
from convkern.optimize.rewriting import Fusion, Note
from convkern.optimize.text import grouped

# These change the form of nodes, so that the fusions after them find what they look for.
_FORMS: tuple[Fusion, ...] = (Layers(), Means(), AveragePools(), Shapes(), Silu())
_FOLDS: tuple[Fusion, ...] = (BatchNorms(), Scales(), Shifts())
_JOINS: tuple[Fusion, ...] = (ScaleShifts(), Residuals(), Activations(), Channels())
FUSIONS: tuple[Fusion, ...] = (*_FORMS, *_FOLDS, *_JOINS)


@dataclass(frozen=True)
class Fusions:
    """The outcome of :func:`fuse`. ``str()`` gives it as text.

    Attributes:
        fused: how many nodes each fusion has joined with others, by its name.
        forms: how many nodes have got another form before, which is no fusion, in the same way.
        kept: the nodes that a fusion is about and that stay, with the reasons.
        paths: the part of the model that each node comes from, by the node's name: a path such as
            "features.3.conv.1", "" for the model itself, or None.
    """

    fused: dict[str, int]
    forms: dict[str, int]
    kept: list[Note]
    paths: dict[str, str | None]

    def what_stays(self) -> list[str]:
        """Returns a line for each fusion and reason, with the number of nodes and the path of the
        first."""
        found = ((f"{note.fusion}: {note.kept}", self.paths.get(note.node)) for note in self.kept)
        return grouped(found, self.paths)

    def __str__(self) -> str:
        lines = [f"{name}: {count}" for name, count in self.fused.items()]
        return "\n".join([*lines, *(f"kept {line}" for line in self.what_stays())])


def fuse(module: GraphModule, fusions: tuple[Fusion, ...] = FUSIONS) -> Fusions:
    """Applies fusions to a graph of :func:`convkern.optimize.trace`, in place.

    Those that change weights are repeated as long as one of them finds something, because a batch
    norm may follow a product and a product a batch norm.
    """
    notes: list[Note] = []
    paths = paths_of(module)
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
    fused = {f.name: counts[f.name] for f in fusions if f not in _FORMS}
    forms = {f.name: counts[f.name] for f in fusions if f in _FORMS}
    return Fusions(fused, forms, kept, paths | paths_of(module))


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
