"""What a comparison found, in a few sentences: the verdict first, then its figures, then what to be careful about.

Computes nothing but which arm is the rival; see `comparison_result.py` for the figures.
"""

from collections.abc import Sequence

import numpy as np

from .comparison_result import ArmTest, Comparison
from .power import TARGET, Noise, videos_needed
from .variances import ALPHA, p_text

BUILT_IN = "No verdict: on clips that are made, or with random weights, the ranking is built in."
WEAK = 0.7  # a readout whose MAE is above this fraction of the constant's has learned little


def in_words(comparison: Comparison, *, built_in: bool) -> str:
    """The first arm against the best other trained one: which is better, by how much and with what certainty.

    The rival is the one with the lowest validation MAE.

    Args:
        comparison: a finished one.
        built_in: whether the ranking is built in, as on synthetic clips or with random weights; then there is no verdict.
    """
    arms, others = comparison.arms, _other_trained(comparison)
    first = next(iter(arms.values()))
    if not others:
        return f"{first.label} has MAE {first.mae:.3f}; no other arm is trained.{_cautions(comparison)}"
    test = main_test(comparison)
    best, where = arms[test.second], "on validation" if _has_validation(comparison) else "on the test clips"
    p = "" if test.p_holm is None else f", p {p_text(test.p_holm)} (adjusted for {tests_with_p(comparison)} tests)"
    mae = f"Mean MAE over {len(comparison.seeds)} seeds:" if len(comparison.seeds) > 1 else "MAE"
    verdict = BUILT_IN if built_in else verdict_in_words(comparison, test)
    return (
        f"{verdict} {mae} {first.mae:.3f} for {quoted(first.label)}, and {best.mae:.3f} for {quoted(best.label)}, the best other"
        f" trained arm {where}: difference {test.paired.text}, 95 % interval {test.paired.interval}{'' if built_in else p}."
        f"{_cautions(comparison)}"
    )


def quoted(label: str) -> str:
    """The name of an arm in a sentence: in quotes if it has commas."""
    return f"“{label}”" if "," in label else label


def _cautions(comparison: Comparison) -> str:
    """What a reader should be careful about, each in a sentence after a space; empty if there is nothing."""
    arms, found = comparison.arms, ""
    trained = [arm for arm in arms.values() if arm.trainable_parameters]
    weak = [arm.label for arm in trained if arm.mae_over_constant is None or arm.mae_over_constant > WEAK]
    if weak:
        found += f" Read this with care: some MAE are above {WEAK} times that of the constant ({'; '.join(weak)})."
    improving = [arm.label for arm in arms.values() if any(arm.still_improving)]
    if improving:
        found += (
            " Validation was best at the last evaluation, so that more training may change the order, for"
            f" {'; '.join(improving)}."
        )
    return found


def best_rival(comparison: Comparison) -> str:
    """The other trained arm with the lowest validation MAE; by test MAE if runs of earlier versions have no validation results.

    Raises:
        ValueError: when no other arm is trained.
    """
    others, arms = _other_trained(comparison), comparison.arms
    if not others:
        raise ValueError("no other arm of the comparison is trained")
    by_valid = _has_validation(comparison)
    return min(others, key=lambda name: (mean_of(arms[name].valid_mae) if by_valid else 0.0, arms[name].mae))


def main_test(comparison: Comparison) -> ArmTest:
    """The test of the first arm against the best other trained one; without any, against the first other arm."""
    rival = best_rival(comparison) if _other_trained(comparison) else comparison.tests[0].second
    return next(test for test in comparison.tests if test.second == rival)


def verdict_in_words(comparison: Comparison, test: ArmTest) -> str:
    """Which of two arms has the lower MAE, or that this is undecided."""
    margin = comparison.margin
    if test.winner is not None:
        return f"{quoted(comparison.arms[test.winner].label)} has the lower MAE."
    if test.p_holm is None:
        return "No verdict from one seed."
    if margin is not None and test.paired.within(margin):
        return f"No difference that matters: the interval lies within ± {margin:g}."
    return f"Undecided.{_what_it_would_take(comparison, test)}"


def tests_with_p(comparison: Comparison) -> int:
    """For how many tests the p values are adjusted."""
    return sum(test.p_holm is not None for test in comparison.tests)


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean; `None` unless there are values and each is known."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined and len(defined) == len(values) else None


def _what_it_would_take(comparison: Comparison, test: ArmTest) -> str:
    """How many videos would show a difference that matters, with the same number of seeds."""
    noise, margin = Noise.of(test.paired), comparison.margin
    if margin is None or noise.is_none:
        return ""
    alpha = ALPHA / tests_with_p(comparison)
    videos = videos_needed(margin, noise, seeds=test.paired.seeds, alpha=alpha)
    needed = "more seeds" if videos is None else f"about {videos} {comparison.units}"
    return f" Showing a difference of {margin:g} with {TARGET:.0%} probability takes {needed} (see `omnisent power`)."


def _other_trained(comparison: Comparison) -> list[str]:
    _, *rest = comparison.arms
    return [name for name in rest if comparison.arms[name].trainable_parameters]


def _has_validation(comparison: Comparison) -> bool:
    return all(mean_of(comparison.arms[name].valid_mae) is not None for name in _other_trained(comparison))
