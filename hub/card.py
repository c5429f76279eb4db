"""The model card of a run: model_card.md, filled in from the run's result files. Lines without a file are left out.

What it says of results is in `card_results.py`, its metadata in `card_metadata.py`.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from ..data.catalog import DATASETS, LABEL, DatasetFacts, Target, dataset_facts
from ..data.planted import VERSION as PLANTED_VERSION
from ..evaluation.audit_result import read_audit
from ..evaluation.markdown_text import escaped
from ..families_omnisent import family_of_type
from ..family_omnisent import ThinkerFamily
from ..processing_omnisent import SETTINGS
from ..thinker_omnisent import text_model_of
from ..training import run_folder
from ..training.about import joined, named_genres, says_nothing
from ..training.choices import is_tiny
from .card_metadata import dataset_name, front_matter, run_targets
from .card_results import find_comparisons, target_results
from .licence import UNSTATED, Licence, data_terms, notice

TEMPLATE = Path(__file__).parent.parent / "model_card.md"
TEXT = "I did not expect to like it."


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
    comparisons, synthetic = find_comparisons(run), says_nothing(facts, config["base_model"])
    rated = [
        target_results(run, target, comparisons, several=len(targets) > 1, built_in=synthetic) for target in targets
    ]
    bundle = run_folder.read_json(run / "model" / "config.json")
    text_model = text_model_of(bundle["base_model"], revision=bundle.get("base_revision"))
    modalities = metrics["modalities"]
    family = _family(bundle)
    thinker = f"the {family.title} Thinker"
    values = {
        "front_matter": front_matter(
            *(repo_id, config, licence, bundle["base_model"], metrics), adapter=base_model is not None
        ),
        "name": repo_id.split("/")[-1],
        "repo_id": repo_id,
        "rated": rated,
        "people": any(target.person is not None for target in rated),
        "what": what_is_rated(targets),
        "about": bundle.get("about"),
        "synthetic": synthetic,
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
        "audit_tables": [] if audit is None else [(target, *audit.rows(target)) for target in audit.targets()],
        "may_have_seen": not is_tiny(config["base_model"]) and not facts.synthetic,
        "quantization_words": _quantization(config["quantization"], family),
        "dataset": name,
        "document": facts.units_of(modalities).removesuffix("s"),
        "test_set": facts.title if facts.name in DATASETS else name,
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
    templates = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    templates.filters["escaped"] = escaped
    return templates.from_string(TEMPLATE.read_text(encoding="utf-8")).render(values)


def what_is_rated(targets: Sequence[Target]) -> str:
    """What is rated, in the words before `that a speaker expresses`."""
    names = ["the sentiment" if one.name == LABEL else one.asks.removeprefix("the speaker's ") for one in targets]
    return joined(list(dict.fromkeys(names)))


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


def notice_of(run: Path, licence: Licence, *, merged: bool) -> str:
    """The text of NOTICE in a run's repository."""
    config, bundle = run_folder.read_config(run), run_folder.read_json(run / "model" / "config.json")
    revision = bundle.get("base_revision")
    text_model = text_model_of(bundle["base_model"], revision=revision)
    base = _base(bundle["base_model"], revision, text_model, f"the {_family(bundle).title} Thinker")
    return notice(
        licence, base=base, base_model=config["base_model"], facts=dataset_facts(config["dataset"]), merged=merged
    )


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
