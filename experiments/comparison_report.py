"""Writes a comparison for people: comparison.md with tables and conclusion, and comparison.png."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.catalog import DATASETS
from ..data.clip import ONE_PERSON
from ..evaluation.comparison_result import ArmResult, Comparison
from ..evaluation.conclusion import in_words, main_test, mean_of
from ..evaluation.markdown_text import escaped
from ..evaluation.metrics import METRICS, Metric, ratio_text
from ..evaluation.variances import p_text
from ..figure_style import GREY, MEDIUM, SMALL, bar, panel, save_figure
from ..training import run_folder
from ..training.about import named_genres
from ..training.choices import is_tiny
from .tables import markdown_table, seeds_in_words, short


def write_comparison(comparison: Comparison, out: Path) -> None:
    """Write comparison.json, .md and .png into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    run_folder.write_json(out / "comparison.json", comparison.to_dict())
    (out / "comparison.md").write_text(markdown(comparison), encoding="utf-8")
    plot(comparison, out / "comparison.png")


def conclusion(comparison: Comparison) -> str:
    """What was found, as Markdown; see `in_words`."""
    facts = DATASETS.get(comparison.dataset)
    is_synthetic = facts is not None and facts.synthetic
    return in_words(comparison.for_markdown(), built_in=is_synthetic or is_tiny(comparison.settings["base_model"]))


def metric_table(comparison: Comparison) -> pd.DataFrame:
    """A row for each arm: means over seeds, with standard deviations where there are several seeds."""
    columns = [metric for metric in METRICS.values() if comparison.convention in metric.columns]
    rows = {}
    for arm in comparison.arms.values():
        row: dict[str, int | str] = {"seeds": 0 if arm.is_baseline else len(arm.seeds)}
        for metric in columns:
            row[metric.title] = arm.metrics[metric.key].text
            if metric.key == "mae":
                row["95 % interval"] = arm.metrics["mae"].interval
                row["MAE / constant"] = ratio_text(arm.mae_over_constant)
        rows[arm.label] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def answer_table(comparison: Comparison) -> pd.DataFrame:
    """A row for each generative arm: what its answers are like. Means over seeds."""
    rows = {}
    for arm in comparison.arms.values():
        if arm.decoding is not None:
            rows[arm.label] = {
                "unparsable": _percent(mean_of(arm.unparsable_rate)),
                "MAE, unparsable as neutral": arm.metrics["mae"].text,
                "MAE, parsable only": _figure(arm.mae_parsable),
                "MAE by the last number": _figure(arm.mae_last_number),
                "out of range": _percent(mean_of(arm.out_of_range_rate)),
                "exactly 0": _percent(mean_of(arm.zero_rate)),
                "Acc-2 non0 by the written sign of 0": _figure(arm.acc_2_non0_written_sign),
                "probability of all answers": _figure(arm.legal_mass),
            }
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.loc[:, (table != "").any()] if rows else table


