"""The model card of a run: model_card.md, filled in from the run's result files. Lines without a file are left out.

Nothing is measured here.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pandas as pd
import yaml
from huggingface_hub import EvalResultEntry, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.repocard_data import EvalResult

from ..configuration_omnisent import OmniSentConfig
from ..data.catalog import DATASETS, LABEL, DatasetFacts, Target, dataset_facts
from ..data.clip import ONE_PERSON
from ..data.planted import VERSION as PLANTED_VERSION
from ..evaluation.audit_result import read_audit
from ..evaluation.comparison_result import Comparison, comparison_folders, read_comparison
from ..evaluation.intervals import LEVEL
from ..evaluation.metrics import METRICS, Metric
from ..families_omnisent import family_of_type
from ..family_omnisent import ThinkerFamily
from ..pipeline_omnisent import default_neutral_band, has_two_sides
from ..processing_omnisent import SETTINGS
from ..thinker_omnisent import text_model_of
from ..training import run_folder
from ..training.about import joined, named_genres, says_nothing
from ..training.choices import is_tiny
from ..training.targets import targets_of
from .licence import UNSTATED, Licence, data_terms, notice, pipeline_tag

TEMPLATE = Path(__file__).parent.parent / "model_card.md"
TEXT = "I did not expect to like it."
LENGTHS = (0, 2, 5, 10, math.inf)  # seconds; edges of the groups of clips by length


@dataclass(frozen=True)
class Drift:
    """How much merging changed the scores of validation clips: mean and largest absolute change, label units."""

    clips: int
    mean: float
    largest: float


def model_card(
    run: Path,
    repo_id: str,
    *,
    base_model: str | None,
    base_revision: str | None = None,
    licence: Licence = UNSTATED,
    drift: Drift | None = None,
) -> str:
    """The README.md of a run's repository.

    Args:
        run: a finished discriminative run.
        repo_id: the repository's name on the Hub.
        base_model: Hub id of the base model that is loaded with it; `None` for a merged repository.
        base_revision: the base model's commit.
        licence: under which it is published.
        drift: how much merging changed the scores; only for a merged repository.
    """
    config, metrics = run_folder.read_config(run), run_folder.read_metrics(run)
    environment = run_folder.read_environment(run)
    facts, targets = dataset_facts(config["dataset"]), run_targets(config)
    audit = read_audit(run)
    name = dataset_name(config["dataset"])
    comparisons = find_comparisons(run)
    bundle = run_folder.read_json(run / "model" / "config.json")
    text_model = text_model_of(bundle["base_model"], revision=bundle.get("base_revision"))
    modalities = metrics["modalities"]
    family = _family(bundle)
    thinker = f"the {family.title} Thinker"
    values = {
        "front_matter": _front_matter(
            *(repo_id, facts, licence, bundle, metrics),
            adapter=base_model is not None,
            rates_sentiment=any("sentiment" in target.asks for target in targets),
        ),
        "name": repo_id.split("/")[-1],
        "repo_id": repo_id,
        "rated": [_rated(run, target, comparisons, several=len(targets) > 1) for target in targets],
        "what": joined(list(dict.fromkeys(_what(target) for target in targets))),
        "about": bundle.get("about"),
        "synthetic": says_nothing(facts, config["base_model"]),
        "expresser": _expresser(modalities),
        "read": f"{joined(modalities)} {'alone' if len(modalities) == 1 else 'together'}",
        "reads_media": modalities != ["text"],
        "used_media": [
            limit
            for modality, limit in (("video", f"{config['max_frames']} frames"), ("audio", "300 s of audio"))
            if modality in modalities
        ],
        "example": json.dumps(_example(modalities)),
        "states": _states(config),
        "thinker": f"{text_model}, a text model in the layout of {thinker}" if text_model else thinker,
        "base_model": base_model,
        "base": _base(
            base_model or bundle["base_model"], base_revision or bundle.get("base_revision"), text_model, thinker
        ),
        "drift": drift,
        "licence": licence.title,
        "audit": audit,
        "audit_tables": [] if audit is None else [audit.rows(target) for target in audit.targets()],
        "may_have_seen": not is_tiny(config["base_model"]) and not facts.synthetic,
        "quantization_words": _quantization(config["quantization"], family),
        "dataset": name,
        "genres": named_genres(config["genres"]),
        "paper": facts.published_results,
        "clips": environment["clips"],
        "data_source": _data_source(facts),
        "changed_settings": _changed_settings(run),
        "trainable": f"{metrics['trainable_parameters']:,}",
        "trainable_percent": f"{metrics['trainable_percent']:.2f}",
        "train_minutes": _train_minutes(run),
        "device": environment["device"],
        "versions": ", ".join(
            f"{package} {version}" for package, version in environment["versions"].items() if version
        ),
        "commit": environment["commit"],
    }
    values |= {key: metrics[key] for key in ("n", "modalities", "denoise", "seed", "bad_clips")}
    values |= {"group_split": config["group_split"], "overlap": environment.get("overlap") or []}
    values |= {key: metrics.get(key) for key in ("without_video", "without_audio")}  # not in runs from before
    values["head_parameters"] = f"{metrics['head_parameters']:,}"
    settings = ("dtype", "quantization", "lora_r", "lora_alpha", "lora_dropout", "lora_preset")
    values |= {key: config[key] for key in (*settings, "learning_rate", "head_learning_rate")}
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    return template.render(values)


def eval_results(run: Path) -> str:
    """The run's metrics in the form of `.eval_results/*.yaml`; those of several targets as `test_TARGET_METRIC`."""
    targets = run_targets(run_folder.read_config(run))
    entries = []
    for target in targets:
        metrics = run_folder.read_metrics(run, target.name)
        of, name = f"{target.name}_" if len(targets) > 1 else "", dataset_name(metrics["dataset"])
        entries += [
            EvalResultEntry(
                name, f"test_{of}{metric.key}", metrics[metric.key], notes=f"{metric.name}, seed {metrics['seed']}"
            )
            for metric in _published(metrics)
        ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)


