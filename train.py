"""Train a sentiment readout and evaluate it on the test split; leaves a run folder with the bundle in `model/`.

accelerate launch train.py configs/mosi.yaml [--field value ...]
omnisent train mosi [--field value ...]
"""

import logging
import sys
import time
from pathlib import Path

from omnisent.data.catalog import dataset_facts
from omnisent.data.clip import ONE_PERSON
from omnisent.training import run_folder
from omnisent.training.about import about_bundle
from omnisent.training.arguments import DataArguments, ModelArguments, OmniSentTrainingArguments, parse_arguments
from omnisent.training.backbone import check_adapter
from omnisent.training.build import build_trainer
from omnisent.training.collator import ClipDataset
from omnisent.training.data import prepare_data
from omnisent.training.environment import leave_cores_to_workers
from omnisent.training.error_line import error_line
from omnisent.training.outcome import (
    Outcome,
    calibrate,
    check_saved_bundle,
    run_metrics,
    save_bundle,
    write_results,
)
from omnisent.training.trainer import SentimentTrainer

logger = logging.getLogger("omnisent.train")


def run(model_args: ModelArguments, data_args: DataArguments, args: OmniSentTrainingArguments) -> dict:
    """One run: train (unless `evaluate_only`), predict, save; returns the contents of metrics.json."""
    folder, resumed = args.folder, run_folder.checkpoint_to_resume(args)
    leave_cores_to_workers(args)
    check_adapter(model_args, dataset_facts(data_args.dataset).score_range, training=not args.evaluate_only)
    data = prepare_data(model_args, data_args, args)
    if resumed is not None:
        run_folder.check_unchanged(folder, data.clips, with_media=data.with_media)
    if args.should_save:
        run_folder.begin(folder, resumed=resumed is not None)
        run_folder.write_config(folder, model_args, data_args, args)
        data.write_environment(folder)
    trainer, datasets = build_trainer(model_args, data_args, args, data)
    outcome = train_and_predict(trainer, datasets, resumed)
    metrics = run_metrics(outcome, trainer.model, data, model_args, args)
    if args.should_save:
        trainer.track(metrics)
        if not args.evaluate_only:
            if trainer.readout.saves_bundle:
                trainer.model.config.about = about_bundle(model_args, data.facts, data_args)
            save_bundle(folder, trainer.model, data.processor)
        del trainer  # frees its model before the bundle is loaded
        check_saved_bundle(folder, outcome, data, model_args, args)
        metrics = write_results(folder, outcome, metrics)
        print(summary(folder, metrics, trained=not args.evaluate_only))
    return metrics


def train_and_predict(trainer: SentimentTrainer, datasets: dict[str, ClipDataset], resumed: str | None) -> Outcome:
    """Train (unless `evaluate_only`), predict and calibrate on the validation split, and predict the evaluated split."""
    config, args = trainer.model.config, trainer.args
    keeps_calibration = trainer.readout.saves_bundle
    calibration = config.calibration if keeps_calibration else None  # of the bundle in `adapter`
    if not args.evaluate_only:
        if keeps_calibration:
            config.calibration = None  # checkpoints will have other weights, so other residuals
        trainer.train(resume_from_checkpoint=resumed)
        trainer.keep_final_of_others()
        trainer.save_state()
    used = {split: datasets[split] for split in dict.fromkeys(("valid", args.evaluate))}
    predictions, seconds = {}, 0.0
    for split, dataset in used.items():
        started = time.perf_counter()
        predictions[split] = trainer.predict_clips(dataset, split)
        seconds = time.perf_counter() - started
    if not args.evaluate_only:
        evaluations = trainer.evaluations() or [trainer.readout.rows(predictions["valid"])]
        calibration = calibrate(evaluations, datasets["valid"].clips, args.selecting_metric, trainer.convention)
        if keeps_calibration:
            config.calibration = calibration
    return Outcome(
        trainer.readout, args.evaluate, used, predictions, seconds, calibration, trainer.validation_metrics()
    )


def summary(folder: Path, metrics: dict, *, trained: bool) -> str:
    """One line for people: the MAE next to those of the best constant and of one person, and where the results are."""
    constant = run_folder.constant_mae(folder, split=metrics["split"])
    human = run_folder.one_person_mae(folder) if metrics["split"] == "test" else None
    person = "" if human is None else f", {ONE_PERSON} {human:.3f}"
    bundle = f", bundle {folder / 'model'}" if trained else ""
    return (
        f"{metrics['split']} MAE {metrics['mae']:.3f}, constant (train median) {constant:.3f}, ratio"
        f" {metrics['mae'] / constant:.2f}{person}; "
        f"run folder {folder}{bundle}"
    )


def start_logging(*, debug: bool = False) -> None:
    """Log messages to standard error; with `debug`, also tracebacks of expected errors."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if debug:
        logger.setLevel(logging.DEBUG)


def main(argv: list[str] | None = None) -> None:
    """Command line: invalid input gives one clear line and exit code 1; `--log_level debug` shows the traceback."""
    argv = sys.argv[1:] if argv is None else argv
    start_logging(debug="--log_level debug" in " ".join(argv).replace("=", " "))
    try:
        run(*parse_arguments(argv))
    except (ValueError, OSError, ImportError) as error:
        logger.debug("", exc_info=True)
        sys.exit(f"train.py: {error_line(error)}")


if __name__ == "__main__":
    main()
