"""Train a sentiment readout and evaluate it on the test split; leaves a run folder with the bundle in `model/`.

accelerate launch train.py configs/mosi.yaml [--field value ...]
"""

import gc
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, TrainerState, set_seed

from omnisent.data.built import build_record
from omnisent.data.catalog import DatasetFacts, dataset_facts, load_clips
from omnisent.data.clip import SPLITS, Clip
from omnisent.evaluation.intervals import LEVEL, calibration, coverage
from omnisent.processing_omnisent import OmniSentProcessor, rating_instruction
from omnisent.readouts.base import Readings, Readout
from omnisent.training import run_folder
from omnisent.training.argument_checks import refusing
from omnisent.training.arguments import DataArguments, ModelArguments, OmniSentTrainingArguments, parse_arguments
from omnisent.training.backbone import base_of, build_model, build_readout, check_adapter
from omnisent.training.bad_clips import find_bad_clips, is_complete
from omnisent.training.collator import ClipCollator, ClipDataset
from omnisent.training.error_line import error_line
from omnisent.training.feature_cache import fill_cache, open_cache
from omnisent.training.plan import adapter_share
from omnisent.training.row_check import TOLERANCES, check_rows
from omnisent.training.trainer import SentimentTrainer

logger = logging.getLogger("omnisent.train")


def run(model_args: ModelArguments, data_args: DataArguments, args: OmniSentTrainingArguments) -> dict:
    """One training run; returns what metrics.json holds."""
    folder, resumed = Path(args.output_dir), checkpoint(args)
    if resumed is None and not args.evaluate_only and last_checkpoint(folder) is not None:
        raise ValueError(
            f"output_dir: {folder} holds checkpoints of another run; add --resume_from_checkpoint true to go on from the last one,"
            " remove them, or give another output_dir"
        )
    leave_cores_to_workers(args)
    check_adapter(model_args, dataset_facts(data_args.dataset).score_range, training=not args.evaluate_only)
    data = prepare_data(model_args, data_args, args)
    if args.should_save:
        run_folder.begin(folder)
        run_folder.write_config(folder, model_args, data_args, args)
        run_folder.write_environment(folder, data.clips)
    model, outcome = train_and_predict(model_args, data_args, args, data, resumed)
    test, readout = data.splits["test"], outcome.readout
    references, scores = [clip.label for clip in test], outcome.readout.scores(outcome.readings)
    zero_shot = args.evaluate_only and not model_args.adapter
    lora, percent = (0, 0.0) if zero_shot else adapter_share(model.model.config, model_args)
    metrics = {
        "dataset": data.facts.name,
        "split": "test",
        "readout": readout.name,
        "modalities": data.processor.modalities,
        "seed": args.seed,
        "n": len(references),
        **readout.metrics(outcome.readings, references, data.facts.convention),
        "bad_clips": len(data.bad),
        "denoise": data.denoise,
        "interval_coverage": interval_coverage(outcome.calibration, scores, references),
        "seconds_per_clip": outcome.seconds / len(references),
        "peak_memory_bytes": run_folder.peak_memory_bytes(),
        "trainable_parameters": lora,
        "trainable_percent": percent,
        "head_parameters": sum(p.numel() for name, p in model.named_parameters() if name.startswith("score.")),
    }
    if args.should_save:
        if not args.evaluate_only:
            save_bundle(folder, model, data.processor)
        model = None  # there need not be memory for two
        model, processor = load_again(folder, model_args, args, data)
        tolerance = TOLERANCES[model_args.dtype] * float(data.labels.std())
        check_rows(model, processor, readout, outcome.dataset, outcome.readings, tolerance=tolerance)
        run_folder.write_predictions(folder, test, scores)
        run_folder.write_clip_facts(folder, test)
        if outcome.valid_scores is not None:
            run_folder.write_predictions(folder, data.splits["valid"], outcome.valid_scores, split="valid")
        if outcome.readings.answers is not None:
            run_folder.write_answers(folder, test, outcome.readings)
        metrics = run_folder.write_metrics(folder, metrics)
        floor = float(np.mean(np.abs(np.array(references) - np.median(data.labels))))
        bundle = "" if args.evaluate_only else f", bundle {folder / 'model'}"
        print(
            f"test MAE {metrics['mae']:.3f}, constant (train median) {floor:.3f}, ratio {metrics['mae'] / floor:.2f}; "
            f"run folder {folder}{bundle}"
        )
    return metrics


@dataclass(frozen=True)
class Outcome:
    """What a run predicts.

    Attributes:
        readout: how.
        dataset: the test split, as it was predicted on.
        readings: of the test split, in its order.
        seconds: that the test split took.
        calibration: the intervals of the kept weights; `None` where there are none.
        valid_scores: of the validation split, label units; `None` without training.
    """

    readout: Readout
    dataset: ClipDataset
    readings: Readings
    seconds: float
    calibration: dict | None
    valid_scores: np.ndarray | None