def dataset_name(name_or_path: str) -> str:
    """A data set's name in the catalog, or the last part of its path."""
    name = dataset_facts(name_or_path).name
    return name if name in DATASETS else Path(name).stem


def run_targets(config: Mapping[str, Any]) -> tuple[Target, ...]:
    """The targets of a run, by its settings."""
    return targets_of(SimpleNamespace(**config))


def find_comparisons(run: Path) -> dict[str | None, Comparison]:
    """The comparison that a run is part of, if its folder is `<comparison>/<arm>/<seed>`; of several targets those of each."""
    found = [read_comparison(folder / "comparison.json") for folder in comparison_folders(run.resolve().parents[1])]
    return {comparison.target: comparison for comparison in found}


def _what(target: Target) -> str:
    """What is rated, in the words before `that a speaker expresses`."""
    return "the sentiment" if target.name == LABEL else target.asks.removeprefix("the speaker's ")


def _rated(run: Path, target: Target, comparisons: Mapping[str | None, Comparison], *, several: bool) -> dict[str, Any]:
    """What the card says of a target."""
    own = target.name if several else None
    metrics, comparison = run_folder.read_metrics(run, own), comparisons.get(own)
    low, high = target.score_range
    columns, rows = _results(run, metrics, comparison, own)
    band = default_neutral_band(high) if has_two_sides(low, high) else None
    return {
        "name": target.name,
        "low": f"{low:g}",
        "high": f"{high:g}",
        "neutral_band": band,
        "n": metrics["n"],
        "convention": target.convention,
        "has_classes": any(metric.hub_type in ("accuracy", "f1") for metric in _published(metrics)),
        "columns": columns,
        "rows": rows,
        "covers": comparison.covers if comparison else None,
        "groups": list(_groups(run, metrics["modalities"], target, own)),
        "interval": _interval(run, metrics, target.name),
    }


def _expresser(modalities: Sequence[str]) -> str:
    """Whose sentiment a model scores, by what it reads."""
    if list(modalities) == ["text"]:
        return "a text expresses"
    return f"a speaker expresses in {'a video' if 'video' in modalities else 'an audio'} clip"


def _states(config: Mapping[str, str]) -> str:
    """Which hidden states the head reads, by a run's settings."""
    layers, pooling = config["layers"], config["pooling"]
    layer = {"last": "the final-layer hidden state", "mix": "a mix of all layers' hidden states"}
    tokens = "tokens of the clip" if config["pool_over"] == "clip" else "tokens"
    over = {"last": "of the last token", "mean": f"averaged over the {tokens}"}
    where = layer.get(layers, f"the hidden state of layer {layers}")
    return f"{where} {over.get(pooling, f'averaged over the {tokens} with learnt weights')}"


