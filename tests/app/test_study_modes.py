"""Modes of padding in the study: the variants of the models, their verdicts, and both commands."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import study_cases
from convkern import Conv2d, cli
from convkern.fashion_mnist import CONVS, MODELS, MODES, VARIANTS, ConvNetPadding, build_convnet
from convkern.fashion_mnist.models import parts, variant
from convkern.fashion_mnist.study import Study, judge, run
from convkern.fashion_mnist.study.geometry import describe, layers_of, reads
from convkern.fashion_mnist.study.verdicts import BETTER, SAME, UNDECIDED, WORSE, rule
from fashion_mnist_files import checkpoint_parts, data_dir_fixture  # noqa: F401
from study_cases import SHAPES, small_data, study

LOW, HIGH = [0.70, 0.71, 0.72], [0.80, 0.81, 0.82]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(run, "BATCH", 20)
    for name in VARIANTS:
        monkeypatch.setitem(SHAPES, name, SHAPES[parts(name)[0]])
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- models --------------------------------------------------------------------------------


def test_each_model_with_padding_has_each_mode() -> None:
    assert MODES == ("reflect", "replicate", "circular")
    assert list(VARIANTS) == [f"{m}-{mode}" for m in list(MODELS)[1:] for mode in MODES]
    assert [variant(*parts(name)) for name in (*MODELS, *VARIANTS)] == [*MODELS, *VARIANTS]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_its_model_but_for_the_mode(name: str) -> None:
    model, mode = parts(name)
    zeros, _, _ = build_convnet(model, seed=5)
    ours, _, _ = build_convnet(name, seed=5)
    theirs, _, _ = build_convnet(name, "torch", seed=5)
    expected = zeros.state_dict()
    for net, conv in ((ours, CONVS["convkern"]), (theirs, CONVS["torch"])):
        layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
        assert {(type(layer), layer.padding_mode) for layer in layers} == {(conv, mode)}
        state = net.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in state)
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(images), theirs(images))
    assert not torch.allclose(ours(images), zeros(images))


def test_what_has_no_such_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="plain has no padding that could be reflect: choose one"):
        variant("plain", "reflect")
    with pytest.raises(ValueError, match="zeros, reflect, replicate, circular, not 'mirror'"):
        variant("padding2", "mirror")
    with pytest.raises(ValueError, match="model must be one of plain"):
        build_convnet("plain-reflect")
    with pytest.raises(ValueError, match="padding_mode must be one of"):
        ConvNetPadding(2, padding_mode="mirror")  # type: ignore[arg-type]


def test_variants_in_words() -> None:
    assert describe(layers_of(VARIANTS["padding2-reflect"](Conv2d))) == (
        "2 layers, kernels 14 and 10, padding 1, reflect"
    )
    assert describe(layers_of(VARIANTS["stride-circular"](Conv2d))) == (
        "3 layers, kernels 14, 8 and 5, padding 2, circular, strides 1, 1 and 2"
    )


def test_pixels_are_read_again_in_the_padding() -> None:
    counts = {
        mode: reads(layers_of(nn.Conv2d(1, 1, 3, padding=1, padding_mode=mode), 4)).tolist()
        for mode in ("zeros", *MODES)
    }
    # In one dimension, the four pixels are read 2, 3, 3 and 2 times, and once more where the
    # padding has them.
    for mode, once in {
        "zeros": [2, 3, 3, 2],
        "reflect": [2, 4, 4, 2],
        "replicate": [3, 3, 3, 3],
        "circular": [3, 3, 3, 3],
    }.items():
        assert counts[mode] == [[row * column for column in once] for row in once], mode


# --- verdicts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zeros", "reflect", "decision"),
    [
        (LOW, HIGH, BETTER),
        (HIGH, LOW, WORSE),
        (LOW, LOW, SAME),
        ([0.70, 0.75, 0.80], [0.72, 0.77, 0.82], SAME),  # within the spread
        ([0.70, 0.72, 0.74], [0.73, 0.75, 0.77], UNDECIDED),  # beyond it, but p > 0.05
        ([0.7], [0.8], UNDECIDED),  # a seed has no spread
        ([0.1, 0.1, 0.1], HIGH, UNDECIDED),  # nothing to compare with
    ],
)
def test_accuracies_say_whether_a_mode_differs(
    zeros: list[float], reflect: list[float], decision: str
) -> None:
    given = study({"padding2": zeros, "padding2-reflect": reflect})
    (verdict,) = judge(given)
    assert verdict.decision == decision
    assert verdict.text.startswith(f"Reflect padding in padding2: {decision}. Accuracy ")
    assert "begins with the same weights" in verdict.text


def test_dead_seeds_that_decide_are_named() -> None:
    given = study({"stride": [*LOW, 0.1], "stride-circular": [*HIGH, 0.1]})
    (verdict,) = judge(given)
    assert (verdict.decision, verdict.decision_of_all) == (BETTER, SAME)
    assert "over all seeds there is no measurable difference from zeros." in verdict.text
    given = study({"stride": [0.1, 0.1, 0.1], "stride-circular": HIGH})
    (verdict,) = judge(given)
    assert "over all seeds it is more accurate than zeros." in verdict.text


def test_modes_are_judged_after_the_claims_and_their_rule_is_told() -> None:
    without = study({"plain": LOW, "padding2": HIGH})
    given = study({"plain": LOW, "padding2": HIGH, **{f"padding2-{mode}": HIGH for mode in MODES}})
    assert [verdict.text for verdict in judge(given)][:1] == [v.text for v in judge(without)]
    assert [verdict.claim.name for verdict in judge(given)][1:] == [
        f"{mode} padding in padding2" for mode in ("Reflect", "Replicate", "Circular")
    ]
    assert "mode" not in rule(without)
    assert rule(given).startswith(rule(without))
    assert "each mode of padding with zeros" in rule(given)
    assert judge(study({"padding2-reflect": HIGH})) == []  # zeros were not trained


# --- the report ----------------------------------------------------------------------------


def test_the_report_shows_all_modes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    from convkern.fashion_mnist.study.report import write_report

    names = ["plain", "padding2", *(f"padding2-{mode}" for mode in MODES)]
    given = study({name: [0.7, 0.1] for name in names})
    nets = {(r.model, r.seed): build_convnet(r.model, seed=r.seed)[0] for r in given.runs}
    page = write_report(tmp_path, given, nets, small_data()).read_text()
    for name in names[2:]:
        assert (tmp_path / f"confusion-{name}.png").exists()
        mode = parts(name)[1]
        assert f"<dt>{name}</dt><dd>2 layers, kernels 14 and 10, padding 1, {mode}</dd>" in page
        assert f"<h3>{mode.capitalize()} padding in padding2: undecided</h3>" in page
        assert f'scope="row">{name}</th>' in page
    assert "The padding modes change no size" in page
    assert "5 small convolutional networks" in page


# --- commands ------------------------------------------------------------------------------


compare = partial(study_cases.compare, "plain,padding2")


def runs_of(out: Path) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads((out / "study.json").read_text())["runs"]
    return [{**each, "epoch_seconds": None} for each in runs]


def test_modes_are_trained_beside_zeros(
    data_dir: Path, tmp_path: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(data_dir, tmp_path / "without", "--epochs", "1") == 0
    capsys.readouterr()
    assert compare(data_dir, tmp_path / "with", "--epochs", "1", "--modes") == 0
    out = capsys.readouterr().out
    given = Study.read(tmp_path / "with" / "study.json")
    variants = [f"padding2-{mode}" for mode in MODES]
    assert given.models == ["plain", "padding2", *variants]
    for mode in ("Reflect", "Replicate", "Circular"):
        assert out.count(f"\n{mode} padding in padding2: ") == 1
    zeros = runs_of(tmp_path / "without")
    assert runs_of(tmp_path / "with")[: len(zeros)] == zeros
    losses = {tuple(each.step_losses) for each in given.runs if each.seed == 1}
    assert len(losses) == 5


def test_modes_are_added_to_a_finished_study_and_timed(
    data_dir: Path, tmp_path: Path, undrawn: None
) -> None:
    options = ("--epochs", "1", "--modes", "circular")
    assert compare(data_dir, tmp_path / "whole", *options) == 0
    assert compare(data_dir, tmp_path / "parts", "--epochs", "1") == 0
    assert compare(data_dir, tmp_path / "parts", *options, "--resume", "--timing-epochs", "1") == 0
    assert runs_of(tmp_path / "parts") == runs_of(tmp_path / "whole")
    times = Study.read(tmp_path / "parts" / "study.json").times
    assert list(times) == ["plain", "padding2", "padding2-circular"]
    assert all(set(by_conv) == set(CONVS) for by_conv in times.values())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--modes", "mirror"), "modes must be among reflect,replicate,circular, got mirror"),
        (("--modes", "zeros"), "modes must be among reflect,replicate,circular, and zeros is"),
        (("--modes", "reflect,reflect"), "each mode once, not reflect,reflect"),
        (("--modes", ","), "--modes needs names among reflect,replicate,circular, or none for all"),
        (("--modes", "--models", "plain"), "--modes needs a model with padding: --models must"),
        (("--modes", "--models", "deep"), "models must be among plain,padding2,padding3,stride"),
        (("--modes", "--models", ","), "give at least one model"),
        (("--models", "padding2-reflect"), "models must be among plain,padding2,padding3,stride,"),
    ],
)
def test_bad_combinations_are_one_line(
    options: tuple[str, ...], sentence: str, data_dir: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("matplotlib")
    assert compare(data_dir, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"convkern: {sentence}")
    assert error.count("\n") == 1
    assert ("--modes adds modes of padding" in error) == ("padding2-reflect" in options)
    assert not (tmp_path / "out").exists()


def train(data_dir: Path, out: Path, *options: str) -> int:
    fixed = ["train", "--data", str(data_dir), "--out", str(out), "--batch-size", "20"]
    return cli.main([*fixed, "--model", "padding2", *options])


def test_train_goes_on_from_checkpoints_of_a_mode_and_of_the_study(
    data_dir: Path, tmp_path: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    mode = ("--padding-mode", "reflect", "--seed", "1")  # all modes of seed 0 are dead
    assert train(data_dir, tmp_path / "whole", *mode, "--epochs", "2") == 0
    kept = (*mode, "--checkpoint", str(tmp_path / "kept"), "--resume")
    assert train(data_dir, tmp_path / "parts", *kept, "--epochs", "1") == 0
    assert train(data_dir, tmp_path / "parts", *kept, "--epochs", "2") == 0
    assert compare(data_dir, tmp_path / "study", "--epochs", "1", "--modes", "reflect") == 0
    folder = tmp_path / "study" / "padding2-reflect-seed1"
    settings = checkpoint_parts(folder / "checkpoint.pt")["settings"]
    assert settings["model"] == "padding2-reflect"
    of_study = (*mode, "--checkpoint", str(folder), "--resume", "--epochs", "2")
    assert train(data_dir, tmp_path / "study", *of_study) == 0
    whole = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert whole["arguments"]["padding_mode"] == "reflect"
    for name in ("parts", "study"):
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        for key in ("step_losses", "epoch_losses", "test_loss", "accuracy"):
            assert metrics[key] == whole[key], (name, key)
    weights = torch.load(tmp_path / "whole" / "model.pt", weights_only=True)
    build_convnet("padding2-reflect", "torch")[0].load_state_dict(weights)
    capsys.readouterr()
    assert train(data_dir, tmp_path / "other", *kept[2:]) == 2
    assert "model 'padding2-reflect', not 'padding2'" in capsys.readouterr().err


def test_train_refuses_a_mode_without_padding(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--model", "plain", "--padding-mode", "circular")
    assert train(data_dir, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert error == (
        "convkern: plain has no padding that could be circular: choose one of padding2, padding3, "
        "stride\n"
    )
    assert not (tmp_path / "out").exists()
