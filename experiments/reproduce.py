"""The paper's tables by one command: data, comparison of readouts, ablation, hidden space, probe, and one table beside the paper's.

    omnisent reproduce cmu_mosi --root /data/CMU-MOSI --out runs/paper [--dry-run]

Everything is made by the other studies, each in a folder of its own, and goes on after any stop. With `tiny`, every step is run
with the tiny backbone on made-up clips, which says nothing about the paper.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from huggingface_hub import try_to_load_from_cache

from ..data.build import build_dataset
from ..data.built import Denoise, build_record
from ..data.catalog import dataset_facts
from ..data.denoise import check_denoiser
from ..data.mmsa import Defect
from ..data.sources import SOURCES
from ..evaluation.comparison_result import ArmResult, Comparison, read_comparison
from ..evaluation.metrics import METRICS
from ..evaluation.statistics import defined
from ..evaluation.variances import t_test, variance_of_mean
from ..training import run_folder
from ..training.arguments import DataArguments, ModelArguments, OmniSentTrainingArguments, parse_arguments
from ..training.choices import is_made_here
from ..training.field_names import CONFIGS
from ..training.plan import Plan, plan
from .ablation import SUBSETS, ablate, planned_rows
from .arms import Arm, read_arms
from .comparison import compare
from .geometry import geometry
from .paper import DENOISED, HEAD, NEIGHBOURS, ROWS, PaperRow
from .probe import probe
from .report import write_report
from .tables import markdown_table

SEEDS = (0, 1, 2, 3)  # four, as in the paper
COPIES = 9  # of the trained weights in a run: two checkpoints with two moments each, the bundle, and two best adapters
DOWNLOAD_BYTES = 22_500_000_000  # of Qwen2.5-Omni-7B
TINY_SETTINGS = (
    *("--quantization", "none", "--max_pixels", "3136", "--dataloader_num_workers", "0"),
    *("--max_steps", "4", "--warmup_steps", "0", "--logging_steps", "4"),
    *("--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"),
)


@dataclass(frozen=True)
class Need:
    """Something that a reproduction needs: what, what was found, and what to do if that is not enough."""

    what: str
    found: str
    to_do: str | None = None

    @property
    def text(self) -> str:
        """A line for people."""
        return (
            f"{self.what}: {self.found}" if self.to_do is None else f"MISSING {self.what}: {self.found}; {self.to_do}"
        )


@dataclass(frozen=True)
class Figure:
    """A figure of the paper beside ours.

    Attributes:
        table, row: of the paper, in words.
        metric: its key.
        paper: as published.
        ours: the same figure; `None` if it is undefined.
        low, high: the 95 % interval of ours for other trainings on the same clips, as the paper's figure has them; `None` for the
            best seed, or one seed.
        note: what to know of the row, at its first figure.
    """

    table: str
    row: str
    metric: str
    paper: float
    ours: float | None
    low: float | None
    high: float | None
    note: str

    @property
    def verdict(self) -> str:
        """Whether the paper's figure lies in the interval of ours."""
        if self.ours is None or self.low is None or self.high is None:
            return ""
        if self.low <= self.paper <= self.high:
            return "agrees"
        return "ours is lower" if self.paper > self.high else "ours is higher"


