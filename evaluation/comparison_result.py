"""What comparison.json holds, as types: the study writes them, the report and the model card read them.

Computes nothing; see experiments/comparison.py for where the figures come from.
"""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .markdown_text import escaped
from .metric_tests import MetricTest
from .statistics import Estimate, PairedTest, Verdict, verdict


@dataclass(frozen=True)
class ArmResult:
    """The results of one way to score, over its seeds. A baseline has one run, without a seed.

    Attributes:
        label: its name in tables.
        readout, decoding: of its runs; `decoding` is `None` if no answer is generated.
        is_baseline: whether it is a simple baseline (`floor` in comparison.json).
        seeds: of its runs.
        metrics: by key of `METRICS`.
        mae_over_constant: its MAE divided by that of the training median; `None` if that is 0.
        unparsable_rate, ...: the figures of `PER_SEED`, as in metrics.json, one value per seed.
        trainable_parameters, trainable_percent, head_parameters: as in metrics.json.
    """

    label: str
    readout: str
    decoding: str | None
    is_baseline: bool
    seeds: list[int | None]
    metrics: dict[str, Estimate]
    mae_over_constant: float | None
    trainable_parameters: int | None
    trainable_percent: float | None
    head_parameters: int | None
    unparsable_rate: list[float | None] = field(default_factory=list)
    mae_parsable: list[float | None] = field(default_factory=list)
    out_of_range_rate: list[float | None] = field(default_factory=list)
    zero_rate: list[float | None] = field(default_factory=list)
    mae_last_number: list[float | None] = field(default_factory=list)
    legal_mass: list[float | None] = field(default_factory=list)
    acc_2_non0_written_sign: list[float | None] = field(default_factory=list)
    valid_mae: list[float | None] = field(default_factory=list)
    valid_last: list[float | None] = field(default_factory=list)
    still_improving: list[bool | None] = field(default_factory=list)

    @property
    def mae(self) -> float:
        """Mean over the seeds, label units."""
        return self.metrics["mae"].mean_low_high()[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"floor" if key == "is_baseline" else key: value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ArmResult":
        """The inverse of `to_dict`."""
        values = {"is_baseline" if key == "floor" else key: value for key, value in values.items()}
        metrics = {key: Estimate(**estimate) for key, estimate in values["metrics"].items()}
        return cls(**{**values, "metrics": metrics})


PER_SEED = tuple(one.name for one in fields(ArmResult) if one.default_factory is list)  # figures of each of its runs


@dataclass(frozen=True)
class ArmTest:
    """The paired test of one arm against another, both by name; `p_holm` is its `p` adjusted for several tests.

    `paired` is that of the MAE, `metrics` those of the other metrics by their keys.
    """

    first: str
    second: str
    paired: PairedTest
    p_holm: float | None
    metrics: dict[str, MetricTest] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """Which arm has the lower error, by the adjusted p."""
        return verdict(self.paired.difference, self.p_holm)

    @property
    def winner(self) -> str | None:
        """The name of the arm with the lower error; `None` if that is undecided."""
        return {"first": self.first, "second": self.second, "undecided": None}[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: the names, the fields of the paired test, and the tests of the other metrics."""
        names = {"first": self.first, "second": self.second}
        metrics = {key: test.to_dict() for key, test in self.metrics.items()}
        return {
            **names,
            **self.paired.to_dict(),
            "p_holm": self.p_holm,
            "verdict": self.verdict,
            "metrics": metrics,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ArmTest":
        """The inverse of `to_dict`.

        Raises:
            ValueError: for a test that an earlier version wrote, which took clips of one video as independent.
        """
        if "p_clips" in values:
            raise ValueError(
                "written by an earlier version, whose tests took clips of one video as independent; run omnisent compare again"
                " with the same --out: it repeats no training"
            )
        paired = {one.name: values[one.name] for one in fields(PairedTest)}
        metrics = {key: MetricTest.from_dict(test) for key, test in values.get("metrics", {}).items()}
        return cls(values["first"], values["second"], PairedTest(**paired), values["p_holm"], metrics)


@dataclass(frozen=True)
class Cost:
    """The cost of scoring with one arm, from file to score."""

    seconds_per_clip: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Tuning:
    """How one arm was tuned: the best of some trials by a validation metric, and what they took."""

    trials: int
    hours: float
    metric: str
    best: float
    settings: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """A finished comparison of readouts.

    Attributes:
        dataset, split, modalities, n, denoise, bad_clips: as in metrics.json; the same for every arm.
        seeds: of the trained arms.
        convention: of the metrics.
        arms: by name, baselines last.
        tests: the first arm against every other one.
        costs: by name of the arm, where they were measured; baselines have none.
        settings: those of the first arm's runs that matter most.
        environment: of its first run, as in environment.json.
        commits: of this package, over all runs.
        human_mae: MAE of one person against the mean of the others on the same clips, label units; `None` if it is not known.
        left_out: why a baseline could not be run, by its label.
        tuning: by name of the arm, if a sweep chose its settings.
        videos: how many videos the clips are from; `None` if that is not known, and clips are taken as independent.
        margin: a difference in MAE that is smaller does not matter, label units.
        documents: what the videos are called, in the plural: `videos`, or `documents` for sentences.
        without_video, without_audio: as in metrics.json; the same for every arm.
        target: which of several targets the figures are of; `None` if there is one.
    """

    dataset: str
    split: str
    modalities: list[str]
    n: int
    denoise: str
    bad_clips: int
    seeds: list[int]
    convention: str
    arms: dict[str, ArmResult]
    tests: list[ArmTest]
    costs: dict[str, Cost]
    settings: dict[str, Any]
    environment: dict[str, Any]
    commits: list[str]
    human_mae: float | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    tuning: dict[str, Tuning] = field(default_factory=dict)
    videos: int | None = None
    margin: float | None = None
    documents: str = "videos"
    without_video: int | None = None
    without_audio: int | None = None
    target: str | None = None

    @property
    def subject(self) -> str:
        """The data set, and the target if there are several."""
        return self.dataset if self.target is None else f"{self.dataset}, {self.target}"

    @property
    def lacking(self) -> str:
        """How many test clips have no picture and how many no sound, of what the models read; empty for none."""
        counts = ((self.without_video, "without picture"), (self.without_audio, "without sound"))
        return "".join(f", {count} {what}" for count, what in counts if count)

    @property
    def units(self) -> str:
        """What counts as one observation, in the plural: `videos` or `documents`, and `clips` if these are not known."""
        return "clips" if self.videos is None else self.documents

    @property
    def covers(self) -> str:
        """What the intervals and p values hold for, in one or two sentences."""
        units, base = self.units, self.n if self.videos is None else self.videos
        unknown = (
            f" Clips are taken as independent: their {self.documents} are not known, or there is only one."
            if self.videos is None
            else ""
        )
        if len(self.seeds) < 2:
            return f"Intervals hold for new {units}, not for new trainings; they rest on {base} {units} and one seed.{unknown}"
        return (
            f"Intervals and p hold for new {units} and new trainings together; they rest on {base} {units} and"
            f" {len(self.seeds)} seeds.{unknown}"
        )

    def for_markdown(self) -> "Comparison":
        """The same with labels that Markdown shows unchanged, to write sentences of it."""
        return replace(self, arms={name: replace(arm, label=escaped(arm.label)) for name, arm in self.arms.items()})

    def to_dict(self) -> dict[str, Any]:
        """What comparison.json holds."""
        return {
            **vars(self),
            "arms": {name: arm.to_dict() for name, arm in self.arms.items()},
            "tests": [test.to_dict() for test in self.tests],
            "costs": {name: asdict(cost) for name, cost in self.costs.items()},
            "tuning": {name: asdict(tuning) for name, tuning in self.tuning.items()},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Comparison":
        """The inverse of `to_dict`."""
        parts = {
            "arms": {name: ArmResult.from_dict(arm) for name, arm in values["arms"].items()},
            "tests": [ArmTest.from_dict(test) for test in values["tests"]],
            "costs": {name: Cost(**cost) for name, cost in values["costs"].items()},
            "tuning": {name: Tuning(**tuning) for name, tuning in values.get("tuning", {}).items()},
        }
        return cls(**{**values, **parts})


def read_comparison(file: Path) -> Comparison:
    """What a comparison.json holds.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for one that an earlier version wrote, naming it.
    """
    if not file.is_file():
        of_targets = ", ".join(map(str, comparison_folders(file.parent)))
        expected = f"one of its targets: {of_targets}" if of_targets else "the folder of a finished comparison"
        raise FileNotFoundError(f"{file}: no such file; expected {expected}")
    try:
        return Comparison.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def comparison_folder(out: Path, target: str | None = None) -> Path:
    """Where the files of a comparison are: its own folder, or of one of several targets `targets/NAME` in it."""
    return out if target is None else out / "targets" / target


def comparison_folders(out: Path) -> list[Path]:
    """The folders of a comparison that hold a comparison.json: its own, or those of its targets; empty if it is not finished."""
    folders = [out, *sorted((out / "targets").glob("*"))]
    return [folder for folder in folders if (folder / "comparison.json").is_file()]
