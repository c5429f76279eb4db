"""An exported run, loaded by plain transformers: the scores are the bundle's, and the lines of the documentation run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, Qwen2_5OmniThinkerForConditionalGeneration, Qwen2_5OmniThinkerModel

import omnisent
from omnisent.hub.export import export_run
from omnisent.hub.publish import PublishError
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.scoring.loading import Loading, read_config
from omnisent.thinker_inputs_omnisent import pixel_values
from omnisent.train import run
from omnisent.training.arguments import parse_arguments

TEXT = "I loved every minute."
DOCS = Path(omnisent.__file__).parent / "docs" / "EXPORT.md"
SCORE = "thinker.language_model.score"


@pytest.fixture(scope="module")
def trained(short_config, tmp_path_factory):
    """Trains a run with changed settings, a few steps long."""

    def train(*changes: str) -> Path:
        folder = tmp_path_factory.mktemp("run")
        run(*parse_arguments([str(short_config), "--output_dir", str(folder), "--learning_rate", "0.02", *changes]))
        return folder

    return train


@pytest.fixture(scope="module")
def linear(trained) -> Path:
    return trained("--head", "linear")


@pytest.fixture(scope="module")
def official(linear, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("export") / "official"
    export_run(linear, out, layout="official")
    return out


def unclipped(model, processor, clip) -> list[float]:
    with torch.no_grad():
        return model.unclipped_scores(model(**processor([clip])).logits).flatten().tolist()


def chat(text: str) -> list[dict]:
    return [{"role": "user", "content": [{"type": "text", "text": text}]}]


def score_of(folder: Path, thinker, inputs) -> float:
    score = load_file(folder / "score.safetensors")
    with torch.no_grad():
        state = thinker(**inputs).last_hidden_state[:, -1]
        return float(state @ score[f"{SCORE}.weight"].T + score[f"{SCORE}.bias"])


def printed(lines: str, folder: Path) -> list[float]:
    """The numbers that lines of Python print, in a process of its own that does not know this package."""
    code = re.sub(r'folder = "[^"]*"', f"folder = {str(folder)!r}", lines)
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return [float(number) for number in re.findall(r"-?\d+\.\d*(?:e-?\d+)?", done.stdout)]


def lines_of(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


def test_the_official_classes_load_it_with_nothing_missing(official):
    for thinker_class in (Qwen2_5OmniThinkerModel, Qwen2_5OmniThinkerForConditionalGeneration):
        _, info = thinker_class.from_pretrained(official, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["mismatched_keys"]
        others = {key for key in info["unexpected_keys"] if not key.startswith("language_model.score.")}
        assert others <= {"lm_head.weight"}


def test_its_scores_are_the_bundles_with_either_processor(official, linear, whole_clips, tmp_path):
    export_run(linear, tmp_path / "merged", layout="omnisent")
    thinker = Qwen2_5OmniThinkerModel.from_pretrained(official).eval()
    theirs = AutoProcessor.from_pretrained(official)
    for bundle, of_text, of_media in ((linear / "model", 5e-6, 1e-5), (tmp_path / "merged", 5e-7, 3e-6)):
        model = OmniForSentimentRegression.from_pretrained(bundle).eval()
        processor = OmniSentProcessor.from_pretrained(bundle)
        for text in (TEXT, ' It\'s "so" {text} <|im_end|> über 😀 '):
            inputs = theirs.apply_chat_template(chat(text), tokenize=True, return_dict=True, return_tensors="pt")
            assert torch.equal(inputs["input_ids"], processor([{"text": text}])["input_ids"])
            known = unclipped(model, processor, {"text": text})
            assert score_of(official, thinker, inputs) == pytest.approx(known[0], abs=of_text)
        for clip in [clip.to_dict() for clip in whole_clips[:4]]:
            inputs = dict(processor([clip]))
            known = unclipped(model, processor, clip)
            inputs["pixel_values_videos"] = pixel_values(inputs.pop("video_patches"), inputs.pop("video_mean_std"))
            assert score_of(official, thinker, inputs) == pytest.approx(known[0], abs=of_media)


def test_the_lines_of_the_documentation_and_of_its_readme_run(official, linear):
    (documented, *_), (written,) = lines_of(DOCS), lines_of(official / "README.md")
    assert documented == written.replace('folder = "."  # this folder', 'folder = "runs/official"')
    bundle = linear / "model"
    model = OmniForSentimentRegression.from_pretrained(bundle).eval()
    known = unclipped(model, OmniSentProcessor.from_pretrained(bundle), {"text": TEXT})
    assert printed(documented, official) == pytest.approx(known, abs=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(["--head", "mlp"], marks=pytest.mark.slow),
        pytest.param(["--loss", "hl_gauss", "--layers", "mix", "--pooling", "attention"], marks=pytest.mark.slow),
    ],
)
def test_another_head_is_beside_the_weights_and_its_lines_run(trained, tmp_path, changes):
    folder, out = trained(*changes), tmp_path / "out"
    message = export_run(folder, out, layout="official")
    assert "not one linear layer: it is in head/" in message
    assert not (out / "score.safetensors").exists()
    model = OmniForSentimentRegression.from_pretrained(folder / "model").eval()
    known = unclipped(model, OmniSentProcessor.from_pretrained(folder / "model"), {"text": TEXT})
    assert printed(lines_of(out / "README.md")[0], out) == pytest.approx(known, abs=1e-4)


def test_it_says_what_belongs_to_a_score(official, linear):
    config, settings = (json.loads((official / name).read_text()) for name in ("config.json", "omnisent.json"))
    for level in (config, config["thinker_config"], config["thinker_config"]["text_config"]):
        assert (level["num_labels"], level["problem_type"], level["id2label"]) == (1, "regression", {"0": "label"})
    processor = OmniSentProcessor.from_pretrained(linear / "model")
    assert settings["processor"]["system_prompt"] == processor.system_prompt
    assert settings["processor"]["max_pixels"] == processor.max_pixels
    assert (settings["scales"][0]["low"], settings["scales"][0]["high"]) == (-3.0, 3.0)
    assert settings["calibration"]["half_widths"]
    template = AutoProcessor.from_pretrained(official)
    prompt = processor.prompt(TEXT, video=True, audio=False)
    clip = [{"role": "user", "content": [{"type": "video", "video": "x"}, {"type": "text", "text": TEXT}]}]
    assert template.apply_chat_template(clip, tokenize=False) == prompt
    parts = clip[0]["content"]
    for wrong, message in (
        ([{"role": "system", "content": "Hi"}, *clip], "expected one user message"),
        ([{"role": "user", "content": [*parts, {"type": "image"}]}], "this model reads .* the clip has: image"),
        ([{"role": "user", "content": [*parts, {"type": "text", "text": "more"}]}], "expected one text at most"),
        ([{"role": "user", "content": [*parts, {"type": "video", "video": "y"}]}], "expected one video at most"),
    ):
        with pytest.raises(Exception, match=message):
            template.apply_chat_template(wrong, tokenize=False)


def test_it_is_not_taken_for_a_base_model(official):
    with pytest.raises(ValueError, match=r"is a model in the official layout, .* export with --layout omnisent"):
        read_config(Loading(str(official)))


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(trained, linear, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(PublishError, match="is not an empty folder"):
        export_run(linear, tmp_path / "full", layout="official")
    with pytest.raises(PublishError, match="expected a finished discriminative run"):
        export_run(linear / "model", tmp_path / "out", layout="official")
    config = linear / "valid_predictions.csv"
    rows = config.read_text()
    try:
        header, *lines = rows.splitlines()
        place = header.split(",").index("score")
        moved = [",".join("2.9" if at == place else cell for at, cell in enumerate(line.split(","))) for line in lines]
        config.write_text("\n".join([header, *moved]))
        with pytest.raises(PublishError, match="merging changes the scores"):
            export_run(linear, tmp_path / "out", layout="official")
        config.unlink()
        assert "was not measured" in export_run(linear, tmp_path / "unmeasured", layout="official").lower()
    finally:
        config.write_text(rows)
    clip_alone = trained("--pool_over", "clip", "--pooling", "mean")
    with pytest.raises(PublishError, match="does not mark; export it with --layout omnisent"):
        export_run(clip_alone, tmp_path / "out", layout="official")
    assert {path.name for path in tmp_path.iterdir()} == {"full", "unmeasured"}
