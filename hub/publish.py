"""Publishes a run: assembles the bundle in a fresh folder, from the run's files alone, and uploads it in one commit.

    omnisent publish RUN_DIR org/name [--merged]

A bundle contains adapter, head, processor, code, card and results, and nothing else of the run: no optimiser state, no local
path, no pickle. A merged bundle contains all weights, with the adapter merged into the base model's dequantised
weights; how much that changes the scores is measured on validation clips.
"""

import os
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
import yaml

from ..adapter_omnisent import ADAPTER_DIR
from ..configuration_omnisent import OmniSentConfig
from ..data.catalog import dataset_facts
from ..data.load import load_clips
from ..data.tables import read_columns
from ..modeling_omnisent import REQUIREMENTS_FILE, OmniForSentimentRegression
from ..processing_omnisent import OmniSentProcessor
from ..readouts.discriminative import DiscriminativeReadout
from ..thinker_omnisent import load_thinker
from ..training import run_folder
from ..training.backbone import base_model_path, quantization_config
from ..training.collator import ClipDataset
from ..training.data import uses_media
from ..training.row_check import evenly_spaced
from ..training.targets import table_options
from .card import Drift, model_card, notice_of
from .card_metadata import dataset_name, eval_results
from .licence import Licence, licence_of
from .upload import PublishError, publish_folder

