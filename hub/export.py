"""Exports a run for engines that know nothing of this package.

    omnisent export RUN_DIR OUT_DIR --layout omnisent|official

`omnisent` is the bundle that `publish --merged` uploads. `official` has the merged weights under the names of the published
checkpoint, the official processor, and a chat template that writes the run's prompt. In it, a linear head is one layer in label
units, `score.safetensors`; any other head is beside the weights, with its code, in `head/`.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import jinja2
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ..adapter_omnisent import HEAD_PREFIX
from ..configuration_omnisent import OmniSentConfig
from ..families_omnisent import family_of
from ..family_omnisent import OFFICIAL_SCORE, ThinkerConfig, ThinkerFamily
from ..heads_omnisent import RegressionHead
from ..modeling_omnisent import HEAD_FILE
from ..processing_omnisent import SETTINGS, OmniSentProcessor
from ..thinker_inputs_omnisent import quiet_loading
from ..thinker_omnisent import lm_head_weight, set_dtype
from ..training import run_folder
from ..training.about import joined
from ..training.backbone import base_model_path
from ..training.choices import Layout
from .card import Drift, notice_of
from .licence import UNSTATED, Licence
from .publish import (
    PACKAGE,
    PROCESSOR_FILES,
    assemble,
    check_run,
    drift_if_clips,
    licence_of_run,
    merge,
    write_training_config,
)
from .upload import PublishError

SCORE_FILE, HEAD_DIR, SETTINGS_FILE = "score.safetensors", "head", "omnisent.json"
INDEX_FILE = "model.safetensors.index.json"
HEAD_CODE = ("heads_omnisent.py", "losses_omnisent.py", "errors_omnisent.py")
CARD = Path(__file__).with_name("export_card.md")
NOT_MEASURED = "how much merging changes the scores was not measured: the run's validation clips are missing"
MEDIA = ("video", "audio")
TEMPLATE = """\
{{%- set prompts = {prompts} -%}}
{{%- set clip = namespace(text='', media='', seen=[]) -%}}
{{%- for message in messages -%}}
{{%- if loop.length != 1 or message['role'] != 'user' -%}}
{{{{- raise_exception('expected one user message with the clip: the prompt is part of this template') -}}}}
{{%- endif -%}}
{{%- if message['content'] is string -%}}
{{%- set clip.text = message['content'] -%}}
{{%- else -%}}
{{%- for part in message['content'] -%}}
{{%- if part['type'] not in ('text', 'video', 'audio') -%}}
{{{{- raise_exception('this model reads {reads}; the clip has: ' + part['type']) -}}}}
{{%- elif part['type'] in clip.seen -%}}
{{{{- raise_exception('expected one ' + part['type'] + ' at most; the clip has another') -}}}}
{{%- endif -%}}
{{%- set clip.seen = clip.seen + [part['type']] -%}}
{{%- if part['type'] == 'text' -%}}
{{%- set clip.text = part['text'] -%}}
{{%- elif clip.media != 'video' -%}}
{{%- set clip.media = part['type'] -%}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- set text = clip.text | trim -%}}
{{%- set kind = ('text ' if text else '') + clip.media -%}}
{{%- if kind not in prompts -%}}
{{{{- raise_exception('this model reads {reads}; the clip has: ' + (kind or 'nothing')) -}}}}
{{%- endif -%}}
{{{{- prompts[kind].replace('{{text}}', text.replace('<|', '< |')) -}}}}
"""


def export_run(run: str | Path, out: str | Path, *, layout: str) -> str:
    """Write a finished discriminative run with all its weights; the folder appears when it is complete.

    Args:
        run: its folder.
        out: a folder that does not exist yet, or is empty.
        layout: a name in `Layout`.

    Returns:
        What was written, in a few lines.

    Raises:
        PublishError: for a run that cannot be exported, merging that changes the scores too much, or a folder that is not empty.
    """
    run, out = Path(run), Path(out)
    check_run(run, merged=True)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PublishError(f"{out} is not an empty folder; name a new one")
    config = OmniSentConfig.from_pretrained(run / "model")
    if layout == Layout.OFFICIAL:
        _check_expressible(run, config)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.part-", dir=out.parent) as parent:
        draft = Path(parent) / "draft"
        draft.mkdir()
        if layout == Layout.OFFICIAL:
            drift, lines = _write_official(run, draft, Path(parent) / "merged")
        else:
            drift = assemble(run, draft, out.name, licence=_licence(run), merged=True, needs_clips=False)
            lines = ["a bundle with all weights; it loads as the run's own does"]
        draft.replace(out)
    return "\n".join([f"{out}: {lines[0]}", *lines[1:], _drift_line(drift)])


def _licence(run: Path) -> Licence:
    """The licence as far as it is known: an export is not published."""
    try:
        return licence_of_run(run, None)
    except PublishError:
        return UNSTATED


def _check_expressible(run: Path, config: OmniSentConfig) -> None:
    if config.pool_over != "all":
        raise PublishError(
            f"{run}: its head reads the tokens of the clip alone (pool_over: clip), which the official processor does not mark;"
            " export it with --layout omnisent"
        )


def _write_official(run: Path, draft: Path, merged: Path) -> tuple[Drift | None, list[str]]:
    """Write the official layout into a folder, by way of the merged bundle in another."""
    bundle = run / "model"
    config, processor = OmniSentConfig.from_pretrained(bundle), OmniSentProcessor.from_pretrained(bundle)
    base, family = base_model_path(str(config.base_model)), family_of(config.thinker_config)
    dtype = getattr(torch, run_folder.read_arguments(run, merged)[0].dtype)
    merge(run, merged)
    for file in (file for name in PROCESSOR_FILES for file in bundle.glob(name)):
        shutil.copyfile(file, merged / file.name)
    drift = drift_if_clips(run, merged)
    head = _head_of(config, load_file(bundle / HEAD_FILE))
    linear = is_linear(config, head)
    with quiet_loading():
        official: Any = family.processor_class.from_pretrained(base, revision=config.base_revision)
    official.chat_template = chat_template(processor)
    official.save_pretrained(draft)
    lm_head = lm_head_weight(base, revision=config.base_revision, dtype=dtype)
    score = folded(head, config) if linear else {}
    _write_weights(family, merged, draft, {"lm_head.weight": lm_head}, score)
    _write_json(draft / "config.json", _labelled_config(config, dtype))
    settings = _settings(config, processor)
    if not linear:
        (draft / HEAD_DIR).mkdir()
        save_file(head.state_dict(), draft / HEAD_DIR / HEAD_FILE)
        for name in HEAD_CODE:
            shutil.copyfile(PACKAGE / name, draft / HEAD_DIR / name)
        settings |= _head_settings(config, head)
    _write_json(draft / SETTINGS_FILE, settings)
    notes = _notes(processor)
    (draft / "README.md").write_text(card(config, processor, linear, notes, drift), encoding="utf-8")
    shutil.copyfile(PACKAGE / "LICENSE", draft / "LICENSE")
    (draft / "NOTICE").write_text(notice_of(run, _licence(run), merged=True), encoding="utf-8")
    write_training_config(run, draft / "training_config.yaml")
    return drift, [*_summary(config, linear), *notes]


def _summary(config: OmniSentConfig, linear: bool) -> list[str]:
    where = (
        f"the head is one linear layer in label units, in {SCORE_FILE}; clamp its scores to the range in {SETTINGS_FILE}"
        if linear
        else f"the head ({head_words(config)}) is not one linear layer: it is in {HEAD_DIR}/, with its code, and README.md shows"
        " how to apply it"
    )
    return [
        "the official layout, which transformers loads without this package",
        where,
        f"the chat template writes the prompt; it and the processor settings are in {SETTINGS_FILE}",
    ]


def _head_of(config: OmniSentConfig, weights: Mapping[str, torch.Tensor]) -> RegressionHead:
    text = cast(ThinkerConfig, config.thinker_config).text_config
    head = RegressionHead.from_settings(config, text.hidden_size, text.num_hidden_layers, targets=len(config.targets))
    head.load_state_dict(weights)
    return head


def is_linear(config: OmniSentConfig, head: RegressionHead) -> bool:
    """Whether a head is one linear layer on the last token's last state, with one output for each target."""
    of_last = head.reader.reads_last_alone and config.pooling == "last"
    return config.head == "linear" and of_last and config.objective.centres() is None


