"""Pictures of what outputs read: their texts for every padding, and that the marks are right."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F

import convkern
from convkern._C import Problem
from convkern.cli import main

SUM = "Each output is the sum of the marked cells times the taps of the kernel."
PICTURES = {
    "n1c1h5w5k1r3s3_f32_nchw_fwd": """\
rows and columns: 5 cells, kernel 3: 3 outputs
  | 0 1 2 3 4 |
    ^---^        output 0
      ^---^      output 1
        ^---^    output 2
""",
    "n1c1h5w4k1r3s2p1q0_f32_nchw_fwd": """\
rows: 5 cells, padding 1 before and 1 after (zeros), kernel 3: 5 outputs
  0 | 0 1 2 3 4 | 0
  ^-----^            output 0
      ^---^          output 1
            ^-----^  output 4
columns: 4 cells, kernel 2: 3 outputs
  | 0 1 2 3 |
    ^-^        output 0
      ^-^      output 1
        ^-^    output 2
""",
    "n1c1h5w5k1r3s3p1q1u2v2_f32_nchw_fwd+reflect": """\
rows and columns: 5 cells, padding 1 before and 1 after (reflect), kernel 3,
  stride 2: 3 outputs
  1' | 0 1 2 3 4 | 3'
  ^------^             output 0
         ^---^         output 1
             ^-----^   output 2
""",
    "n1c1h4w4k1r4s4p2q2_f32_nchw_fwd+replicate": """\
rows and columns: 4 cells, padding 2 before and 2 after (replicate), kernel 4:
  5 outputs
  0' 0' | 0 1 2 3 | 3' 3'
  ^---------^              output 0
     ^--------^            output 1
              ^--------^   output 4
""",
    "n1c1h4w4k1r3s3p2q2u3v3_f32_nchw_fwd+circular": """\
rows and columns: 4 cells, padding 2 before and 2 after (circular), kernel 3,
  stride 3: 2 outputs
  2' 3' | 0 1 2 3 | 0' 1'
  ^-------^                output 0
            ^---^          output 1
""",
    "n1c1h4w6k1r2s3p0-1q2-0_f32_nchw_fwd": """\
rows: 4 cells, padding 0 before and 1 after (zeros), kernel 2: 4 outputs
  | 0 1 2 3 | 0
    ^-^          output 0
      ^-^        output 1
          ^---^  output 3
columns: 6 cells, padding 2 before and 0 after (zeros), kernel 3: 6 outputs
  0 0 | 0 1 2 3 4 5 |
  ^-----^              output 0
    ^-----^            output 1
              ^---^    output 5
""",
    "n1c1h9w8k1r3s3p2q3d2e3_f32_nchw_fwd+reflect": """\
rows: 9 cells, padding 2 before and 2 after (reflect), kernel 3, dilation 2:
  9 outputs
  2' 1' | 0 1 2 3 4 5 6 7 8 | 7' 6'
  ^       ^   ^                      output 0
     ^      ^   ^                    output 1
                      ^   ^      ^   output 8
columns: 8 cells, padding 3 before and 3 after (reflect), kernel 3,
  dilation 3: 8 outputs
  3' 2' 1' | 0 1 2 3 4 5 6 7 | 6' 5' 4'
  ^          ^     ^                     output 0
     ^         ^     ^                   output 1
                     ^     ^         ^   output 7
""",
    "n1c1h12w12k1r1s1u11v11_f32_nchw_fwd": """\
rows and columns: 12 cells, kernel 1, stride 11: 2 outputs
  | 0 1 2 3 4 5 6 7 8 9 10 11 |
    ^                            output 0
                           ^^    output 1
""",
    "n512c1h28w28k1r14s14p2q2_f32_nchw_fwd+bias#first": """\
rows and columns: 28 cells, padding 2 before and 2 after (zeros), kernel 14:
  19 outputs
  0 0 | 0 1 2 .. 9 10 11 12 13 14 15 16 17 18 .. 25 26 27 | 0 0
  ^--------------------^                                         output 0
    ^---------------------^                                      output 1
                                     ^------------------------^  output 18
""",
    "n1c1h1w100000k1r1s31p0q15u1v2d1e2_f32_nchw_fwd": """\
rows: 1 cell, kernel 1: 1 output
  | 0 |
    ^    output 0
columns: 100000 cells, padding 15 before and 15 after (zeros), kernel 31,
  stride 2, dilation 2: 49985 outputs
  0 0 0 .. | 0 .. 45 46 47 .. 99953 .. 99999 | .. 0 0
  ^   ^ ..     .. ^^                                   output 0
      ^ ..     .. ^^    ^^                             output 1
                              ^^^^^ .. ^^^^^   .. ^    output 49984