def _example(modalities: Sequence[str]) -> dict[str, str]:
    """A clip with what a model reads; a video has its own audio."""
    clip = {"video": "clip.mp4"} if "video" in modalities else {"audio": "clip.wav"} if "audio" in modalities else {}
    return clip | ({"text": TEXT} if "text" in modalities else {})


def _family(bundle: dict) -> ThinkerFamily:
    return family_of_type(bundle["thinker_config"].get("model_type"))


def _quantization(quantization: str, family: ThinkerFamily) -> str:
    if quantization == "none":
        return "not quantised"
    return f"4-bit NF4 with double quantisation{', but for the experts' if family.experts else ''}"


def _base(base_model: str, revision: str | None, text_model: str | None, thinker: str) -> str:
    """The base model in words: a link for a Hub id, the name alone of a folder, and the text model that it is made from."""
    names = [f"{text_model} in the layout of {thinker}"] if text_model else []
    if not (os.path.isabs(base_model) or os.path.isdir(base_model)):
        link = f"[{base_model}](https://huggingface.co/{base_model})"
        names.insert(0, f"{link} at revision {revision}" if revision else link)
    return ", ".join(names) or Path(base_model).name


def _published(metrics: dict) -> list[Metric]:
    """The metrics of a run that its card shows."""
    return [metric for metric in METRICS.values() if metric.hub_type and metrics.get(metric.key) is not None]


def notice_of(run: Path, licence: Licence, *, merged: bool) -> str:
    """The text of NOTICE in a run's repository."""
    config, bundle = run_folder.read_config(run), run_folder.read_json(run / "model" / "config.json")
    revision = bundle.get("base_revision")
    text_model = text_model_of(bundle["base_model"], revision=revision)
    base = _base(bundle["base_model"], revision, text_model, f"the {_family(bundle).title} Thinker")
    return notice(
        licence, base=base, base_model=config["base_model"], facts=dataset_facts(config["dataset"]), merged=merged
    )


def _front_matter(
    repo_id: str,
    facts: DatasetFacts,
    licence: Licence,
    bundle: dict,
    metrics: dict,
    *,
    adapter: bool,
    rates_sentiment: bool,
) -> str:
    dataset, of_targets = dataset_name(metrics["dataset"]), metrics.get("targets") or {None: metrics}
    base_model = bundle["base_model"]
    on_the_hub = base_model is not None and not (os.path.isabs(base_model) or os.path.isdir(base_model))
    results = [
        EvalResult(
            task_type="multimodal-sentiment",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split="test",
            metric_type=str(metric.hub_type),
            metric_name=metric.name if target is None else f"{metric.name} of {target}",
            metric_value=own[metric.key],
        )
        for target, own in of_targets.items()
        for metric in _published(own)
    ]
    data = ModelCardData(
        language=facts.language,
        license=licence.id,
        license_name=licence.name,
        license_link=licence.link,
        library_name="transformers",
        pipeline_tag=pipeline_tag(metrics["modalities"]),
        datasets=[facts.name] if facts.name in DATASETS else None,
        base_model=base_model if on_the_hub else None,
        base_model_relation=("adapter" if adapter else "finetune") if on_the_hub else None,
        tags=[
            *("multimodal-sentiment", *(["sentiment-analysis"] if rates_sentiment else []), "regression"),
            *reversed(metrics["modalities"]),
            "custom_code",
        ],
        model_name=repo_id.split("/")[-1],
        eval_results=results,
    )
    return data.to_yaml().strip()


def _results(
    run: Path, metrics: dict, comparison: Comparison | None, target: str | None
) -> tuple[list[str], list[list[str]]]:
    keys = [metric.key for metric in _published(metrics)]
    columns = [metric.name for metric in _published(metrics)]
    this = ["this model", *(f"{metrics[key]:.3f}" for key in keys)]
    human = run_folder.one_person_mae(run, target)
    person = {} if human is None else {ONE_PERSON: human}
    if comparison is None:
        only_mae = {"constant (train median)": run_folder.constant_mae(run, target=target)}
        return columns, [this, *_rows_of_mae(only_mae | person, len(columns))]
    rows = [[*this, "1"]]
    for arm in comparison.arms.values():
        figures = [arm.metrics[key].text if key in arm.metrics else "" for key in keys]
        figures[0] += f" ({arm.metrics['mae'].interval})"
        rows.append([arm.label, *figures, "" if arm.is_baseline else str(len(arm.seeds))])
    columns = ["MAE (95 % interval)", *columns[1:], "seeds"]
    return columns, [*rows, *_rows_of_mae(person, len(columns))]


