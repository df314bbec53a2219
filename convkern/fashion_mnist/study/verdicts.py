"""Judges the notebook's three claims, and modes of padding, by the numbers of a study, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from convkern.fashion_mnist.models import parts
from convkern.fashion_mnist.study.results import Run, Study, Summary, summaries

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
BETTER, WORSE = "more accurate than zeros", "less accurate than zeros"
SAME = "no measurable difference from zeros"
SIGNIFICANT = 0.05
_STEADY = 1.5
_PREDICATES = {
    UNDECIDED: "the claim is undecided",
    BETTER: f"it is {BETTER}",
    WORSE: f"it is {WORSE}",
    SAME: f"there is {SAME}",
}
_RULE = (
    "A difference of means decides where it exceeds the spread of a difference (the root of the "
    "sum of both squared standard deviations between seeds) and has p < 0.05 in Welch's t-test, "
    "which allows for how few seeds there are. Otherwise it is undecided, as it is with fewer than "
    "two seeds on either side. A run has not learned where its test loss is that of guessing, "
    "ln 10 = 2.303, or within a hundredth of it. The accuracies of the runs that learned decide a "
    "claim; the same comparison over all seeds stands beside it."
)
_RULE_OF_MODES = (
    " The same rule compares each mode of padding with zeros. A difference within the spread is "
    "too small to measure, and one beyond it is undecided where the seeds are too few. Of 20 "
    "modes that change nothing, one may seem to differ by chance."
)


@dataclass(frozen=True)
class Claim:
    """A claim that `model` is more accurate than `other` (sign is 1), or less (sign is -1), or the
    question which of the two it is (sign is 0).

    `caveat` says what else differs between the two. `costs` says that `model` is also claimed to
    need less computation.
    """

    name: str
    model: str
    other: str
    sign: int
    caveat: str
    costs: bool = False


CLAIMS = (
    Claim(
        "Padding helps", "padding2", "plain", 1,
        "Padding also gives the linear layer 100 inputs where plain has 36.",
    ),
    Claim(
        "More padding helps", "padding3", "padding2", 1,
        "padding3 also has a third layer, so this is padding and depth together.",
    ),
    Claim(
        "Striding trades accuracy for compute", "stride", "padding3", -1,
        "stride also has smaller kernels in its second and third layer, so the stride alone is not "
        "what is compared.",
        costs=True,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Compares a quantity of `first` and `second`. More is better if `more_is_better`."""

    first: Summary
    second: Summary
    more_is_better: bool = True

    @property
    def difference(self) -> float:
        return self.first.mean - self.second.mean

    @property
    def spread(self) -> float | None:
        """The spread of a difference between one seed of each. None if either has fewer than
        two."""
        if self.first.spread is None or self.second.spread is None:
            return None
        return math.hypot(self.first.spread, self.second.spread)

    @property
    def p_value(self) -> float | None:
        """Two-sided, of Welch's t-test. None if either side has fewer than two seeds."""
        if self.first.spread is None or self.second.spread is None:
            return None
        if self.first.spread == self.second.spread == 0:
            return float(self.difference == 0)
        from scipy.stats import ttest_ind_from_stats  # an optional dependency

        sides = [(side.mean, side.spread, side.count) for side in (self.first, self.second)]
        return float(ttest_ind_from_stats(*sides[0], *sides[1], equal_var=False).pvalue)

    @property
    def winner(self) -> int:
        """1 if the first is better, -1 if the second is, 0 if the numbers do not decide."""
        spread, p_value = self.spread, self.p_value
        if spread is None or p_value is None:
            return 0
        if not (abs(self.difference) > spread and p_value < SIGNIFICANT):
            return 0
        return 1 if (self.difference > 0) == self.more_is_better else -1


