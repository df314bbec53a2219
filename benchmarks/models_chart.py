"""Results of whole models: a table of times and ratios, and a chart.

    python -m convkern bench models resnet18,resnet50 --out models.json
    python benchmarks/models_chart.py models.json --chart benchmarks/models.svg

Needs matplotlib for the chart (pip install '.[bench]').
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from convkern.bench import LAYOUT_NAMES, STEP_NAMES, ModelRow, ModelTimes, mean_ratios
from dots import draw_dots

MEAN = "geometric mean"


def cell(row: ModelRow) -> str:
    theirs, ours = (row.samples[peer].median * 1e3 for peer in ("torch", "convkern"))
    return f"{theirs:.0f} / {ours:.0f} ms = {row.ratio:.2f}x"


def table(rows: Sequence[ModelRow]) -> str:
    """Returns the table in Markdown."""
    means = mean_ratios(rows)
    heads = [f"{LAYOUT_NAMES[layout]} {STEP_NAMES[what]}" for layout, what in means]
    lines = ["| model | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    cells: dict[str, list[str]] = {}
    for row in rows:
        cells.setdefault(row.model, []).append(cell(row))
    cells[MEAN] = [f"{mean:.2f}x" for mean in means.values()]
    lines += [f"| {name} | " + " | ".join(of_name) + " |" for name, of_name in cells.items()]
    return "\n".join(lines)


def draw(rows: Sequence[ModelRow], path: Path) -> None:
    """Draws a dot for each model, and one for the mean."""
    panels: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        panel = panels.setdefault(STEP_NAMES[row.what], {})
        panel.setdefault(LAYOUT_NAMES[row.layout], {})[row.model] = [row.ratio]
    for (layout, what), mean in mean_ratios(rows).items():
        panels[STEP_NAMES[what]][LAYOUT_NAMES[layout]][MEAN] = [mean]
    draw_dots(panels, [0.8, 1, 1.2, 1.5, 2], path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("result", type=Path, help="JSON that bench models wrote")
    parser.add_argument("--chart", type=Path, help="where to draw, as SVG")
    args = parser.parse_args()
    rows = ModelTimes.read(args.result).rows
    print(table(rows))
    if args.chart is not None:
        draw(rows, args.chart)


if __name__ == "__main__":
    main()
