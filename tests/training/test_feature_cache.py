"""The feature cache: the same losses and scores with it, a miss for whatever changes, and no harm from a broken entry."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from omnisent.cli import main as command_line
from omnisent.losses_omnisent import LabelScale
from omnisent.thinker_omnisent import embed_clips
from omnisent.towers_omnisent import tower_features
from omnisent.train import main, run
from omnisent.training.arguments import ModelArguments, OmniSentTrainingArguments, parse_arguments
from omnisent.training.backbone import build_model, load_towers
from omnisent.training.feature_cache import cache_info, clear_cache, fill_cache, open_cache
from omnisent.training.run_folder import read_predictions


@pytest.fixture
def config(short_config, tmp_path):
    """A short run of preset llm, and a way to change it."""

    def write(**changes) -> str:
        fields = yaml.safe_load(short_config.read_text()) | {"lora_preset": "llm", "lora_dropout": 0.0}
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump({**fields, **changes}))
        return str(path)

    return write


def _losses(folder) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.parametrize("readout", ["discriminative", "generative"])
def test_losses_and_scores_equal_those_without_the_cache(config, tmp_path, readout):
    common = {"readout": readout, "decoding": "expected"}
    run(*parse_arguments([config(**common, output_dir=str(tmp_path / "without"))]))
    cached = config(**common, feature_cache=str(tmp_path / "cache"), output_dir=str(tmp_path / "with"))
    run(*parse_arguments([cached]))
    assert _losses(tmp_path / "with") == pytest.approx(_losses(tmp_path / "without"), abs=1e-5)
    ours, theirs = (read_predictions(tmp_path / name)["score"].tolist() for name in ("with", "without"))
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert cache_info(tmp_path / "cache").entries == 64


def test_readouts_and_seeds_share_entries_and_read_no_media_again(config, tmp_path, planted_root):
    root = tmp_path / "clips"
    shutil.copytree(planted_root, root)
    common = {"dataset": str(root), "feature_cache": str(tmp_path / "cache")}
    run(*parse_arguments([config(**common, output_dir=str(tmp_path / "first"))]))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    for readout, seed in (("generative", 0), ("discriminative", 1)):
        run(*parse_arguments([config(**common, readout=readout, seed=seed, output_dir=str(tmp_path / readout))]))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")} == before


@pytest.mark.parametrize("readout", ["discriminative", "generative"])
@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_a_model_without_towers_gives_the_same_from_cached_outputs(
    tiny_backbone, processor, whole_clips, readout, quantization
):
    args = ModelArguments(
        base_model=str(tiny_backbone), dtype="float32", lora_preset="llm", readout=readout, quantization=quantization
    )
    batch = processor([clip.to_dict() for clip in whole_clips[:2]])
    layout = {name: batch.pop(name) for name in ("input_ids", "attention_mask", "position_ids")}
    states = []
    for inputs, towers in ((batch, True), (tower_features(load_towers(args, "cpu"), **batch), False)):
        torch.manual_seed(0)
        model = build_model(args, scales=[LabelScale(0.0, 1.0, -3.0, 3.0)], towers=towers).eval()
        embeds = embed_clips(model.model, layout["input_ids"], **inputs)
        states.append(
            model.model.language_model(
                inputs_embeds=embeds, attention_mask=layout["attention_mask"], position_ids=layout["position_ids"]
            ).last_hidden_state
        )
    assert torch.equal(*states)
    assert {name.split(".")[1] for name in model.state_dict() if name.startswith("model.")} == {"language_model"}


@pytest.fixture
def opened(tiny_backbone, processor, tmp_path):
    """A filled cache for two clips, with what it was opened with."""

    def open_with(clips, processor=processor, **changes):
        fields = {"base_model": str(tiny_backbone), "quantization": "none", "dtype": "float32", "lora_preset": "llm"}
        model_args = ModelArguments(**{**fields, **changes})
        (tmp_path / "cache").mkdir(exist_ok=True)
        cache = open_cache(tmp_path / "cache", model_args, processor)
        args = OmniSentTrainingArguments(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True)
        fill_cache(cache, model_args, clips, processor, args)
        return cache

    return open_with


def test_a_changed_file_text_or_setting_is_a_miss(opened, processor, whole_clips, tmp_path, tiny_backbone):
    video = tmp_path / "a.mp4"
    shutil.copy(whole_clips[0].video, video)
    clip = {"text": "I liked it", "video": str(video), "audio": None}
    cache = opened([clip])
    assert cache.has(clip)
    assert cache.has({**clip, "id": "another name", "label": 2.0})
    assert not cache.has({**clip, "text": "I liked it not"})
    assert not cache.has({**clip, "context": ["before"]})
    os.utime(video)
    assert cache.has(clip)
    shutil.copy(whole_clips[1].video, video)
    assert not cache.has(clip)
    shutil.copy(whole_clips[0].video, video)
    other = type(processor).from_base(tiny_backbone, min_pixels=56 * 56, max_pixels=56 * 56)
    assert not opened([], other).has(clip)
    assert not opened([], attn_implementation="eager").has(clip)
    assert opened([]).has(clip)


@pytest.mark.parametrize("package", ["av", "transformers", "torch", "qwen-omni-utils", "omnisent"])
def test_another_package_version_is_a_miss(opened, whole_clips, monkeypatch, package):
    clip = whole_clips[0].to_dict()
    cache = opened([clip])
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1" if name == package else real(name))
    assert cache.has(clip)
    assert not opened([]).has(clip)


def test_tower_outputs_that_are_not_finite_are_not_cached(opened, whole_clips, tiny_backbone, tmp_path):
    base = shutil.copytree(tiny_backbone, tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights["thinker.visual.blocks.0.attn.proj.bias"][0] = torch.nan
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"clip {whole_clips[0].id}: video_embeds of the towers have NaN"):
        opened([whole_clips[0].to_dict()], base_model=str(base))
    assert cache_info(tmp_path / "cache").entries == 0


def test_a_truncated_entry_is_detected_and_computed_again(opened, whole_clips, caplog):
    clips = [clip.to_dict() for clip in whole_clips[:2]]
    cache = opened(clips)
    whole = {name: tensor.clone() for name, tensor in cache.load(clips[0]).items()}
    path = cache.path(clips[0])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=rf"{path}: not a complete cache entry .*start the run again"):
        cache.load(clips[0])
    cache = opened(clips)
    assert f"{path} is incomplete and is computed again" in caplog.text
    found = cache.load(clips[0])
    assert found.keys() == whole.keys() == {"input_ids", "position_ids", "audio_embeds", "video_embeds"}
    assert all(torch.equal(found[name], whole[name]) for name in whole)


@pytest.mark.slow
def test_two_processes_fill_the_cache_together(config, tmp_path):
    cache = str(tmp_path / "cache")
    configs = [
        config(feature_cache=cache, max_steps=1, eval_steps=1, save_steps=1, output_dir=str(tmp_path / n)) for n in "ab"
    ]
    code = "import sys; from omnisent.train import main; main(sys.argv[1:])"
    both = [subprocess.Popen([sys.executable, "-c", code, c], stderr=subprocess.PIPE, text=True) for c in configs]
    for process in both:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said[-2000:]
    assert cache_info(cache).entries == 64
    assert not list((tmp_path / "cache").rglob("*.part*"))
    scores = [read_predictions(tmp_path / name)["score"].tolist() for name in "ab"]
    assert scores[0] == scores[1]


def test_an_adapter_inside_the_towers_is_refused_with_the_reason(config, tmp_path):
    with pytest.raises(SystemExit, match=r"^train\.py: feature_cache: the adapter changes the audio and vision towers"):
        main([config(lora_preset="paper", feature_cache=str(tmp_path / "cache"))])


def test_the_cache_is_shown_and_cleared_from_the_command_line(opened, whole_clips, tmp_path, capsys, monkeypatch):
    opened([clip.to_dict() for clip in whole_clips[:3]])
    (tmp_path / "cache" / "notes.txt").write_text("mine")
    for command, said in (("info", "3 entries, "), ("clear", "removed 3 entries, "), ("info", "0 entries, 0.0 MB")):
        monkeypatch.setattr(sys, "argv", ["omnisent", "cache", command, str(tmp_path / "cache")])
        with pytest.raises(SystemExit) as stopped:
            command_line()
        assert not stopped.value.code
        assert capsys.readouterr().out.startswith(said)
    assert (tmp_path / "cache" / "notes.txt").read_text() == "mine"
    with pytest.raises(FileNotFoundError, match="no such cache folder"):
        clear_cache(tmp_path / "nowhere")