@dataclass(frozen=True)
class Verdict:
    """The decision on a claim, by the numbers.

    Attributes:
        decision: `HOLDS`, `FAILS` or `UNDECIDED`, by the accuracies of the runs that learned. Of a
            mode of padding, `BETTER`, `WORSE`, `SAME` or `UNDECIDED`.
        decision_of_all: the same by the accuracies of all runs.
        sentences: the numbers that decide.
    """

    claim: Claim
    decision: str
    decision_of_all: str
    sentences: list[str]

    @property
    def text(self) -> str:
        return f"{self.claim.name}: {self.decision}. {' '.join(self.sentences)}"


def judge(study: Study) -> list[Verdict]:
    """Returns the verdicts on the claims whose two models are in the study, in the notebook's
    order, and then on each mode of padding."""
    models = study.models
    claims = [*CLAIMS, *_mode_claims(study)]
    return [_verdict(study, c) for c in claims if c.model in models and c.other in models]


def rule(study: Study) -> str:
    """Returns the rule by which `judge` decides, in words."""
    return _RULE + (_RULE_OF_MODES if _mode_claims(study) else "")


def dead_seeds(study: Study) -> str:
    """Returns a sentence or two on how many runs did not learn, and which."""
    dead, count = study.dead(), len(study.runs)
    if not dead:
        return f"All {count} runs learned."
    named = "; ".join(f"{run.model}, seed {run.seed}{_why(run)}" for run in dead)
    return f"{len(dead)} of {count} runs never learned: {named}."


def steadiness(study: Study) -> str:
    """Returns a sentence on how much timed epochs of one kind differ. It is empty if none repeats.

    Beyond `_STEADY` the machine was busy, and its medians say little.
    """
    ratios = [
        max(seconds) / min(seconds)
        for by_conv in study.times.values()
        for seconds in by_conv.values()
        if len(seconds) > 1
    ]
    if not ratios:
        return ""
    worst = f"The slowest epoch of a kind took up to {max(ratios):.1f} times as long as its fastest"
    if max(ratios) > _STEADY:
        return f"{worst}: the machine was busy, and the times say little."
    return f"{worst}."


def compare(first: Sequence[Run], second: Sequence[Run], quantity: str) -> Comparison:
    """Compares the runs by `test_loss` or `accuracy`."""
    return Comparison(
        summaries(list(first))[quantity], summaries(list(second))[quantity],
        more_is_better=quantity == "accuracy",
    )  # fmt: skip


def _mode_claims(study: Study) -> list[Claim]:
    caveat = (
        "Nothing else differs: each seed begins with the same weights and takes the same batches."
    )
    return [
        Claim(f"{mode.capitalize()} padding in {model}", f"{model}-{mode}", model, 0, caveat)
        for model, mode in map(parts, study.models)
        if mode != "zeros"
    ]


def _verdict(study: Study, claim: Claim) -> Verdict:
    first, second = (study.of(name, learned_only=True) for name in (claim.model, claim.other))
    all_first, all_second = study.of(claim.model), study.of(claim.other)
    accuracy, of_all = (
        compare(first, second, "accuracy"),
        compare(all_first, all_second, "accuracy"),
    )
    loss = compare(first, second, "test_loss")
    saves = study.shapes[claim.model].multiply_adds < study.shapes[claim.other].multiply_adds
    decision, decision_of_all = (
        FAILS if claim.costs and not saves else _decision(comparison, claim)
        for comparison in (accuracy, of_all)
    )
    sentences = [
        f"Accuracy {_number(accuracy.first)} ({claim.model}, {_learned(first, all_first)}) "
        f"against {_number(accuracy.second)} ({claim.other}, {_learned(second, all_second)}): "
        f"{_size(accuracy)}.",
        _of_loss(loss, accuracy, claim),
        _of_compute(study, claim) if claim.costs else "",
        _of_all(decision, decision_of_all, of_all, [*all_first, *all_second]),
        claim.caveat,
    ]
    return Verdict(claim, decision, decision_of_all, list(filter(None, sentences)))


