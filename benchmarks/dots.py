"""Draws the charts of kinds.py and models_chart.py, with a dot for each ratio. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

LAYOUT_COLOURS = {"NCHW": "#1f6f8b", "channels_last": "#e07a3f"}
Ratios = Mapping[str, Sequence[float]]  # torch's time / convkern's, by name


def draw_dots(
    panels: Mapping[str, Mapping[str, Ratios]], ticks: Sequence[float], path: Path
) -> None:
    """Draws an SVG with a panel for each title. A panel has the ratios of each layout on a
    logarithmic axis. All panels have the names of the first."""
    import matplotlib
    from matplotlib.figure import Figure

    names = list(next(iter(next(iter(panels.values())).values())))
    size = (11, 0.36 * len(names) + 1.2)
    figure = Figure(figsize=size)
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (title, layouts) in zip(axes, panels.items(), strict=True):
        axis.axvline(1, color="0.6", linewidth=1)
        for place, (layout, ratios) in enumerate(layouts.items()):
            shift = 0.3 * place - 0.15 * (len(layouts) - 1)
            for y, name in enumerate(names):
                dots = ratios[name]
                label = layout if y == 0 else None
                axis.plot(dots, [y + shift] * len(dots), "o", ms=5, alpha=0.7, mew=0,
                          color=LAYOUT_COLOURS[layout], label=label)  # fmt: skip
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
        axis.minorticks_off()
        axis.set_title(f"{title}: torch's time / convkern's", fontsize=10)
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(names)), names, parse_math=False)
    axes[0].invert_yaxis()
    axes[-1].legend(frameon=False, fontsize=9)
    figure.tight_layout()
    with matplotlib.rc_context({"svg.hashsalt": path.name}):  # the same results give the same file
        figure.savefig(path, metadata={"Date": None})
