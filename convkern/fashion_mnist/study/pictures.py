"""Pictures of images and weights: kernels, feature maps, and misclassified garments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convkern import conv2d
from convkern.fashion_mnist.study.figures import (
    WIDTH,
    Picture,
    bare,
    label_of,
    new_figure,
    saver,
    square,
)
from convkern.fashion_mnist.study.geometry import Layer, corner_share, layers_of, reads
from convkern.fashion_mnist.study.results import CLASSES, Study
from convkern.fashion_mnist.study.run import activations

_GRID = 4  # rows and columns of misclassified garments
_EDGE_PADDINGS = (0, 1, 2)
_BESIDE = 4  # most models beside one another
_LEAST_SHARE = 1e-4  # least share of the most read pixel that the picture shows


def pictures(
    study: Study, models: Mapping[str, nn.Module], images: Tensor, labels: Tensor
) -> list[Picture]:
    """Returns pictures of the networks in `models`, those of `study.shown`, and of the test split.

    `images` has the shape (N, 1, 28, 28), and `labels` (N,).
    """
    return [
        _misclassified_picture(study, models, images, labels),
        *_kernel_pictures(study, models),
        _features_picture(study, models, images[:1], int(labels[0])),
        _edge_picture(study, models, images[:1], int(labels[0])),
    ]


def _misclassified_picture(
    study: Study, models: Mapping[str, nn.Module], images: Tensor, labels: Tensor
) -> Picture:
    model = max(study.models, key=lambda name: study.shown(name).accuracy)
    run = study.shown(model)
    with torch.no_grad():
        chances = models[model](images).softmax(dim=1)
    sure, said = chances.max(dim=1)
    wrong = (said != labels).nonzero().flatten()
    wrong = wrong[sure[wrong].argsort(descending=True, stable=True)][: _GRID**2]
    names = [(CLASSES[int(labels[i])], CLASSES[int(said[i])]) for i in wrong]
    return Picture(
        "misclassified.png",
        "Garments taken for others",
        (
            f"{len(names)} garments: "
            + "; ".join(f"{true} taken for {said}" for true, said in names)
            + "."
            if names
            else "None of the images was taken for another class."
        ),
        f"The errors of which {model} (seed {run.seed}) was surest: above each picture what it "
        "is, below what it was taken for.",
        saver(lambda: _misclassified(images[wrong, 0], names)),
    )  # fmt: skip


def _kernel_pictures(study: Study, models: Mapping[str, nn.Module]) -> list[Picture]:
    kernels = {
        model: [layer.weight.detach()[0, 0] for layer in net if isinstance(layer, nn.Conv2d)]
        for model, net in models.items()
        if isinstance(net, nn.Sequential)
    }
    sizes = "; ".join(
        f"{model}: " + ", ".join(f"{k.shape[0]}x{k.shape[1]}" for k in stack)
        for model, stack in kernels.items()
    )
    shown = ", ".join(f"{model} of seed {study.shown(model).seed}" for model in models)
    return [
        Picture(
            "kernels.png",
            "Learned kernels",
            f"The kernel of each layer as a field of red and blue squares: {sizes}.",
            f"A row for each model ({shown}; of each the first seed that learned). Red weights are "
            "positive, blue ones negative, each kernel to the scale of its largest.",
            saver(lambda: _kernels(kernels)),
        )
    ]


def _features_picture(
    study: Study, models: Mapping[str, nn.Module], image: Tensor, label: int
) -> Picture:
    maps = {
        model: [image[0, 0], *(y[0, 0].relu() for y in activations(net, image)[:-1])]
        for model, net in models.items()
    }
    sizes = "; ".join(
        f"{model}: " + ", ".join(str(m.shape[0]) for m in stack) for model, stack in maps.items()
    )
    shown = ", ".join(f"{model} {study.shown(model).seed}" for model in models)
    return Picture(
        "features.png",
        "An image at each layer",
        f"A picture of the class {CLASSES[label]} and what each layer of each model makes of it. "
        f"Rows of the maps, {sizes}.",
        "The first test image, then what passes each layer's ReLU, with the size above it. Without "
        f"padding (plain) the maps shrink fastest. Seeds: {shown}.",
        saver(lambda: _features(maps)),
    )


def _edge_picture(
    study: Study, models: Mapping[str, nn.Module], image: Tensor, label: int
) -> Picture:
    name = next(iter(models))
    first = next(layer for layer in models[name].modules() if isinstance(layer, nn.Conv2d))
    stacks = {model: layers_of(net) for model, net in models.items()}
    kept = ", ".join(f"{model} {100 * corner_share(s):.2g}%" for model, s in stacks.items())
    with torch.no_grad():
        maps = [conv2d(image, first.weight, padding=padding)[0, 0] for padding in _EDGE_PADDINGS]
    return Picture(
        "edge.png",
        "What the edge keeps",
        f"Above, the first kernel of {name} over a picture of the class {CLASSES[label]} with "
        f"padding 0, 1 and 2: outputs of {', '.join(str(m.shape[0]) for m in maps)} rows. Below, "
        "for each model, how often each pixel of the image reaches the last layer: much in the "
        f"middle, little at the edge. The corner, of what the best pixel has: {kept}.",
        f"Above: one kernel, {name}'s first of seed {study.shown(name).seed}, on the same image; "
        "outside the white frame is what padding adds. Below: by how many paths each pixel "
        "reaches the last layer, in logarithms, from blue (a ten-thousandth of the most) to "
        "yellow. The number is the corner's share of what the most read pixel has.",
        saver(lambda: _edges(maps, stacks)),
    )


def _misclassified(images: Tensor, names: Sequence[tuple[str, str]]) -> Any:
    rows = max(1, -(-len(names) // _GRID))
    figure = new_figure(1.55 * rows)
    figure.get_layout_engine().set(hspace=0.1)
    grid = figure.subplots(rows, _GRID, squeeze=False)
    for axes in grid.flat:
        bare(axes)
    for axes, image, (true, said) in zip(grid.flat, images, names, strict=False):
        axes.imshow(image.numpy(), cmap="gray_r")
        axes.set_title(true, pad=2)
        axes.set_xlabel(f"→ {said}", labelpad=2)
    return figure


def _kernels(kernels: Mapping[str, Sequence[Tensor]]) -> Any:
    def draw(axes: Any, kernel: Tensor) -> None:
        largest = float(kernel.abs().max()) or 1.0
        axes.imshow(kernel.numpy(), cmap="RdBu_r", vmin=-largest, vmax=largest)
        axes.set_title(f"{kernel.shape[0]}x{kernel.shape[1]}, ±{largest:.2g}", pad=3, fontsize=9)

    return _rows(kernels, draw)


def _features(maps: Mapping[str, Sequence[Tensor]]) -> Any:
    def draw(axes: Any, feature: Tensor) -> None:
        axes.imshow(feature.numpy(), cmap="cividis")
        axes.set_title(f"{feature.shape[0]}x{feature.shape[1]}", pad=3, fontsize=9)

    return _rows(maps, draw)


def _rows(stacks: Mapping[str, Sequence[Tensor]], draw: Any) -> Any:
    """Draws a row for each model, with its name and a picture for each of its tensors."""
    columns = max(map(len, stacks.values()))
    figure = new_figure((0.3 + (WIDTH - 0.5) / columns) * len(stacks))
    grid = figure.subplots(len(stacks), columns, squeeze=False)
    for row, (model, stack) in zip(grid, stacks.items(), strict=True):
        for axes in row:
            bare(axes)
        for axes, tensor in zip(row, stack, strict=False):
            draw(axes, tensor)
        row[0].set_ylabel(label_of(model))
    return figure


def _edges(maps: Sequence[Tensor], stacks: Mapping[str, Sequence[Layer]]) -> Any:
    rows = -(-len(stacks) // _BESIDE)
    figure = new_figure(3.4 + 1.55 * (rows - 1))
    above, below = figure.subfigures(2, 1, height_ratios=(1.2, rows))
    lowest, highest = min(float(m.min()) for m in maps), max(float(m.max()) for m in maps)
    for axes, feature, padding in zip(
        above.subplots(1, len(maps)), maps, _EDGE_PADDINGS, strict=True
    ):
        bare(axes)
        axes.imshow(feature.numpy(), cmap="cividis", vmin=lowest, vmax=highest)
        # All three have one scale, and the one without padding is in the middle.
        most = maps[-1].shape[0]
        axes.set_xlim(padding - 0.5 - 2, padding - 0.5 - 2 + most)
        axes.set_ylim(padding - 0.5 - 2 + most, padding - 0.5 - 2)
        if padding:
            square(axes, padding - 0.5, maps[0].shape[0], edgecolor="white", lw=1.2)
        axes.set_title(f"padding {padding}: {feature.shape[0]}x{feature.shape[1]}", fontsize=9)
    draw_reads(below, stacks)
    return figure


def draw_reads(figure: Any, stacks: Mapping[str, Sequence[Layer]]) -> None:
    """Draws for each model how often each pixel of the image reaches its last layer. The title
    gives the corner's share of the most read pixel."""
    rows, columns = -(-len(stacks) // _BESIDE), min(len(stacks), _BESIDE)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[len(stacks) :]:
        axes.set_visible(False)
    for axes, (model, layers) in zip(grid, stacks.items(), strict=False):
        bare(axes)
        counts = reads(layers)
        # On a linear scale the edges would look alike, so the scale is logarithmic.
        shares = (counts / counts.max()).clamp(min=_LEAST_SHARE).log10()
        axes.imshow(shares.numpy(), cmap="cividis", vmin=math.log10(_LEAST_SHARE), vmax=0)
        axes.set_title(f"{label_of(model)}\n{100 * corner_share(layers):.2g}%", fontsize=9)