def validation_table(comparison: Comparison) -> pd.DataFrame:
    """A row for each trained arm: validation MAE of the checkpoint that is used, and by the last evaluation of training."""
    rows = {}
    for arm in comparison.arms.values():
        if any(value is not None for value in arm.valid_last):
            rows[arm.label] = {
                "validation MAE": _figure(arm.valid_mae),
                "at the end of training": _figure(arm.valid_last),
                "best at the end": f"{sum(map(bool, arm.still_improving))} of {len(arm.still_improving)}",
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def paired_test_table(comparison: Comparison) -> pd.DataFrame:
    """A row for each paired test of the first arm."""
    rows = {
        comparison.arms[test.second].label: {
            "difference in MAE": test.paired.text,
            "95 % interval": test.paired.interval,
            "p (Holm)": "" if test.p_holm is None else p_text(test.p_holm),
            f"p by sign flips of {comparison.units}": p_text(test.paired.p_flips),
            "lower MAE": "undecided" if test.winner is None else comparison.arms[test.winner].label,
        }
        for test in comparison.tests
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def metric_test_table(comparison: Comparison) -> pd.DataFrame:
    """A row for each other metric: the first arm against the best other trained one, or against the first other arm."""
    test = main_test(comparison)
    rows = {
        METRICS[key].title: {
            "difference": found.text,
            "95 % interval": found.interval,
            "p (Holm)": "" if found.p_holm is None else p_text(found.p_holm),
            "better": {
                "first": comparison.arms[test.first].label,
                "second": comparison.arms[test.second].label,
                "undecided": "undecided",
            }[found.verdict],
        }
        for key, found in test.metrics.items()
        if comparison.convention in METRICS[key].columns
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def all_metric_tests_table(comparison: Comparison) -> pd.DataFrame:
    """A row for each other arm: by each other metric, the first arm's difference from it, and whether the first is better."""
    words = {"first": "better", "second": "worse", "undecided": "undecided"}
    rows = {
        comparison.arms[test.second].label: {
            METRICS[key].title: f"{found.text}, {words[found.verdict]}"
            for key, found in test.metrics.items()
            if comparison.convention in METRICS[key].columns
        }
        for test in comparison.tests
    }
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")


def tuning_table(comparison: Comparison) -> pd.DataFrame:
    """A row for each arm whose settings a sweep chose."""
    rows = {
        comparison.arms[name].label: {
            "trials": str(tuning.trials),
            "hours": f"{tuning.hours:.2f}",
            f"best validation {tuning.metric}": f"{tuning.best:.3f}",
            "settings": ", ".join(f"{key} {short(value)}" for key, value in tuning.settings.items()),
        }
        for name, tuning in comparison.tuning.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def cost_table(comparison: Comparison) -> pd.DataFrame:
    """A row for each arm that uses the Thinker."""
    rows = {}
    for name, cost in comparison.costs.items():
        arm = comparison.arms[name]
        rows[arm.label] = {
            "seconds per clip": f"{cost.seconds_per_clip:.4f}",
            "peak memory": f"{cost.peak_memory_bytes / 1e9:.2f} GB",
            "trainable parameters": f"{arm.trainable_parameters:,}",
            "head parameters": f"{arm.head_parameters:,}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def markdown(comparison: Comparison) -> str:
    """The contents of comparison.md."""
    in_text = comparison.for_markdown()
    first = next(iter(in_text.arms.values())).label
    genres = named_genres(comparison.settings.get("genres"))
    parts = (
        f"# Readouts on {escaped(comparison.subject)}",
        conclusion(comparison),
        f"{comparison.n} {comparison.split} clips{f' of {genres}' if genres else ''}{comparison.lacking}"
        f" ({', '.join(comparison.modalities)}); seeds {', '.join(map(str, comparison.seeds))};"
        f" base model {comparison.settings['base_model']}. Values are means over seeds ± one standard deviation."
        f" {comparison.covers} MAE / constant compares with always predicting the training median. Zero-shot answers do not depend"
        " on a seed.",
        *_about_splits(comparison),
        markdown_table(metric_table(comparison)),
        *(
            []
            if comparison.human_mae is None
            else [f"{ONE_PERSON.capitalize()}: MAE {comparison.human_mae:.3f} on the same clips."]
        ),
        *(f"{label} is left out: {why}." for label, why in comparison.left_out.items()),
        *_titled("Answers of the generative readouts:", answer_table(comparison)),
        *_titled("Validation, which chose the checkpoints; means over seeds:", validation_table(comparison)),
        *_titled("Tuning, on validation alone, before these runs:", tuning_table(comparison)),
        f"Paired tests of {first} against every other row, by MAE. A difference below 0 means that it"
        " has the lower error:",
        markdown_table(paired_test_table(comparison)),
        *_titled(
            f"{first} against {in_text.arms[main_test(comparison).second].label} by the other metrics, the difference with its"
            " interval:",
            metric_test_table(comparison),
        ),
        *_titled(
            f"{first} against every other row by the other metrics: the difference, and whether it is better by the adjusted p:",
            all_metric_tests_table(comparison),
        ),
        *_titled(
            "Cost of scoring, from file to score, at the same batch size. Each was measured once, in its own process: a trained"
            " arm on the validation clips, any other on the test clips.",
            cost_table(comparison),
        ),
    )
    return "\n\n".join(parts) + "\n"


def _about_splits(comparison: Comparison) -> list[str]:
    """What a reader should know of the splits: that they are not the official ones, or what they share."""
    document = comparison.documents.removesuffix("s")
    own = f"The clips were split anew, by {document}: these are not results on the official split."
    shared = comparison.environment.get("overlap")  # not in runs from before
    notes = [own] if comparison.settings.get("group_split") else []
    return [*notes, *([f"The splits are not apart: {'; '.join(shared)}."] if shared else [])]


def _titled(title: str, table: pd.DataFrame) -> list[str]:
    return [title, markdown_table(table)] if len(table) else []


def plot(comparison: Comparison, path: Path) -> None:
    """Bars with intervals, one panel for each metric of `METRICS` with `panel`."""
    panels = [metric for metric in METRICS.values() if metric.panel and comparison.convention in metric.formulas]
    figure = Figure(figsize=(11, 1.1 + 0.45 * len(comparison.arms)), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(panels), sharey=True), panels, strict=True):
        plot_metric(axes, comparison, metric)
    figure.suptitle(
        f"{comparison.subject}, {comparison.n} clips, {seeds_in_words(comparison.seeds)};"
        f" bars: mean over seeds, lines: 95 % interval for new {comparison.units}"
        f"{' and trainings' if len(comparison.seeds) > 1 else ''}",
        fontsize=MEDIUM,
    )
    save_figure(figure, path)


def plot_metric(axes: Axes, comparison: Comparison, metric: Metric) -> None:
    """A bar with its interval for each arm, and what one person reaches where that is known."""
    arms = list(comparison.arms.values())[::-1]
    for row, arm in enumerate(arms):
        estimate = arm.metrics[metric.key]
        if estimate.mean is None:
            axes.text(0, row, " undefined", va="center", color=GREY, fontsize=SMALL)
            continue
        mean, low, high = estimate.mean_low_high()
        axes.barh(row, mean, height=0.7, **style_of(arm))
        reach = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
        axes.errorbar(mean, row, xerr=reach, color="black", capsize=3, linewidth=1)
        axes.text(max(high, 0.0), row, f"  {mean:.2f}", va="center", fontsize=SMALL)
    axes.set_title(metric.name + (", lower is better" if metric.better == "lower" else ""), fontsize=MEDIUM)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.margins(x=0.12)
    if metric.key == "mae" and comparison.human_mae is not None:
        axes.axvline(comparison.human_mae, color="black", linestyle="--", linewidth=1, label=ONE_PERSON)
        axes.legend(fontsize=SMALL, loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)
    panel(axes)
    axes.set_yticks(range(len(arms)), [arm.label for arm in arms])


def style_of(arm: ArmResult) -> dict[str, Any]:
    """Grey bars for what uses no Thinker, plain ones for the discriminative readout, hatched ones for the generative one."""
    return {"color": GREY} if arm.is_baseline else bar(int(arm.readout != "discriminative"))


def _figure(values: Sequence[float | None]) -> str:
    mean = mean_of(values)
    return "" if mean is None else f"{mean:.3f}"


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{100 * rate:.1f} %"