@dataclass(frozen=True)
class Reproduction:
    """What to reproduce, and where.

    Attributes:
        name: of the data set.
        root: folder of its clips; `None` for `tiny`.
        out: folder of the reproduction.
        seeds: of every study.
        denoiser: that of the headline.
        tiny: whether the tiny backbone and made-up clips stand in.
        fields: further arguments of train.py.
    """

    name: str
    root: str | Path | None
    out: Path
    seeds: tuple[int, ...] = SEEDS
    denoiser: Denoise = "deepfilternet"
    tiny: bool = False
    fields: tuple[str, ...] = ()

    @property
    def argv(self) -> tuple[str, ...]:
        """The arguments of train.py that all runs share."""
        shipped = "tiny" if self.tiny else f"paper/{self.name.removeprefix('cmu_')}_discriminative"
        own = TINY_SETTINGS if self.tiny else ()
        return (str(CONFIGS / f"{shipped}.yaml"), "--dataset", str(self.out / "data"), *own, *self.fields)

    @property
    def arms(self) -> list[Arm]:
        """Those of the paper's comparison, and the head on denoised sound."""
        denoised = {"readout": "discriminative", "dataset": str(self.out / "denoised")}
        return [*read_arms("paper"), Arm(DENOISED, "head, denoised sound", denoised)]

    @property
    def source(self) -> str:
        """The data set that is built."""
        return "planted" if self.tiny else self.name

    @property
    def studies(self) -> tuple[str, ...]:
        """Those that the paper's tables for the data set need, by their folders."""
        named = {row.study for row in ROWS[self.name]}
        return (
            "readouts",
            *(["ablation"] if "ablation" in named else []),
            *(["geometry", "probe"] if "geometry" in named else []),
        )

    def steps(self) -> list[str]:
        """What is done, a line for each step, with its folder."""
        of_arms = sum(len(arm.own_seeds(self.seeds)) for arm in self.arms)
        tests = sum(time != "train" for time, _ in planned_rows()) * len(self.seeds)
        said = {
            "readouts": f"{len(self.folders('readouts'))} trainings, {of_arms} results, latency and memory",
            "ablation": f"{len(self.folders('ablation'))} trainings on subsets of the modalities, {tests} tests of the whole model",
            "geometry": "the hidden states of the trained head, PCA, t-SNE, nearest neighbours",
            "probe": "ridge regression on the untrained states, by layer",
        }
        return [
            f"data, denoised: check every clip, and reduce the noise of the sound with {self.denoiser}",
            *(f"{study}: {said[study]}" for study in self.studies),
            "reproduction.md and .json, report.html: every table, and the paper's figures beside ours",
        ]

    def folders(self, *studies: str) -> list[Path]:
        """Those of the trainings of some studies."""
        arms = [self.out / "readouts" / arm.name for arm in self.arms if arm.trains]
        subsets = [self.out / "ablation" / "train" / "-".join(subset) for subset in SUBSETS]
        named = {"readouts": arms, "ablation": subsets}
        return [folder / f"seed-{seed}" for study in studies for folder in named.get(study, []) for seed in self.seeds]

    def trainings(self) -> int:
        """How many models are yet to be trained."""
        return sum(not (folder / "metrics.json").is_file() for folder in self.folders(*self.studies))


def needs(job: Reproduction) -> list[Need]:
    """What a reproduction needs before it starts, and whether it is there."""
    estimate = plan(*_arguments(job))
    found = [_data(job), _denoiser(job), _base(job), _disk(job, estimate), _settings(job)]
    if not job.tiny:
        found += [_memory(estimate), _time(job, estimate)]
    return found


def reproduce(job: Reproduction) -> list[Figure]:
    """Do every step that is not finished, and write reproduction.json and .md, and report.html.

    Raises:
        ValueError: naming what is missing, and what to do.
    """
    missing = [need for need in needs(job) if need.to_do]
    if missing:
        raise ValueError(f"reproduce: {missing[0].text}")
    out = job.out
    builds: dict[str, Denoise] = {"data": "none", "denoised": job.denoiser}
    for folder, denoise in builds.items():
        record = build_record(out / folder)
        if record is None:
            root = job.root if job.root is not None else out / "clips"
            build_dataset(job.source, root, out / folder, denoise=denoise)
        elif (record.name, record.denoise) != (job.source, denoise):
            raise ValueError(
                f"{out / folder} holds {record.name} with noise reduction {record.denoise}, not {job.source} with {denoise}; give"
                " another --out, or remove it"
            )
    compare(job.argv, job.seeds, out / "readouts", arms=job.arms)
    if "ablation" in job.studies:
        ablate(job.argv, job.seeds, out / "ablation")
    head = out / "readouts" / HEAD / f"seed-{job.seeds[0]}"
    if "geometry" in job.studies and not _follows(out / "geometry" / "geometry.json", head):
        geometry(head, out / "geometry")
    if "probe" in job.studies and not _follows(out / "probe" / "probe.json", head):
        probe(job.argv, out / "probe", head)
    figures = figures_of(job.name, out)
    stored = [{**asdict(figure), "verdict": _verdict(job, figure)} for figure in figures]
    run_folder.write_json(out / "reproduction.json", {"dataset": job.name, "tiny": job.tiny, "figures": stored})
    (out / "reproduction.md").write_text(markdown(job, figures), encoding="utf-8")
    write_report([out, *(out / study for study in job.studies)], out / "report.html")
    return figures


