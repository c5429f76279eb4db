"""Builds a run: readout, data sets, model and trainer."""

import numpy as np
from transformers import set_seed

from ..data.clip import SPLITS
from ..data.swap import swapped_clips
from .argument_checks import as_setting_error
from .arguments import DataArguments, ModelArguments, OmniSentTrainingArguments
from .backbone import build_model, build_readout
from .collator import ClipCollator, ClipDataset
from .data import PreparedData, instructions
from .feature_cache import fill_cache, open_cache
from .trainer import SentimentTrainer


def build_trainer(
    model_args: ModelArguments, data_args: DataArguments, args: OmniSentTrainingArguments, data: PreparedData
) -> tuple[SentimentTrainer, dict[str, ClipDataset]]:
    """The trainer of a run, with its model, and the data set of each split; with a feature cache, the towers' outputs are
    computed first.

    Raises:
        ValueError: for settings that transformers or accelerate refuses.
    """
    processor = data.processor
    readouts = [build_readout(model_args, processor.tokenizer, target.score_range) for target in data.targets]
    cache = open_cache(data_args.feature_cache, model_args, processor) if data_args.feature_cache else None
    splits = dict(data.splits)
    if data_args.swapped:
        for name in {"valid", args.evaluate}:
            splits[name] = swapped_clips(splits[name], data_args.swapped, seed=args.seed)
    asked = instructions(data_args, data.targets)
    datasets = {
        name: ClipDataset(
            splits[name],
            *(processor, readouts, cache),
            instructions=asked,
            weights=item_weights(data, args, asks_each=readouts[0].asks_each) if name == "train" else None,
            labelled=name == "train",
        )
        for name in SPLITS
    }
    if cache is not None:
        used = {"valid", args.evaluate} if args.evaluate_only else {"train", "valid", args.evaluate}
        fill_cache(
            cache,
            model_args,
            [clip for name in SPLITS if name in used for clip in datasets[name].inputs],
            processor,
            args,
        )
    set_seed(args.seed)  # here, so that a run does not depend on what is already cached
    model = build_model(
        model_args,
        **data.model_fields,
        target_weights=args.target_weights,
        device=args.device,
        towers=cache is None,
    )
    if (objective := readouts[0].objective()) is not None:
        model.objective = objective
    with as_setting_error((), "these settings cannot be used together"):
        trainer = SentimentTrainer(
            model=model,
            args=args,
            data_collator=ClipCollator(processor, readouts[0]),
            train_dataset=datasets["train"],
            eval_dataset=datasets["valid"],
            processing_class=processor,
            readouts=readouts,
            targets=data.targets,
        )
    return trainer, datasets


def item_weights(data: PreparedData, args: OmniSentTrainingArguments, *, asks_each: bool) -> np.ndarray | None:
    """How much each training clip counts, (n,); where each target is asked for, with `target_weights` each question, (n, K).

    `None` if all count the same.
    """
    weights = data.weights(args.balance)
    if not asks_each or args.target_weights is None:
        return weights
    of_targets = np.array(args.target_weights) / np.mean(args.target_weights)
    return np.outer(np.ones(len(data.splits["train"])) if weights is None else weights, of_targets)
