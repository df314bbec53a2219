"""Pictures of the numbers: losses, accuracies and confusions."""

from __future__ import annotations

from itertools import product
from statistics import mean, stdev
from typing import Any

import torch

from convkern.fashion_mnist.study.figures import (
    SEED_LINES,
    Picture,
    color_of,
    marker_of,
    new_figure,
    saver,
)
from convkern.fashion_mnist.study.results import CLASSES, Run, Study

_LEVEL = 4  # most models whose names fit beside one another


def plots(study: Study) -> list[Picture]:
    dead = "; ".join(f"{run.model}'s seed {run.seed}" for run in study.dead())
    flat = f" Flat at 2.30, never learned: {dead}." if dead else ""
    return [
        Picture(
            "accuracy.png",
            "Accuracy and test loss, seed by seed",
            "Dots for each seed of each model. "
            + " ".join(_in_words(study, model) for model in study.models),
            "Each mark is a seed; the scales do not begin at 0. Bars: mean and standard deviation "
            "of the seeds that learned. A cross is a seed that never learned, off the scale, with "
            "its value.",
            saver(lambda: _accuracy(study)),
        ),
        Picture(
            "loss.png",
            "Loss curves",
            "Training loss over the epochs, a panel for each model and a line for each seed. "
            + " ".join(_ends(study, model) for model in study.models) + flat,
            "The first epoch step by step, later epochs as means, each at its middle. The mark at "
            "the end is the test loss." + flat,
            saver(lambda: _losses(study)),
        ),
    ]  # fmt: skip


def confusions(study: Study) -> list[Picture]:
    """Returns the confusion matrix of each model that learned with some seed, most accurate
    first."""
    learned = {model: study.of(model, learned_only=True) for model in study.models}
    models = [model for model, runs in learned.items() if runs]
    models.sort(key=lambda m: -sum(r.accuracy for r in learned[m]) / len(learned[m]))
    return [_confusion_picture(model, learned[model]) for model in models]


def _confusion_picture(model: str, runs: list[Run]) -> Picture:
    counts = torch.tensor([run.confusion for run in runs]).sum(0).double()
    in_parts = counts / counts.sum(1, keepdim=True).clamp(min=1)
    shares: list[list[float]] = in_parts.tolist()
    right = in_parts.diag()
    true, said = divmod(int((in_parts - right.diag()).argmax()), len(CLASSES))
    wrong = 0.0 if true == said else shares[true][said]
    worst = (
        f"The most frequent error: {100 * wrong:.0f}% of the class {CLASSES[true]} are "
        f"taken for {CLASSES[said]}."
    )
    seeds = "seed" if len(runs) == 1 else "seeds"
    return Picture(
        f"confusion-{model}.png",
        f"What {model} takes for what",
        "Matrix of ten true classes by ten predicted ones. Rightly recognised: "
        + ", ".join(f"{c} {100 * p:.0f}%" for c, p in zip(CLASSES, right.tolist(), strict=True))
        + f". {worst}",
        f"Rows are true classes, in percent of their images, over the {seeds} that learned "
        f"({', '.join(str(run.seed) for run in runs)}). {worst}",
        saver(lambda: _confusion(shares)),
    )  # fmt: skip


def _in_words(study: Study, model: str) -> str:
    values = ", ".join(f"{run.accuracy:.3f}" for run in study.of(model))
    return f"{model}: {values}."


def _ends(study: Study, model: str) -> str:
    values = ", ".join(f"{run.epoch_losses[-1]:.2f}" for run in study.of(model))
    return f"{model} ends at {values}."


