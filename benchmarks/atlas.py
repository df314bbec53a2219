"""Times convkern against torch on random problems, to find where it is slow.

    python benchmarks/atlas.py run atlas.jsonl --problems 3000
    python benchmarks/atlas.py show atlas.jsonl --chart benchmarks/atlas.svg

`run` draws the problems from the families below, always the same for a seed, and writes a line for
each; called again, it continues. A line has the ratio of torch's time to convkern's for each pass,
both called as ops in the problem's layout and dtype, in turn in one process. A problem that ends
the process gets a line without ratios. `show` prints percentiles of the ratios, their median in
each family, and the worst rows. Needs matplotlib for the chart (pip install '.[bench]').
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import quantiles

import torch

from convkern._C import Problem
from convkern._show.tables import Table
from convkern.bench import LAYOUT_NAMES
from convkern.bench.timing import Call, time_in_turn
from convkern.testing import Operands, operands, run, run_torch, variant
from dots import draw_dots

PASSES = ("fwd", "gx", "gw")
DTYPES = ("f32", "f32", "f32", "bf16")  # float32 three times as often
MOST_FLOPS, MOST_BYTES = 2e9, 256 << 20  # of a pass
Ratios = dict[str, float]  # torch's time over convkern's, for each pass


def _log(rng: random.Random, low: int, high: int) -> int:
    """Returns a number from `low` to `high`, uniform in its logarithm."""
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))


def _channels(rng: random.Random, most: int = 512) -> int:
    return rng.choice((1, 3, _log(rng, 4, most), *[8 * _log(rng, 1, most // 8)] * 3))


def _text(
    n: int, c: int, size: tuple[int, int], k: int, kernel: tuple[int, int],
    padding: tuple[int, int] = (0, 0), stride: int = 1, groups: int = 1,
) -> str:  # fmt: skip
    (h, w), (r, s), (p, q) = size, kernel, padding
    return f"n{n}c{c}h{h}w{w}k{k}r{r}s{s}p{p}q{q}u{stride}v{stride}g{groups}_f32_nchw_fwd"


def _dense(rng: random.Random) -> str:
    k, side = rng.choice((3, 3, 3, 2, 4, 5, 7)), _log(rng, 7, 128)
    padding = rng.choice((0, k // 2))
    return _text(_log(rng, 1, 64), _channels(rng), (side, side), _channels(rng), (k, k),
                 (padding, padding), rng.choice((1, 1, 2)))  # fmt: skip


def _pointwise(rng: random.Random) -> str:
    side = _log(rng, 7, 112)
    return _text(_log(rng, 1, 64), _channels(rng), (side, side), _channels(rng), (1, 1),
                 stride=rng.choice((1, 1, 1, 2)))  # fmt: skip


def _depthwise(rng: random.Random) -> str:
    k, side, channels = rng.choice((3, 3, 5, 7, 9, 13)), _log(rng, 7, 112), 8 * _log(rng, 2, 96)
    return _text(_log(rng, 1, 32), channels, (side, side), channels, (k, k), (k // 2, k // 2),
                 rng.choice((1, 1, 2)), channels)  # fmt: skip


def _grouped(rng: random.Random) -> str:
    groups, of_group, side = 2 ** rng.randint(1, 6), 2 ** rng.randint(1, 5), _log(rng, 7, 56)
    channels = groups * of_group
    return _text(_log(rng, 1, 32), channels, (side, side), channels, (3, 3), (1, 1),
                 rng.choice((1, 1, 2)), groups)  # fmt: skip


def _one_dimensional(rng: random.Random) -> str:
    k, length, channels = rng.choice((3, 4, 5, 7)), _log(rng, 16, 4096), _channels(rng)
    groups = rng.choice((1, channels))
    kernel, size, padding = (1, k), (1, length), (0, k // 2)
    if rng.random() < 0.5:  # along the rows, with images of one column
        kernel, size, padding = kernel[::-1], size[::-1], padding[::-1]
    outputs = channels if groups > 1 else _channels(rng)
    return _text(_log(rng, 1, 32), channels, size, outputs, kernel, padding, 1, groups)


def _kernel_of_the_image(rng: random.Random) -> str:
    side = rng.choice((4, 6, 7, 8, 14, 16, 24, 32))
    return _text(_log(rng, 1, 64), _channels(rng, 128), (side, side), _channels(rng, 256),
                 (side, side))  # fmt: skip


def _patches(rng: random.Random) -> str:
    k = rng.choice((2, 4, 8, 14, 16, 32))
    side = k * _log(rng, 4, 28)
    return _text(_log(rng, 1, 32), rng.choice((1, 3, 3, 16, 96)), (side, side), _channels(rng, 768),
                 (k, k), stride=k)  # fmt: skip


def _few_channels(rng: random.Random) -> str:
    k, side = rng.choice((3, 5, 8, 11, 14)), rng.choice((28, 28, 32, _log(rng, 16, 128)))
    return _text(_log(rng, 16, 512), rng.choice((1, 1, 3)), (side, side), _log(rng, 1, 16), (k, k),
                 (rng.choice((0, k // 2)),) * 2, rng.choice((1, 1, 2)))  # fmt: skip


# The families are drawn equally often.
FAMILIES: dict[str, Callable[[random.Random], str]] = {
    "dense": _dense,
    "1x1": _pointwise,
    "depthwise": _depthwise,
    "grouped": _grouped,
    "1-D": _one_dimensional,
    "kernel = image": _kernel_of_the_image,
    "patches": _patches,
    "few channels": _few_channels,
}


@dataclass(frozen=True)
class Row:
    """A problem, of the forward pass, and what was measured of it."""

    family: str
    problem: str
    threads: int
    ratios: Ratios

    @property
    def dtype(self) -> str:
        return Problem(self.problem).dtype


def problems(seed: int) -> Iterator[tuple[str, str]]:
    """Yields families and problems of the forward pass without end, those that are too large or
    impossible left out."""
    rng = random.Random(seed)
    for family in iter(lambda: rng.choice(list(FAMILIES)), ""):
        text = FAMILIES[family](rng)
        dtype, layout = rng.choice(DTYPES), rng.choice(list(LAYOUT_NAMES))
        try:
            problem = Problem(variant(text, dtype=dtype, layout=layout))
        except ValueError:
            continue
        if problem.flops <= MOST_FLOPS and problem.min_bytes <= MOST_BYTES:
            yield family, str(problem)


def measure(problem: str, seconds: float) -> Ratios:
    """Returns the ratio of each pass, each timed for about so many seconds."""
    return {pass_: _ratio(variant(problem, pass_=pass_), seconds) for pass_ in PASSES}


def _ratio(problem: str, seconds: float) -> float:
    ops = operands(problem)
    calls: dict[str, Call] = {"convkern": lambda: run(ops), "torch": _by_torch(ops)}
    samples = time_in_turn(calls, seconds)
    return samples["torch"].median / samples["convkern"].median


def _by_torch(ops: Operands) -> Call:
    pass_, zeros = ops.problem.pass_, [0, 0]
    if pass_ == "fwd":
        return lambda: run_torch(ops)
    *window, groups = ops.window
    wanted = [pass_ == "gx", pass_ == "gw", False]
    return lambda: torch.ops.aten.convolution_backward(
        ops.gy, ops.x, ops.w, None, *window, False, zeros, groups, wanted
    )


def read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()]


def run_all(path: Path, count: int, seed: int, seconds: float) -> None:
    """Appends the rows that the file lacks. They are measured in a process of their own, and in
    another one after a problem that has ended it: torch 2.14.1 writes beyond its memory in the
    weight gradient of n4c3h82w82k3r1s1u2v2_f32_nhwc_gw, for instance."""
    arguments = (path, count, seed, seconds)
    while True:
        process = multiprocessing.get_context("fork").Process(target=_run_rest, args=arguments)
        process.start()
        process.join()
        if process.exitcode is not None and process.exitcode >= 0:
            print(file=sys.stderr)
            if process.exitcode > 0:
                sys.exit(process.exitcode)
            return
        family, problem = next(islice(problems(seed), len(read(path)), None))
        with path.open("a") as file:
            print(json.dumps(asdict(Row(family, problem, torch.get_num_threads(), {}))), file=file)


def _run_rest(path: Path, count: int, seed: int, seconds: float) -> None:
    done = len(read(path))
    threads = torch.get_num_threads()
    with path.open("a") as file:
        for number, (family, problem) in zip(range(count), problems(seed), strict=False):
            if number < done:
                continue
            row = Row(family, problem, threads, measure(problem, seconds))
            print(json.dumps(asdict(row)), file=file, flush=True)
            print(f"\r{number + 1} of {count}", end="", file=sys.stderr, flush=True)


def percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def percentiles(rows: list[Row]) -> Table:
    """Returns percentiles of the ratios for each dtype and pass."""
    table = Table(("dtype", "pass"), ("problems", "1st", "5th", "median", "95th"))
    for dtype in dict.fromkeys(DTYPES):
        for pass_ in PASSES:
            found = [row.ratios[pass_] for row in rows if row.dtype == dtype]
            if len(found) < 2:
                continue
            cells = (f"{percentile(found, n):.2f}x" for n in (1, 5, 50, 95))
            table.add_row(dtype, pass_, str(len(found)), *cells)
    return table


def worst(rows: list[Row], count: int) -> Table:
    """Returns the problems with the least ratios."""
    table = Table(("problem", "family"), ("torch / convkern",))
    found = [
        (ratio, variant(row.problem, pass_=pass_), row.family)
        for row in rows
        for pass_, ratio in row.ratios.items()
    ]
    for ratio, problem, family in sorted(found)[:count]:
        table.add_row(problem, family, f"{ratio:.2f}x")
    return table


def draw(rows: list[Row], path: Path) -> None:
    """Draws a dot for each float32 problem, by family, layout and pass."""
    panels: dict[str, dict[str, dict[str, list[float]]]] = {
        pass_: {name: defaultdict(list) for name in LAYOUT_NAMES.values()} for pass_ in PASSES
    }
    for row in rows:
        layout = LAYOUT_NAMES[Problem(row.problem).layout]
        for pass_, ratio in row.ratios.items() if row.dtype == "f32" else ():
            panels[pass_][layout][row.family].append(ratio)
    for layouts in panels.values():
        for ratios in layouts.values():
            for family in FAMILIES:
                ratios[family]  # an empty row if there is none
    draw_dots(panels, [0.2, 0.5, 1, 2, 5, 10, 20, 50, 100], path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    measured = commands.add_parser("run", help="time problems and append them to the file")
    measured.add_argument("file", type=Path)
    measured.add_argument("--problems", type=int, default=3000)
    measured.add_argument("--seed", type=int, default=0)
    measured.add_argument("--threads", type=int, default=torch.get_num_threads())
    measured.add_argument("--seconds", type=float, default=0.03, help="of each pass (%(default)s)")
    shown = commands.add_parser("show", help="print what the file has")
    shown.add_argument("file", type=Path)
    shown.add_argument("--worst", type=int, default=20, help="rows to list (%(default)s)")
    shown.add_argument("--chart", type=Path, help="where to draw, as SVG")
    args = parser.parse_args()
    if args.command == "run":
        torch.set_num_threads(args.threads)
        run_all(args.file, args.problems, args.seed, args.seconds)
    rows = [row for row in read(args.file) if row.ratios]
    if not rows:
        sys.exit(f"{args.file} has no rows: run `python benchmarks/atlas.py run {args.file}`")
    print(percentiles(rows))
    if args.command == "show":
        print(worst(rows, args.worst))
        if args.chart is not None:
            draw(rows, args.chart)


if __name__ == "__main__":
    main()