def _follows(result: Path, run: Path) -> bool:
    """Whether a result was made after a run, and of its seed."""
    if not result.is_file() or result.stat().st_mtime < (run / "metrics.json").stat().st_mtime:
        return False
    found = run_folder.read_json(result)
    seed = found["seed"] if "seed" in found else (found["run"] or {}).get("seed")
    return seed == run_folder.read_metrics(run)["seed"]


def figures_of(name: str, out: Path) -> list[Figure]:
    """Every figure of the paper's tables beside ours, from the finished studies in a folder."""
    comparison, found = read_comparison(out / "readouts" / "comparison.json"), []
    ablation = run_folder.read_json(out / "ablation" / "ablation.json") if (out / "ablation").is_dir() else {}
    for row in ROWS[name]:
        for place, (metric, published) in enumerate(row.figures.items()):
            if row.study == "comparison":
                ours = _of_comparison(comparison, row, metric)
            elif row.study == "ablation":
                ours = _of_ablation(ablation, row, metric)
            else:
                near = run_folder.read_json(out / "geometry" / "geometry.json")["neighbours"]
                ours = (min(near, key=lambda one: abs(one["k"] - NEIGHBOURS))[metric], None, None)
            found.append(Figure(row.table, row.row, metric, published, *ours, note="" if place else row.note))
    return found


def markdown(job: Reproduction, figures: Sequence[Figure]) -> str:
    """The contents of reproduction.md."""
    rows = [
        {
            "table": figure.table,
            "row": figure.row,
            "figure": METRICS[figure.metric].title if figure.metric in METRICS else figure.metric.replace("_", " "),
            "paper": _shown(figure.metric, figure.paper),
            "ours": _shown(figure.metric, figure.ours),
            "95 % interval": "" if figure.low is None else f"{figure.low:.3f} to {figure.high:.3f}",
            "verdict": _verdict(job, figure),
            "note": figure.note,
        }
        for figure in figures
    ]
    what = f"# The paper's tables on {dataset_facts(job.name).title}, and ours"
    if job.tiny:
        said = (
            "Made with the tiny random backbone on made-up clips, to show that every step runs. **These figures say nothing about"
            " the paper**, and there is no verdict."
        )
    else:
        said = (
            f"Ours: means over {len(job.seeds)} seeds, or the seed with the lowest MAE where the paper gives its best one,"
            " without an interval. A figure agrees if the paper's lies in the 95 % interval of ours. Both are of the same test"
            " clips, so it is the interval for other trainings alone; that of the paper's own figure is not known. What the paper"
            " does not say was chosen here: see configs/paper."
        )
    table = pd.DataFrame(rows).set_index("table")
    return "\n\n".join((what, said, markdown_table(table))) + "\n"


def _verdict(job: Reproduction, figure: Figure) -> str:
    return "" if job.tiny else figure.verdict


def _shown(metric: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value / 1e9:.2f} GB" if metric.endswith("_bytes") else f"{value:.3f}"


def _of_comparison(
    comparison: Comparison, row: PaperRow, metric: str
) -> tuple[float | None, float | None, float | None]:
    arm, costs = comparison.arms[str(row.what)], comparison.costs
    if metric in ("seconds_per_clip", "peak_memory_bytes"):
        cost = costs.get(str(row.what))
        return (None if cost is None else getattr(cost, metric)), None, None
    if metric not in arm.metrics:  # a rate of answers, of which a head has none
        values = [value for value in getattr(arm, metric) if value is not None]
        return (sum(values) / len(values) if values else 0.0), None, None
    estimate = arm.metrics[metric]
    if row.pick == "best":
        return estimate.per_seed[_best_seed(arm)], None, None
    return _over_seeds(estimate.per_seed)


def _best_seed(arm: ArmResult) -> int:
    maes = arm.metrics["mae"].per_seed
    return min(range(len(maes)), key=lambda place: maes[place] or 0.0)


def _over_seeds(values: Sequence[float | None]) -> tuple[float | None, float | None, float | None]:
    """The mean over the seeds, and its 95 % t interval if there are several."""
    known = defined(values)
    if not known:
        return None, None, None
    mean = float(np.mean(known))
    if len(known) < 2:
        return mean, None, None
    reach, _ = t_test(mean, 0.0, 1, variance_of_mean(np.array(known)), len(known))
    return mean, mean - reach, mean + reach