def _accuracy(study: Study) -> Any:
    figure = new_figure(5.0)
    for axes, name in zip(
        figure.subplots(2, 1, sharex=True), ("accuracy", "test_loss"), strict=True
    ):
        values = [getattr(run, name) for run in study.runs if run.learned]
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        margin = 0.15 * (high - low) or 0.01
        # Runs that only guess lie beyond the scale of those that learned: below in accuracy, above
        # in loss.
        beyond = low - 2 * margin if name == "accuracy" else high + 2 * margin
        upright = len(study.models) > _LEVEL
        for place, model in enumerate(study.models):
            _seed_marks(axes, place, study.of(model), name, beyond, upright=upright)
        axes.set_ylabel(name.replace("_", " "))
        axes.set_ylim(min(low - margin, beyond - margin), max(high + margin, beyond + margin))
        axes.set_xlim(-0.5, len(study.models) - 0.5)
        axes.set_xticks(range(len(study.models)), study.models)
        axes.tick_params(axis="x", labelsize=10)
        if upright:
            axes.tick_params(axis="x", labelsize=9, rotation=90)
    return figure


def _seed_marks(
    axes: Any, place: int, runs: list[Run], name: str, beyond: float, *, upright: bool
) -> None:
    """Draws a mark for each run at its value. A run that never learned gets a cross at `beyond`,
    and its value as text, from below to above if it is `upright`."""
    middle = (len(runs) - 1) / 2
    for number, run in enumerate(runs):
        value, x = getattr(run, name), place + 0.5 * (number - middle) / max(1, len(runs))
        if run.learned:
            color, marker = color_of(run.model), marker_of(run.model)
            axes.plot(x, value, marker=marker, color=color, markersize=6)
        else:
            axes.plot(x, beyond, marker="x", color="black", markersize=6)
            if upright:
                side = "bottom" if name == "accuracy" else "top"  # towards the others
                axes.annotate(
                    f"{value:.2f}", (x, beyond), xytext=(0, 6 if side == "bottom" else -6),
                    textcoords="offset points", ha="center", va=side, fontsize=8, rotation=90,
                )  # fmt: skip
                continue
            side = "right" if x > place else "left"
            axes.annotate(
                f"{value:.2f}", (x, beyond), xytext=(-8 if side == "right" else 8, 0),
                textcoords="offset points", ha=side, va="center", fontsize=9,
            )  # fmt: skip
    values = [getattr(run, name) for run in runs if run.learned]
    if len(values) > 1:
        axes.errorbar(
            place + 0.34, mean(values), stdev(values),
            fmt="_", color="black", capsize=3, markersize=8,
        )  # fmt: skip


def _losses(study: Study) -> Any:
    rows = (len(study.models) + 1) // 2
    figure = new_figure(0.5 + 2.1 * rows)
    grid = list(figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).flat)
    for axes, model in zip(grid, study.models, strict=False):
        for run, line in zip(study.of(model), SEED_LINES * len(study.runs), strict=False):
            _loss_curve(axes, run, line)
        axes.set_title(model)
        axes.legend(frameon=False, handlelength=1.8, labelspacing=0.2, loc="upper right",
                    bbox_to_anchor=(1, 0.86))  # fmt: skip
        axes.set_ylim(0, 2.6)
    for axes in grid[len(study.models) :]:
        axes.set_visible(False)
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel("training loss", fontsize=10)
    return figure


def _loss_curve(axes: Any, run: Run, line: str) -> None:
    steps = len(run.step_losses)
    first = [(step + 0.5) / steps for step in range(steps)]
    later = [epoch + 0.5 for epoch in range(1, len(run.epoch_losses))]
    color = color_of(run.model) if run.learned else "black"
    label = f"seed {run.seed}" + ("" if run.learned else ": dead")
    losses = run.step_losses + run.epoch_losses[1:]
    axes.plot(first + later, losses, line, color=color, linewidth=1.2, label=label)
    axes.plot(
        len(run.epoch_losses), run.test_loss,
        marker=marker_of(run.model) if run.learned else "x", color=color, markersize=4,
    )  # fmt: skip


def _confusion(shares: list[list[float]]) -> Any:
    figure = new_figure(4.6)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (true, row), said in product(enumerate(shares), range(len(CLASSES))):
        share = row[said]
        if share >= 0.005:
            axes.text(
                said, true, f"{100 * share:.0f}", ha="center", va="center", fontsize=9,
                color="white" if share > 0.5 else "black",
            )  # fmt: skip
    axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=55, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(CLASSES)), CLASSES)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    return figure
