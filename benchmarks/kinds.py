"""Results of the suite by kind of layer: a table of geometric means, and a chart.

    python benchmarks/kinds.py nchw.json nhwc.json --threads 2 --chart benchmarks/layers.svg

A kind is what a network's layers of one kernel size, stride and grouping have in common. Needs
matplotlib for the chart (pip install '.[bench]').
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import geometric_mean

from convkern._C import Problem
from convkern.bench import LAYOUT_NAMES, PASS_NAMES, PASSES, Row, Suite
from dots import draw_dots

NETWORKS = {
    "resnet50": "ResNet-50",
    "resnext": "ResNeXt",
    "mobilenet_v2": "MobileNetV2",
    "convnext": "ConvNeXt",
    "replknet": "RepLKNet",
    "fmnist": "Fashion-MNIST",
    "lenet": "LeNet",
    "srcnn": "SRCNN",
}
Ratios = dict[str, dict[str, list[float]]]  # ratios of a kind's layers, by kind and pass


def kind(row: Row) -> str:
    """Returns the kind of a layer, for instance "ResNet-50 3x3 stride 2"."""
    problem = Problem(row.problem)
    network = NETWORKS[row.label.partition("/")[0]]
    _, inputs_of_group, *kernel = problem.weight_size
    if network in ("Fashion-MNIST", "LeNet", "SRCNN"):
        return network
    if problem.input_size[1] == 3:
        return f"{network} first layer"
    depthwise = problem.groups > 1 and inputs_of_group == 1
    grouping = " depthwise" if depthwise else " grouped" if problem.groups > 1 else ""
    if network == "RepLKNet":
        return f"{network}{grouping} 13x13 to 31x31"
    stride = f" stride {problem.stride[0]}" if problem.stride[0] > 1 else ""
    return f"{network}{grouping} {kernel[0]}x{kernel[1]}{stride}"


def ratios_by_kind(rows: list[Row], threads: int) -> Ratios:
    """Returns the ratios of the rows that were measured at `threads` threads, or on a GPU."""
    found: Ratios = defaultdict(lambda: {pass_: [] for pass_ in PASSES})
    for row in rows:
        if row.threads in (threads, None) and row.ratio is not None:
            found[kind(row)][row.pass_].append(row.ratio)
    return found


def cell(ratios: list[float]) -> str:
    mean = f"{geometric_mean(ratios):.2f}x"
    return mean if len(ratios) == 1 else f"{mean} ({min(ratios):.2f} to {max(ratios):.2f})"


def table(layouts: dict[str, Ratios]) -> str:
    """Returns the table in Markdown."""
    columns = [(layout, pass_) for layout in layouts for pass_ in PASSES]
    heads = [f"{layout} {PASS_NAMES[pass_]}" for layout, pass_ in columns]
    lines = ["| layers | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for name, of_pass in next(iter(layouts.values())).items():
        cells = [cell(layouts[layout][name][pass_]) for layout, pass_ in columns]
        lines.append(f"| {name}, {len(of_pass['fwd'])} | " + " | ".join(cells) + " |")
    means = [
        geometric_mean([r for of_pass in layouts[layout].values() for r in of_pass[pass_]])
        for layout, pass_ in columns
    ]
    lines.append(
        "| geometric mean of all layers | " + " | ".join(f"{m:.2f}x" for m in means) + " |"
    )
    return "\n".join(lines)


def draw(layouts: dict[str, Ratios], path: Path) -> None:
    """Draws a dot for each layer."""
    panels = {
        PASS_NAMES[pass_]: {
            layout: {name: of_pass[pass_] for name, of_pass in ratios.items()}
            for layout, ratios in layouts.items()
        }
        for pass_ in PASSES
    }
    draw_dots(panels, [0.5, 1, 2, 5, 10, 20, 50], path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("nchw", type=Path, help="JSON that the suite wrote, with --layout nchw")
    parser.add_argument("nhwc", type=Path, help="the same, with --layout nhwc")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (%(default)s)")
    parser.add_argument("--chart", type=Path, help="where to draw, as SVG")
    args = parser.parse_args()
    layouts = {
        name: ratios_by_kind(Suite.read(getattr(args, layout)).rows, args.threads)
        for layout, name in LAYOUT_NAMES.items()
    }
    print(table(layouts))
    if args.chart is not None:
        draw(layouts, args.chart)


if __name__ == "__main__":
    main()
