"""What does each modality add? Every non-empty subset of text, audio and video, at training and at test time; and swapped.

    omnisent ablate configs/tiny.yaml --seeds 0 1 2 --out runs/ablation

At training time, a model is trained and tested on the subset. At test time, the model that was trained on all three is tested on
the subset. Swapped, that model gets all three, one of them from a clip of another video: it is not missing, but wrong. All subsets
use the same clips, those with text, audio and video, so that no clip is empty in any of them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.clip import MODALITIES
from ..evaluation.metrics import over_constant, ratio_text
from ..evaluation.statistics import Estimate, PairedTest, Verdict, bootstrap_estimates, paired_tests, verdict
from ..evaluation.variances import p_text
from ..figure_style import GREY, MEDIUM, SMALL, bar, panel, save_figure
from ..training import run_folder
from ..training.arguments import parse_arguments
from ..training.targets import check_one_target, targets_of
from .baselines import BASELINES
from .comparison import check_comparable
from .runs import PlannedRun, run_all
from .tables import markdown_table, seeds_in_words, shared_settings

TIMES = {  # name of the mode -> what it means
    "train": "left out of training and testing",
    "test": "left out at test time only",
    "swapped": "taken from a clip of another video at test time",
}
MAY_DIFFER = ("modalities", "context_clips", "swapped", "evaluate_only", "seed")  # in which its runs differ
SUBSETS = tuple(subset for size in (3, 2, 1) for subset in combinations(MODALITIES, size))
STYLES = {"train": bar(0), "test": bar(1), "swapped": bar(2)}


@dataclass(frozen=True)
class SubsetResult:
    """The metrics of one subset of the modalities; `time` is `train` or `test`, or `swapped` with the one that is swapped."""

    time: str
    modalities: list[str]
    metrics: dict[str, Estimate]


@dataclass(frozen=True)
class Drop:
    """The paired test of the errors without a modality against those with all; above 0, the error increases without it.

    `p_holm` is its `p` adjusted for all drops of the ablation.
    """

    time: str
    modality: str
    paired: PairedTest
    p_holm: float | None

    @property
    def verdict(self) -> Verdict:
        """`second` if the error is larger without the modality, `first` if it is smaller, by the adjusted p."""
        return verdict(self.paired.difference, self.p_holm)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        own = {"p_holm": self.p_holm, "verdict": self.verdict}
        return {"time": self.time, "modality": self.modality, **self.paired.to_dict(), **own}


@dataclass(frozen=True)
class Ablation:
    """A finished ablation of the modalities.

    Attributes:
        dataset, split, readout, decoding, n, denoise, bad_clips: as in metrics.json; the same for every run.
        seeds: of the trained models.
        convention: of the metrics.
        constant_mae: MAE of always predicting the training median, label units.
        subsets: each subset at each time.
        drops: each modality at each time.
        settings: the most important ones of the runs.
        environment: of the first run, as in environment.json.
        videos: how many videos the clips are from; `None` if that is not known, and clips are taken as independent.
    """

    dataset: str
    split: str
    readout: str
    decoding: str | None
    n: int
    denoise: str
    bad_clips: int
    seeds: list[int]
    convention: str
    constant_mae: float
    subsets: list[SubsetResult]
    drops: list[Drop]
    settings: dict[str, Any]
    environment: dict[str, Any]
    videos: int | None

    def to_dict(self) -> dict[str, Any]:
        """The contents of ablation.json."""
        parts = {
            "subsets": [asdict(subset) for subset in self.subsets],
            "drops": [drop.to_dict() for drop in self.drops],
        }
        return {**vars(self), **parts}


def ablate(argv: Sequence[str], seeds: Sequence[int], out: str | Path) -> Ablation:
    """Run the unfinished runs of an ablation, and write ablation.json, .md and .png.

    Args:
        argv: arguments of train.py: a config file and fields that override it; either readout.
        seeds: of the trained models.
        out: folder of the ablation; each run is in `<train, test or swapped>/<subset>/seed-<seed>`.

    Raises:
        ValueError: for settings that an ablation does not support, or runs in the folder with other settings, naming the field.
    """
    out = Path(out)
    seeds = list(dict.fromkeys(seeds))
    model_args, data_args, args = parse_arguments(list(argv))
    if not seeds:
        raise ValueError("seeds: an ablation needs at least one")
    if model_args.adapter or args.evaluate_only:
        raise ValueError(
            "adapter, evaluate_only: an ablation trains its own models from the base; leave the fields out"
        )
    check_one_target(data_args, "an ablation")
    runs = planned_runs(argv, seeds, out)
    run_all(runs)
    check_comparable([run.folder for run in runs], MAY_DIFFER)
    ablation = summarise(out, seeds, targets_of(data_args)[0].convention)
    run_folder.write_json(out / "ablation.json", ablation.to_dict())
    (out / "ablation.md").write_text(markdown(ablation), encoding="utf-8")
    plot(ablation, out / "ablation.png")
    return ablation


def planned_runs(argv: Sequence[str], seeds: Sequence[int], out: Path) -> list[PlannedRun]:
    """Every run of an ablation; the model of all modalities is trained first."""
    runs = []
    for time, subset in planned_rows():
        used = SUBSETS[0] if time == "swapped" else subset
        for seed in seeds:
            settings = (*argv, "--complete_clips", "true", "--modalities", *used, "--seed", str(seed))
            if time != "train":
                whole = _folder(out, "train", SUBSETS[0], seed) / "model"
                settings += ("--evaluate_only", "true", "--adapter", str(whole))
            if time == "swapped":
                settings += ("--swapped", *subset)
            if "text" not in used:  # preceding transcripts are text too
                settings += ("--context_clips", "0")
            runs.append(
                PlannedRun(f"{_run_name(time, subset)}, seed {seed}", _folder(out, time, subset, seed), settings)
            )
    return runs


def planned_rows() -> list[tuple[str, tuple[str, ...]]]:
    """The mode and modalities of every run; the swapped ones are named by what is swapped."""
    alone = [(name,) for name in MODALITIES]
    return [
        *(("train", subset) for subset in SUBSETS),
        *(("test", subset) for subset in SUBSETS[1:]),
        *(("swapped", subset) for subset in alone),
    ]


def _run_name(time: str, subset: Sequence[str]) -> str:
    if time == "swapped":
        return f"tested with {_name(subset)} of other clips"
    return f"{'trained and tested' if time == 'train' else 'tested'} on {_name(subset)}"


def summarise(out: Path, seeds: Sequence[int], convention: str) -> Ablation:
    """The ablation of the finished runs in a folder."""
    whole = _folder(out, "train", SUBSETS[0], seeds[0])
    predictions = run_folder.read_predictions(whole)
    labels, videos = predictions["label"].to_numpy(), run_folder.videos_of(predictions)
    shown = [*planned_rows(), ("test", SUBSETS[0])]
    scores = {(time, subset): _scores(out, time, subset, seeds) for time, subset in sorted(shown, key=_place)}
    first = run_folder.read_metrics(whole)
    subsets = [
        SubsetResult(time, list(subset), bootstrap_estimates(values, labels, convention, groups=videos))
        for (time, subset), values in scores.items()
    ]
    errors = {key: np.abs(values - labels) for key, values in scores.items()}
    compared = [(time, name) for time in TIMES for name in MODALITIES]
    worse = [errors[time, (name,) if time == "swapped" else _without(name)] for time, name in compared]
    tests = [(test.reversed(), p) for test, p in paired_tests(errors["train", SUBSETS[0]], worse, groups=videos)]
    drops = [Drop(time, name, test, p) for (time, name), (test, p) in zip(compared, tests, strict=True)]
    return Ablation(
        **{key: first[key] for key in ("dataset", "split", "readout", "decoding", "n", "denoise", "bad_clips")},
        seeds=list(seeds),
        convention=convention,
        constant_mae=run_folder.constant_mae(whole),
        subsets=subsets,
        drops=drops,
        settings=shared_settings(whole),
        environment=run_folder.read_environment(whole),
        videos=None if videos is None else len(set(videos)),
    )


def _place(shown: tuple[str, tuple[str, ...]]) -> tuple[int, int]:
    """Where a mode and subset stand in tables."""
    time, subset = shown
    return list(TIMES).index(time), SUBSETS.index(subset)


def _without(left_out: str) -> tuple[str, ...]:
    return tuple(name for name in MODALITIES if name != left_out)


def _scores(out: Path, time: str, subset: tuple[str, ...], seeds: Sequence[int]) -> np.ndarray:
    """Scores (S, n); on all modalities, training and test time are the same."""
    time = "train" if subset == SUBSETS[0] else time
    return np.stack([run_folder.read_predictions(_folder(out, time, subset, seed))["score"] for seed in seeds])


def _folder(out: Path, time: str, subset: tuple[str, ...], seed: int) -> Path:
    return out / time / "-".join(subset) / f"seed-{seed}"


def _name(subset: Sequence[str]) -> str:
    return " + ".join(subset)


def conclusion(ablation: Ablation) -> str:
    """The change of the MAE without each modality, the largest first, a sentence for each mode, and which changes are decided."""
    parts = []
    for time, when in TIMES.items():
        drops = sorted((d for d in ablation.drops if d.time == time), key=lambda drop: -drop.paired.difference)
        rises = ", ".join(f"{drop.modality} {drop.paired.text} ({drop.paired.interval})" for drop in drops)
        parts.append(f"Change in MAE when a modality is {when}: {rises}.")
    return " ".join(parts)


def drop_table(ablation: Ablation) -> pd.DataFrame:
    """A row for each modality in each mode: the change in MAE, and whether it is decided."""
    words = {"first": "lower", "second": "higher", "undecided": "undecided"}
    rows = {
        f"{drop.modality}, {TIMES[drop.time]}": {
            "change in MAE": drop.paired.text,
            "95 % interval": drop.paired.interval,
            "p (Holm)": "" if drop.p_holm is None else p_text(drop.p_holm),
            "MAE": words[drop.verdict],
        }
        for drop in ablation.drops
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def markdown(ablation: Ablation) -> str:
    """The contents of ablation.md."""
    rows = {}
    for time in TIMES:
        for subset in (subset for subset in ablation.subsets if subset.time == time):
            mae = subset.metrics["mae"]
            rows[_row_name(subset)] = {
                "MAE": mae.text,
                "95 % interval": mae.interval,
                "Corr": subset.metrics["corr"].text,
                "MAE / constant": ratio_text(over_constant(mae.mean_low_high()[0], ablation.constant_mae)),
            }
    parts = (
        f"# Modalities on {ablation.dataset}, {ablation.readout} readout",
        conclusion(ablation),
        f"{ablation.n} {ablation.split} clips that have text, audio and video; seeds"
        f" {', '.join(map(str, ablation.seeds))}; base model {ablation.settings['base_model']}. Always predicting the training"
        f" median has MAE {ablation.constant_mae:.3f}. Values are means over seeds ± one standard deviation. Intervals hold for"
        f" new {'clips, taken as independent' if ablation.videos is None else 'videos'}"
        f"{' and new trainings' if len(ablation.seeds) > 1 else ''}.",
        markdown_table(pd.DataFrame.from_dict(rows, orient="index")),
        f"Paired tests of the change in MAE; p is adjusted for {len(ablation.drops)} tests:",
        markdown_table(drop_table(ablation)),
    )
    return "\n\n".join(parts) + "\n"


def _row_name(subset: SubsetResult) -> str:
    if subset.time == "swapped":
        return f"{_name(MODALITIES)}, {_name(subset.modalities)} of another clip at test time"
    return f"{_name(subset.modalities)}, {'training and testing' if subset.time == 'train' else 'testing only'}"


def plot(ablation: Ablation, path: Path) -> None:
    """MAE of every subset, and its increase without each modality."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    names = [_name(subset) for subset in SUBSETS][::-1]
    for time, shift in (("train", 0.2), ("test", -0.2)):
        maes = [subset.metrics["mae"] for subset in ablation.subsets if subset.time == time][::-1]
        label = "trained and tested on it" if time == "train" else "trained on all, tested on it"
        _bars(left, [mae.mean_low_high() for mae in maes], shift, 0.36, time, label)
    for time, shift in (("train", 0.27), ("test", 0.0), ("swapped", -0.27)):
        drops = [drop.paired for drop in ablation.drops if drop.time == time][::-1]
        name = "from a clip of another video" if time == "swapped" else None
        _bars(right, [(drop.difference, drop.low, drop.high) for drop in drops], shift, 0.25, time, name)
    left.axvline(ablation.constant_mae, color=GREY, linestyle="--", linewidth=1, label=BASELINES["constant"].label)
    left.set_yticks(range(len(names)), names)
    left.set_xlabel("MAE, lower is better")
    left.legend(fontsize=SMALL, loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=3, frameon=False)
    right.set_yticks(range(len(MODALITIES)), [f"without {name}" for name in MODALITIES[::-1]])
    right.set_xlabel("increase in MAE")
    right.legend(fontsize=SMALL, loc="upper center", bbox_to_anchor=(0.5, 1.14), frameon=False)
    right.axvline(0, color="black", linewidth=0.8)
    for axes in (left, right):
        panel(axes)
    figure.suptitle(
        f"{ablation.dataset}, {ablation.n} clips, {ablation.readout} readout, {seeds_in_words(ablation.seeds)};"
        " lines: 95 % interval",
        fontsize=MEDIUM,
    )
    save_figure(figure, path)


def _bars(
    axes: Axes, figures: list[tuple[float, float, float]], shift: float, height: float, time: str, label: str | None
) -> None:
    """Horizontal bars of (value, low, high), one per row."""
    rows = [row + shift for row in range(len(figures))]
    values = [value for value, _, _ in figures]
    reach = [[value - low for value, low, _ in figures], [high - value for value, _, high in figures]]
    axes.barh(rows, values, height=height, **STYLES[time], label=label)
    axes.errorbar(values, rows, xerr=np.maximum(reach, 0), fmt="none", color="black", capsize=3, linewidth=1)