def head_words(config: OmniSentConfig) -> str:
    """What a head is, in a few words."""
    bins = f", {config.bins} bins" if config.objective.centres() is not None else ""
    return f"{config.head}, layers {config.layers}, pooling {config.pooling}, loss {config.loss}{bins}"


def folded(head: RegressionHead, config: OmniSentConfig) -> dict[str, torch.Tensor]:
    """Weight (K, H) and bias (K,) of a linear head in label units, float32, under their official names."""
    linear = cast(torch.nn.Linear, cast(torch.nn.Sequential, head.layers)[-1])
    std = torch.tensor([scale.std for scale in config.label_scales], dtype=torch.float64)
    mean = torch.tensor([scale.mean for scale in config.label_scales], dtype=torch.float64)
    weight, bias = linear.weight.detach().double() * std[:, None], linear.bias.detach().double() * std + mean
    return {f"{OFFICIAL_SCORE}.weight": weight.float(), f"{OFFICIAL_SCORE}.bias": bias.float()}


def _write_weights(
    family: ThinkerFamily,
    merged: Path,
    draft: Path,
    more: Mapping[str, torch.Tensor],
    score: Mapping[str, torch.Tensor],
) -> None:
    """Write the weights of a merged bundle under official names, shard by shard, with an index."""
    shards = sorted(merged.glob("*.safetensors"))
    names = [f"model-{number:05}-of-{len(shards) + 1:05}.safetensors" for number in range(1, len(shards) + 2)]
    files: dict[str, str] = {}
    size = 0

    def write(weights: Mapping[str, torch.Tensor], name: str) -> None:
        nonlocal size
        save_file(dict(weights), draft / name, metadata={"format": "pt"})
        files.update(dict.fromkeys(weights, name))
        size += sum(weight.nbytes for weight in weights.values())

    for shard, name in zip(shards, names, strict=False):
        with safe_open(shard, "pt") as opened:
            kept = [key for key in opened.keys() if not key.startswith(HEAD_PREFIX)]  # noqa: SIM118 (not a mapping)
            weights = {key: opened.get_tensor(key) for key in kept}
        write(family.official_weights(weights), name)
        shard.unlink()
    write(family.official_weights(more), names[-1])
    if score:
        write(score, SCORE_FILE)
    _write_json(draft / INDEX_FILE, {"metadata": {"total_size": size}, "weight_map": files})


