"""The run folder: config.yaml, environment.json, metrics.json, predictions.csv of test and validation, clip_facts.csv, ...

All later results are read from it. metrics.json is written last, so a folder that has it holds a finished run.
"""

import hashlib
import json
import logging
import math
import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from transformers import TrainerState

from ..data.catalog import LABEL
from ..data.clip import SPLITS, Clip, human_mae, labels_of, of_target
from ..data.fingerprint import differing_part, fingerprints
from ..data.overlap import overlap_lines, overlaps
from ..data.tables import read_columns, read_rows, write_table
from ..evaluation.metrics import METRICS, Numbers
from ..media_omnisent import longest_seconds, read_header
from ..readouts.base import SIGN_METRICS, UNCLIPPED_METRICS, Predictions
from .arguments import DataArguments, ModelArguments, OmniSentTrainingArguments
from .bad_clips import BadClip
from .environment import code_versions, device_name, process_count

PREDICTIONS = {"valid": "valid_predictions.csv", "test": "predictions.csv"}
EVALUATIONS = "validation"  # EVALUATIONS/STEP.npy: what the validation clips were given at a step
SPLITS_FILE = "splits.csv"  # of a run that split its clips itself
BEST, BEST_RECORD = "best", "validation.json"  # BEST/DECODING: the best adapter by another decoding than the run's own
PREDICTION_COLUMNS = {"id": str, "video_id": str, "label": float, "score": float, "raw": float}
CLIP_FACTS = {"id": str, "text": int, "audio": int, "video": int, "seconds": float}
FIXED = (
    *("readout", "targets", "score_range", "convention", "loss", "bins", "generative_loss"),
    *("balance", "target_weights"),
)  # settings that a resumed run must not change: what outputs, losses or checkpoints mean
BAD_CLIP_COLUMNS = {"id": str, "split": str, "reason": str, "kept": str}
KEYS_BEFORE = ("dataset", "split", "readout", "modalities", "seed", "n")  # keys of metrics.json before those of METRICS
UNCLIPPED = tuple(f"{key}_unclipped" for key in UNCLIPPED_METRICS)
ANSWER_KEYS = (
    *("unparsable_rate", "mae_parsable", "out_of_range_rate", "zero_rate", "mae_last_number", "legal_mass"),
    *(f"{key}_written_sign" for key in SIGN_METRICS),
)
KEYS_AFTER = (
    *(*UNCLIPPED, "decoding", *ANSWER_KEYS),
    *("bad_clips", "without_video", "without_audio", "denoise"),
    *("interval_coverage", "interval_coverage_low", "interval_coverage_high", "interval_width"),
    *("seconds_per_clip", "peak_memory_bytes", "trainable_parameters", "trainable_percent", "head_parameters"),
    *("layer_weights", "valid_last", "still_improving"),
)
KEYS = (*KEYS_BEFORE, *KEYS_AFTER)

logger = logging.getLogger("omnisent.run_folder")


def begin(folder: Path, *, resumed: bool) -> None:
    """Remove the results of an earlier run, and unless this one resumes it, best adapters and validation scores."""
    for name in ("metrics.json", "audit.json", *PREDICTIONS.values()):
        (folder / name).unlink(missing_ok=True)
    if not resumed:
        for name in (BEST, EVALUATIONS):
            shutil.rmtree(folder / name, ignore_errors=True)


def checkpoint_to_resume(args: OmniSentTrainingArguments) -> str | None:
    """The checkpoint to resume from: the folder given, or for `true` the last one of the run folder; `None` for a new run.

    Raises:
        FileNotFoundError: for `true` when the run folder has no complete checkpoint.
        ValueError: for a new run in a folder that holds checkpoints of another run.
    """
    folder, requested = args.folder, str(args.resume_from_checkpoint)
    if requested.lower() in ("none", "false"):
        if not args.evaluate_only and last_checkpoint(folder) is not None:
            raise ValueError(
                f"output_dir: {folder} holds checkpoints of another run; add --resume_from_checkpoint true to continue from the"
                " last one, remove them, or give another output_dir"
            )
        return None
    if requested.lower() != "true":
        return requested
    last = last_checkpoint(folder)
    if last is None:
        raise FileNotFoundError(f"resume_from_checkpoint: there is no complete checkpoint in {folder}")
    return str(last)


