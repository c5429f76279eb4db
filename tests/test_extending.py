"""Each row of docs/EXTENDING.md, done from outside the package: the thing is added to its table, and a tiny run uses it."""

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig

import omnisent
from omnisent.data import tables
from omnisent.data.build import build_dataset
from omnisent.data.catalog import DATASETS, DatasetFacts, research_set
from omnisent.data.clip import Clip
from omnisent.data.load import load_clips
from omnisent.data.mmsa import COLUMNS, TableRow
from omnisent.data.mmsa_builder import MmsaBuilder
from omnisent.data.sources import SOURCES, Source
from omnisent.evaluation.metrics import METRICS, Metric, msa_metrics
from omnisent.experiments.baseline_run import run_baseline
from omnisent.experiments.baselines import BASELINES, Baseline
from omnisent.experiments.report import STUDIES, write_report
from omnisent.families_omnisent import DEFAULT_FAMILY, FAMILIES
from omnisent.heads_omnisent import HEADS, POOLINGS
from omnisent.losses_omnisent import LOSSES, BinnedLoss, LabelScale, PointLoss
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.readouts.answer_tree import Answers
from omnisent.readouts.catalog import READOUTS
from omnisent.readouts.discriminative import DiscriminativeReadout
from omnisent.readouts.generative import DECODINGS, DistributionReadout
from omnisent.readouts.generative_losses import GENERATIVE_LOSSES, GenerativeLoss
from omnisent.scoring.job import score
from omnisent.scoring.options import ScoreOptions
from omnisent.thinker_qwen2_5_omni import Qwen2_5Omni, Qwen2_5OmniLayout
from omnisent.train import run
from omnisent.training.arguments import parse_arguments
from omnisent.training.plan import plan
from omnisent.training.run_folder import read_predictions

GUIDE = (Path(omnisent.__file__).parent / "docs" / "EXTENDING.md").read_text(encoding="utf-8")


@pytest.fixture
def text_run(settings, tmp_path):
    """Trains on transcripts for a few steps; returns metrics and the run folder."""

    def train(*options: str) -> tuple[dict, Path]:
        config = settings(modalities=["text"], on_bad_clip="skip", max_steps=2, eval_steps=2, save_steps=2)
        return run(*parse_arguments([config, *options])), tmp_path / "run"

    return train


def test_the_guide_has_a_row_for_every_test_here():
    rows = re.findall(r"^\| (?:a|another) ([\w -]+?) \|", GUIDE, re.MULTILINE)
    tests = [name.removeprefix("test_add_").replace("_", " ") for name in globals() if name.startswith("test_add_")]
    assert sorted(rows) == sorted(tests)


def test_add_metric(monkeypatch, text_run):
    def bias(scores: np.ndarray, labels: np.ndarray) -> float:
        return float(abs(np.mean(scores - labels)))

    metric = Metric("bias", "Bias", "lower", {"mosi": bias}, ("mosi",))
    monkeypatch.setitem(METRICS, "bias", metric)
    assert msa_metrics([1.0, 2.0], [0.0, 1.0])["bias"] == 1.0
    metrics, folder = text_run("--metric_for_best_model", "bias")
    assert json.loads((folder / "trainer_state.json").read_text())["best_metric"] >= 0
    assert parse_arguments(["--metric_for_best_model", "bias", "--use_cpu", "true"])[2].greater_is_better is False
    assert json.loads((folder / "metrics.json").read_text())["bias"] == metrics["bias"] >= 0


def test_add_loss_on_one_number(monkeypatch, text_run, processor):
    calls = []

    def cubic(logits: torch.Tensor, labels: torch.Tensor, reduction: str) -> torch.Tensor:
        calls.append(len(labels))
        return (logits - labels).abs().pow(3)

    monkeypatch.setitem(LOSSES, "cubic", PointLoss(cubic))
    _, folder = text_run("--loss", "cubic")
    assert calls
    assert OmniForSentimentRegression.from_pretrained(folder / "model").config.loss == "cubic"


def test_add_loss_with_a_distribution(monkeypatch, text_run, processor):
    class Histogram(BinnedLoss):
        """Cross-entropy with the bin whose centre is nearest."""

        def outputs(self, bins: int) -> int:
            return bins

        def centres(self, scale: LabelScale, bins: int) -> torch.Tensor:
            return torch.linspace(scale.low, scale.high, bins)

        def losses(self, outputs: torch.Tensor, labels: torch.Tensor, scale: LabelScale, bins: int) -> torch.Tensor:
            nearest = (self.centres(scale, bins) - labels[:, None]).abs().argmin(1)
            return nn.functional.cross_entropy(outputs, nearest, reduction="none")

        def distribution(self, outputs: torch.Tensor) -> torch.Tensor:
            return outputs.softmax(-1)

    monkeypatch.setitem(LOSSES, "histogram", Histogram())
    _, folder = text_run("--loss", "histogram", "--bins", "13")
    model = OmniForSentimentRegression.from_pretrained(folder / "model")
    output = model(**processor([{"text": "It was good."}, {"text": "It was not good at all."}]))
    assert output.distribution.shape == (2, 13)
    assert torch.allclose(output.scores, output.distribution @ model.bin_centres)