""",
}


@pytest.mark.parametrize("problem", PICTURES)
def test_pictures(problem: str) -> None:
    assert convkern.explain(problem).picture() == PICTURES[problem] + SUM


def test_gradients_have_the_picture_of_the_forward_pass() -> None:
    forward = "n1c1h5w5k1r3s3p1q1u2v2_f32_nchw_fwd+reflect"
    assert convkern.explain(forward.replace("fwd", "gw")).picture() == PICTURES[forward] + (
        "The gradient of each tap is the sum of its marked cells times the outputs'\ngradients."
    )
    forward = "n1c1h4w6k1r2s3p0-1q2-0_f32_nchw_fwd"
    assert convkern.explain(forward.replace("fwd", "gx")).picture() == PICTURES[forward] + (
        "The gradient of each output times the taps of the kernel is added to the\nmarked cells."
    )


def test_calls_are_drawn() -> None:
    x, w = torch.ones(1, 1, 6, 7), torch.ones(1, 1, 3, 3)
    drawn = convkern.explain(x, w, stride=2, padding="same_upper").picture()
    assert drawn.splitlines()[:5] == [
        "rows: 6 cells, padding 0 before and 1 after (zeros), kernel 3, stride 2:",
        "  3 outputs",
        "  | 0 1 2 3 4 5 | 0",
        "    ^---^            output 0",
        "        ^---^        output 1",
    ]
    assert "columns: 7 cells, padding 1 before and 1 after (zeros)" in drawn
    with pytest.raises(ValueError, match="needs a problem string, got problem='torch"):
        convkern.explain(x.int(), w.int()).picture()


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("window", ["r1s3p0q2", "r1s2p0q2-1", "r1s4p0q0-3u1v2", "r1s2p0q3u1v2d1e3"])
def test_the_marks_are_what_the_outputs_read(window: str, mode: str) -> None:
    """The cells of an output are those whose derivative is not zero, which torch computes."""
    problem = Problem(f"n1c1h1w8k1{window}_f32_nchw_fwd{'' if mode == 'zeros' else '+' + mode}")
    drawn = convkern.explain(str(problem)).picture()
    _, lines = drawn.split("columns: ")
    cells, *marks = re.findall(r"^  ([^o].*)$", lines, re.MULTILINE)
    if "outputs" in cells:  # the end of the title
        cells, *marks = marks
    x = torch.arange(8.0, requires_grad=True)
    padding = problem.padding[1]
    before, after = padding if isinstance(padding, tuple) else (padding, padding)
    names = {"zeros": "constant"}
    y = F.pad(x[None, None], (before, after), mode=names.get(mode, mode))
    w = torch.ones(1, 1, problem.weight_size[3])
    y = F.conv1d(y, w, stride=problem.stride[1], dilation=problem.dilation[1])[0, 0]
    assert len(marks) == 3
    for line in marks:
        mark, output = line.split("output ")
        read = torch.zeros(8)
        inside = False
        for place in re.finditer(r"(\d+)('?)", cells):
            under = mark[place.start(1) : place.end(1)]
            if under.strip() and (mode != "zeros" or not _is_outside(cells, place.start())):
                read[int(place[1])] += 1
            inside = inside or bool(under.strip())
        assert inside
        (derivative,) = torch.autograd.grad(y[int(output)], x, retain_graph=True)
        assert torch.equal(read, derivative)


def _is_outside(cells: str, start: int) -> bool:
    return not cells.index("|") < start < cells.rindex("|")


def test_lines_fit() -> None:
    for size in (3, 40, 77, 1000, 123456, 1000000000):
        for window in ("r1s3p0q1", "r1s3p0q2u1v1d1e2", "r1s3p0q0-2u1v2", "r1s1"):
            for mode in ("", "+reflect", "+circular"):
                drawn = convkern.explain(f"n1c1h1w{size}k1{window}_f32_nchw_fwd{mode}").picture()
                assert max(map(len, drawn.splitlines())) <= 78, drawn


def test_the_command_draws(capsys: pytest.CaptureFixture[str]) -> None:
    problem = "n1c1h5w5k1r3s3p1q1u2v2_f32_nchw_fwd+reflect"
    assert main(["explain", problem]) == 0
    plain = capsys.readouterr().out
    assert main(["explain", problem, "--picture"]) == 0
    assert capsys.readouterr().out == f"{plain}{PICTURES[problem]}{SUM}\n"
    assert main(["explain", "resnet18", "--input", "1x3x64x64", "--picture"]) == 2
    assert "--picture draws one problem" in capsys.readouterr().err