def last_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint of a run folder: Trainer writes its state last."""
    for path in sorted(folder.glob("checkpoint-[0-9]*"), key=lambda path: int(path.name.split("-")[1]), reverse=True):
        try:
            TrainerState.load_from_json(str(path / "trainer_state.json"))
        except (OSError, ValueError, TypeError):
            logger.warning("%s is incomplete and is skipped", path)
        else:
            return path
    return None


def config_dict(model: ModelArguments, data: DataArguments, training: OmniSentTrainingArguments) -> dict:
    """Every argument of a run, as in config.yaml."""
    return json.loads(json.dumps({**asdict(model), **asdict(data), **training.to_dict()}, default=str))


def write_config(folder: Path, model: ModelArguments, data: DataArguments, training: OmniSentTrainingArguments) -> None:
    """Write config.yaml: every argument of the run."""
    text = yaml.safe_dump(config_dict(model, data, training), sort_keys=False, allow_unicode=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(text, encoding="utf-8")


def read_config(folder: Path) -> dict:
    """Read config.yaml; fields that are newer than the run have their defaults, which do not change it."""
    stored = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    own = OmniSentTrainingArguments.__annotations__
    training = {one.name: one.default for one in fields(OmniSentTrainingArguments) if one.name in own}
    return {**asdict(ModelArguments()), **asdict(DataArguments()), **training, **stored}


def read_arguments(folder: Path, out: Path) -> tuple[ModelArguments, DataArguments, OmniSentTrainingArguments]:
    """Arguments to score with the bundle of a finished run as the run did; output goes to `out`."""
    config = read_config(folder)
    model, data = (
        {f.name: config[f.name] for f in fields(kind) if f.name in config} for kind in (ModelArguments, DataArguments)
    )
    kept = ("per_device_eval_batch_size", "dataloader_num_workers", "seed", "use_cpu", "disable_tqdm")
    training = OmniSentTrainingArguments(output_dir=str(out), **{name: config[name] for name in kept})
    return ModelArguments(**{**model, "adapter": str(folder / "model")}), DataArguments(**data), training


def target_names(folder: Path) -> list[str]:
    """The names of a run's targets."""
    return list(read_config(folder)["targets"])


def read_metrics(folder: Path, target: str | None = None) -> dict:
    """What `write_metrics` wrote; with one of several targets, its own figures in place of the means over all."""
    metrics = read_json(folder / "metrics.json")
    of_targets = metrics.get("targets") or {}
    return metrics if target is None or not of_targets else {**metrics, **of_targets[target]}


def read_environment(folder: Path, target: str | None = None) -> dict:
    """What `write_environment` wrote; with one of several targets, with its own figures."""
    environment = read_json(folder / "environment.json")
    return {**environment, **((environment.get("targets") or {}).get(target) or {})}


def read_predictions(folder: Path, *, split: str = "test", target: str | None = None) -> pd.DataFrame:
    """What `write_predictions` wrote; what was not known is empty, or nan, as video_id and raw in folders of earlier versions.

    Args:
        folder: of the run.
        split: `valid` or `test`.
        target: one of several, whose rows are those of the clips with a label for it; `None` if there is one.

    Raises:
        FileNotFoundError: when the file is missing.
        ValueError: for a run of several targets, if none is named.
    """
    file, unknown = folder / PREDICTIONS[split], {"raw": math.nan}
    _, first = next(iter(read_rows(file)), ("", {}))
    if {"label", "score"} <= first.keys() or not first:
        rows = read_columns(file, PREDICTION_COLUMNS, unknown, absent={"video_id": "", **unknown})
        return pd.DataFrame(rows, columns=list(PREDICTION_COLUMNS))
    names = [name for name in first if f"{name}_label" in first]
    if target not in names:
        raise ValueError(f"{file} has the targets {', '.join(names)}; name one of them, not {target}")
    own = dict(zip(PREDICTION_COLUMNS, ("id", "video_id", f"{target}_label", target, f"{target}_raw"), strict=True))
    wanted = {own[column]: kind for column, kind in PREDICTION_COLUMNS.items()}
    rows = read_columns(file, wanted, {own["raw"]: math.nan, own["label"]: math.nan})
    table = pd.DataFrame(rows, columns=list(wanted)).rename(columns={name: column for column, name in own.items()})
    return table[table["label"].notna()].reset_index(drop=True)


def videos_of(predictions: pd.DataFrame) -> list[str] | None:
    """The video (n,) of each clip, as `known_videos`."""
    return known_videos(list(predictions["video_id"]))


def known_videos(videos: Sequence[str | None]) -> list[str] | None:
    """The video (n,) of each clip; `None` if that of any clip is not known, or all are of one."""
    known = [video for video in videos if video]
    return known if len(known) == len(videos) and len(set(known)) > 1 else None


