"""The form of the report's pictures: size, colours and texts. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from convkern.fashion_mnist.models import parts

# Okabe and Ito's colours, which colour-blind readers can tell apart, as far as they contrast enough
# with white.
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, GREY = "#E69F00", "#56B4E9", "#666666"
_COLORS = {"plain": BLUE, "padding2": VERMILLION, "padding3": GREEN, "stride": PURPLE}
_MARKERS = {"plain": "o", "padding2": "s", "padding3": "^", "stride": "D"}
_MODE_MARKERS = {"reflect": "<", "replicate": "P", "circular": "*"}
SEED_LINES = ("-", "--", ":", "-.")

# A phone shows this width in about 360 of its pixels, and then 10 points as 11 of them.
WIDTH = 4.6  # inches
_DPI = 200
_STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "image.interpolation": "nearest",
    "svg.hashsalt": "convkern",
}


@dataclass(frozen=True)
class Picture:
    """A picture and its texts.

    Attributes:
        file: its name below the report's directory.
        title: a heading.
        alt: what it shows, for those who do not see it.
        caption: how to read it.
        draw: a function that writes it to a path.
    """

    file: str
    title: str
    alt: str
    caption: str
    draw: Callable[[Path], None]


def color_of(model: str) -> str:
    """Returns the colour of a model, which is that of its variants too."""
    return _COLORS[parts(model)[0]]


def marker_of(model: str) -> str:
    """Returns the marker of a model, or that of the mode of padding of a variant."""
    name, mode = parts(model)
    return _MODE_MARKERS.get(mode, _MARKERS[name])


def label_of(model: str) -> str:
    """Returns the name of a model in lines short enough for a label."""
    return model.replace("-", "\n")


@contextmanager
def style() -> Iterator[None]:
    """Gives figures the report's style within the context, whatever the user's settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(height: float) -> Any:
    """Returns a figure of the report's width, `height` inches high."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def saver(draw: Callable[[], Any]) -> Callable[[Path], None]:
    """Returns a function that writes the figure that `draw` returns as a PNG."""

    def save(path: Path) -> None:
        with style():
            draw().savefig(path, dpi=_DPI, metadata={"Software": None})

    return save


def bare(axes: Any) -> None:
    """Removes ticks and frame from pictures."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def square(axes: Any, start: float, size: float, row: float | None = None, **line: Any) -> None:
    """Draws the outline of a square from column `start` and row `row`, which is `start` by
    default."""
    corner = (start, start if row is None else row)
    axes.add_patch(Rectangle(corner, size, size, fill=False, **line))