def _of_ablation(
    ablation: dict[str, Any], row: PaperRow, metric: str
) -> tuple[float | None, float | None, float | None]:
    subset = next(
        one for one in ablation["subsets"] if one["time"] == "train" and set(one["modalities"]) == set(row.what)
    )
    return _over_seeds(subset["metrics"][metric]["per_seed"])


def _data(job: Reproduction) -> Need:
    what = f"the clips of {job.name}"
    if job.tiny:
        return Need(what, "made-up clips stand in")
    if job.root is None:
        return Need(what, "no folder given", f"name it: --root DIR, with label.csv and Raw/ of {job.name}")
    source = SOURCES[dataset_facts(job.name).source]
    defects: list[Defect] = []  # which the build lists
    try:
        rows = source.read(dataset_facts(job.name), job.root, defects.append)
        media = None if source.media is None else source.media(job.root)
    except (OSError, ValueError) as error:
        return Need(what, str(error), "see docs/DATA.md for the layout")
    there = sum(media is not None and media.find(row.video_id, row.clip_id) is not None for row in rows)
    if there == 0:
        return Need(what, f"{len(rows)} rows, no media", "put the clips into Raw/VIDEO/CLIP.mp4; see docs/DATA.md")
    return Need(what, f"{len(rows)} rows, {there} with media, {len(defects)} defects of the table")


def _denoiser(job: Reproduction) -> Need:
    try:
        check_denoiser(job.denoiser)
    except (OSError, ImportError) as error:
        return Need("a program that reduces noise", "none", str(error))
    return Need("a program that reduces noise", job.denoiser)


def _arguments(job: Reproduction) -> tuple[ModelArguments, DataArguments, OmniSentTrainingArguments]:
    """Those of a run, on the data set before it is built."""
    argv = [*job.argv, "--dataset", job.source, "--output_dir", str(job.out), "--use_cpu", "true"]
    return parse_arguments(argv, on_this_machine=False)


def _is_there(base_model: str) -> bool:
    return (
        is_made_here(base_model)
        or os.path.isdir(base_model)
        or isinstance(try_to_load_from_cache(base_model, "config.json"), str)
    )


def _base(job: Reproduction) -> Need:
    base = _arguments(job)[0].base_model
    return Need(f"the base model {base}", "here" if _is_there(base) else "will be downloaded from the Hub")


def _disk(job: Reproduction, estimate: Plan) -> Need:
    of_a_run = COPIES * 4 * (estimate.lora_parameters + estimate.head_parameters)
    needed = job.trainings() * of_a_run + (0 if _is_there(estimate.base_model) else DOWNLOAD_BYTES)
    place = next(folder for folder in (job.out.absolute(), *job.out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    found = f"{free / 1e9:.0f} GB free at {place}, about {needed / 1e9:.0f} GB needed"
    return Need("disk", found, None if free >= needed else "free some, or name another --out")


def _settings(job: Reproduction) -> Need:
    """Whether this machine can do the runs."""
    what = "this machine"
    try:
        parse_arguments([*job.argv, "--output_dir", str(job.out)])
    except ValueError as error:
        return Need(
            what, str(error), "run it on a machine with a GPU, or --bf16 false --use_cpu true for a very long time"
        )
    return Need(what, "can do the runs")


def _memory(estimate: Plan) -> Need:
    needed = f"about {estimate.expected_peak_bytes / 1e9:.0f} GB to train"
    if not torch.cuda.is_available():
        return Need("memory of a GPU", f"{needed}; there is no GPU here")
    has = torch.cuda.get_device_properties(0).total_memory
    short = has < estimate.expected_peak_bytes
    advice = "use a larger GPU, or --feature_cache DIR --lora_preset llm" if short else None
    return Need("memory of the GPU", f"{has / 1e9:.0f} GB; {needed}", advice)


def _time(job: Reproduction, estimate: Plan) -> Need:
    hours = estimate.expected_hours or {}
    each = ", ".join(f"{device} {job.trainings() * value:,.0f}" for device, value in hours.items())
    return Need("time", f"{job.trainings()} trainings to do; roughly so many hours in all: {each}")
