"""The sentences of the study about its numbers."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from convkern.fashion_mnist.study import Study, Summary, Verdict, dead_seeds, judge, steadiness
from convkern.fashion_mnist.study.tables import HEADINGS, results_rows
from convkern.fashion_mnist.study.verdicts import FAILS, HOLDS, UNDECIDED, Comparison, compare
from study_cases import run, study, timed

LOW, HIGH = [0.70, 0.71, 0.72], [0.80, 0.81, 0.82]


def padding(plain: list[float], padded: list[float]) -> Verdict:
    (verdict,) = judge(study({"plain": plain, "padding2": padded}))
    return verdict


@pytest.mark.parametrize(
    ("plain", "padded", "decision"),
    [
        (LOW, HIGH, HOLDS),
        (HIGH, LOW, FAILS),
        ([0.70, 0.75, 0.80], [0.72, 0.77, 0.82], UNDECIDED),  # within the spread
        ([0.70, 0.72, 0.74], [0.73, 0.75, 0.77], UNDECIDED),  # beyond it, but p > 0.05
        (LOW, LOW, UNDECIDED),
        ([0.7, 0.7], [0.7, 0.7], UNDECIDED),  # a tie without a spread
        ([0.7, 0.7], [0.8, 0.8], HOLDS),  # no spread at all
        ([0.7], [0.8], UNDECIDED),  # a seed has no spread
        ([0.1, 0.1, 0.1], HIGH, UNDECIDED),  # nothing to compare with
    ],
)
def test_accuracies_decide_a_claim(plain: list[float], padded: list[float], decision: str) -> None:
    verdict = padding(plain, padded)
    assert verdict.decision == decision
    assert verdict.text.startswith(f"Padding helps: {decision}. Accuracy ")


def test_the_numbers_that_decide_are_named() -> None:
    first, loss, caveat = padding(LOW, HIGH).sentences
    assert first == (
        "Accuracy 0.8100 ± 0.0100 (padding2, 3 of 3 seeds learned) against 0.7100 ± 0.0100 "
        "(plain, 3 of 3 seeds learned): a difference of +0.1000, more than the spread of 0.0141 "
        "(p < 0.001)."
    )
    assert loss.startswith(
        "Test loss 0.5900 ± 0.0100 against 0.6900 ± 0.0100: a difference of -0.1"
    )
    assert loss.endswith("which agrees.")
    assert "linear layer" in caveat


def test_too_few_seeds_are_told_from_a_small_difference() -> None:
    assert "within the spread of 0.0707 (p = " in padding([0.7, 0.75, 0.8], [0.72, 0.77, 0.82]).text
    beyond = padding([0.70, 0.72, 0.74], [0.73, 0.75, 0.77]).text
    assert "more than the spread of 0.0283 (too few seeds to tell, p = 0.140)" in beyond
    assert "and too few seeds for a spread" in padding([0.7], [0.8]).text
    assert "nothing to compare" in padding([0.1, 0.1], HIGH).text
    assert "of no seed (plain, 0 of 2 seeds learned)" in padding([0.1, 0.1], HIGH).text


def test_dead_seeds_do_not_decide_but_are_named() -> None:
    verdict = padding([*LOW, 0.1], HIGH)
    assert (verdict.decision, verdict.decision_of_all) == (HOLDS, UNDECIDED)
    assert "plain, 3 of 4 seeds learned" in verdict.text
    assert (
        "seeds that never learned (plain's seed 3) decide here: over all seeds the claim is "
        "undecided." in verdict.text
    )
    same = padding([0.70, 0.75, 0.80], [0.72, 0.77, 0.82, 0.1])
    assert (same.decision, same.decision_of_all) == (UNDECIDED, UNDECIDED)
    assert "do not change the decision (padding2's seed 3)" in same.text
    assert "Over all seeds" not in padding(LOW, HIGH).text


def test_dead_seeds_can_make_a_claim_hold_over_all_seeds() -> None:
    verdict = padding([0.1, 0.1, 0.1], HIGH)
    assert (verdict.decision, verdict.decision_of_all) == (UNDECIDED, HOLDS)
    assert "over all seeds the claim holds." in verdict.text


def test_all_claims_are_judged_in_order_and_only_those_of_models_that_ran() -> None:
    everything = study({"plain": LOW, "padding2": HIGH, "padding3": HIGH, "stride": LOW})
    assert [(v.claim.name, v.decision) for v in judge(everything)] == [
        ("Padding helps", HOLDS),
        ("More padding helps", UNDECIDED),
        ("Striding trades accuracy for compute", HOLDS),
    ]
    assert judge(study({"plain": LOW, "stride": HIGH})) == []


def test_striding_that_gains_accuracy_is_no_trade() -> None:
    (verdict,) = judge(study({"padding3": LOW, "stride": HIGH}))
    assert verdict.decision == FAILS
    assert "10% fewer multiply-adds (89,380 against 99,456)." in verdict.text


def test_striding_that_saves_nothing_is_no_trade() -> None:
    given = study({"padding3": HIGH, "stride": LOW})
    shapes = {**given.shapes, "stride": replace(given.shapes["stride"], multiply_adds=200_000)}
    (verdict,) = judge(replace(given, shapes=shapes))
    assert verdict.decision == FAILS
    assert "101% more multiply-adds" in verdict.text


def test_times_of_epochs_are_told_with_their_range() -> None:
    given = study({"padding3": HIGH, "stride": LOW})
    seconds = {"padding3": ([0.6, 0.8, 0.7], [7.0]), "stride": ([0.5, 0.5, 0.6], [6.0])}
    (verdict,) = judge(timed(given, seconds))
    assert (
        "an epoch takes 0.50 s (0.50 to 0.60) against 0.70 s (0.60 to 0.80) with convkern, "
        "6.00 s against 7.00 s with nn.Conv2d." in verdict.text
    )


def test_a_busy_machine_is_told() -> None:
    given = study({"plain": [0.7]})
    assert steadiness(given) == ""
    assert steadiness(timed(given, {"plain": ([0.5], [5.0])})) == ""
    quiet = steadiness(timed(given, {"plain": ([0.5, 0.55], [5.0, 5.0])}))
    assert quiet == "The slowest epoch of a kind took up to 1.1 times as long as its fastest."
    busy = steadiness(timed(given, {"plain": ([0.5, 0.5], [5.0, 15.0])}))
    assert busy.endswith(
        "up to 3.0 times as long as its fastest: the machine was busy, and the times say little."
    )


def test_a_loss_that_contradicts_the_accuracy_is_said_to() -> None:
    runs = [
        *(run("plain", seed, a, test_loss=0.5 + a / 100) for seed, a in enumerate(LOW)),
        *(run("padding2", seed, a, test_loss=0.9 + a / 100) for seed, a in enumerate(HIGH)),
    ]
    given = study({"plain": LOW, "padding2": HIGH})
    (verdict,) = judge(replace(given, runs=runs))
    assert "which contradicts it." in verdict.text
    runs = [replace(r, accuracy=0.7 + r.seed / 100) for r in runs]
    (verdict,) = judge(replace(given, runs=runs))
    assert verdict.decision == UNDECIDED
    assert "by which plain is better." in verdict.text


def test_dead_seeds_are_counted() -> None:
    assert dead_seeds(study({"plain": LOW})) == "All 3 runs learned."
    assert dead_seeds(study({"plain": [0.7, 0.1], "stride": [0.1, 0.7]})) == (
        "2 of 4 runs never learned: plain, seed 1 (the ReLU of layer 2 gives 0 for every test "
        "image); stride, seed 0 (the ReLU of layer 2 gives 0 for every test image)."
    )


def test_a_loss_just_below_guessing_has_not_learned() -> None:
    assert not run("plain", 0, 0.12, test_loss=2.29).learned
    assert run("plain", 0, 0.12, test_loss=2.27).learned
    assert not run("plain", 0, 0.12, test_loss=5.0).learned


# The 5% points of t tables for 1, 2 and 4 degrees of freedom.
@pytest.mark.parametrize(("count", "t"), [(2, 4.3027), (3, 2.7764)])
def test_p_values_are_those_of_the_tables(count: int, t: float) -> None:
    side = Summary(0.0, 1.0, count)
    other = Summary(t * math.sqrt(2 / count), 1.0, count)
    assert Comparison(side, other).p_value == pytest.approx(0.05, abs=1e-5)


def test_welchs_freedom_is_that_of_the_side_that_spreads() -> None:
    given, exact = Summary(12.7062 * math.sqrt(1 / 2), 1.0, 2), Summary(0.0, 0.0, 5)
    assert Comparison(given, exact).p_value == pytest.approx(0.05, abs=1e-5)


def test_less_loss_is_better() -> None:
    good = [run("stride", seed, 0.8, test_loss=0.5 + seed / 100) for seed in range(3)]
    bad = [run("plain", seed, 0.8, test_loss=0.8 + seed / 100) for seed in range(3)]
    assert compare(good, bad, "test_loss").winner == 1
    assert compare(bad, good, "test_loss").winner == -1


def test_a_study_is_read_as_it_was_written(tmp_path: Path) -> None:
    given = timed(study({"plain": [0.7, 0.1]}), {"plain": ([0.5], [5.0])})
    given.write(tmp_path / "study.json")
    assert Study.read(tmp_path / "study.json") == given


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"shapes": 3}', '{"shapes": {}, "runs": [1]}'])
def test_what_is_no_study_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is not a study of `convkern compare`"):
        Study.read(path)


def test_the_table_has_a_row_for_each_model() -> None:
    given = timed(study({"plain": [0.7, 0.72, 0.1], "stride": [0.1]}), {"plain": ([0.5], [5.0])})
    rows = results_rows(given)
    assert all(len(row) == len(HEADINGS) for row in rows)
    assert rows[0] == [
        "plain", "2 of 3", "0.690 ± 0.014", "0.710 ± 0.014", "668", "23x23", "48,060", "0.50 s",
        "5.00 s",
    ]  # fmt: skip
    assert rows[1][:4] == ["stride", "0 of 1", "-", "-"]
    assert rows[1][-2:] == ["-", "-"]
