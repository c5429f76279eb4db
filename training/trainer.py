"""transformers' Trainer with two learning rates, checkpoints of adapter and head alone, and the field's metrics.

Two things that Trainer leaves to luck are checked here: that a prediction belongs to its clip, and that every loss and gradient is
a finite number.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..heads_omnisent import NotFiniteError
from ..readouts.base import Readings, Readout
from .collator import ClipDataset
from .row_check import check_order

SHOWN_CLIPS = 8

logger = logging.getLogger("omnisent.trainer")


class SentimentTrainer(Trainer):
    """Trains the model of a readout; a checkpoint holds adapter, head, processor and Trainer's own state."""

    def __init__(self, *args, readout: Readout, convention: str = "mosi", **kwargs):
        super().__init__(*args, compute_metrics=self._metrics, **kwargs)
        self.readout, self.convention = readout, convention
        self._step_clips: list[torch.Tensor] = []  # places of the clips since the last optimizer step
        if self.args.early_stopping_patience:
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))
        if self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            kind = self.accelerator.distributed_type.value.lower()
            raise ValueError(
                f"{kind} is not supported: adapter and head would be saved empty; use several processes without it"
            )

    optimizer: torch.optim.Optimizer | None

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Adapter and head in groups of their own; weight decay on neither biases nor norms."""
        if self.optimizer is not None:
            return self.optimizer
        model = self.model if model is None else model
        decayed = set(self.get_decay_parameter_names(model))
        adapter_rate = self.args.adapter_learning_rate(self.readout.name)
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

    def read(self, dataset: ClipDataset, name: str) -> Readings:
        """What the model predicts for the clips of a data set, in their order.

        Raises:
            ValueError: when predictions come back in another order, or not one a clip.
            NotFiniteError: naming the clips that have none.
        """
        return self.readout.read(self.predict(dataset, metric_key_prefix=name).predictions)

    def _get_train_sampler(self, train_dataset=None) -> Sampler | None:
        """Trainer's own would encode every clip to learn its length; a header tells enough."""
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        clips = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return _GroupedByLength(
            self.args.train_batch_size * self.args.gradient_accumulation_steps, clips.lengths(), seed=seed
        )

    def _get_eval_sampler(self, eval_dataset: ClipDataset) -> Sampler:
        """The clips in their order, always: Trainer's own follows `train_sampling_strategy`."""
        return SequentialSampler(eval_dataset)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of a training batch.

        Raises:
            ValueError: when it is not finite, in whichever process, with the clips and the first module that has a bad value.
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
                " Training stops; the last checkpoint is as it was. on_bad_clip: skip finds damaged clips beforehand"
            )
        return (loss, outputs) if return_outputs else loss

    def _get_grad_norm(self, model, grad_norm=None):
        """The norm before a step of the optimizer; one that is not finite stops the run, unless fp16's scaler skips the step."""
        norm = super()._get_grad_norm(model, grad_norm)
        clips, self._step_clips = self._step_clips, []
        if math.isfinite(norm):
            return norm
        if self.accelerator.scaler is None:
            bad = (name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all())
            raise ValueError(
                f"step {self.state.global_step + 1}: the gradient norm is {norm} on clips {self._names(clips)}; first bad gradient:"
                f" {next(bad, 'only their sum')}. Training stops; the last checkpoint is as it was. Try a lower learning rate"
            )
        return None  # of a step that is not made; the log would hold it as invalid JSON

    def _names(self, places: Sequence[torch.Tensor]) -> str:
        ids = [self.train_dataset.clips[place].id for batch in places for place in batch.tolist()]
        return ", ".join(ids[:SHOWN_CLIPS]) + (f" and {len(ids) - SHOWN_CLIPS} more" if len(ids) > SHOWN_CLIPS else "")

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Loss (`None` for the generative readout), predictions, and labels with the clips' places, of a batch."""
        batch = self._prepare_inputs(inputs)
        clips = batch.pop("clip_index")
        plain = self.accelerator.unwrap_model(model)
        with torch.no_grad(), _without_autocast(plain):
            try:
                loss, predictions = self.readout.predict(plain, batch)
            except NotFiniteError as error:
                dataset = self.callback_handler.eval_dataloader.dataset
                ids = ", ".join(dataset.clips[clips[row]].id for row in error.rows)
                raise ValueError(f"clips {ids}: {error}") from error
        return loss, predictions, (batch["labels"], clips)

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Metrics of the scores; those that are undefined here are left out, for Trainer logs numbers only."""
        labels, places = prediction.label_ids
        check_order(places, labels, self.callback_handler.eval_dataloader.dataset)
        readings = self.readout.read(prediction.predictions)
        metrics = self.readout.metrics(readings, labels, self.convention)
        return {key: value for key, value in metrics.items() if isinstance(value, float)}

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """A metric that is undefined in an evaluation, such as the correlation of equal scores, makes no checkpoint the best."""
        name = (self.args.metric_for_best_model or "").removeprefix("eval_")
        if name and f"eval_{name}" not in metrics:
            logger.warning("%s is undefined at step %d, which cannot be the best", name, self.state.global_step)
            return False
        return super()._determine_best_metric(metrics, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        (self.model if model is None else model).load_trained(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self.model.load_trained(Path(self.state.best_model_checkpoint))


class _GroupedByLength(LengthGroupedSampler):
    """Like lengths together; each epoch's order follows from seed and epoch alone, so all processes and a resumed run agree."""

    def __init__(self, batch_size: int, lengths: list[int], *, seed: int):
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self.seed + epoch)


def first_bad_value(model: nn.Module, inputs: Mapping[str, Any]) -> str:
    """Where NaN or infinity first appears in a forward pass: an input by name, or the module that gives it out."""
    for name, value in inputs.items():
        if value.is_floating_point() and not value.isfinite().all():
            return f"first bad value: the input {name}"
    found: list[str] = []

    def look(name: str):
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            values = (
                output if isinstance(output, Sequence) else output.values() if isinstance(output, Mapping) else [output]
            )
            tensors = (value for value in values if isinstance(value, torch.Tensor) and value.is_floating_point())
            if not found and not all(bool(tensor.isfinite().all()) for tensor in tensors):
                found.append(name)

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return (
        f"first bad value: the output of {found[0]}"
        if found
        else "no module's output is non-finite when the batch is run again"
    )


@contextmanager
def _without_autocast(model: nn.Module) -> Iterator[None]:
    """Scores are computed as a loaded bundle computes them; accelerate puts autocast around the forward of a model in training."""
    wrapped = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            model.forward = wrapped
