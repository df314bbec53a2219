"""The benchmark suite: what it measures, writes, reads and refuses. No test checks a time."""

import json
from collections.abc import Callable
from pathlib import Path
from time import sleep

import pytest
import torch
from torch.utils.data import TensorDataset

import epoch
from convkern._C import Problem
from convkern.bench import PEERS, Row, Sample, Suite, compare, read_shapes, run_suite, time_in_turn
from convkern.bench.peers import prepare
from convkern.bench.suite import SHAPES, table
from convkern.cli import build_parser, main
from convkern.fashion_mnist import FashionMNISTData
from convkern.testing import operands, oracle

TINY = "n2c1h8w8k1r3s3_f32_nchw_fwd+bias+relu#tiny"


def sample(median: float, spread: float = 0.0) -> Sample:
    return Sample(median, median * (1 - spread), median * (1 + spread), 9)


def suite(convkern: float, torch_: float, spread: float = 0.0, problem: str = TINY) -> Suite:
    samples = {"convkern": sample(convkern, spread), "torch": sample(torch_, spread)}
    return Suite({}, "", [Row(problem, "fwd", 1, samples)])


@pytest.mark.parametrize("path", sorted(SHAPES.glob("*.txt")), ids=lambda path: path.stem)
def test_every_line_of_a_shape_file_is_a_labelled_forward_problem(path: Path) -> None:
    problems = read_shapes(path.stem)
    assert problems
    labels = [problem.partition("#")[2] for problem in problems]
    assert all(labels)
    assert len(set(labels)) == len(labels)
    assert {Problem(problem).pass_ for problem in problems} == {"fwd"}


def test_shapes_come_by_name_by_path_or_as_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text(f"# heading\n\n{TINY}\n")
    assert read_shapes(str(path)) == [TINY]
    assert read_shapes(TINY) == [TINY]
    with pytest.raises(ValueError, match=r"fmnist.*not 'fmnst'"):
        read_shapes("fmnst")


