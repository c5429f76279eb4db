"""The model card's metadata, and the run's results in the Hub's two forms: `model-index` and `.eval_results/*.yaml`.

The Hub shows `model-index` on the model's page, and `.eval_results/` where the data set is a benchmark on the Hub.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.repocard_data import EvalResult

from ..data.catalog import DATASETS, DatasetFacts, Target, dataset_facts
from ..evaluation.metrics import METRICS, Metric
from ..training import run_folder
from ..training.targets import targets_of
from .licence import Licence, pipeline_tag

HUB_SET = re.compile(r"hf://datasets/(?P<id>[^/@]+/[^/@]+)")
WIDGET = {  # texts for the Hub's page, by language
    "en": {
        "Positive": "I loved every minute of it.",
        "Negative": "It was a waste of two hours.",
        "Mixed": "I did not expect to like it.",
    },
    "zh": {"Positive": "每一分钟都很精彩。", "Negative": "白白浪费了两个小时。", "Mixed": "没想到我会喜欢它。"},
}


def front_matter(
    repo_id: str, config: Mapping[str, Any], licence: Licence, base_model: str | None, metrics: dict, *, adapter: bool
) -> str:
    """The YAML at the top of a card.

    Args:
        repo_id: the repository's name on the Hub.
        config: settings of the run.
        licence: under which it is published.
        base_model: of the bundle.
        metrics: as in metrics.json.
        adapter: whether the base model's weights are not included.
    """
    facts, modalities = dataset_facts(config["dataset"]), metrics["modalities"]
    on_the_hub = base_model is not None and not (os.path.isabs(base_model) or os.path.isdir(base_model))
    rates_sentiment = any("sentiment" in target.asks for target in run_targets(config))
    published = [
        (target, own, metric)
        for target, own in (metrics.get("targets") or {None: metrics}).items()
        for metric in published_metrics(own)
    ]
    results = [
        EvalResult(
            task_type=pipeline_tag(modalities),
            task_name="Regression",
            dataset_type=hub_dataset(config["dataset"]),
            dataset_name=facts.title,
            dataset_split="test",
            metric_type=str(metric.hub_type),
            metric_name=metric.name if target is None else f"{metric.name} of {target}",
            metric_value=own[metric.key],
        )
        for target, own, metric in published
    ]
    data = ModelCardData(
        language=_language(facts),
        license=licence.id,
        license_name=licence.name,
        license_link=licence.link,
        library_name="transformers",
        pipeline_tag=pipeline_tag(modalities),
        datasets=_datasets(config["dataset"], facts),
        metrics=list(dict.fromkeys(str(metric.hub_type) for _, _, metric in published)),
        base_model=base_model if on_the_hub else None,
        base_model_relation=("adapter" if adapter else "finetune") if on_the_hub else None,
        tags=[
            *("multimodal-sentiment", *(["sentiment-analysis"] if rates_sentiment else []), "regression"),
            *reversed(modalities),
            "custom_code",
        ],
        widget=_widget(facts) if "text" in modalities else None,
        model_name=repo_id.split("/")[-1],
        eval_results=results,
    )
    return data.to_yaml().strip()


def eval_results(run: Path) -> str:
    """The run's metrics in the form of `.eval_results/*.yaml`; those of several targets as `test_TARGET_METRIC`."""
    config = run_folder.read_config(run)
    targets, dataset, entries = run_targets(config), hub_dataset(config["dataset"]), []
    for target in targets:
        metrics = run_folder.read_metrics(run, target.name)
        of = f"{target.name}_" if len(targets) > 1 else ""
        entries += [
            EvalResultEntry(
                dataset, f"test_{of}{metric.key}", metrics[metric.key], notes=f"{metric.name}, seed {metrics['seed']}"
            )
            for metric in published_metrics(metrics)
        ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)


def published_metrics(metrics: dict) -> list[Metric]:
    """The metrics of a run that its card shows."""
    return [metric for metric in METRICS.values() if metric.hub_type and metrics.get(metric.key) is not None]


def run_targets(config: Mapping[str, Any]) -> tuple[Target, ...]:
    """The targets of a run, by its settings."""
    return targets_of(SimpleNamespace(**config))


def dataset_name(name_or_path: str) -> str:
    """A data set's name in the catalog, or the last part of its path."""
    name = dataset_facts(name_or_path).name
    return name if name in DATASETS else Path(name).stem


def hub_dataset(name_or_path: str) -> str:
    """The id of a data set on the Hub; of any other one its name."""
    found = HUB_SET.match(name_or_path)
    return found["id"] if found else dataset_name(name_or_path)


def _datasets(name_or_path: str, facts: DatasetFacts) -> list[str] | None:
    """Those that the card lists: a table of the user's own is not on the Hub."""
    is_listed = facts.name in DATASETS or HUB_SET.match(name_or_path)
    return [hub_dataset(name_or_path)] if is_listed else None


def _language(facts: DatasetFacts) -> str | None:
    """The language of the transcripts; that of a table of the user's own is not known."""
    return facts.language if facts.name in DATASETS else None


def _widget(facts: DatasetFacts) -> list[dict[str, str]]:
    texts = WIDGET.get(facts.language, WIDGET["en"])
    return [{"text": text, "example_title": title} for title, text in texts.items()]