PACKAGE = Path(__file__).resolve().parent.parent
PROCESSOR_FILES = (
    *("processor_config.json", "preprocessor_config.json", "chat_template.jinja", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
)
CODE_FILES = ("*_omnisent.py", "thinker_*.py")
ENDPOINT_FILES = ("handler.py", REQUIREMENTS_FILE)
BUNDLE_FILES = (
    *("README.md", ".gitattributes", "config.json", *CODE_FILES, *PROCESSOR_FILES),
    *ENDPOINT_FILES,
    *("head.safetensors", f"{ADAPTER_DIR}/adapter_config.json", f"{ADAPTER_DIR}/adapter_model.safetensors"),
    *("model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
    *(".eval_results/*.yaml", "training_config.yaml", "LICENSE", "NOTICE"),
)
PRIVATE_FIELDS = (  # local paths, accounts and machines; left out of training_config.yaml
    *("output_dir", "root", "adapter", "feature_cache", "resume_from_checkpoint", "run_name", "project"),
    *("hub_token", "hub_model_id", "hub_revision", "deepspeed", "fsdp_config", "trackio_space_id", "trackio_bucket_id"),
)
VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt")  # some of their tokens look like paths
SECRET = re.compile(rb"hf_[A-Za-z0-9]{20,}")
DRIFT_CLIPS = 64
# Largest mean change of scores that merging may cause, in standard deviations of the training labels; rounding alone stays below.
MOST_DRIFT = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.05}


class NoClipsError(PublishError):
    """The validation clips, on which a merged model is checked, are missing."""


def publish_run(
    run: str | Path,
    repo_id: str,
    *,
    merged: bool = False,
    license: str | None = None,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload a finished discriminative run in one commit; publishing again replaces what an earlier run published.

    Args:
        run: its folder.
        merged: publish all weights instead of adapter and head.
        license: in the Hub's spelling; see `licence_of` for when it is needed.
        repo_id, private, token: as in `publish_folder`, which also says what is returned and raised.
    """
    run = Path(run)
    check_run(run, merged=merged)
    _check_results(run)
    licence = licence_of_run(run, license)
    return publish_folder(
        repo_id,
        repo_type="model",
        assemble=lambda draft: assemble(run, draft, repo_id, licence=licence, merged=merged),
        is_ours=lambda path: any(fnmatch(path, pattern) for pattern in BUNDLE_FILES),
        replaced=("*",),
        message="Publish the trained adapter and head" if not merged else "Publish the merged model",
        private=private,
        token=token,
    )


def check_run(run: Path, *, merged: bool) -> None:
    """Check that a run can be published.

    Raises:
        PublishError: for a run that is not finished or not discriminative, or whose base model nobody else can load.
    """
    if not (run / "metrics.json").is_file() or not (run / "model" / "config.json").is_file():
        raise PublishError(
            f"{run}: expected a finished discriminative run with metrics.json and model/; train one first"
        )
    base = OmniSentConfig.from_pretrained(run / "model").base_model
    if not merged and base is not None and _is_folder(base):
        raise PublishError(
            f"{run}: its base model is a local folder, which nobody else can load; publish it with --merged, or train"
            " on a base model from the Hub"
        )


def _check_results(run: Path) -> None:
    split = run_folder.read_metrics(run)["split"]
    if split != "test":
        raise PublishError(
            f"{run}: its results are of the {split} split, and a card shows those of the test split; train it again with"
            " --evaluate test --resume_from_checkpoint true, which only scores"
        )


def licence_of_run(run: Path, given: str | None) -> Licence:
    """See `licence_of`."""
    config = run_folder.read_config(run)
    return licence_of(config["base_model"], dataset_facts(config["dataset"]), given)


def _is_folder(base_model: str) -> bool:
    return os.path.isabs(base_model) or os.path.isdir(base_model)


def assemble(
    run: Path, draft: Path, repo_id: str, *, licence: Licence, merged: bool, needs_clips: bool = True
) -> Drift | None:
    """Write the bundle to publish into an empty folder.

    Args:
        run: its folder.
        draft: the empty folder.
        repo_id: the name that the card gives it.
        licence: under which it is published.
        merged: write all weights instead of adapter and head.
        needs_clips: whether a merged model is refused when it cannot be checked on the run's validation clips.

    Returns:
        How much merging changed the scores; `None` if that was not measured.

    Raises:
        PublishError: when a file contains a local path or a secret, or merging changes the scores too much.
    """
    bundle, drift = run / "model", None
    if merged:
        merge(run, draft)
    else:
        for pattern in ("config.json", "head.safetensors", f"{ADAPTER_DIR}/*", *ENDPOINT_FILES):
            for file in bundle.glob(pattern):
                _copy(file, draft / file.relative_to(bundle))
    code = PACKAGE if merged else bundle  # this package writes a merged checkpoint and checks its scores
    for place, patterns in ((code, CODE_FILES), (bundle, PROCESSOR_FILES)):
        for file in (file for pattern in patterns for file in place.glob(pattern)):
            _copy(file, draft / file.name)
    if merged:
        drift = measure_drift(run, draft) if needs_clips else drift_if_clips(run, draft)
    config = OmniSentConfig.from_pretrained(draft)
    base = {"base_model": config.base_model, "base_revision": config.base_revision}
    card = model_card(run, repo_id, **base, licence=licence, drift=drift)
    (draft / "README.md").write_text(card, encoding="utf-8")
    _copy(PACKAGE / "LICENSE", draft / "LICENSE")
    (draft / "NOTICE").write_text(notice_of(run, licence, merged=merged), encoding="utf-8")
    (draft / ".eval_results").mkdir()
    (draft / ".eval_results" / f"{dataset_name(run_folder.read_config(run)['dataset'])}.yaml").write_text(
        eval_results(run)
    )
    write_training_config(run, draft / "training_config.yaml")
    check_bundle(draft, forbidden=(str(run.resolve()), str(Path.cwd()), str(Path.home())))
    return drift


def merge(run: Path, folder: Path) -> None:
    """Write the run's model as one merged checkpoint: merged in float32, and saved in the run's dtype.

    The adapter was trained on the base as it was quantised, so it is merged into those weights, dequantised.
    """
    bundle = run / "model"
    model_args, _, _ = run_folder.read_arguments(run, folder)
    dtype = getattr(torch, model_args.dtype)
    config = OmniSentConfig.from_pretrained(bundle)
    thinker = load_thinker(
        base_model_path(str(config.base_model)),
        revision=config.base_revision,
        config=config.thinker_config,
        dtype=dtype,
        quantization_config=quantization_config(model_args),
    )
    model = OmniForSentimentRegression(config, thinker)
    if model_args.quantization != "none":
        thinker.dequantize(dtype=torch.float32)
    thinker.float()
    model.load_trained(bundle)
    model.merge_lora()
    thinker.to(dtype)
    if not _is_folder(str(config.base_model)):
        model.config.derived_from = {"base_model": config.base_model, "base_revision": config.base_revision}
    model.config.base_model = model.config.base_revision = None
    model.save_pretrained(folder)


def drift_if_clips(run: Path, folder: Path) -> Drift | None:
    """As `measure_drift`; `None` when the run's validation clips are missing."""
    try:
        return measure_drift(run, folder)
    except NoClipsError:
        return None


def measure_drift(run: Path, folder: Path) -> Drift:
    """How much the scores of the merged model in a folder differ from its run's, on some of the run's validation clips.

    Raises:
        PublishError: when the mean change is above `MOST_DRIFT`.
        NoClipsError: when the run's validation clips are missing.
    """
    model_args, data_args, _ = run_folder.read_arguments(run, folder)
    try:
        names = run_folder.target_names(run)
        columns = [score for _, score, _ in run_folder.columns_of(names)]
        kinds = {"id": str, **dict.fromkeys(columns, float)}
        recorded = read_columns(run / run_folder.PREDICTIONS["valid"], kinds)
        rows = [[row[column] for column in columns] for row in recorded]
        with_media = uses_media(data_args)
        options = table_options(data_args)
        clips = load_clips(
            data_args.dataset, root=data_args.root, with_media=with_media, missing_ok=True, options=options
        )
        by_id = {clip.id: clip for clip in clips}
        clips = [by_id[row["id"]] for row in recorded]
    except (OSError, ValueError, KeyError) as error:
        raise NoClipsError(
            f"{run}: a merged model is checked on the run's validation clips, which are missing ({error}); restore the data set and"
            " valid_predictions.csv (--resume_from_checkpoint true finishes an older run again), or publish without --merged"
        ) from error
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    model = OmniForSentimentRegression.from_pretrained(
        folder, dtype=getattr(torch, model_args.dtype), device_map={"": device}
    ).eval()
    processor = OmniSentProcessor.from_pretrained(folder)
    scales = model.config.label_scales
    readouts = [DiscriminativeReadout((scale.low, scale.high)) for scale in scales]
    dataset, places = ClipDataset(clips, processor, readouts), evenly_spaced(len(clips), DRIFT_CLIPS)
    with torch.no_grad():
        scores = [model(**processor([dataset.inputs[place]]).to(device)).scores.flatten().tolist() for place in places]
    changes = np.abs(np.array(scores) - np.array([rows[place] for place in places]))  # (clips, targets)
    drift = Drift(len(places), float(changes.mean()), float(changes.max()))
    for scale, change in zip(scales, changes.mean(0), strict=True):
        most = MOST_DRIFT[model_args.dtype] * scale.std
        if change > most:
            raise PublishError(
                f"{run}: merging changes the scores of {drift.clips} validation clips by {change:.4f} on average, at most"
                f" {most:.4f} is allowed; publish it without --merged, or train with dtype float32"
            )
    return drift


def check_bundle(folder: Path, *, forbidden: tuple[str, ...] = ()) -> None:
    """Read every file of a bundle and check that it may be published.

    Raises:
        PublishError: naming the file, when it is not part of a bundle, or contains a forbidden path or what looks like a Hub token.
    """
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        if not any(fnmatch(name, pattern) for pattern in BUNDLE_FILES):
            raise PublishError(f"{name} is not part of a bundle; remove it from the run's model folder")
        text = file.read_bytes() if file.suffix != ".safetensors" else _header(file)
        for path in () if name in VOCABULARIES else forbidden:
            if len(path) > 1 and _contains_path(text, path):
                raise PublishError(f"{name} contains the local path {path}; remove it and publish again")
        check_secret(name, text)


def check_secret(name: str, text: bytes) -> None:
    """Check that a file to publish contains nothing that looks like a Hub token.

    Raises:
        PublishError: naming the file.
    """
    if SECRET.search(text):
        raise PublishError(f"{name} contains what looks like a Hub token; remove it, and revoke the token if it is one")


def _contains_path(text: bytes, path: str) -> bool:
    return re.search(re.escape(path.encode()) + rb"(?![\w.-])", text) is not None


def _header(file: Path) -> bytes:
    """The names and metadata of a safetensors file."""
    with file.open("rb") as opened:
        return opened.read(int.from_bytes(opened.read(8), "little"))


def write_training_config(run: Path, path: Path) -> None:
    """training_config.yaml: every argument of the run except `PRIVATE_FIELDS`."""
    config = {key: value for key, value in run_folder.read_config(run).items() if key not in PRIVATE_FIELDS}
    config["dataset"] = dataset_name(config["dataset"])
    if os.path.isdir(config["base_model"]):
        config["base_model"] = Path(config["base_model"]).name
    path.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
