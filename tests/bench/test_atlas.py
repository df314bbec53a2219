"""benchmarks/atlas.py times random problems against torch, and continues where it stopped."""

import os
import signal
from itertools import islice
from pathlib import Path

import pytest
import torch

import atlas
from atlas import FAMILIES, PASSES
from convkern._C import Problem
from convkern.testing import Accuracy, operands, variant
from svg import dots

SHOWN = """\
dtype  pass  problems    1st    5th  median   95th
f32    fwd          4  0.52x  0.57x   1.25x  1.93x
f32    gx           4  1.03x  1.15x   2.50x  3.85x
f32    gw           4  2.06x  2.30x   5.00x  7.70x
problem                                                family  torch / convkern
n1c1h4w4k1r3s3p0q0u1v1d1e1g1_f32_nchw_fwd              dense              0.50x
n1c1h4w4k1r3s3p0q0u1v1d1e1g1_f32_nchw_gx               dense              1.00x
"""


def test_problems_are_those_of_the_seed_and_of_every_family() -> None:
    first = list(islice(atlas.problems(1), 300))
    assert first == list(islice(atlas.problems(1), 300))
    assert first != list(islice(atlas.problems(2), 300))
    assert {family for family, _ in first} == set(FAMILIES)
    for _, text in first:
        problem = Problem(text)
        assert problem.flops <= atlas.MOST_FLOPS
        assert min(problem.output_size) > 0
    assert {Problem(text).dtype for _, text in first} == {"f32", "bf16"}
    assert {Problem(text).layout for _, text in first} == {"nchw", "nhwc"}


@pytest.mark.parametrize("pass_", PASSES)
def test_torch_computes_the_same_pass(pass_: str) -> None:
    ops = operands(variant("n2c4h9w8k6r3s2p1q0u2v1g2_f32_nhwc_fwd", pass_=pass_))
    results = atlas._by_torch(ops)()
    (result,) = [r for r in results if r is not None] if isinstance(results, tuple) else [results]
    assert isinstance(result, torch.Tensor)
    Accuracy(ops).check(result)


def test_a_run_continues_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The problems are measured in other processes, so these write down what they do."""
    measured = tmp_path / "measured"
    texts = [problem for _, problem in islice(atlas.problems(0), 5)]

    def measure(problem: str, seconds: float) -> atlas.Ratios:
        with measured.open("a") as file:
            print(problem, file=file, flush=True)
        if problem == texts[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        return dict.fromkeys(PASSES, 2.0)

    monkeypatch.setattr(atlas, "measure", measure)
    path = tmp_path / "atlas.jsonl"
    atlas.run_all(path, 3, seed=0, seconds=0)
    atlas.run_all(path, 5, seed=0, seconds=0)
    assert measured.read_text().splitlines() == texts
    rows = atlas.read(path)
    assert [row.problem for row in rows] == texts
    assert [bool(row.ratios) for row in rows] == [True, False, True, True, True]


def test_every_pass_is_timed() -> None:
    ratios = atlas.measure("n1c1h4w4k1r3s3_f32_nchw_fwd", seconds=0)
    assert list(ratios) == list(PASSES)
    assert all(ratio > 0 for ratio in ratios.values())


def test_percentiles_and_the_worst_rows_are_shown(tmp_path: Path) -> None:
    rows = [
        atlas.Row("dense", f"n1c1h{n}w{n}k1r3s3p0q0u1v1d1e1g1_f32_nchw_fwd", 2, ratios)
        for n, speed in ((4, 0.5), (5, 1), (6, 1.5), (7, 2))
        for ratios in [dict(zip(PASSES, (speed, 2 * speed, 4 * speed), strict=True))]
    ]
    shown = f"{atlas.percentiles(rows)}\n{atlas.worst(rows, 2)}\n"
    assert [line.split() for line in shown.splitlines()] == [
        line.split() for line in SHOWN.splitlines()
    ]
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    atlas.draw(rows, tmp_path / "atlas.svg")
    assert dots(tmp_path / "atlas.svg").total() >= 12
