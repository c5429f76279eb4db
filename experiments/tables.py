"""Shared by all studies: tables as Markdown, and the most important settings."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from ..evaluation.markdown_text import escaped
from ..processing_omnisent import SETTINGS
from ..readouts.catalog import READOUTS
from ..training import run_folder
from ..training.arguments import DataArguments

MAIN_SETTINGS = (
    "base_model",
    "base_revision",
    "quantization",
    "quantize_towers",
    "dtype",
    *dict.fromkeys(name for readout in READOUTS.values() for name in readout.model_fields),
    "lora_preset",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "dataset",
    "genres",
    "group_split",
    "complete_clips",
    *(field.name for field in fields(DataArguments) if field.name in SETTINGS),
    "shots",
    "answer_step",
    "learning_rate",
    "generative_learning_rate",
    "head_learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "per_device_eval_batch_size",
    "dataloader_num_workers",
)


def shared_settings(folder: Path) -> dict[str, Any]:
    """The most important settings of a run, for people to read."""
    config = run_folder.read_config(folder)
    return {name: config.get(name) for name in MAIN_SETTINGS}


def markdown_table(table: pd.DataFrame) -> str:
    """A table of plain text as Markdown, its index first."""
    lines = [["", *table.columns], *([index, *row] for index, row in zip(table.index, table.to_numpy(), strict=True))]
    header, *rows = ["| " + " | ".join(escaped(str(cell)) for cell in line) + " |" for line in lines]
    return "\n".join([header, f"|{' --- |' * (len(table.columns) + 1)}", *rows])


def seeds_in_words(seeds: Sequence[int]) -> str:
    """How many seeds a study has: `1 seed`, `2 seeds`."""
    return f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'}"


def short(value: object) -> str:
    """A setting for a table cell, floats with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