def write_environment(
    folder: Path, clips: Sequence[Clip], *, with_media: bool, documents: str, targets: Sequence[str]
) -> None:
    """Write environment.json: versions, commit, device, a fingerprint of the clips, and simple figures of their labels.

    `overlap` says what two splits share; `documents` is what the videos are called. `human_mae` is the MAE of one person against
    the mean of the others on the test clips, null unless it is known of each. Of several targets, `targets` has such figures of
    each by its name.
    """
    of_targets = {name: _label_figures(of_target(clips, place)) for place, name in enumerate(targets)}
    environment = {
        "device": device_name(),
        "processes": process_count(),
        **code_versions(),
        "clips": {split: sum(clip.split == split for clip in clips) for split in SPLITS},
        "clips_sha256": _fingerprint(clips),
        "fingerprints": fingerprints(clips, with_media=with_media),
        "overlap": overlap_lines(overlaps(clips), documents),
        **(_label_figures(clips) if len(of_targets) < 2 else {"targets": of_targets}),
    }
    write_json(folder / "environment.json", environment)


def _label_figures(clips: Sequence[Clip]) -> dict[str, float | None]:
    return {
        "train_median": float(np.median(labels_of(clip for clip in clips if clip.split == "train"))),
        "human_mae": human_mae(clip for clip in clips if clip.split == "test"),
    }


def write_splits(folder: Path, clips: Sequence[Clip]) -> None:
    """Write splits.csv: id and split of each clip."""
    write_table(folder / SPLITS_FILE, {"id": str, "split": str}, [(clip.id, clip.split) for clip in clips])


def check_unchanged(folder: Path, clips: Sequence[Clip], *, with_media: bool) -> None:
    """Check that the clips of a run that goes on are those that it began with.

    Raises:
        ValueError: naming the folder and what changed.
    """
    if not (folder / "environment.json").is_file():
        return
    began_with = read_environment(folder).get("fingerprints", {})  # not in folders from before
    part = differing_part(began_with, fingerprints(clips, with_media=with_media))
    if part:
        raise ValueError(
            f"{folder}: the {part} of the clips changed since this run began; restore them, or give another output_dir"
        )


def check_same_targets(
    folder: Path, model: ModelArguments, data: DataArguments, training: OmniSentTrainingArguments
) -> None:
    """Check that a run that goes on is trained for what it began with.

    Raises:
        ValueError: naming the folder, and the field that changed.
    """
    if not (folder / "config.yaml").is_file():
        return
    began_with, now = read_config(folder), config_dict(model, data, training)
    for field in FIXED:
        before = began_with.get(field, now[field])  # not in folders from before
        if before != now[field]:
            raise ValueError(
                f"{folder}: {field} was {before} when this run began, and is {now[field]} now; a run goes on with what it began"
                " with. Restore it, or give another output_dir"
            )


def other_clips(first: Path, second: Path) -> str | None:
    """What differs between the clips of two runs, such as `transcripts` or `media`; `None` if nothing does."""
    ours, theirs = read_environment(first), read_environment(second)
    part = differing_part(ours.get("fingerprints", {}), theirs.get("fingerprints", {}))
    if part is None and ours["clips_sha256"] != theirs["clips_sha256"]:
        return "ids, transcripts, labels or splits"  # of folders from before, which do not tell them apart
    return part


def as_valid(metrics: dict) -> dict:
    """The metrics of the validation split under their keys in metrics.json."""
    return {f"valid_{key}": value for key, value in metrics.items() if key != "decoding"}


def write_metrics(folder: Path, values: dict) -> dict:
    """Write metrics.json with every key; values that were not measured are null. `targets` is there if there are several.

    Raises:
        KeyError: for an unknown key.
    """
    valid = [key for key in (f"valid_{one}" for one in (*METRICS, *UNCLIPPED, *ANSWER_KEYS)) if key in values]
    several = ["targets"] if "targets" in values else []
    metrics = dict.fromkeys((*KEYS_BEFORE, *(key for key in METRICS if key in values), *KEYS_AFTER, *valid, *several))
    unknown = values.keys() - metrics.keys()
    if unknown:
        raise KeyError(f"metrics.json has no key {sorted(unknown)}")
    metrics |= values
    write_json(folder / "metrics.json", metrics)
    return metrics


def columns_of(targets: Sequence[str]) -> list[tuple[str, str, str]]:
    """For each target, its columns of a table of predictions: label, score, and score before clipping."""
    return (
        [("label", "score", "raw")] if len(targets) == 1 else [(f"{one}_label", one, f"{one}_raw") for one in targets]
    )