def _rows_of_mae(maes: Mapping[str, float], columns: int) -> list[list[str]]:
    """Rows of a table of results in which only the MAE is known."""
    return [[name, f"{mae:.3f}", *[""] * (columns - 1)] for name, mae in maes.items()]


def _interval(run: Path, metrics: dict, target: str) -> str | None:
    """Width and measured coverage of the bundle's intervals, in two sentences; `None` without a calibration."""
    calibration = OmniSentConfig.from_pretrained(run / "model").calibration_of(target)
    if calibration is None or metrics["interval_coverage"] is None:
        return None
    low, high, width = (metrics.get(f"interval_{name}") for name in ("coverage_low", "coverage_high", "width"))
    if str(LEVEL) in (calibration.get("margins") or {}):
        ends = f"two quantiles of its distribution, {width:.2f} apart on average"
    else:
        ends = f"the score minus and plus {calibration['half_widths'][str(LEVEL)]:.2f}"
    documents = "documents" if metrics["modalities"] == ["text"] else dataset_facts(metrics["dataset"]).documents
    videos = f" of {calibration['videos']} {documents}" if calibration.get("videos") else ", taken as independent"
    sure = "" if low is None or high is None else f" (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
    return (
        f"With `interval={LEVEL}` a result also has `low` and `high`: {ends} (a conformal prediction interval, calibrated on"
        f" {calibration['clips']} validation clips{videos}). These intervals contained {100 * metrics['interval_coverage']:.1f} %"
        f" of the {metrics['n']} test labels{sure}."
    )


def _groups(run: Path, modalities: Sequence[str], target: Target, name: str | None) -> Iterable[tuple[str, int, str]]:
    """Groups of test clips, with their number and MAE: by missing modality of those read, by length of media, and by label."""
    clips = run_folder.read_predictions(run, target=name)
    errors = (clips["score"] - clips["label"]).abs()
    groups = {"all": pd.Series(True, clips.index)}
    facts = run_folder.read_clip_facts(run)
    if facts is not None:
        facts = facts.set_index("id").loc[clips["id"]].reset_index()
        for modality in modalities:
            groups[f"without {modality}"] = facts[modality] == 0
        for low, high in pairwise(LENGTHS):
            length = f"{low:g} s and longer" if high == math.inf else f"{low:g} to {high:g} s"
            groups[length] = (facts["seconds"] >= low) & (facts["seconds"] < high)
    low, high = _middle(target)
    groups |= {
        f"label below {low:.3g}": clips["label"] < low,
        f"label from {low:.3g} to {high:.3g}": clips["label"].between(low, high),
        f"label above {high:.3g}": clips["label"] > high,
    }
    for name, members in groups.items():
        if members.any():
            yield name, int(members.sum()), f"{errors[members].mean():.3f}"


def _middle(target: Target) -> tuple[float, float]:
    """The neutral part of a scale; of one without two sides, its middle third."""
    low, high = target.score_range
    if has_two_sides(low, high):
        return -default_neutral_band(high), default_neutral_band(high)
    return low + (high - low) / 3, high - (high - low) / 3


def _data_source(facts: DatasetFacts) -> str:
    if facts.synthetic:
        return f"The clips are synthetic (`planted`, version {PLANTED_VERSION}); no rights are claimed in them."
    terms = data_terms(facts)
    return f"This repository contains none of the clips. {terms}" if terms else ""


def _changed_settings(run: Path) -> str:
    """The bundle's processor settings that are not the defaults, with their values; empty if there are none."""
    used = run_folder.read_json(run / "model" / "processor_config.json")
    defaults = {name: list(value) if isinstance(value, tuple) else value for name, value in SETTINGS.items()}
    changed = {name: used[name] for name in defaults if name in used and used[name] != defaults[name]}
    return ", ".join(f"{name} `{json.dumps(value, ensure_ascii=False)}`" for name, value in changed.items())


def _train_minutes(run: Path) -> str | None:
    state = run / "trainer_state.json"
    if not state.is_file():
        return None
    times = [entry["train_runtime"] for entry in run_folder.read_json(state)["log_history"] if "train_runtime" in entry]
    return f"{times[-1] / 60:.1f}" if times else None
