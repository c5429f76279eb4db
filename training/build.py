"""Builds a run: readout, data sets, model and trainer."""

from transformers import set_seed

from ..data.clip import SPLITS
from ..data.swap import swapped_clips
from .argument_checks import as_setting_error
from .arguments import DataArguments, ModelArguments, OmniSentTrainingArguments
from .backbone import build_model, build_readout
from .collator import ClipCollator, ClipDataset
from .data import PreparedData
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
    readout = build_readout(model_args, processor.tokenizer, data.facts.score_range)
    cache = open_cache(data_args.feature_cache, model_args, processor) if data_args.feature_cache else None
    splits = dict(data.splits)
    if data_args.swapped:
        for name in {"valid", args.evaluate}:
            splits[name] = swapped_clips(splits[name], data_args.swapped, seed=args.seed)
    datasets = {name: ClipDataset(splits[name], processor, readout, cache) for name in SPLITS}
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
    model = build_model(model_args, **data.scale, device=args.device, towers=cache is None)
    if (objective := readout.objective()) is not None:
        model.objective = objective
    with as_setting_error((), "these settings cannot be used together"):
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
    return trainer, datasets
