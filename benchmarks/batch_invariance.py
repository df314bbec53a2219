"""The cost of set_batch_invariant: the time of each problem with it over the time without.

    python benchmarks/batch_invariance.py fmnist,mobilenet_v2 --batches 1,8,64,512

Both settings take turns in one process, forward and in the gradient of the input.
"""

from __future__ import annotations

import argparse
import re
from statistics import geometric_mean

import torch

import convkern
from convkern._show.tables import Table
from convkern.bench import read_shapes
from convkern.bench.timing import Call, time_in_turn
from convkern.testing import Operands, operands, run, variant

_PASSES = ("fwd", "gx")


def cost(problem: str, seconds: float) -> float:
    """Returns the time with the setting over the time without it."""
    ops = operands(problem)
    samples = time_in_turn(
        {"with": _call(ops, True), "without": _call(ops, False)}, seconds=seconds
    )
    return samples["with"].median / samples["without"].median


def _call(ops: Operands, invariant: bool) -> Call:
    def call() -> object:
        convkern.set_batch_invariant(invariant)
        return run(ops)

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", help="names in benchmarks/shapes, separated by commas")
    parser.add_argument("--batches", default="1,8,64,512")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.2, help="for each problem")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = Table(("shapes", "pass"), ("batch", "layers", "of them slower by 5%", "mean", "most"))
    for name in args.shapes.split(","):
        for batch in args.batches.split(","):
            for pass_ in _PASSES:
                costs = [
                    cost(variant(re.sub(r"^n\d+", f"n{batch}", text), pass_=pass_), args.seconds)
                    for text in read_shapes(name)
                ]
                table.add_row(
                    name, pass_, batch, str(len(costs)), str(sum(c > 1.05 for c in costs)),
                    f"{geometric_mean(costs):.2f}x", f"{max(costs):.2f}x",
                )  # fmt: skip
    print(table)


if __name__ == "__main__":
    main()
