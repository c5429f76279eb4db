"""The metrics against examples worked by hand, in every convention, and on input that has no answer."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, r2_score

from omnisent.evaluation.metrics import CONVENTIONS, METRICS, Metric, msa_metrics
from omnisent.evaluation.statistics import bootstrap_estimates
from omnisent.training.argument_rules import lower_is_better, metric_names

MOSI_LABELS = [3.0, 2.5, 1.5, 0.5, 0.0, 0.0, -0.5, -1.5, -2.5, -3.0]
MOSI_SCORES = [4.0, 2.0, 2.4, 0.0, 0.5, -0.1, 0.2, -2.5, -2.0, -1.4]
SIMS_LABELS = [-1.0, -0.7, -0.6, -0.1, 0.0, 0.1, 0.2, 0.7, 0.8, 1.0]
SIMS_SCORES = [-1.5, -0.8, -0.1, 0.0, 0.05, 0.3, 0.1, 0.9, 0.7, 1.2]


def test_mosi_metrics_equal_the_hand_worked_example():
    metrics = msa_metrics(MOSI_SCORES, MOSI_LABELS)
    # |errors|: 1 .5 .9 .5 .5 .1 .7 1 .5 1.6
    assert metrics["mae"] == pytest.approx(7.3 / 10, abs=1e-12)
    # Rounded labels 3 2 2 0 0 0 0 -2 -2 -3; rounded scores, clipped to 3: 3 2 2 0 0 0 0 -2 -2 -1
    assert metrics["acc_7"] == pytest.approx(9 / 10, abs=1e-12)
    # Clipped to 2, labels 2 2 2 0 0 0 0 -2 -2 -2; scores 2 2 2 0 0 0 0 -2 -2 -1
    assert metrics["acc_5"] == pytest.approx(9 / 10, abs=1e-12)
    # Clipped to 1, labels 1 1 1 0 0 0 0 -1 -1 -1; scores 1 1 1 0 0 0 0 -1 -1 -1
    assert metrics["acc_3"] == pytest.approx(1.0, abs=1e-12)
    # >= 0: labels + + + + + + - - - -; scores + + + + + - + - - -
    assert metrics["acc_2_has0"] == pytest.approx(8 / 10, abs=1e-12)
    # Positive: 5 right, 1 missed, 1 too many, F1 10/12; negative: 3 right, 1, 1, F1 6/8; weights 6 and 4
    assert metrics["f1_has0"] == pytest.approx((6 * 10 / 12 + 4 * 6 / 8) / 10, abs=1e-12)
    # Without the two zeros, > 0: labels + + + + - - - -; scores + + + - + - - -
    assert metrics["acc_2_non0"] == pytest.approx(6 / 8, abs=1e-12)
    assert metrics["f1_non0"] == pytest.approx(6 / 8, abs=1e-12)


def test_correlation_is_pearsons_on_scores_that_are_not_clipped():
    # Centred: labels -1 0 1; scores -1 -1 2 (mean 1); covariance 3, variances 2 and 6
    assert msa_metrics([0.0, 0.0, 3.0], [-1.0, 0.0, 1.0])["corr"] == pytest.approx(3 / math.sqrt(12), abs=1e-12)
    # A score of 9 counts as 9: centred -3 -3 6, the same direction as above
    assert msa_metrics([0.0, 0.0, 9.0], [-1.0, 0.0, 1.0])["corr"] == pytest.approx(3 / math.sqrt(12), abs=1e-12)
    assert msa_metrics([0.0, 0.0, 9.0], [-1.0, 0.0, 1.0])["mae"] == pytest.approx(3.0, abs=1e-12)


@pytest.mark.parametrize(
    ("label", "score"), [(0.5, 0.0), (1.5, 2.0), (2.5, 2.0), (-0.5, 0.0), (-1.5, -2.0), (-2.5, -2.0)]
)
def test_halves_round_to_the_even_class(label, score):
    assert msa_metrics([score, 3.0], [label, 3.0])["acc_7"] == 1.0
    assert msa_metrics([label, 3.0], [score, 3.0])["acc_7"] == 1.0


def test_a_label_of_zero_is_positive_in_has0_and_absent_from_non0():
    metrics = msa_metrics([0.1, -0.1, -0.1], [0.0, 0.0, -1.0])
    assert metrics["acc_2_has0"] == pytest.approx(2 / 3, abs=1e-12)
    assert metrics["acc_2_non0"] == 1.0
    assert msa_metrics([0.1, 0.2, -0.1], [0.0, 0.0, -1.0])["acc_2_has0"] == 1.0


def test_a_score_of_zero_is_positive_in_has0_and_not_in_non0():
    metrics = msa_metrics([0.0, -1.0], [1.0, -1.0])
    assert (metrics["acc_2_has0"], metrics["acc_2_non0"]) == (1.0, 0.5)


def test_sims_metrics_equal_the_hand_worked_example():
    metrics = msa_metrics(SIMS_SCORES, SIMS_LABELS, convention="sims")
    # Scores clipped to 1 first; |errors|: 0 .1 .5 .1 .05 .2 .1 .2 .1 0
    assert metrics["mae"] == pytest.approx(1.35 / 10, abs=1e-12)
    # Classes of the labels 0 0 1 1 2 2 3 3 4 4; of the scores 0 0 1 2 2 3 2 4 3 4
    assert metrics["acc_5"] == pytest.approx(5 / 10, abs=1e-12)
    # Classes of the labels 0 0 0 0 1 1 2 2 2 2; of the scores 0 0 0 1 1 2 1 2 2 2
    assert metrics["acc_3"] == pytest.approx(7 / 10, abs=1e-12)
    # > 0: labels - - - - - + + + + +; scores - - - - + + + + + +
    assert metrics["acc_2"] == pytest.approx(9 / 10, abs=1e-12)
    # Positive: 5 right, none missed, 1 too many, F1 10/11; negative: 4 right, 1 missed, F1 8/9; weights 5 and 5
    assert metrics["f1"] == pytest.approx((5 * 10 / 11 + 5 * 8 / 9) / 10, abs=1e-12)
    assert metrics["acc_7"] is None


def test_weak_accuracy_is_that_of_labels_within_0_4_in_float32():
    labels = [-0.4, 0.0, 0.4, 0.41, -0.5, np.float32(0.4)]  # the fourth and fifth are not weak
    scores = [0.1, -0.1, 0.2, -1.0, 1.0, -0.3]
    assert msa_metrics(scores, labels, "sims")["acc_2_weak"] == pytest.approx(2 / 4)
    assert msa_metrics([0.1, -0.1], [0.9, -0.9], "sims")["acc_2_weak"] is None


def test_r2_is_the_coefficient_of_determination_after_clipping():
    generator = np.random.default_rng(12)
    scores, labels = generator.normal(0, 0.8, 50), generator.uniform(-1, 1, 50)
    assert msa_metrics(scores, labels, "sims")["r2"] == pytest.approx(r2_score(labels, scores.clip(-1, 1)), abs=1e-12)
    with pytest.warns(UserWarning, match="correlation is undefined"):
        assert msa_metrics([0.1, 0.2], [0.5, 0.5], "sims")["r2"] is None


def test_sims_clips_labels_as_it_clips_scores():
    metrics = msa_metrics([1.0, -1.0, 0.0], [1.5, -1.5, 0.0], convention="sims")
    assert (metrics["mae"], metrics["corr"]) == (0.0, pytest.approx(1))
    assert msa_metrics([1.5, -1.5, 0.5], [1.0, -1.0, 0.0], convention="sims")["mae"] == pytest.approx(0.5 / 3)


def test_sims_labels_on_an_edge_keep_their_class_in_float32():
    as_float32 = np.array(SIMS_LABELS, np.float32)
    metrics = msa_metrics(as_float32, SIMS_LABELS, convention="sims")
    assert (metrics["acc_5"], metrics["acc_3"], metrics["acc_2"]) == (1.0, 1.0, 1.0)


def test_generic_metrics_equal_the_hand_worked_example():
    # Ten times the scale of MOSI, not centred on 0. Errors: 10 -10 0 20
    metrics = msa_metrics([30.0, 20.0, 60.0, 90.0], [20.0, 30.0, 60.0, 70.0], "generic")
    assert metrics["mae"] == pytest.approx(10, abs=1e-12)
    assert metrics["rmse"] == pytest.approx(math.sqrt(600 / 4), abs=1e-12)
    # Centred scores -20 -30 10 40 (mean 50), labels -25 -15 15 25 (mean 45): sums of squares 3000 and 1700, of products 2100
    assert metrics["corr"] == pytest.approx(2100 / math.sqrt(3000 * 1700), abs=1e-12)
    # Ranks 2 1 3 4 against 1 2 3 4: one swap of neighbours, 1 - 6 * 2 / (4 * 15)
    assert metrics["spearman"] == pytest.approx(0.8, abs=1e-12)
    # Population moments: 2 * 525 / (750 + 425 + 5 ** 2)
    assert metrics["ccc"] == pytest.approx(1050 / 1200, abs=1e-12)
    assert list(metrics) == ["mae", "rmse", "corr", "spearman", "ccc"]


def test_generic_correlations_are_those_of_scipy_with_ties():
    generator = np.random.default_rng(5)
    for _ in range(10):
        scores, labels = generator.normal(40, 9, 30).round(), generator.integers(1, 6, 30)
        metrics = msa_metrics(scores, labels, "generic")
        assert metrics["corr"] == pytest.approx(stats.pearsonr(scores, labels).statistic, abs=1e-12)
        assert metrics["spearman"] == pytest.approx(stats.spearmanr(scores, labels).statistic, abs=1e-12)


def test_concordance_falls_with_an_offset_and_a_scale_that_the_correlation_ignores():
    labels = np.array([1.0, 2.0, 3.0, 6.0])
    assert msa_metrics(labels, labels, "generic")["ccc"] == 1.0
    # Variance 3.5 on both sides
    assert msa_metrics(labels + 2, labels, "generic")["ccc"] == pytest.approx(7 / (7 + 4), abs=1e-12)
    assert msa_metrics(-labels, labels, "generic")["ccc"] == pytest.approx(-7 / (7 + 36), abs=1e-12)
    assert msa_metrics(labels + 2, labels, "generic")["corr"] == pytest.approx(1)


def test_concordance_of_a_constant_is_0_and_undefined_for_two():
    for scores, labels in (([0.1] * 3, [0.0, 1.0, 5.0]), ([0.0, 1.0, 5.0], [0.1] * 3)):
        with pytest.warns(UserWarning, match="correlation is undefined"):
            metrics = msa_metrics(scores, labels, "generic")
        assert (metrics["corr"], metrics["spearman"], metrics["ccc"]) == (None, None, 0.0)
    with pytest.warns(UserWarning, match="correlation is undefined"):
        assert msa_metrics([0.1] * 3, [0.1] * 3, "generic")["ccc"] is None


def test_each_convention_has_its_own_names():
    assert set(msa_metrics(MOSI_SCORES, MOSI_LABELS, "mosi")) == {
        *("mae", "corr", "acc_7", "acc_5", "acc_3", "acc_2_has0", "acc_2_non0", "f1_has0", "f1_non0")
    }
    assert set(msa_metrics(SIMS_SCORES, SIMS_LABELS, "sims")) == {
        "mae",
        "corr",
        "acc_7",
        "acc_5",
        "acc_3",
        "acc_2",
        "acc_2_weak",
        "f1",
        "r2",
    }
    with pytest.raises(ValueError, match="mosi, sims, generic, not 'mosei'"):
        msa_metrics(SIMS_SCORES, SIMS_LABELS, "mosei")


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(
    ("scores", "labels"), [([0.1, 0.1, 0.1], [-1.0, 0.3, 1.0]), ([-1.0, 0.3, 1.0], [0.1, 0.1, 0.1])]
)
def test_a_constant_side_leaves_the_correlation_undefined_with_a_warning(convention, scores, labels):
    with pytest.warns(UserWarning, match="correlation is undefined"):
        metrics = msa_metrics(scores, labels, convention)
    assert metrics["corr"] is None
    assert metrics["mae"] == pytest.approx(np.abs(np.subtract(scores, labels)).mean(), abs=1e-12)


def test_labels_that_are_all_zero_leave_the_non0_pair_undefined():
    with pytest.warns(UserWarning, match="correlation is undefined"):
        metrics = msa_metrics([0.5, -0.5], [0.0, 0.0])
    assert (metrics["acc_2_non0"], metrics["f1_non0"]) == (None, None)
    assert metrics["acc_2_has0"] == 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_counted_with_the_first_index(bad):
    with pytest.raises(ValueError, match=r"predictions: 2 values are not finite or beyond 1e\+100, first at index 1 "):
        msa_metrics([0.0, bad, bad], [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"references: 1 values are not finite or beyond 1e\+100, first at index 2 "):
        msa_metrics([0.0, 1.0, 2.0], [0.0, 1.0, bad])


def test_input_that_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="2 predictions for 3 references"):
        msa_metrics([0.0, 1.0], [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="at least one clip"):
        msa_metrics([], [])
    with pytest.raises(ValueError, match=r"predictions must be \(n,\) numbers, found shape \(2, 1\)"):
        msa_metrics([[0.0], [1.0]], [0.0, 1.0])
    with pytest.raises(ValueError, match=r"references must be \(n,\) numbers, found shape \(\)"):
        msa_metrics([0.0, 1.0], 1.0)


@pytest.mark.parametrize(
    "bad", [["1.0", "2.0"], [1.0, [2.0]], [1.0, "x"], [1j, 2.0], np.array([1j, 2]), [1.0, object()]]
)
def test_input_other_than_numbers_is_refused_by_name(bad):
    with pytest.raises(ValueError, match="predictions must be numbers"):
        msa_metrics(bad, [0.0, 1.0])
    with pytest.raises(ValueError, match="references must be numbers"):
        msa_metrics([0.0, 1.0], bad)
    with pytest.raises(ValueError, match="predictions must be numbers: found complex128"):
        msa_metrics([1j, 2.0], [0.0, 1.0])


def test_a_missing_value_is_not_a_number():
    with pytest.raises(ValueError, match=r"references: 1 values are not finite.* first at index 1 \(nan\)"):
        msa_metrics([0.0, 1.0], [0.0, None])


def test_values_whose_errors_would_overflow_are_refused():
    with pytest.raises(ValueError, match=r"predictions: 1 values are not finite or beyond 1e\+100, first at index 0"):
        msa_metrics([-1e308, 0.0], [1e308, 0.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert msa_metrics([1e100, -1e100], [-1e100, 1e100])["corr"] == -1.0


@pytest.mark.parametrize("apart", [1e-16, 1e-14])
def test_scores_that_differ_by_rounding_alone_have_no_correlation(apart):
    # Their correlation is that of rounding errors: any number at all, .87 here for one order of the labels.
    with pytest.warns(UserWarning, match="correlation is undefined"):
        assert msa_metrics(1 + apart * np.array([0.0, 1.0, 3.0, 2.0]), [0.0, 1.0, 2.0, 3.0])["corr"] is None
    assert msa_metrics(1 + 1e-7 * np.array([0.0, 1.0, 2.0]), [0.0, 1.0, 2.0])["corr"] == pytest.approx(1)


def test_scores_whose_squares_underflow_have_no_correlation():
    scores, labels = np.array([0.0, 1.0, -2.0]), [0.0, 1.0, 2.0]
    assert msa_metrics(1e-90 * scores, labels)["corr"] == pytest.approx(msa_metrics(scores, labels)["corr"])
    with pytest.warns(UserWarning, match="correlation is undefined"):
        assert msa_metrics(1e-160 * scores, labels)["corr"] is None


def test_the_warning_points_at_the_caller():
    for convention in CONVENTIONS:
        with pytest.warns(
            UserWarning, match="^correlation is undefined: predictions or references are constant$"
        ) as warned:
            msa_metrics([0.0, 0.0], [0.0, 1.0], convention)
        assert [one.filename for one in warned] == [__file__]


def test_ordinary_input_gives_plain_floats_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = msa_metrics(np.array(MOSI_SCORES, np.float32), np.array(MOSI_LABELS, np.float32))
    assert {type(value) for value in metrics.values()} == {float}


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_torch_numpy_and_lists_give_the_same_metrics(convention):
    halves = [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.5], [-1.0, -1.0, 0.5, 0.0, 1.0, 0.5, 3.0]
    expected = msa_metrics(*halves, convention)
    for convert in (torch.tensor, np.float32, np.float64, tuple):
        assert msa_metrics(*map(convert, halves), convention) == expected


def test_f1_is_the_weighted_one_of_scikit_learn():
    generator = np.random.default_rng(11)
    for _ in range(20):
        labels, scores = generator.normal(0.5, 1, 30).clip(-3, 3), generator.normal(0, 1, 30)
        found = msa_metrics(scores, labels)
        assert found["f1_has0"] == pytest.approx(f1_score(labels >= 0, scores >= 0, average="weighted"), abs=1e-12)
        assert found["acc_2_has0"] == pytest.approx(accuracy_score(labels >= 0, scores >= 0), abs=1e-12)
    assert msa_metrics([-1.0, -2.0], [1.0, 2.0])["f1_has0"] == 0.0


def test_a_metric_added_to_the_table_is_in_every_result_and_knows_its_direction(monkeypatch):
    formulas = {"mosi": lambda scores, labels: float(np.abs(scores - labels).max())}
    monkeypatch.setitem(METRICS, "worst", Metric("worst", "Worst error", "lower", formulas))
    assert msa_metrics([0.0, 1.0], [2.0, 1.5])["worst"] == 2.0
    assert bootstrap_estimates([[0.0, 1.0]], [2.0, 1.5], "mosi", resamples=2)["worst"].mean == 2.0
    assert "worst" not in msa_metrics([0.0, 1.0], [2.0, 1.5], "sims")
    assert lower_is_better("eval_worst")
    assert "worst" in metric_names("discriminative", "greedy", "mosi")


def test_columns_and_hub_types_are_those_of_published_tables():
    columns = {
        convention: [metric.title for metric in METRICS.values() if convention in metric.columns]
        for convention in CONVENTIONS
    }
    assert columns == {
        "mosi": ["MAE", "Corr", "Acc-7", "Acc-5", "Acc-2 has0", "Acc-2 non0", "F1 has0", "F1 non0"],
        "sims": ["MAE", "Corr", "Acc-5", "Acc-2", "Acc-2 weak", "F1", "R²"],
        "generic": ["MAE", "RMSE", "Corr", "Spearman", "CCC"],
    }
    assert {key: metric.hub_type for key, metric in METRICS.items() if metric.hub_type} == {
        **{"mae": "mae", "corr": "pearsonr", "acc_7": "accuracy", "acc_2_non0": "accuracy", "f1_non0": "f1"},
        **{"acc_2": "accuracy", "f1": "f1", "rmse": "rmse", "spearman": "spearmanr", "ccc": "ccc"},
    }
