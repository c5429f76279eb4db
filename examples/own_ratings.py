"""Train a model on your own ratings of texts, test it, and score new texts with it.

    python examples/own_ratings.py ratings.xlsx --text comment --ratings "rater_*" --scale 1 7 --out runs/mine --new new.csv

The table (CSV, Excel, JSONL or Parquet) has a column of texts, and a column of ratings for each person, or a single one. It is
checked first, and a tenth of the texts is kept for the test. Then new.csv, with the same column of texts, is scored to
runs/mine/new_scores.csv. The base model `small` (SmolLM2-135M-Instruct, English) is fetched once, 96 MB. Any field of `omnisent
train --fields` may follow, such as --num_train_epochs 3.
"""

import argparse
import logging
import sys
from pathlib import Path

import numpy as np

from omnisent.data.check import check_table
from omnisent.data.table_options import TableOptions
from omnisent.evaluation.statistics import bootstrap_estimates
from omnisent.scoring.job import score
from omnisent.scoring.options import ScoreOptions
from omnisent.train import run
from omnisent.training.arguments import parse_arguments
from omnisent.training.run_folder import constant_mae, read_predictions

SPLIT = "80/10/10"  # train, valid and test, in percent
SETTINGS = (
    *("--modalities", "text", "--system_prompt", "", "--transcript_template", '"{text}"'),
    *("--instruction", "Rating from {low} to {high}:", "--convention", "generic"),
    *("--quantization", "none", "--dtype", "float32", "--lora_preset", "llm", "--lora_r", "16", "--lora_alpha", "16"),
    *("--learning_rate", "1e-3", "--head_learning_rate", "1e-3", "--num_train_epochs", "5", "--warmup_steps", "0.05"),
    *("--per_device_train_batch_size", "16", "--train_sampling_strategy", "group_by_length"),
    *("--activation_checkpointing", "false", "--auto_split", SPLIT),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Any field of a training run may follow."
    )
    parser.add_argument("table", help="texts and their ratings")
    parser.add_argument("--text", required=True, help="header of the column of texts")
    parser.add_argument(
        "--ratings", required=True, help="header of the ratings, or a pattern of several such as 'rater_*'"
    )
    parser.add_argument(
        "--scale", required=True, nargs=2, metavar=("LOW", "HIGH"), help="lowest and highest possible rating"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of the run")
    parser.add_argument("--new", help="a table of texts to score with the trained model")
    parser.add_argument("--base_model", default="small", help="base model (default: %(default)s)")
    options, fields = parser.parse_known_args()
    several = "*" in options.ratings
    columns = {"text": options.text, **({} if several else {"label": options.ratings})}
    raters = (options.ratings,) if several else ()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        low, high = map(float, options.scale)
        checked = check_table(
            options.table,
            options=TableOptions(columns=columns, raters=raters),
            score_ranges=[(low, high)],
            shares=SPLIT,
            with_media=False,
        )
        print("\n".join(checked.lines))
        mapping = ",".join(f"{name}={header}" for name, header in columns.items())
        where = ("--dataset", options.table, "--columns", mapping, *(("--raters", *raters) if raters else ()))
        what = ("--base_model", options.base_model, "--score_range", *options.scale, "--output_dir", str(options.out))
        run(*parse_arguments([*SETTINGS, *where, *what, *fields]))
        report(options.out)
        if options.new:
            scores, model = options.out / "new_scores.csv", str(options.out / "model")
            score(ScoreOptions(model, table=options.new, columns=f"text={options.text}", out=scores, interval=0.9))
            print(f"scores of {options.new}, with 90 % prediction intervals: {scores}")
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"own_ratings.py: {error}")


def report(folder: Path) -> None:
    """Print the test result of a run with its interval, beside that of the best constant."""
    rows = read_predictions(folder)
    found = bootstrap_estimates(np.array([rows["score"]]), rows["label"].to_numpy(), "generic")
    print(f"\nTest on {len(rows)} texts that the model has not seen, with 95 % intervals:")
    for name, meaning in (("mae", "mean absolute error"), ("corr", "correlation")):
        mean, low, high = found[name].mean_low_high()
        print(f"  {meaning:20} {mean:6.3f}  ({low:.3f} to {high:.3f})")
    print(f"  {'always the same':20} {constant_mae(folder):6.3f}  mean absolute error of the best constant\n")


if __name__ == "__main__":
    main()
