"""transformers' Trainer with two learning rates, checkpoints of adapter and head only, and the field's metrics.

It also checks what Trainer does not: that every prediction belongs to its clip, and that every loss and gradient is finite.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..data.catalog import Target
from ..heads_omnisent import NotFiniteError
from ..readouts.base import Predictions, Readout
from .collator import ClipDataset
from .row_check import check_order
from .run_folder import BEST, BEST_RECORD, EVALUATIONS, read_json, write_json
from .targets import metrics_by_target, over_targets

SHOWN_CLIPS = 8
SAME_MAE = 1e-4  # label units

logger = logging.getLogger("omnisent.trainer")


class SentimentTrainer(Trainer):
    """Trains the model of a readout; a checkpoint holds adapter, head, processor and the state of Trainer.

    If the readout's model can be decoded in other ways, each of these is evaluated too, and its best adapter is kept.

    Args:
        readouts: one for each target, of the same kind.
        targets: what is rated.
        *args, **kwargs: of transformers' Trainer.
    """

    def __init__(self, *args, readouts: Sequence[Readout], targets: Sequence[Target] = (Target(),), **kwargs):
        super().__init__(*args, compute_metrics=self._metrics, **kwargs)
        self.readouts, self.targets = list(readouts), tuple(targets)
        decodings = [readout.other_decodings() for readout in readouts] if self.args.load_best_model_at_end else []
        self.other_readouts = list(zip(*decodings, strict=True))  # of each decoding those of the targets
        self._evaluations: dict[int, np.ndarray] = {}  # by step
        self._step_clips: list[torch.Tensor] = []  # indices of the clips since the last optimizer step
        if self.args.early_stopping_patience:
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))

    optimizer: torch.optim.Optimizer | None

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Parameter groups for adapter and head, each with its learning rate; no weight decay on biases and norms."""
        if self.optimizer is not None:
            return self.optimizer
        model = self.model if model is None else model
        decayed = set(self.get_decay_parameter_names(model))
        adapter_rate = self.args.adapter_learning_rate(self.readouts[0].name)
        groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                in_head = ".score." in f".{name}"
                rate = self.args.head_learning_rate if in_head else adapter_rate
                decay = self.args.weight_decay if name in decayed else 0.0
                groups.setdefault((rate, decay), []).append(parameter)
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
        self.optimizer = optimizer_class(
            [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()],
            **options,
        )
        return self.optimizer

    def predict_clips(self, dataset: ClipDataset, name: str) -> list[Predictions]:
        """For each target, the predictions for the clips of a data set, in their order.

        Raises:
            ValueError: when there is not one prediction per clip; or naming clips without a finite one.
        """
        output = self.predict(dataset, metric_key_prefix=name)
        _, places = output.label_ids
        return self._decoded(self.readouts, output.predictions[np.argsort(places)], dataset)

    @staticmethod
    def _decoded(readouts: Sequence[Readout], outputs: np.ndarray, dataset: ClipDataset) -> list[Predictions]:
        parts = dataset.by_target(outputs)
        return [readout.decode(part) for readout, part in zip(readouts, parts, strict=True)]

    def rows(self, predictions: Sequence[Predictions]) -> np.ndarray:
        """The rows (n, C) of `Readout.rows`, or of K targets (n, K, C)."""
        found = [readout.rows(own) for readout, own in zip(self.readouts, predictions, strict=True)]
        return found[0] if len(found) == 1 else np.stack(found, axis=1)

    def evaluations(self) -> list[np.ndarray]:
        """The `rows` for the validation clips, of every evaluation in training.

        Empty if no checkpoint is chosen; or with a warning, if those from before a resumption are missing or of another run.
        """
        if not self.args.load_best_model_at_end:
            return []
        maes = {entry["step"]: entry["eval_mae"] for entry in self.state.log_history if "eval_mae" in entry}
        labels = self.eval_dataset.labels
        for step, mae in maes.items():
            rows, file = self._evaluations.get(step), self.args.folder / EVALUATIONS / f"{step}.npy"
            if rows is None and file.is_file():
                rows = np.load(file)
            if rows is None or rows.shape[:-1] != labels.shape or abs(mean_error(rows, labels) - mae) > SAME_MAE:
                logger.warning(
                    "the validation scores of step %d are not in %s, so that prediction intervals are calibrated on the chosen"
                    " checkpoint's own residuals, and a little too narrow",
                    *(step, file.parent),
                )
                return []
            self._evaluations[step] = rows
        return [self._evaluations[step] for step in maes]

    def _keep_evaluation(self, rows: np.ndarray) -> None:
        self._evaluations[self.state.global_step] = rows
        if self.args.should_save:
            (self.args.folder / EVALUATIONS).mkdir(parents=True, exist_ok=True)
            np.save(self.args.folder / EVALUATIONS / f"{self.state.global_step}.npy", rows)

    def validation_metrics(self) -> list[float]:
        """The metric that selects checkpoints, of every evaluation so far in which it was defined."""
        name = f"eval_{self.args.selecting_metric}"
        return [entry[name] for entry in self.state.log_history if name in entry]

    def _get_train_sampler(self, train_dataset=None) -> Sampler | None:
        """Group by the duration in the files' headers; Trainer would encode every clip to get its length."""
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        clips = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return _GroupedByLength(
            self.args.train_batch_size * self.args.gradient_accumulation_steps, clips.lengths(), seed=seed
        )

    def _get_eval_sampler(self, eval_dataset: ClipDataset) -> Sampler | list[int]:
        """The order of the clips, or from long to short if training groups by length; `predict_clips` restores the order."""
        if self.args.train_sampling_strategy != "group_by_length":
            return SequentialSampler(eval_dataset)
        return np.argsort(eval_dataset.lengths())[::-1].tolist()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of a training batch.

        Raises:
            ValueError: when it is not finite in any process, with the clips and the first module with a bad value.
        """
        inputs = dict(inputs)
        clips = inputs.pop("clip_index")
        self._step_clips.append(clips)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        bad = ~loss.detach().isfinite()
        if float(self.accelerator.reduce(bad.float(), "sum")):
            if not bool(bad):
                raise ValueError(
                    f"step {self.state.global_step + 1}: the loss is not finite in another process; see its message"
                )
            where = first_bad_value(self.accelerator.unwrap_model(model), inputs)
            raise ValueError(
                f"step {self.state.global_step + 1}: the loss is {loss.item()} on clips {self._names([clips])}; {where}."
                " Training stops; the last checkpoint is unchanged. `on_bad_clip: skip` finds damaged clips beforehand"
            )
        return (loss, outputs) if return_outputs else loss

    def _get_grad_norm(self, model, grad_norm=None):
        """The gradient norm before an optimizer step; a non-finite one stops the run, unless the scaler of fp16 skips the step."""
        norm = super()._get_grad_norm(model, grad_norm)
        clips, self._step_clips = self._step_clips, []
        if math.isfinite(norm):
            return norm
        if self.accelerator.scaler is None:
            bad = (name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all())
            raise ValueError(
                f"step {self.state.global_step + 1}: the gradient norm is {norm} on clips {self._names(clips)}; first bad gradient:"
                f" {next(bad, 'only their sum')}. Training stops; the last checkpoint is unchanged. Try a lower learning rate"
            )
        return None  # the step is skipped; NaN would be invalid JSON in the log

    def _names(self, places: Sequence[torch.Tensor]) -> str:
        ids = [self.train_dataset.clip_of(place).id for batch in places for place in batch.tolist()]
        return ", ".join(ids[:SHOWN_CLIPS]) + (f" and {len(ids) - SHOWN_CLIPS} more" if len(ids) > SHOWN_CLIPS else "")

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Loss (`None` for the generative readout), outputs, and labels with the clips' indices, of a batch."""
        batch = self._prepare_inputs(inputs)
        clips = batch.pop("clip_index")
        plain = self.accelerator.unwrap_model(model)
        with torch.no_grad(), _without_autocast(plain):
            try:
                own = self.readouts[0]
                loss, outputs = own.predict(plain, batch)
                if self.is_in_train and self.other_readouts:
                    kinds = {other[0].reads: other[0] for other in self.other_readouts if other[0].reads != own.reads}
                    others = {kind: readout.predict(plain, batch)[1] for kind, readout in kinds.items()}
                    outputs = {own.reads: outputs, **others}
            except NotFiniteError as error:
                dataset = self.callback_handler.eval_dataloader.dataset
                ids = ", ".join(dataset.clip_of(int(clips[row])).id for row in error.rows)
                raise ValueError(f"clips {ids}: {error}") from error
        return loss, outputs, (batch["labels"], clips)

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Metrics of the scores, of several targets their means and each as `TARGET_METRIC`; undefined ones are left out, since
        Trainer logs only numbers.
        """
        labels, places = prediction.label_ids
        order, dataset = np.argsort(places), self.callback_handler.eval_dataloader.dataset
        check_order(places[order], labels[order], dataset)
        outputs, own = prediction.predictions, self.readouts[0].reads
        shared = outputs if isinstance(outputs, dict) else {own: outputs}
        predictions = self._decoded(self.readouts, shared[own][order], dataset)
        by_target = metrics_by_target(self.targets, self.readouts, predictions, dataset.labels)
        metrics = over_targets(by_target)
        if len(by_target) > 1:
            metrics |= {f"{name}_{key}": value for name, own in by_target.items() for key, value in own.items()}
        if self.is_in_train and self.args.load_best_model_at_end:
            self._keep_evaluation(self.rows(predictions))
        for others in self.other_readouts if isinstance(outputs, dict) else ():
            decoded = self._decoded(others, shared[others[0].reads][order], dataset)
            values = over_targets(metrics_by_target(self.targets, others, decoded, dataset.labels))
            metrics[self._selecting(others[0])] = values.get(self.args.selecting_metric)
        return {key: value for key, value in metrics.items() if isinstance(value, float)}

    def _selecting(self, other: Readout) -> str:
        """The name of the metric that selects the checkpoint of another decoding."""
        return f"{other.decoding}_{self.args.selecting_metric}"

    def _keep_best_of_others(self, metrics: dict[str, float]) -> None:
        """Save the adapter for each other decoding whose validation metric is the best so far."""
        for other, *_ in self.other_readouts:
            folder, value = self.args.folder / BEST / str(other.decoding), metrics.get(f"eval_{self._selecting(other)}")
            best = read_json(folder / BEST_RECORD)["value"] if (folder / BEST_RECORD).is_file() else None
            if value is not None and (best is None or (value > best if self.args.greater_is_better else value < best)):
                self._keep(folder, value)

    def track(self, metrics: Mapping[str, Any]) -> None:
        """Give the final metrics to the trackers of `report_to`: those of validation as `eval_*`, the others by their split."""
        values = {
            f"eval_{key.removeprefix('valid_')}" if key.startswith("valid_") else f"{metrics['split']}_{key}": value
            for key, value in metrics.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        trackers = tuple(get_reporting_integration_callbacks(self.args.report_to))
        for tracker in self.callback_handler.callbacks:
            if isinstance(tracker, trackers):
                if getattr(tracker, "logging_dir", "") is None:  # TensorBoard's, without training
                    tracker.logging_dir = str(self.args.folder / "runs")
                tracker.on_log(self.args, self.state, self.control, model=self.model, logs=values)

    def keep_final_of_others(self) -> None:
        """Save the adapter for each other decoding whose validation metric was never defined."""
        for other, *_ in self.other_readouts:
            folder = self.args.folder / BEST / str(other.decoding)
            if not (folder / BEST_RECORD).is_file():
                self._keep(folder, None)

    def _keep(self, folder: Path, value: float | None) -> None:
        if self.args.should_save:
            self.accelerator.unwrap_model(self.model).save_pretrained(folder)
            write_json(folder / BEST_RECORD, {"step": self.state.global_step, "value": value})

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Never select a checkpoint whose metric is undefined, such as the correlation of constant scores."""
        self._keep_best_of_others(metrics)
        name = (self.args.metric_for_best_model or "").removeprefix("eval_")
        if name and f"eval_{name}" not in metrics:
            logger.warning("%s is undefined at step %d, which cannot be the best", name, self.state.global_step)
            return False
        return super()._determine_best_metric(metrics, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        (self.model if model is None else model).load_trained(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self.model.load_trained(Path(self.state.best_model_checkpoint))


def mean_error(rows: np.ndarray, labels: np.ndarray) -> float:
    """MAE of rows (n, C) or (n, K, C) against labels (n,) or (n, K): the mean over targets."""
    errors = np.abs(rows[..., 0] - labels)
    return float(np.mean(np.nanmean(errors, axis=0)))


class _GroupedByLength(LengthGroupedSampler):
    """Groups similar lengths; the order depends only on seed and epoch, so all processes and a resumed run agree."""

    def __init__(self, batch_size: int, lengths: list[int], *, seed: int):
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self.seed + epoch)


def first_bad_value(model: nn.Module, inputs: Mapping[str, Any]) -> str:
    """Where NaN or infinity first appears in a forward pass: the name of an input, or of the module that outputs it."""
    for name, value in inputs.items():
        if value.is_floating_point() and not value.isfinite().all():
            return f"first bad value: the input {name}"
    bad_modules: list[str] = []

    def check_output(name: str):
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            values = (
                output if isinstance(output, Sequence) else output.values() if isinstance(output, Mapping) else [output]
            )
            tensors = (value for value in values if isinstance(value, torch.Tensor) and value.is_floating_point())
            if not bad_modules and not all(bool(tensor.isfinite().all()) for tensor in tensors):
                bad_modules.append(name)

        return hook

    hooks = [module.register_forward_hook(check_output(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return (
        f"first bad value: the output of {bad_modules[0]}"
        if bad_modules
        else "no module's output is non-finite when the batch is run again"
    )


@contextmanager
def _without_autocast(model: nn.Module) -> Iterator[None]:
    """Compute scores as a loaded bundle does; during training, accelerate wraps the forward in autocast."""
    wrapped = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            model.forward = wrapped