def _labelled_config(config: OmniSentConfig, dtype: torch.dtype) -> dict[str, Any]:
    """config.json: that of a full checkpoint, with the targets, which engines read on different levels of it."""
    set_dtype(config.thinker_config, dtype)
    labels = {
        "problem_type": "regression",
        "num_labels": len(config.targets),
        "id2label": dict(enumerate(config.targets)),
        "label2id": {name: place for place, name in enumerate(config.targets)},
    }
    found = family_of(config.thinker_config).official_config(config.thinker_config)
    of_thinker = found["thinker_config"]
    of_text = {**of_thinker["text_config"], **labels}
    found["dtype"] = of_thinker["dtype"]
    return {**found, **labels, "thinker_config": {**of_thinker, **labels, "text_config": of_text}}


def chat_template(processor: OmniSentProcessor) -> str:
    """A Jinja template that writes the processor's prompt around one user message with a clip.

    Raises:
        PublishError: for a prompt in which the transcript's place is not unique.
    """
    used = processor.modalities
    media = [kind for kind in MEDIA if kind in used]
    prompts = {}
    for text in ["{text}", None] if "text" in used else [None]:
        for kind in [*media, ""] if text else media:
            prompt = processor.prompt(text, video=kind == "video", audio=kind == "audio")
            if prompt.count("{text}") != (text is not None):
                raise PublishError(
                    "the prompt has {text} in more places than the transcript's; export with --layout omnisent"
                )
            prompts[f"{'text ' if text else ''}{kind}"] = prompt
    literal = "{" + ", ".join(f"{kind!a}: {prompt!a}" for kind, prompt in prompts.items()) + "}"
    return TEMPLATE.format(prompts=literal, reads=joined(used))