def train_and_predict(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: OmniSentTrainingArguments,
    data: "PreparedData",
    resumed: str | None,
) -> tuple[PreTrainedModel, Outcome]:
    """The trained model, with its calibration, and what it says of the validation and test splits."""
    processor, score_range = data.processor, data.facts.score_range
    readout = build_readout(model_args, processor.tokenizer, score_range)
    cache = open_cache(model_args, data_args, processor) if data_args.feature_cache else None
    datasets = {name: ClipDataset(data.splits[name], processor, readout, cache) for name in SPLITS}
    if cache is not None:
        wanted = SPLITS[-1:] if args.evaluate_only else SPLITS
        fill_cache(cache, model_args, [clip for name in wanted for clip in datasets[name].inputs], processor, args)
    set_seed(args.seed)  # here, so that a run does not depend on what the cache already holds
    model = build_model(model_args, **data.scale, device=args.device, towers=cache is None)
    with refusing((), "these settings cannot be used together"):
        trainer = SentimentTrainer(
            model=model,
            args=args,
            data_collator=ClipCollator(processor, readout),
            train_dataset=datasets["train"],
            eval_dataset=datasets["valid"],
            processing_class=processor,
            readout=readout,
            convention=data.facts.convention,
        )
    discriminative = readout.name == "discriminative"
    known = model.config.calibration if discriminative else None  # of the bundle that `adapter` names
    valid_scores = None
    if not args.evaluate_only:
        if discriminative:
            model.config.calibration = None  # its residuals are not those of the weights that checkpoints will hold
        trainer.train(resume_from_checkpoint=resumed)
        trainer.save_state()
        valid_scores = readout.scores(trainer.read(datasets["valid"], "valid"))
        known = calibrate(valid_scores, data.splits["valid"])
        if discriminative:
            model.config.calibration = known
    started = time.perf_counter()
    readings = trainer.read(datasets["test"], "test")
    seconds = time.perf_counter() - started
    return model, Outcome(readout, datasets["test"], readings, seconds, known, valid_scores)