@pytest.mark.parametrize("peer", PEERS)
def test_peers_compute_the_problem(peer: str) -> None:
    if peer == "onnxruntime":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    ops = operands("n2c4h9w8k6r3s2p1q0u2v1d1e2g2_f32_nchw_fwd+bias+relu")
    call = prepare(peer, ops, "fwd")
    assert call is not None
    y = call()
    y = torch.as_tensor(y[0] if isinstance(y, list) else y)
    torch.testing.assert_close(y.double(), oracle(ops), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("peer", ["convkern", "torch", "torch_channels_last"])
@pytest.mark.parametrize("bias", ["", "+bias"])
def test_a_training_call_gives_every_gradient(peer: str, bias: str) -> None:
    ops = operands(f"n2c2h6w6k3r3s3_f32_nchw_fwd{bias}")
    call = prepare(peer, ops, "fwd_bwd")
    assert call is not None
    gradients = call()
    leaves = [t.double().requires_grad_() for t in (ops.x, ops.w, ops.b) if t is not None]
    y = torch.nn.functional.conv2d(*leaves)
    expected = torch.autograd.grad(y, leaves, ops.gy.double())
    torch.testing.assert_close(gradients, expected, check_dtype=False, atol=1e-4, rtol=1e-5)


def test_calls_take_turns_after_a_call_that_is_not_timed() -> None:
    seen: list[str] = []

    def call(name: str) -> Callable[[], object]:
        return lambda: [seen.append(name), sleep(0.002)]  # too long to be repeated

    samples = time_in_turn({name: call(name) for name in "abc"}, seconds=0.0)
    assert samples["a"].rounds == 5
    assert samples["a"].low <= samples["a"].median <= samples["a"].high
    turns = "".join(seen[-30:])
    assert turns == "aabbcc" + "bbccaa" + "ccaabb" + "aabbcc" + "bbccaa"


def test_a_run_survives_writing_and_reading(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    result = run_suite([TINY], ["fwd", "fwd_bwd"], ["torch"], [1, 2], seconds=0.0)
    assert torch.get_num_threads() == threads
    assert [(row.pass_, row.threads) for row in result.rows] == [
        ("fwd", 1), ("fwd_bwd", 1), ("fwd", 2), ("fwd_bwd", 2)
    ]  # fmt: skip
    assert [len(row.kernels) for row in result.rows] == [1, 3, 1, 3]
    result.write(tmp_path / "result.json")
    assert Suite.read(tmp_path / "result.json") == result


def test_a_result_that_cannot_be_written_is_told_before_measuring(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("convkern.cli.bench.run_suite", lambda *_, **__: pytest.fail("measured"))
    monkeypatch.setattr("convkern.cli.bench.time_models", lambda *_, **__: pytest.fail("measured"))
    for out in ("/proc/convkern/result.json", str(tmp_path)):
        for what in (["--shapes", TINY], ["models", "resnet18"]):
            assert main(["bench", *what, "--out", out]) == 2
            error = capsys.readouterr().err
            assert error.startswith("convkern: [Errno ")
            assert str(Path(out).parent) in error
            assert error.count("\n") == 1


def test_a_sample_is_of_positive_numbers(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    suite(1, 1).write(path)
    whole = path.read_text()
    assert '"median": 1,' in whole
    for value in ("0", "-1", "NaN", '"x"', "null", "[1]"):
        path.write_text(whole.replace('"median": 1,', f'"median": {value},'))
        with pytest.raises(ValueError, match=r"result\.json is not a result"):
            Suite.read(path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{", "{}", '{"machine": {}, "started": "", "rows": [{}]}', "[]"]
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json is not a result"):
        Suite.read(path)


def test_the_ratio_is_to_the_faster_layout_of_torch() -> None:
    samples = {"convkern": sample(1), "torch": sample(4), "torch_channels_last": sample(3),
               "onnxruntime": sample(2)}  # fmt: skip
    assert Row(TINY, "fwd", 1, samples).ratio == 3
    assert Row(TINY, "fwd", 1, {"convkern": sample(1)}).ratio is None


def test_the_table_ends_with_geometric_means() -> None:
    rows = [suite(1, ratio).rows[0] for ratio in (2, 8)]
    printed = table([*rows, Row(TINY, "fwd", 2, {"convkern": sample(1)})])
    assert len(printed.rows) == 4
    assert [row[-1] for row in printed.rows] == ["2.00x", "8.00x", "", "4.00x"]


def test_layout_and_dtype_can_be_chosen(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    arguments = ["--shapes", TINY, "--layout", "nhwc", "--dtype", "bf16", "--threads", "1",
                 "--peers", "torch_channels_last", "--seconds", "0", "--passes", "fwd"]  # fmt: skip
    assert main(["bench", *arguments, "--out", str(out)]) == 0
    expected = TINY.replace("f32_nchw", "bf16_nhwc")
    assert [row.problem for row in Suite.read(out).rows] == [expected]


@pytest.mark.parametrize(
    ("old", "new", "slower"),
    [
        (suite(1, 10), suite(2, 10), 1),
        (suite(1, 10), suite(2, 20), 0),  # the machine was slower, not the library
        (suite(1, 10), suite(1.05, 10), 0),
        (suite(1, 10, spread=0.3), suite(1.5, 10, spread=0.3), 0),  # within the noise
        (suite(2, 10), suite(1, 10), 0),
    ],
)
def test_compare_finds_what_became_slower(old: Suite, new: Suite, slower: int) -> None:
    printed, count = compare(old, new)
    assert count == slower
    assert len(printed.rows) == 2


def test_compare_needs_a_common_row() -> None:
    with pytest.raises(ValueError, match="in common"):
        compare(suite(1, 1), suite(1, 1, problem="n1c1h8w8k1r3s3_f32_nchw_fwd"))


def test_the_command_prints_a_table_and_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    arguments = ["--shapes", TINY, "--passes", "fwd", "--threads", "1", "--seconds", "0"]
    assert main(["bench", *arguments, "--out", str(out)]) == 0
    heading, row, mean = capsys.readouterr().out.splitlines()
    assert "torch_channels_last, ms" in heading
    assert row.startswith("tiny")
    assert mean.startswith("geometric mean")
    assert main(["bench", "compare", str(out), str(out)]) == 0
    assert "geometric mean" in capsys.readouterr().out
    data = json.loads(out.read_text())
    for peer in data["rows"][0]["samples"]:
        data["rows"][0]["samples"][peer].update(median=1.0, low=1.0, high=1.0)
    data["rows"][0]["samples"]["torch"]["median"] = 2.0
    out.write_text(json.dumps(data))
    fast = tmp_path / "fast.json"
    data["rows"][0]["samples"]["convkern"].update(median=0.1, low=0.1, high=0.1)
    fast.write_text(json.dumps(data))
    assert main(["bench", "compare", str(fast), str(out)]) == 1


@pytest.mark.parametrize(
    ("option", "value"), [("--passes", "bwd"), ("--peers", "jax"), ("--shapes", "nothing")]
)
def test_the_command_names_what_it_cannot_do(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", option, value]) == 2
    assert value in capsys.readouterr().err


def test_the_command_says_which_package_a_peer_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("convkern.cli.bench.find_spec", lambda name: None)
    assert main(["bench", "--shapes", TINY, "--peers", "onnxruntime"]) == 2
    assert "pip install 'convkern[bench]'" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--threads", "1,2"], ["--shapes=models"]])
def test_bench_alone_means_problems(options: list[str]) -> None:
    parser = build_parser()
    assert parser.parse_args(["bench", *options]) == parser.parse_args(
        ["bench", "problems", *options]
    )


@pytest.mark.parametrize("threads", ["0", "two", "1,-1"])
def test_the_command_needs_whole_numbers_of_threads(
    threads: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", f"--threads={threads}"])
    assert "is not a whole number of at least 1" in capsys.readouterr().err


def test_epochs_of_every_recipe_are_timed() -> None:
    images, labels = torch.rand(20, 1, 28, 28), torch.arange(20) % 10
    split = TensorDataset(images, labels)
    printed = epoch.epoch_table(FashionMNISTData("random", split, split))
    assert len(printed.rows) == 4
