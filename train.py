"""Train a sentiment readout and evaluate it on the test split; leaves a run folder with the bundle in `model/`.

accelerate launch train.py configs/mosi.yaml [--field value ...]
omnisent train mosi [--field value ...]
"""

import logging
import sys
import time
from pathlib import Path

from omnisent.data.clip import ONE_PERSON
from omnisent.evaluation.metrics import over_constant
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
from omnisent.training.targets import targets_of
from omnisent.training.trainer import SentimentTrainer

logger = logging.getLogger("omnisent.train")


def run(model_args: ModelArguments, data_args: DataArguments, args: OmniSentTrainingArguments) -> dict:
    """One run: train (unless `evaluate_only`), predict, save; returns the contents of metrics.json."""
    folder, resumed = args.folder, run_folder.checkpoint_to_resume(args)
    leave_cores_to_workers(args)
    check_adapter(model_args, targets_of(data_args), training=not args.evaluate_only)
    data = prepare_data(model_args, data_args, args)
    if resumed is not None:
        run_folder.check_same_targets(folder, model_args, data_args, args)
        run_folder.check_unchanged(folder, data.clips, with_media=data.with_media)
    if args.should_save:
        run_folder.begin(folder, resumed=resumed is not None)
        run_folder.write_config(folder, model_args, data_args, args)
        data.write_environment(folder)
        if data_args.auto_split is not None or data_args.group_split:
            run_folder.write_splits(folder, data.clips)
    trainer, datasets = build_trainer(model_args, data_args, args, data)
    outcome = train_and_predict(trainer, datasets, resumed)
    metrics = run_metrics(outcome, trainer.model, data, model_args, args)
    if args.should_save:
        trainer.track(metrics)
        if not args.evaluate_only:
            if trainer.readouts[0].saves_bundle:
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
    readouts, names = trainer.readouts, [target.name for target in trainer.targets]
    keeps_calibration, calibration = readouts[0].saves_bundle, {}
    if keeps_calibration:  # that of the bundle in `adapter`
        calibration = {name: own for name in names if (own := config.calibration_of(name)) is not None}
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
        evaluations = trainer.evaluations() or [trainer.rows(predictions["valid"])]
        calibration = calibrate(evaluations, datasets["valid"].clips, args.selecting_metric, trainer.targets)
        if keeps_calibration:
            config.calibration = calibration[names[0]] if len(names) == 1 else calibration
    course = trainer.validation_metrics()
    return Outcome(readouts, trainer.targets, args.evaluate, used, predictions, seconds, calibration, course)


def summary(folder: Path, metrics: dict, *, trained: bool) -> str:
    """For people: the MAE of each target next to those of the best constant and of one person, and where the results are."""
    names: list[str | None] = [*metrics["targets"]] if "targets" in metrics else [None]
    lines = [_in_words(folder, metrics, name) for name in names]
    bundle = f", bundle {folder / 'model'}" if trained else ""
    return "; ".join([*lines, f"run folder {folder}{bundle}"])


def _in_words(folder: Path, metrics: dict, target: str | None) -> str:
    mae = metrics["mae"] if target is None else metrics["targets"][target]["mae"]
    constant = run_folder.constant_mae(folder, split=metrics["split"], target=target)
    human = run_folder.one_person_mae(folder, target) if metrics["split"] == "test" else None
    person = "" if human is None else f", {ONE_PERSON} {human:.3f}"
    of = "" if target is None else f"{target}: "
    ratio = over_constant(mae, constant)
    times = "" if ratio is None else f", ratio {ratio:.2f}"
    return f"{of}{metrics['split']} MAE {mae:.3f}, constant (train median) {constant:.3f}{times}{person}"


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