def test_add_head(monkeypatch, text_run):
    def deep(width: int, hidden_size: int, dropout: float, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(width, hidden_size), nn.Tanh(), nn.Linear(hidden_size, 7), nn.Tanh(), nn.Linear(7, outputs)
        )

    monkeypatch.setitem(HEADS, "deep", deep)
    metrics, folder = text_run("--head", "deep", "--head_hidden_size", "16")
    model = OmniForSentimentRegression.from_pretrained(folder / "model")
    assert model.score.layers[2].out_features == 7
    assert metrics["head_parameters"] == sum(p.numel() for p in model.score.parameters())


def test_add_pooling(monkeypatch, text_run, processor):
    class Gated(nn.Module):
        """The largest value of each dimension over the tokens, times a learnt gate."""

        def __init__(self, width: int):
            super().__init__()
            self.gate = nn.Parameter(torch.ones(width))

        def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return hidden.masked_fill(mask[..., None] == 0, -torch.inf).amax(1) * self.gate

    monkeypatch.setitem(POOLINGS, "gated", Gated)
    _, folder = text_run("--pooling", "gated")
    assert "pool.gate" in load_file(folder / "model" / "head.safetensors")
    model = OmniForSentimentRegression.from_pretrained(folder / "model")
    batch = processor([{"text": "It was good."}, {"text": "It was not good at all, and I left early."}])
    gated = model(**batch).scores
    with torch.no_grad():
        model.score.pool.gate.zero_()
    assert not torch.equal(gated, model(**batch).scores)


def test_add_generative_loss(monkeypatch, text_run):
    class Squared(GenerativeLoss):
        """Squared error of the mean over all answers."""

        def __init__(self, answers: Answers):
            self.answers = answers

        def __call__(self, model, answer_ids, labels, **prompts):
            found = self.answers.of_values(model.answer_log_probabilities(self.answers.tree, **prompts))
            return nn.functional.mse_loss(found.softmax(-1) @ self.answers.values, labels)

    monkeypatch.setitem(GENERATIVE_LOSSES, "squared", lambda grid, tokenizer: Squared(Answers.of(grid, tokenizer)))
    metrics, folder = text_run("--readout", "generative", "--generative_loss", "squared", "--decoding", "expected")
    assert metrics["legal_mass"] > 0
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    assert log[0]["loss"] < 9 * metrics["n"]


def test_add_decoding(monkeypatch, text_run):
    @dataclass(frozen=True)
    class Likeliest(DistributionReadout):
        decoding = "likeliest"

        def figure(self, probabilities: np.ndarray) -> np.ndarray:
            return np.array(self.grid.values)[probabilities.argmax(1)]

    monkeypatch.setitem(DECODINGS, "likeliest", Likeliest)
    metrics, folder = text_run("--readout", "generative", "--decoding", "likeliest")
    assert metrics["decoding"] == "likeliest"
    assert all(abs(score * 10 - round(score * 10)) < 1e-9 for score in read_predictions(folder)["score"])
    assert sorted(path.name for path in (folder / "best").iterdir()) == ["expected", "greedy", "median"]


def test_add_readout(monkeypatch, text_run):
    class HalvedReadout(DiscriminativeReadout):
        name = "halved"
        summary = "half of the regression head's score"

        def predict(self, model, batch):
            loss, predictions = super().predict(model, batch)
            return loss, predictions / 2

    monkeypatch.setitem(READOUTS, "halved", HalvedReadout)
    metrics, folder = text_run("--readout", "halved")
    assert metrics["readout"] == "halved"
    plain, _ = text_run(
        "--adapter", str(folder / "model"), "--evaluate_only", "true", "--output_dir", str(folder / "x")
    )
    with (folder / "predictions.csv").open() as halved, (folder / "x" / "predictions.csv").open() as whole:
        pairs = [
            (float(a["score"]), float(b["score"]))
            for a, b in zip(csv.DictReader(halved), csv.DictReader(whole), strict=True)
        ]
    assert plain["readout"] == "discriminative"
    assert all(half == pytest.approx(score / 2, abs=1e-6) for half, score in pairs if abs(score) < 3)


