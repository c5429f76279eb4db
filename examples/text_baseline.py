"""Fine-tunes a text model of transformers on a data set's transcripts: a rival that has nothing of omnisent but the clips.

    python examples/text_baseline.py sentence-transformers/all-MiniLM-L6-v2 cmu_mosi --root /data/CMU-MOSI --out runs/minilm
    omnisent compare small_mosi --root /data/CMU-MOSI --out runs/mosi --predictions "MiniLM, fine-tuned=runs/minilm/predictions.csv"

It is transformers' own sequence classification with one output, so the loss is the squared error (of z-scored labels). Any text
model that `AutoModelForSequenceClassification` knows will do. The epoch with the lowest validation MAE is used.
"""

import argparse
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from omnisent.data.catalog import dataset_facts
from omnisent.data.load import load_clips
from omnisent.data.tables import write_table
from omnisent.text_omnisent import TEXT_CASES, plain_text


def main() -> None:
    """Train, and write id and score of every test clip to OUT/predictions.csv."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="Hub id or folder of a text model")
    parser.add_argument("dataset", help="a data set's name, or a table of clips")
    parser.add_argument("--root", help="folder of a named data set")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--text_case", choices=list(TEXT_CASES), default="sentence")
    parser.add_argument("--learning_rate", type=float, default=5e-5)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    set_seed(options.seed)
    clips = load_clips(options.dataset, root=options.root, with_media=False)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForSequenceClassification.from_pretrained(
        options.model, num_labels=1, problem_type="regression", dtype="float32"
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    train_labels = np.array([clip.label for clip in clips if clip.split == "train"])
    mean, std = float(train_labels.mean()), float(train_labels.std())

    def rows(split: str) -> Dataset:
        used = [clip for clip in clips if clip.split == split]
        texts = [plain_text(clip.text, options.text_case) or "" for clip in used]
        encoded = tokenizer(texts, truncation=True)
        labels = [(clip.label - mean) / std for clip in used]
        return Dataset.from_dict({**encoded, "labels": labels, "id": [clip.id for clip in used]})

    splits = {split: rows(split) for split in ("train", "valid", "test")}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(options.out),
            learning_rate=options.learning_rate,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            per_device_eval_batch_size=options.batch_size,
            warmup_steps=0.05,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="mae",
            greater_is_better=False,
            seed=options.seed,
            report_to="none",
        ),
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=splits["train"],
        eval_dataset=splits["valid"],
        processing_class=tokenizer,
        compute_metrics=lambda found: {"mae": float(np.abs(found.predictions[:, 0] - found.label_ids).mean() * std)},
    )
    trainer.train()
    scores = (trainer.predict(splits["test"]).predictions[:, 0] * std + mean).clip(
        *dataset_facts(options.dataset).score_range
    )
    table = list(zip(splits["test"]["id"], map(float, scores), strict=True))
    write_table(options.out / "predictions.csv", {"id": str, "score": float}, table)
    print(f"{len(table)} scores in {options.out / 'predictions.csv'}")


if __name__ == "__main__":
    main()
