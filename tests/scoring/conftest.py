"""An untrained pipeline, a bundle as `omnisent score --model` takes it, the command itself, and a folder of clips for it."""

import copy
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from omnisent.cli import main
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.pipeline_omnisent import MultimodalSentimentPipeline
from omnisent.scoring.loading import Loading, load_pipeline
from two_targets import TWO


@pytest.fixture(scope="module")
def pipe(tiny_backbone, processor) -> MultimodalSentimentPipeline:
    torch.manual_seed(0)
    model = OmniForSentimentRegression.from_thinker(tiny_backbone).eval()
    return MultimodalSentimentPipeline(model=model, processor=processor, device="cpu")


@pytest.fixture(scope="session")
def two_bundle(tiny_backbone, processor, tmp_path_factory) -> Path:
    """Rates valence and arousal from 1 to 9, with intervals of 90 %; untrained."""
    folder = tmp_path_factory.mktemp("two") / "model"
    torch.manual_seed(0)
    calibration = {
        name: {"clips": 40, "half_widths": {"0.9": width}} for name, width in (("valence", 0.5), ("arousal", 0.75))
    }
    OmniForSentimentRegression.from_thinker(tiny_backbone, **TWO, calibration=calibration).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def label_bundle(two_bundle, tmp_path_factory) -> Path:
    """`two_bundle`, whose first target is called as the column of ratings is by default."""
    folder = shutil.copytree(two_bundle, tmp_path_factory.mktemp("label") / "model")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"valence"', '"label"'))
    return folder


@pytest.fixture(scope="session")
def two_pipe(two_bundle) -> MultimodalSentimentPipeline:
    return load_pipeline(Loading(str(two_bundle), device="cpu"))


@pytest.fixture
def broken_pipe(pipe) -> MultimodalSentimentPipeline:
    """A pipeline whose model computes no number."""
    model = copy.deepcopy(pipe.model)
    with torch.no_grad():
        model.score.layers[-1].bias.fill_(torch.nan)
    return MultimodalSentimentPipeline(model=model, processor=pipe.processor, device="cpu")


@pytest.fixture(scope="session")
def bundle(tiny_backbone, processor, tmp_path_factory) -> Path:
    """Untrained, so that its scores say nothing, but differ from clip to clip."""
    folder = tmp_path_factory.mktemp("bundle") / "model"
    torch.manual_seed(0)
    OmniForSentimentRegression.from_thinker(tiny_backbone).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def about() -> str:
    return "reads text only; trained on <b>reviews</b>; language model Small-1M, 1M parameters"


@pytest.fixture(scope="session")
def text_bundle(bundle, about, tmp_path_factory) -> Path:
    """A bundle that reads text only, and says what it is."""
    folder = tmp_path_factory.mktemp("text") / "model"
    shutil.copytree(bundle, folder)
    for name, change in (("config.json", {"about": about}), ("processor_config.json", {"modalities": ["text"]})):
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    return folder


@pytest.fixture
def score(monkeypatch, bundle, capsys):
    """Runs the command; returns exit code, output and error output."""

    def run(*arguments) -> tuple[int, str, str]:
        command = ["omnisent", "score", "--model", str(bundle), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        code = stopped.value.code
        return (1, said.out, code) if isinstance(code, str) else (code or 0, said.out, said.err)

    return run


@pytest.fixture
def folder(whole_clips, tmp_path) -> Path:
    """Two good videos, one of them with a transcript, and a damaged one between them."""
    place = tmp_path / "talks"
    place.mkdir()
    shutil.copy(whole_clips[0].video, place / "a.mp4")
    (place / "a.txt").write_text(whole_clips[0].text)
    (place / "b.mp4").write_bytes(Path(whole_clips[1].video).read_bytes()[:2000])
    shutil.copy(whole_clips[1].video, place / "c.mp4")
    return place