def test_add_data_set(monkeypatch, settings, tmp_path, planted_clips):
    facts = research_set("my_talks", "My Talks", "Nobody: My Talks (2026)", score_range=(-3.0, 3.0))
    monkeypatch.setitem(DATASETS, facts.name, facts)
    root = tmp_path / "talks"
    root.mkdir()
    rows = [(c.video_id, c.clip_index, c.text or "nothing", c.label, c.split) for c in planted_clips]
    with (root / "label.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("video_id", "clip_id", "text", "label", "mode"), *rows])
    config = settings(dataset="my_talks", root=str(root), modalities=["text"], max_steps=2, eval_steps=2, save_steps=2)
    assert run(*parse_arguments([config]))["dataset"] == "my_talks"

    class MyTalks(MmsaBuilder):
        NAMES: ClassVar = {"default": "my_talks"}

    builder = MyTalks(data_dir=str(root), cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare()
    assert sum(builder.as_dataset().num_rows.values()) == len(planted_clips)

    def poems(facts, root, on_defect):
        lines = enumerate(Path(root, "poems.txt").read_text().splitlines(), 1)
        clips = [(Clip(f"poem_{n}", line, label=float(n), split="train", video_id=f"poem_{n}"), n) for n, line in lines]
        return [TableRow(clip, str(n), (None, None, None), n) for clip, n in clips]

    monkeypatch.setitem(SOURCES, "poems", Source(poems, COLUMNS))
    monkeypatch.setitem(DATASETS, "poems", DatasetFacts("poems", "Poems", has_media=False, source="poems"))
    (tmp_path / "poems.txt").write_text("A rose.\nA thorn.\n")
    assert build_dataset("poems", tmp_path, tmp_path / "built").rows == 2
    assert [clip.text for clip in load_clips(str(tmp_path / "built"))] == ["A rose.", "A thorn."]
    assert load_clips("poems", root=tmp_path) == load_clips(str(tmp_path / "built"))


def test_add_table_format(monkeypatch, model, processor, tmp_path):
    def read(path, known):
        for number, line in enumerate(csv.DictReader(path.open(), delimiter="\t"), 2):
            yield f"{path}, line {number}", line

    def write(path, columns, rows, line_end):
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter="\t").writerows([list(columns), *rows])

    monkeypatch.setitem(tables.FORMATS, ".tsv", tables.TableFormat(read, write))
    model.save_pretrained(tmp_path / "bundle")
    processor.save_pretrained(tmp_path / "bundle")
    (tmp_path / "clips.tsv").write_text("id\ttext\na\tIt was good.\nb\tIt was bad.\n")
    out = tmp_path / "scores.tsv"
    score(ScoreOptions(str(tmp_path / "bundle"), table=tmp_path / "clips.tsv", out=out, device="cpu"))
    scored = [cells for _, cells in tables.read_rows(out)]
    assert [row["id"] for row in scored] == ["a", "b"]
    assert all(np.isfinite(float(row["score"])) for row in scored)


def test_add_baseline(monkeypatch, settings, planted_clips):
    def mean(splits):
        return np.full(len(splits["test"]), np.mean([clip.label for clip in splits["train"]]))

    monkeypatch.setitem(BASELINES, "mean", Baseline("mean", "mean of the training labels", (), mean))
    finished = run_baseline("mean", *parse_arguments([settings(modalities=["text"])]))
    train = [clip.label for clip in planted_clips if clip.split == "train"]
    predictions = read_predictions(finished.folder)
    assert predictions["score"].tolist() == pytest.approx([np.mean(train)] * len(predictions))


def test_add_study(monkeypatch, tmp_path):
    monkeypatch.setitem(STUDIES, "lengths", {"lengths.png": "Error by length of the clip"})
    (tmp_path / "lengths.json").write_text('{"settings": {"seed": 5}, "environment": {}}')
    (tmp_path / "lengths.md").write_text("# Lengths of clips\n\nLong clips are scored no worse.\n")
    (tmp_path / "lengths.png").write_bytes(b"PNG")
    page = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "Lengths of clips" in page
    assert "scored no worse" in page
    assert "Error by length of the clip" in page
    assert "data:image/png;base64,UE5H" in page


def test_add_size_of_a_Thinker(monkeypatch, settings):
    sizes = {
        "text_config": {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    }
    monkeypatch.setitem(DEFAULT_FAMILY.published, "org/small-omni", sizes)
    planned = plan(*parse_arguments([settings(base_model="org/small-omni", lora_preset="llm")]))
    assert planned.lora_layers == 3 * 7


class OtherConfig(Qwen2_5OmniThinkerConfig):
    model_type = "other_omni_thinker"


class OtherLayout(Qwen2_5OmniLayout):
    pass


class OtherOmni(Qwen2_5Omni):
    title, model_type, tiny = "Other-Omni", "other_omni", "tiny-other"
    config_class = OtherConfig
    layout_class = OtherLayout


def test_add_family_of_models(monkeypatch, settings, tmp_path):
    monkeypatch.setitem(FAMILIES, "other_omni", OtherOmni())
    monkeypatch.chdir(tmp_path)
    metrics = run(*parse_arguments([settings(base_model="tiny-other", max_steps=1, eval_steps=1, save_steps=1)]))
    assert metrics["mae"] > 0
    model = OmniForSentimentRegression.from_pretrained(tmp_path / "run" / "model")
    assert type(model.model.config) is OtherConfig
    assert type(OmniSentProcessor.from_pretrained(tmp_path / "run" / "model").layout) is OtherLayout
    monkeypatch.delitem(FAMILIES, "other_omni")
    with pytest.raises(ValueError, match="model_type other_omni_thinker: expected qwen2_5_omni or qwen3_omni_moe"):
        OmniForSentimentRegression.from_pretrained(tmp_path / "run" / "model")