def _decision(accuracy: Comparison, claim: Claim) -> str:
    if claim.sign == 0:
        return _difference(accuracy)
    if accuracy.winner == 0:
        return UNDECIDED
    return HOLDS if accuracy.winner == claim.sign else FAILS


def _difference(accuracy: Comparison) -> str:
    if accuracy.winner:
        return BETTER if accuracy.winner > 0 else WORSE
    measured = accuracy.spread is not None and abs(accuracy.difference) <= accuracy.spread
    return SAME if measured else UNDECIDED


def _learned(learned: Sequence[Run], runs: Sequence[Run]) -> str:
    return f"{len(learned)} of {len(runs)} seeds learned"


def _number(summary: Summary) -> str:
    return summary.with_spread(4) if summary.count else "of no seed"


def _size(comparison: Comparison) -> str:
    """Returns the difference, and whether it exceeds the spread."""
    if not comparison.first.count or not comparison.second.count:
        return "nothing to compare"
    text = f"a difference of {comparison.difference:+.4f}"
    if comparison.spread is None:
        return f"{text}, and too few seeds for a spread"
    difference, p_value = abs(comparison.difference), comparison.p_value
    assert p_value is not None
    within = "within" if difference <= comparison.spread else "more than"
    p_text = f"p = {p_value:.3f}" if p_value >= 0.001 else "p < 0.001"
    few = "" if comparison.winner or within == "within" else "too few seeds to tell, "
    return f"{text}, {within} the spread of {comparison.spread:.4f} ({few}{p_text})"


def _of_loss(loss: Comparison, accuracy: Comparison, claim: Claim) -> str:
    if not loss.first.count or not loss.second.count:
        return ""
    if loss.winner == 0:
        relation = "which decides nothing"
    elif accuracy.winner == 0:
        relation = f"by which {claim.model if loss.winner > 0 else claim.other} is better"
    else:
        relation = "which agrees" if loss.winner == accuracy.winner else "which contradicts it"
    numbers = f"Test loss {_number(loss.first)} against {_number(loss.second)}"
    return f"{numbers}: {_size(loss)}, {relation}."


def _of_compute(study: Study, claim: Claim) -> str:
    first, second = (study.shapes[name].multiply_adds for name in (claim.model, claim.other))
    text = f"It needs {_percent(first, second)} multiply-adds ({first:,} against {second:,})"
    timed = [
        f"{_times(times[0])} against {_times(times[1])} with {name}"
        for conv, name in (("convkern", "convkern"), ("torch", "nn.Conv2d"))
        if all(times := [study.times.get(m, {}).get(conv, []) for m in (claim.model, claim.other)])
    ]
    return f"{text}; an epoch takes {', '.join(timed)}." if timed else f"{text}."


def _percent(value: float, base: float) -> str:
    change = 100 * (value / base - 1)
    return f"{abs(change):.0f}% {'fewer' if change < 0 else 'more'}"


def _times(seconds: list[float]) -> str:
    """Returns the median, and the range if there are several values."""
    if len(seconds) == 1:
        return f"{seconds[0]:.2f} s"
    return f"{median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def _of_all(decision: str, decision_of_all: str, of_all: Comparison, runs: Sequence[Run]) -> str:
    """Returns a sentence on what changes if the runs that did not learn are counted."""
    dead = [run for run in runs if not run.learned]
    if not dead:
        return ""
    numbers = f"Over all seeds: {_number(of_all.first)} against {_number(of_all.second)}"
    names = " and ".join(f"{run.model}'s seed {run.seed}" for run in dead)
    ending = (
        f"seeds that never learned do not change the decision ({names})"
        if decision == decision_of_all
        else f"seeds that never learned ({names}) decide here: over all seeds "
        + _PREDICATES.get(decision_of_all, f"the claim {decision_of_all}")
    )
    return f"{numbers}, {_size(of_all)}; {ending}."


def _why(run: Run) -> str:
    layer = run.dead_layer
    return "" if layer is None else f" (the ReLU of layer {layer} gives 0 for every test image)"
