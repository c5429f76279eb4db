"""transformers' Trainer with two learning rates, checkpoints of adapter and head alone, and the field's metrics."""

from pathlib import Path

import torch
from torch.utils.data import Sampler
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..readouts.base import Readout


class SentimentTrainer(Trainer):
    """Trains the model of a readout; a checkpoint holds adapter, head, processor and Trainer's own state."""

    def __init__(self, *args, readout: Readout, convention: str = "mosi", **kwargs):
        super().__init__(*args, compute_metrics=self._metrics, **kwargs)
        self.readout, self.convention = readout, convention
        if self.args.early_stopping_patience:
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))

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

    def _get_train_sampler(self, train_dataset=None) -> Sampler | None:
        """Trainer's own would encode every clip to learn its length; a header tells enough."""
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        clips = self.train_dataset if train_dataset is None else train_dataset
        return LengthGroupedSampler(
            self.args.train_batch_size * self.args.gradient_accumulation_steps, lengths=clips.lengths()
        )

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Loss (`None` for the generative readout), predictions and labels of a batch."""
        batch = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, predictions = self.readout.predict(self.accelerator.unwrap_model(model), batch)
        return loss, predictions, batch["labels"]

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Metrics of the scores; those that are undefined here are left out, for Trainer logs numbers only."""
        readings = self.readout.read(prediction.predictions)
        metrics = self.readout.metrics(readings, prediction.label_ids, self.convention)
        return {key: value for key, value in metrics.items() if isinstance(value, float)}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        (self.model if model is None else model).load_trained(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self.model.load_trained(Path(self.state.best_model_checkpoint))
