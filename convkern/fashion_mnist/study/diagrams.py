"""Pictures of what padding and stride do: receptive fields, and a kernel that slides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle

from convkern import output_size
from convkern.fashion_mnist.models import parts
from convkern.fashion_mnist.study.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    VERMILLION,
    Picture,
    bare,
    new_figure,
    saver,
    square,
    style,
)  # fmt: skip
from convkern.fashion_mnist.study.geometry import IMAGE, Layer

_LAYER_COLORS = (BLUE, VERMILLION, GREEN)
_LAYER_LINES = ("-", "--", ":")

# The example that slides has an image and a kernel small enough to count.
_SIZE, _KERNEL = 5, 3
_SETTINGS = ((0, 1), (1, 1), (1, 2))  # padding, stride
_STEPS = 4  # of the picture in steps
_STEPS_PER_SECOND = 2  # of the animation


def receptive_fields(stacks: Mapping[str, Sequence[Layer]]) -> Picture:
    """Draws those of each model once, because its variants have the same."""
    varied = any(parts(model)[1] != "zeros" for model in stacks)
    stacks = {parts(model)[0]: layers for model, layers in stacks.items()}
    words = "; ".join(
        f"{model}: " + ", then ".join(f"{y.field}x{y.field}" for y in layers)
        for model, layers in stacks.items()
    )
    return Picture(
        "receptive-field.png",
        "Receptive fields",
        "For each model the image as a grey square, the padding that its layers add around it, "
        f"and squares of what one output of each layer sees. {words}.",
        "The part of the image (grey) that the middle output of each layer sees: layer 1 solid, "
        "layer 2 dashed, layer 3 dotted. The thin outline is how far padding lets outputs see "
        "beyond the image."
        + (" The padding modes change no size: they fill the padding from the image." * varied),
        saver(lambda: _fields(stacks)),
    )


def sliding() -> list[Picture]:
    """Shows a kernel that slides, step by step and as an animation."""
    sizes = [output_size(_SIZE, kernel=_KERNEL, padding=p, stride=s)[0] for p, s in _SETTINGS]
    words = "; ".join(
        f"padding {p}, stride {s}: {n}x{n} outputs"
        for (p, s), n in zip(_SETTINGS, sizes, strict=True)
    )
    what = f"a {_KERNEL}x{_KERNEL} kernel over a {_SIZE}x{_SIZE} image"
    return [
        Picture(
            "sliding.png",
            "A kernel slides, step by step",
            f"The first steps of {what} in three rows. {words}.",
            f"The first {_STEPS} places of {what} (blue) and the output each gives (orange). The "
            "white cells are padding. Padding 1 keeps the size, stride 2 leaves out every other "
            "place.",
            saver(_stepped),
        ),
        Picture(
            "sliding.gif",
            "The same as an animation",
            f"Animation of {what}, through all its places. {words}.",
            "All places in turn; it goes on for ever until this is closed.",
            _animate,
        ),
    ]


def _fields(stacks: Mapping[str, Sequence[Layer]]) -> Any:
    rows = (len(stacks) + 1) // 2
    figure = new_figure(0.1 + 2.5 * rows)
    grid = list(figure.subplots(rows, 2, squeeze=False).flat)
    for axes in grid:
        bare(axes)
    reach = max(_reach(layers) for layers in stacks.values())
    for axes, (model, layers) in zip(grid, stacks.items(), strict=False):
        axes.add_patch(Rectangle((0, 0), IMAGE, IMAGE, facecolor="#dddddd"))
        beyond = _reach(layers)
        if beyond:
            square(axes, -beyond, IMAGE + 2 * beyond, edgecolor=GREY, linewidth=0.8)
        for layer, color, line in zip(layers, _LAYER_COLORS, _LAYER_LINES, strict=False):
            middle = layer.offset + layer.jump * (layer.size_out // 2)
            square(axes, middle, layer.field, edgecolor=color, linewidth=2, linestyle=line)
        fields = " → ".join(str(layer.field) for layer in layers)
        axes.set_title(f"{model}\n{fields} of {IMAGE}")
        axes.set_xlim(-reach - 1, IMAGE + reach + 1)
        axes.set_ylim(IMAGE + reach + 1, -reach - 1)
        axes.set_aspect("equal")
    return figure


def _reach(layers: Sequence[Layer]) -> int:
    """Returns the rows beyond the image that the last layer's first output sees."""
    return -layers[-1].offset


def _stepped() -> Any:
    figure = new_figure(4.3)
    rows = figure.subfigures(len(_SETTINGS), 1)
    for row, (padding, stride) in zip(rows, _SETTINGS, strict=True):
        size = output_size(_SIZE, kernel=_KERNEL, padding=padding, stride=stride)[0]
        row.suptitle(f"padding {padding}, stride {stride}: {size}x{size} outputs", fontsize=10)
        for axes, step in zip(row.subplots(1, _STEPS), range(_STEPS), strict=True):
            _place(axes, padding, stride, step, size)
    return figure


def _place(axes: Any, padding: int, stride: int, step: int, size: int) -> None:
    """Draws the kernel at the place of output number `step`, in reading order, over the outputs so
    far.

    Each output is drawn on the middle of its window.
    """
    bare(axes)
    places = range(-padding, _SIZE + padding)
    cells = [(column, row) for row in places for column in places]
    colors = ["#dddddd" if min(c) >= 0 and max(c) < _SIZE else "white" for c in cells]
    squares = [Rectangle(cell, 1, 1) for cell in cells]
    axes.add_collection(
        PatchCollection(squares, facecolors=colors, edgecolors=GREY, linewidths=0.6, zorder=0)
    )
    row, column = (stride * place - padding for place in divmod(step % size**2, size))
    axes.add_patch(Rectangle((column, row), _KERNEL, _KERNEL, facecolor=SKY, alpha=0.6))
    square(axes, column, _KERNEL, row=row, edgecolor=BLUE, linewidth=1.8)
    middles = [
        [stride * place - padding + _KERNEL / 2 for place in divmod(done, size)]
        for done in range(step % size**2 + 1)
    ]
    outputs = [Rectangle((x - 0.22, y - 0.22), 0.44, 0.44) for y, x in middles]
    axes.add_collection(
        PatchCollection(outputs, facecolors=ORANGE, edgecolors="black", linewidths=0.5, zorder=3)
    )
    most = max(p for p, _ in _SETTINGS)
    axes.set_xlim(-most - 0.15, _SIZE + most + 0.15)
    axes.set_ylim(_SIZE + most + 0.15, -most - 0.15)
    axes.set_aspect("equal")


def _animate(path: Path) -> None:
    sizes = [output_size(_SIZE, kernel=_KERNEL, padding=p, stride=s)[0] for p, s in _SETTINGS]
    with style():
        figure = new_figure(2.0)
        grid = figure.subplots(1, len(_SETTINGS))

        def draw(step: int) -> list[Any]:
            for axes, (padding, stride), size in zip(grid, _SETTINGS, sizes, strict=True):
                axes.clear()
                _place(axes, padding, stride, step, size)
                axes.set_title(f"padding {padding}\nstride {stride}")
            if step == 1:
                figure.set_layout_engine("none")  # the layout is already done
            return []

        # Padding 1 with stride 1 has the most places. The others start again.
        animation = FuncAnimation(figure, draw, frames=max(sizes) ** 2)
        animation.save(path, writer=PillowWriter(fps=_STEPS_PER_SECOND), dpi=120)