def _settings(config: OmniSentConfig, processor: OmniSentProcessor) -> dict[str, Any]:
    """omnisent.json: what belongs to a score and is not in the other files."""
    return {
        "about": config.about,
        "targets": list(config.targets),
        "scales": [asdict(scale) for scale in config.label_scales],
        "calibration": config.calibration,
        "derived_from": {"base_model": config.base_model, "base_revision": config.base_revision}
        if not Path(str(config.base_model)).is_absolute()
        else None,
        "processor": {name: getattr(processor, name) for name in SETTINGS},
    }


def _head_settings(config: OmniSentConfig, head: RegressionHead) -> dict[str, Any]:
    """The arguments of the head's classes."""
    text = cast(ThinkerConfig, config.thinker_config).text_config
    return {
        "head": {
            "width": text.hidden_size,
            "head": config.head,
            "hidden_size": config.head_hidden_size,
            "dropout": config.head_dropout,
            "loss": config.loss,
            "bins": config.bins,
            "targets": len(config.targets),
            "pooling": config.pooling,
            "layers": config.layers,
            "layer_count": head.reader.count,
        }
    }


def _notes(processor: OmniSentProcessor) -> list[str]:
    """What the chat template and the official processor cannot do."""
    notes = []
    if processor.text_case != "as_is":
        notes.append(
            f"This model's own processor writes transcripts with text_case: {processor.text_case}; do so before you give"
            " one to the official processor, if it is all in capitals."
        )
    if processor.context_clips:
        notes.append(
            f"This model also read up to {processor.context_clips} preceding transcripts of a clip's video, which the chat template"
            " does not take."
        )
    if set(processor.modalities) & set(MEDIA):
        notes.append(
            "The official processor and servers sample frames in their own way, which changes the scores of clips with video or"
            f" audio; the settings of this model's own processor are in {SETTINGS_FILE}."
        )
    return notes


def card(
    config: OmniSentConfig, processor: OmniSentProcessor, linear: bool, notes: list[str], drift: Drift | None
) -> str:
    """The README.md of an official layout."""
    scales, family = config.label_scales, family_of(config.thinker_config)
    low, high = ([getattr(scale, end) for scale in scales] for end in ("low", "high"))
    ranges = [
        f"{name} from {scale.low:g} to {scale.high:g}" for name, scale in zip(config.targets, scales, strict=True)
    ]
    template = jinja2.Template(CARD.read_text(encoding="utf-8"), keep_trailing_newline=True)
    return template.render(
        about=config.about,
        linear=linear,
        head_words=head_words(config),
        targets=f"It predicts {joined(ranges)}",
        family=family.title,
        thinker_class=family.thinker_class.__name__,
        score_key=OFFICIAL_SCORE,
        low=low[0] if len(low) == 1 else f"torch.tensor({low})",
        high=high[0] if len(high) == 1 else f"torch.tensor({high})",
        reads=f" ({joined(processor.modalities)})",
        notes=notes,
        drift=_drift_line(drift),
    )


def _drift_line(drift: Drift | None) -> str:
    if drift is None:
        return f"{NOT_MEASURED[0].upper()}{NOT_MEASURED[1:]}."
    return (
        f"Merging changed the scores of {drift.clips} validation clips by {drift.mean:.4f} on average, at most"
        f" {drift.largest:.4f}."
    )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
