"""transformers' Trainer with two learning rates, checkpoints of adapter and head alone, and the field's metrics."""

from pathlib import Path

import torch
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer

from ..evaluation.metrics import msa_metrics


class SentimentTrainer(Trainer):
    """Trains an [`OmniForSentimentRegression`]; a checkpoint holds adapter, head, processor and Trainer's own state."""

    def __init__(self, *args, convention: str = "mosi", **kwargs):
        super().__init__(*args, compute_metrics=lambda prediction: score_metrics(prediction, convention), **kwargs)
        if self.args.early_stopping_patience:
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Adapter and head in groups of their own; weight decay on neither biases nor norms."""
        if self.optimizer is not None:
            return self.optimizer
        model = self.model if model is None else model
        decayed = set(self.get_decay_parameter_names(model))
        groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                in_head = ".score." in f".{name}"
                rate = self.args.head_learning_rate if in_head else self.args.learning_rate
                decay = self.args.weight_decay if name in decayed else 0.0
                groups.setdefault((rate, decay), []).append(parameter)
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
        self.optimizer = optimizer_class(
            [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()],
            **options,
        )
        return self.optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        (self.model if model is None else model).load_trained(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self.model.load_trained(Path(self.state.best_model_checkpoint))


def score_metrics(prediction: EvalPrediction, convention: str) -> dict[str, float]:
    """Metrics of the scores; those that are undefined here are left out, for Trainer logs numbers only."""
    _, scores = prediction.predictions
    metrics = msa_metrics(scores, prediction.label_ids, convention=convention)
    return {key: value for key, value in metrics.items() if value is not None}
