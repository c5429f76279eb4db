"""Combinations of layers, pooling, tokens, head and loss train, are saved, and score the same where the package is missing."""

import json
from itertools import product
from pathlib import Path

import pytest

from elsewhere import run_elsewhere
from omnisent.heads_omnisent import HEADS, POOL_OVER, POOLINGS
from omnisent.losses_omnisent import LOSSES
from omnisent.train import run
from omnisent.training.arguments import parse_arguments
from omnisent.training.run_folder import read_predictions

FIELDS = ("layers", "pooling", "pool_over", "head", "loss")
VALUES = (("last", "mix", "1"), tuple(POOLINGS), POOL_OVER, tuple(HEADS), tuple(LOSSES))
ALL = list(product(*VALUES))
# Each value at least once, and each loss with bins with each other kind of part.
SOME = [
    ("mix", "attention", "clip", "mlp", "ordinal"),
    ("1", "mean", "all", "linear", "hl_gauss"),
    ("mix", "last", "clip", "linear", "mse"),
    ("last", "mean", "clip", "mlp", "huber"),
    ("1", "attention", "all", "mlp", "l1"),
]
ELSEWHERE = """
    import torch
    from transformers import AutoModel, AutoProcessor

    texts, scores = json.loads(sys.argv[1]), []
    for folder in sys.argv[2:]:
        model = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        with torch.no_grad():
            scores.append([model(**processor({"text": text})).scores.item() for text in texts])
    print(json.dumps(scores))
"""


def check(combinations, settings, planted_clips, folder: Path) -> None:
    clips = [clip for clip in planted_clips if clip.split == "test" and clip.text][:3]
    for number, combination in enumerate(combinations):
        options = [option for field, value in zip(FIELDS, combination, strict=True) for option in (f"--{field}", value)]
        config = settings(modalities=["text"], on_bad_clip="skip", eval_steps=4, save_steps=4)
        run(*parse_arguments([config, *options, "--output_dir", str(folder / str(number))]))
    runs = [folder / str(number) for number in range(len(combinations))]
    texts = json.dumps([clip.text for clip in clips])
    there = run_elsewhere(ELSEWHERE, folder, texts, *(str(one / "model") for one in runs), timeout=900)
    for one, scores in zip(runs, there, strict=True):
        expected = read_predictions(one).set_index("id")["score"].loc[[clip.id for clip in clips]]
        assert scores == pytest.approx(expected.tolist(), abs=2e-5)
        assert len({round(score, 6) for score in scores}) > 1


def test_some_combinations_train_and_score_the_same_elsewhere(settings, planted_clips, tmp_path):
    assert all({combination[place] for combination in SOME} == set(VALUES[place]) for place in range(len(FIELDS)))
    check(SOME, settings, planted_clips, tmp_path / "runs")


@pytest.mark.slow
@pytest.mark.parametrize("pooling", POOLINGS)
def test_all_combinations_train_and_score_the_same_elsewhere(pooling, settings, planted_clips, tmp_path):
    check([one for one in ALL if one[1] == pooling], settings, planted_clips, tmp_path / "runs")