def write_predictions(
    folder: Path,
    clips: Sequence[Clip],
    scores: Numbers,
    raw: Numbers,
    *,
    split: str = "test",
    targets: Sequence[str] = (LABEL,),
) -> None:
    """Write predictions.csv or valid_predictions.csv, in label units and in the order of the split.

    Its columns are id, video_id, label, score, and raw, the score before clipping, which is empty where it is not a number. For
    several targets they are id, video_id, and for each TARGET_label, which is empty where it is missing, TARGET and TARGET_raw.

    Args:
        folder: of the run.
        clips: n of them.
        scores: (n,), or (n, K) of K targets.
        raw: likewise.
        split: `valid` or `test`.
        targets: the names of the targets.
    """
    names = columns_of(targets)
    columns = {"id": str, "video_id": str, **{name: float for group in names for name in group}}
    scores, raw = (np.asarray(values, dtype=np.float64).reshape(len(clips), -1) for values in (scores, raw))
    rows = []
    for clip, own, before in zip(clips, scores, raw, strict=True):
        cells = zip(clip.labels, own, before, strict=True)
        flat = [
            value
            for label, score, one in cells
            for value in (label, float(score), float(one) if math.isfinite(one) else None)
        ]
        rows.append((clip.id, clip.video_id or "", *flat))
    write_table(folder / PREDICTIONS[split], columns, rows)


def constant_mae(folder: Path, *, split: str = "test", target: str | None = None) -> float:
    """MAE of the training labels' median on the clips of a split, label units; for several targets, of the one that is named."""
    labels = read_predictions(folder, split=split, target=target)["label"]
    return float((labels - read_environment(folder, target)["train_median"]).abs().mean())


def one_person_mae(folder: Path, target: str | None = None) -> float | None:
    """MAE of one person against the mean of the others on a run's test clips, label units; `None` if it is not known."""
    return read_environment(folder, target).get("human_mae")  # not in folders from before


def clip_facts(clips: Sequence[Clip]) -> list[dict[str, Any]]:
    """What `CLIP_FACTS` names, for each clip: which modalities it has (1 or 0), and its duration, by its files' headers."""
    rows = []
    for clip in clips:
        headers = [read_header(path) for path in (clip.video, clip.audio) if path]
        audio = any(header.has_audio for header in (headers[-1:] if clip.audio else headers))
        seconds = longest_seconds(headers) or None
        has = (clip.id, int(bool(clip.text)), int(audio), int(any(h.has_video for h in headers)), seconds)
        rows.append(dict(zip(CLIP_FACTS, has, strict=True)))
    return rows


def write_clip_facts(folder: Path, clips: Sequence[Clip]) -> None:
    """Write clip_facts.csv: id, which modalities a clip has (1 or 0), and its duration in seconds."""
    write_table(folder / "clip_facts.csv", CLIP_FACTS, [list(row.values()) for row in clip_facts(clips)])


def read_clip_facts(folder: Path) -> pd.DataFrame | None:
    """What `write_clip_facts` wrote, an unknown duration as NaN; `None` for a run without the file."""
    if not (folder / "clip_facts.csv").is_file():
        return None
    rows = read_columns(folder / "clip_facts.csv", CLIP_FACTS, empty={"seconds": math.nan})
    return pd.DataFrame(rows, columns=list(CLIP_FACTS))


def write_answers(
    folder: Path, clips: Sequence[Clip], predictions: Sequence[Predictions], targets: Sequence[str] = (LABEL,)
) -> None:
    """Write answers.csv of a generative run: id, label, generated answer, and the number parsed from it, if any; of several targets
    also which was asked for.
    """
    columns = {"id": str, "target": str, "label": float, "answer": str, "parsed": float}
    rows = []
    for place, name in enumerate(targets):
        found = zip(clips, predictions[place].answers or (), predictions[place].raw, strict=True)
        for clip, answer, value in found:
            rows.append((clip.id, name, clip.labels[place], answer, None if math.isnan(value) else float(value)))
    used = [place for place, name in enumerate(columns) if name != "target" or len(targets) > 1]
    names = [*columns]
    write_table(
        folder / "answers.csv",
        {names[place]: columns[names[place]] for place in used},
        [[row[place] for place in used] for row in rows],
    )


def write_bad_clips(folder: Path, bad: Sequence[BadClip]) -> None:
    """Write bad_clips.csv: id, split and reason of each clip that cannot be used as it is, and what of it is kept."""
    write_table(folder / "bad_clips.csv", BAD_CLIP_COLUMNS, [astuple(clip) for clip in bad])


def read_bad_clips(folder: Path) -> list[BadClip]:
    """What `write_bad_clips` wrote."""
    return [BadClip(**row) for row in read_columns(folder / "bad_clips.csv", BAD_CLIP_COLUMNS)]


def write_json(path: Path, value: dict) -> None:
    """Write a JSON file atomically; several processes may write the same one."""
    draft = path.with_suffix(f"{path.suffix}.part-{os.getpid()}-{threading.get_ident()}")
    draft.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    draft.replace(path)


def read_json(path: Path) -> dict:
    """What `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def _fingerprint(clips: Sequence[Clip]) -> str:
    """Hash of ids, transcripts, labels and splits, in their order; `fingerprints` tells more of them apart."""
    rows = [[clip.id, clip.text, clip.labels if clip.further else clip.label, clip.split] for clip in clips]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
