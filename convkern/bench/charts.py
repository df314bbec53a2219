"""The charts of the benchmarks. They need matplotlib, which is imported when one is drawn.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart. The order, the
marker or the dash tells the same as the colour. Names from outside are not parsed as formulas, as a
name with two $ would be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from math import ceil
from typing import Any

from convkern.bench.peers import PASS_NAMES

# The colour, marker and dash for each peer and each kind of step.
STYLES = {
    "convkern": ("#D55E00", "o", "-"),
    "torch": ("#0072B2", "s", "--"),
    "torch_channels_last": ("#56B4E9", "^", "-."),
    "onnxruntime": ("#009E73", "D", ":"),
    "inductor": ("#CC79A7", "v", "--"),
    "openvino": ("#E69F00", "P", "-."),
    "inference": ("#0072B2", "s", "--"),
    "training step": ("#E69F00", "^", "-."),
}
PASS_STYLES = {"fwd": ("#0072B2", "o"), "fwd_bwd": ("#D55E00", "^")}
Line = tuple[Sequence[float], Sequence[float]]  # x, y

_WIDTH = 6.0  # inches; letters stay readable at half this width
_DPI = 150
_BAR = 0.2  # inches
# Possible ticks of logarithmic axes of ratios. The width of the axis decides which are used.
_FINE = (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 1.7, 2, 2.5, 3)
_MARKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
_POWERS = (1e-4, 1e-3, 0.01, 0.1, 1, 10, 100, 1e3, 1e4, 1e5)


def bars(names: Sequence[str], series: Mapping[str, Sequence[float | None]], axis: str) -> bytes:
    """Returns a PNG of ratios as horizontal bars that start at 1. There is a group for each name,
    and in it a bar for each series that has a ratio. `axis` says what a ratio is."""
    height = _BAR * len(series) * len(names) + 0.12 * len(names) + 1.1
    figure, plot = _figure(height)
    step = 1 / (len(series) + 0.6)
    for place, (label, ratios) in enumerate(series.items()):
        colour = STYLES.get(label, STYLES["convkern"])[0]
        found = [(i, ratio) for i, ratio in enumerate(ratios) if ratio is not None]
        at = [i + (place - (len(series) - 1) / 2) * step for i, _ in found]
        lengths = [ratio - 1 for _, ratio in found]
        plot.barh(at, lengths, 0.9 * step, left=1, color=colour, label=label)
        for y, (_, ratio) in zip(at, found, strict=True):
            away = (3, "left") if ratio >= 1 else (-3, "right")
            plot.annotate(f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x", (ratio, y),
                          (away[0], 0), textcoords="offset points", ha=away[1], va="center",
                          fontsize=8)  # fmt: skip
    every = [ratio for ratios in series.values() for ratio in ratios if ratio is not None]
    low, high = min(1.0, *every), max(1.0, *every)
    room = max((high / low) ** 0.13, 1.05)  # for the numbers at the ends of the bars
    plot.set_xscale("log")
    low = low / (room if low < 1 else 1.01)
    high = high * (room if high > 1 else 1.01)
    plot.set_xlim(low, high)
    width = high / low
    known = _FINE if width < 3 else _MARKS if width < 200 else _POWERS
    marks = [mark for mark in known if low <= mark <= high]
    plot.set_xticks(marks, [f"{mark:g}x" for mark in marks])
    plot.minorticks_off()
    plot.spines["left"].set_visible(False)
    plot.axvline(1, color="0.2", linewidth=1)
    plot.set_yticks(range(len(names)), names, fontsize=9, parse_math=False)
    plot.set_ylim(len(names) - 0.4, -0.6)  # the first name is on top
    plot.tick_params(axis="y", length=0)
    plot.set_xlabel(axis)
    plot.grid(axis="x", color="0.9")
    if len(series) > 1:
        figure.legend(loc="outside upper left", ncols=len(series), frameon=False)
    return _png(figure)


def roofline(points: Mapping[str, Line], peak: float, bandwidth: float) -> bytes:
    """Returns a PNG of FLOP/s over FLOPs per byte, below the roof of `peak` FLOP/s and `bandwidth`
    bytes/s. The points are given by pass."""
    figure, plot = _figure(4.8)
    every = [x for xs, _ in points.values() for x in xs]
    ridge = peak / bandwidth
    left, right = min(*every, ridge) / 2, max(*every, ridge) * 2
    roof = [left, ridge, right]
    plot.plot(roof, [bandwidth * left * 1e-9, peak * 1e-9, peak * 1e-9], color="0.2")
    plot.annotate(f"{peak * 1e-9:,.0f} GFLOP/s", (right, peak * 1e-9), (-4, 4), ha="right",
                  textcoords="offset points")  # fmt: skip
    plot.annotate(f"{bandwidth * 1e-9:.1f} GB/s", (left, bandwidth * left * 1e-9), (6, 0),
                  va="top", textcoords="offset points")  # fmt: skip
    for pass_, (xs, ys) in points.items():
        colour, marker = PASS_STYLES[pass_]
        plot.plot(xs, [y * 1e-9 for y in ys], marker, color=colour, ms=7, alpha=0.75, mew=0,
                  label=PASS_NAMES[pass_])  # fmt: skip
    plot.set_xscale("log")
    plot.set_yscale("log")
    plot.set_xlabel("FLOPs a byte that must move")
    plot.set_ylabel("GFLOP/s")
    lowest = min(y for _, ys in points.values() for y in ys)
    plot.set_ylim(min(lowest, bandwidth * left) * 0.5e-9, peak * 2e-9)
    for axis in (plot.xaxis, plot.yaxis):
        _plain_numbers(axis)
    plot.grid(color="0.9")
    figure.legend(loc="outside upper left", ncols=len(points), frameon=False)
    return _png(figure)


def lines(panels: Mapping[str, Mapping[str, Line]], x: str, y: str, *, log: bool = False) -> bytes:
    """Returns a PNG with a panel for each title, and in it a line for each peer or step. x holds
    whole numbers on a logarithmic axis. The y axis is logarithmic if `log`, and starts at 0
    otherwise."""
    columns = min(2, len(panels))
    height = 2.6 * ceil(len(panels) / columns) + 0.8
    figure, _ = _figure(height, plots=0)
    grid = figure.subplots(ceil(len(panels) / columns), columns, squeeze=False)
    axes = list(grid.flat)
    for plot, (title, of_whom) in zip(axes, panels.items(), strict=False):
        _tidy(plot)
        for whose, (xs, ys) in of_whom.items():
            colour, marker, dash = STYLES[whose]
            label = whose if plot is axes[0] else None
            plot.plot(xs, ys, dash, marker=marker, color=colour, ms=5, label=label)
        plot.set_xscale("log", base=2)
        ticks = sorted({tick for xs, _ in of_whom.values() for tick in xs})
        plot.set_xticks(ticks, [f"{tick:g}" for tick in ticks], rotation=45 * (len(ticks) > 6))
        plot.minorticks_off()
        if log:
            plot.set_yscale("log")
            _plain_numbers(plot.yaxis)
        else:
            plot.set_ylim(bottom=0)
        plot.set_title(title, fontsize=9, parse_math=False)
        plot.grid(color="0.9")
    for plot in axes[len(panels) :]:
        plot.set_visible(False)
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    names = dict.fromkeys(name for panel in panels.values() for name in panel)
    figure.legend(loc="outside upper left", ncols=len(names), frameon=False)
    return _png(figure)


def _figure(height: float, plots: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
    if plots == 0:
        return figure, None
    plot = figure.subplots()
    _tidy(plot)
    return figure, plot


def _tidy(plot: Any) -> None:
    plot.set_axisbelow(True)
    plot.spines[["top", "right"]].set_visible(False)


def _plain_numbers(axis: Any) -> None:
    """Labels a logarithmic axis with 1, 10, 100. Where these are few, it adds 2 and 5 between
    them."""
    from matplotlib.ticker import LogLocator

    low, high = axis.get_view_interval()
    axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_minor_formatter(lambda value, _: f"{value:,g}" if high < 100 * low else "")


def _png(figure: Any) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