def load_again(
    folder: Path, model_args: ModelArguments, args: OmniSentTrainingArguments, data: "PreparedData"
) -> tuple[PreTrainedModel, OmniSentProcessor]:
    """The run's saved bundle as anyone would load it, in the run's number format; without training, what was evaluated."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    bundle, processor = folder / "model", data.processor
    if not args.evaluate_only:
        model_args, processor = replace(model_args, adapter=str(bundle)), OmniSentProcessor.from_pretrained(bundle)
    return build_model(model_args, **data.scale, device=args.device), processor


@dataclass(frozen=True)
class PreparedData:
    """The clips of a run and what turns them into inputs.

    Attributes:
        facts: of the data set.
        denoise: what the sound went through when the data set was built.
        processor: with the run's prompt, modalities and frame budget.
        splits: usable clips of train, valid and test.
        bad: id, split and reason of each clip that was left out because it cannot be used.
    """

    facts: DatasetFacts
    denoise: str
    processor: OmniSentProcessor
    splits: dict[str, list[Clip]]
    bad: list[tuple[str, str, str]]

    @property
    def labels(self) -> np.ndarray:
        """Of the training split, label units."""
        return np.array([clip.label for clip in self.splits["train"]])

    @property
    def scale(self) -> dict:
        """Mean and standard deviation of the training labels, and the score range, in label units."""
        spread = {"label_mean": float(self.labels.mean()), "label_std": float(self.labels.std())}
        return {**spread, "score_range": self.facts.score_range}

    @property
    def clips(self) -> list[Clip]:
        """Those of all splits, in the order train, valid, test."""
        return [clip for name in SPLITS for clip in self.splits[name]]


def prepare_data(model_args: ModelArguments, data_args: DataArguments, args: OmniSentTrainingArguments) -> PreparedData:
    """Read, check and split the clips that the arguments name.

    Raises:
        ValueError: for labels outside the range, or a split without a usable clip.
        FileNotFoundError: when the data set or its media are missing.
    """
    facts, record = dataset_facts(data_args.dataset), build_record(data_args.dataset)
    with args.main_process_first(desc="preparing the clips and the processor"):
        clips = load_clips(
            data_args.dataset,
            root=data_args.root,
            with_media=uses_media(data_args),
            missing_ok=data_args.on_bad_clip == "skip",
        )
        check_labels(clips, facts.score_range)
        processor = build_processor(model_args, data_args, facts.score_range)
        clips, bad = drop_bad_clips(clips, processor, data_args, args)
    if data_args.complete_clips:
        complete = [clip for clip in clips if is_complete(clip)]
        logger.info("%d of %d clips have text, sound and picture", len(complete), len(clips))
        clips = complete
    splits = {name: [clip for clip in clips if clip.split == name] for name in SPLITS}
    for name in SPLITS:
        if not splits[name]:
            raise ValueError(
                f"{data_args.dataset}: no usable clip in the {name} split; training needs all of {', '.join(SPLITS)}"
            )
    return PreparedData(facts, record.denoise if record else "none", processor, splits, bad)


def leave_cores_to_workers(args: OmniSentTrainingArguments) -> None:
    """On a CPU, compute with the cores that DataLoader workers do not need; more threads than cores are slower for both."""
    if args.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - args.dataloader_num_workers))


def uses_media(data_args: DataArguments) -> bool:
    """Whether any media file is opened."""
    return data_args.complete_clips or list(data_args.modalities) != ["text"]


def build_processor(
    model_args: ModelArguments, data_args: DataArguments, score_range: tuple[float, float]
) -> OmniSentProcessor:
    """The base model's processor with this run's prompt, modalities and frame budget."""
    words = ("system_prompt", "instruction", "transcript_template", "context_template")
    wording = {name: getattr(data_args, name) for name in words}
    wording["instruction"] = data_args.instruction or rating_instruction(*score_range)
    budget = ("context_clips", "fps", "min_frames", "max_frames", "min_pixels", "max_pixels", "exact_resize")
    base, revision = base_of(model_args)
    return OmniSentProcessor.from_base(
        base,
        revision=revision,
        modalities=data_args.modalities,
        **{name: value for name, value in wording.items() if value is not None},
        **{name: getattr(data_args, name) for name in budget},
    )


def check_labels(clips: Sequence[Clip], score_range: tuple[float, float]) -> None:
    """Every clip of a split has a label in the score range.

    Raises:
        ValueError: naming the first clip that has not, and how many there are.
    """
    low, high = score_range
    wrong = [c for c in clips if c.split in SPLITS and (c.label is None or not low <= c.label <= high)]
    if wrong:
        raise ValueError(
            f"{len(wrong)} clips without a label in [{low}, {high}], first {wrong[0].id} ({wrong[0].label}); "
            "correct the table or leave these clips' split empty"
        )


def drop_bad_clips(
    clips: list[Clip], processor: OmniSentProcessor, data_args: DataArguments, args: OmniSentTrainingArguments
) -> tuple[list[Clip], list[tuple[str, str, str]]]:
    """With `on_bad_clip: skip`, the clips that can be used and the reasons of the others; the main process looks, all read."""
    folder = Path(args.output_dir)
    clips = [clip for clip in clips if clip.split in SPLITS]
    if data_args.on_bad_clip == "error":
        return clips, []
    if args.process_index == 0:
        run_folder.write_bad_clips(folder, find_bad_clips(clips, processor, workers=args.dataloader_num_workers))
    bad = run_folder.read_bad_clips(folder)
    if bad:
        logger.warning("%d clips left out, listed in %s", len(bad), folder / "bad_clips.csv")
    left_out = {clip_id for clip_id, _, _ in bad}
    return [clip for clip in clips if clip.id not in left_out], bad


def checkpoint(args: OmniSentTrainingArguments) -> str | None:
    """`--resume_from_checkpoint` as a folder: a path, or `true` for the run folder's last checkpoint."""
    wanted = args.resume_from_checkpoint
    if wanted is None or str(wanted).lower() == "false":
        return None
    if str(wanted).lower() != "true":
        return str(wanted)
    last = last_checkpoint(Path(args.output_dir))
    if last is None:
        raise FileNotFoundError(f"resume_from_checkpoint: there is no whole checkpoint in {args.output_dir}")
    return str(last)


def last_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint of a run folder that was written to its end; Trainer's state is what it writes last."""
    for path in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True):
        try:
            TrainerState.load_from_json(str(path / "trainer_state.json"))
        except (OSError, ValueError, TypeError):
            logger.warning("%s is not whole and is passed over", path)
        else:
            return path
    return None


def calibrate(scores: Sequence[float], clips: Sequence[Clip]) -> dict:
    """Intervals from the validation split's scores, by the weights that are kept."""
    known = calibration(scores, [clip.label for clip in clips])
    if str(LEVEL) not in known["half_widths"]:
        logger.warning(
            "%d validation clips are too few for intervals of level %s; interval_coverage stays null",
            known["clips"],
            LEVEL,
        )
    return known


def interval_coverage(known: dict | None, scores: Sequence[float], labels: Sequence[float]) -> float | None:
    """Share of the test split's labels within their intervals of level 0.9; `None` where there are none."""
    width = (known or {}).get("half_widths", {}).get(str(LEVEL))
    return None if width is None else coverage(scores, labels, width)


def save_bundle(folder: Path, model, processor: OmniSentProcessor) -> None:
    """`model/`: what AutoModel and AutoProcessor load, and what a repository on the Hub holds."""
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "model" / "training_config.yaml").write_bytes((folder / "config.yaml").read_bytes())


def main(argv: list[str] | None = None) -> None:
    """Command line: one clear line and exit code 1 for input that is wrong; `--log_level debug` shows where it was found."""
    argv = sys.argv[1:] if argv is None else argv
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if "--log_level debug" in " ".join(argv).replace("=", " "):
        logger.setLevel(logging.DEBUG)
    try:
        run(*parse_arguments(argv))
    except (ValueError, OSError, ImportError) as error:
        logger.debug("", exc_info=True)
        sys.exit(f"train.py: {error_line(error)}")


if __name__ == "__main__":
    main()
