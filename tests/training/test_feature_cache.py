"""The feature cache: the same losses and scores with it, a miss for whatever changes, and no harm from a broken entry."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from multiprocessing import get_context

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from omnisent.cli import main as command_line
from omnisent.data.clip import Clip
from omnisent.losses_omnisent import LabelScale
from omnisent.readouts.discriminative import DiscriminativeReadout
from omnisent.thinker_omnisent import language_inputs
from omnisent.towers_omnisent import tower_features
from omnisent.train import main, run
from omnisent.training import feature_store
from omnisent.training.arguments import ModelArguments, OmniSentTrainingArguments, parse_arguments
from omnisent.training.backbone import build_model, load_towers
from omnisent.training.collator import ClipDataset
from omnisent.training.feature_cache import _batch, _process_of, fill_cache, open_cache
from omnisent.training.feature_store import cache_info
from omnisent.training.run_folder import read_predictions
from runs import launch


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


@pytest.mark.parametrize(
    "common",
    [
        {},
        pytest.param({"layers": "mix", "pool_over": "clip", "pooling": "mean"}, marks=pytest.mark.slow),
        {"readout": "generative", "decoding": "expected"},
    ],
)
def test_losses_and_scores_equal_those_without_the_cache(config, tmp_path, common):
    run(*parse_arguments([config(**common, output_dir=str(tmp_path / "without"))]))
    cached = config(**common, feature_cache=str(tmp_path / "cache"), output_dir=str(tmp_path / "with"))
    run(*parse_arguments([cached]))
    assert _losses(tmp_path / "with") == pytest.approx(_losses(tmp_path / "without"), abs=1e-5)
    ours, theirs = (read_predictions(tmp_path / name)["score"].tolist() for name in ("with", "without"))
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert cache_info(tmp_path / "cache").entries["token_layouts"] == 64


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
        read = language_inputs(model.model, layout["input_ids"], **inputs)
        states.append(
            model.model.language_model(
                **read, attention_mask=layout["attention_mask"], position_ids=layout["position_ids"]
            ).last_hidden_state
        )
    assert torch.equal(*states)
    assert {name.split(".")[1] for name in model.state_dict() if name.startswith("model.")} == {"language_model"}


SMALL_FRAMES = {"min_pixels": 56 * 56, "max_pixels": 112 * 112}


def _model_args(base, **changes) -> ModelArguments:
    fields = {"base_model": str(base), "quantization": "none", "dtype": "float32", "lora_preset": "llm"}
    return ModelArguments(**{**fields, **changes})


def _shards(folder) -> list:
    return sorted((folder / "cache").rglob("*.safetensors"))


@pytest.fixture
def opened(tiny_backbone, processor, tmp_path):
    """A filled cache for two clips, with what it was opened with."""

    def open_with(clips, processor=processor, **changes):
        model_args = _model_args(tiny_backbone, **changes)
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
    assert cache_info(tmp_path / "cache").entries == {}


def test_questions_about_a_clip_share_its_tower_outputs_and_so_do_prompts(
    opened, processor, whole_clips, tiny_backbone, tmp_path
):
    asked = [{**whole_clips[0].to_dict(), "instruction": f"How {word}?"} for word in ("good", "calm", "strong")]
    cache = opened(asked)
    assert cache_info(tmp_path / "cache").entries == {"token_layouts": 3, "tower_outputs": 1}
    encoded = [processor.encode(question) for question in asked]
    features = tower_features(load_towers(_model_args(tiny_backbone), "cpu"), **_batch(processor, encoded[0]))
    for question, inputs in zip(asked, encoded, strict=True):
        found = cache.load(question)
        assert found.keys() == {"input_ids", "position_ids", "audio_embeds", "video_embeds"}
        assert all(torch.equal(found[name], inputs[name]) for name in ("input_ids", "position_ids"))
        assert all(torch.equal(found[name], features[name]) for name in features)
    other = type(processor).from_base(tiny_backbone, **SMALL_FRAMES, instruction="How good?", pool_over="clip")
    clip = whole_clips[0].to_dict()
    found = opened([clip], other).load(clip)
    assert not opened([]).has(clip)
    assert torch.equal(found["clip_mask"], other.encode(clip)["clip_mask"])
    assert cache_info(tmp_path / "cache").entries == {"token_layouts": 4, "tower_outputs": 1}
    names = [name for shard in _shards(tmp_path) for name in load_file(shard)]
    assert sum(name.endswith("video_embeds") for name in names) == 1


def test_clips_without_files_or_sound_and_with_the_same_text_have_entries_of_their_own(
    opened, processor, planted_clips, whole_clips
):
    clips = [clip.to_dict() for clip in planted_clips[:12]] + [{"text": "good"}, {"text": "bad"}]
    clips += [{"text": "good", "video": whole_clips[0].video}, {"text": "good", "audio": whole_clips[0].video}]
    cache = opened(clips)
    for clip in clips:
        encoded, found = processor.encode(clip), cache.load(clip)
        assert torch.equal(found["input_ids"], encoded["input_ids"])
        assert ("audio_embeds" in found, "video_embeds" in found) == (
            "input_features" in encoded,
            "video_grid_thw" in encoded,
        )


def test_entries_are_found_again_once_the_processor_has_been_saved(
    opened, tiny_backbone, processor, whole_clips, tmp_path
):
    saved = type(processor).from_base(tiny_backbone, **SMALL_FRAMES)
    clip = whole_clips[0].to_dict()
    opened([clip], saved)
    saved.save_pretrained(tmp_path / "processor")
    assert opened([], saved).has(clip)


def test_a_file_that_changes_while_it_is_read_is_not_cached(opened, processor, whole_clips, tmp_path):
    video, other = tmp_path / "a.mp4", tmp_path / "b.mp4"
    for clip, path in zip(whole_clips, (video, other), strict=False):
        shutil.copy(clip.video, path)

    class Replacing(type(processor)):
        def encode(self, clip, **options):
            encoded = super().encode(clip, **options)
            other.replace(video)
            return encoded

    clip = {"id": "a", "text": "I liked it", "video": str(video), "audio": None}
    with pytest.raises(ValueError, match="clip a: its files changed while they were read; start the run again"):
        opened([clip], Replacing.from_base(processor.tokenizer.name_or_path, **SMALL_FRAMES))
    assert not opened([]).has(clip)


@pytest.mark.parametrize("processes", [2, 3])
def test_each_clip_is_computed_by_one_process_with_all_questions_about_it(opened, planted_clips, processes):
    cache = opened([])
    parts = Counter(_process_of(cache.keys(clip.to_dict())[0], processes) for clip in planted_clips)
    assert set(parts) == set(range(processes))
    assert min(parts.values()) > len(planted_clips) / processes / 3
    asked = [{**planted_clips[0].to_dict(), "instruction": word} for word in "abcdef"]
    assert len({_process_of(cache.keys(question)[0], processes) for question in asked}) == 1


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_entries_and_do_not_read_the_clips_files_again(opened, processor, whole_clips, tmp_path, context):
    video = tmp_path / "a.mp4"
    shutil.copy(whole_clips[0].video, video)
    clip = Clip("a", "I liked it", str(video), label=1.0)
    cache = opened([clip.to_dict() | {"context": ()}])
    dataset = ClipDataset([clip] * 4, processor, [DiscriminativeReadout((-3.0, 3.0))], cache)
    before = dataset[0]
    stamp = video.stat()
    video.write_bytes(bytes(stamp.st_size))  # would have another digest
    os.utime(video, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    for item in DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=context):
        assert all(torch.equal(item[name], before[name]) for name in ("input_ids", "video_embeds", "audio_embeds"))


def test_a_killed_fill_loses_only_what_is_not_written_and_goes_on(opened, planted_clips, tmp_path, monkeypatch):
    clips = [clip.to_dict() for clip in planted_clips]
    with monkeypatch.context() as patch:
        patch.setattr(feature_store, "SHARD_BYTES", 1)
        process = get_context("fork").Process(target=opened, args=(clips,))
        process.start()
    while len(shards := _shards(tmp_path)) < 4 and process.is_alive():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert 4 <= len(shards) < 2 * len(clips)
    before = {path: path.stat().st_mtime_ns for path in _shards(tmp_path)}
    cache = opened(clips)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(_shards(tmp_path)) == len(before) + 1
    assert all(map(cache.has, clips))
    assert sum(cache_info(tmp_path / "cache").entries.values()) == len({key for c in clips for key in cache.keys(c)})


@pytest.mark.slow
def test_two_runs_fill_the_cache_together(config, tmp_path):
    cache = str(tmp_path / "cache")
    configs = [
        config(feature_cache=cache, max_steps=1, eval_steps=1, save_steps=1, output_dir=str(tmp_path / n)) for n in "ab"
    ]
    code = "import sys; from omnisent.train import main; main(sys.argv[1:])"
    both = [subprocess.Popen([sys.executable, "-c", code, c], stderr=subprocess.PIPE, text=True) for c in configs]
    for process in both:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said[-2000:]
    assert cache_info(cache).entries["token_layouts"] == 64
    assert not list((tmp_path / "cache").rglob("*.part*"))
    scores = [read_predictions(tmp_path / name)["score"].tolist() for name in "ab"]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_the_processes_of_a_run_fill_the_cache_together(config, tmp_path):
    common = {"feature_cache": str(tmp_path / "cache"), "max_steps": 2, "per_device_train_batch_size": 2}
    launch(config(**common), 2, tmp_path / "two")
    shards = {path: path.stat().st_mtime_ns for path in _shards(tmp_path)}
    assert len(shards) == 2
    launch(config(**common), 1, tmp_path / "one")
    assert {path: path.stat().st_mtime_ns for path in _shards(tmp_path)} == shards
    assert cache_info(tmp_path / "cache").entries["token_layouts"] == 64


def test_an_adapter_inside_the_towers_is_refused_with_the_reason(config, tmp_path):
    with pytest.raises(SystemExit, match=r"^train\.py: feature_cache: the adapter changes the audio and vision towers"):
        main([config(lora_preset="paper", feature_cache=str(tmp_path / "cache"))])


def test_the_cache_is_shown_and_cleared_from_the_command_line(opened, whole_clips, tmp_path, capsys, monkeypatch):
    opened([clip.to_dict() for clip in whole_clips[:3]])
    (tmp_path / "cache" / "notes.txt").write_text("mine")
    held = r"3 token layouts, 3 tower outputs, 0\.\d MB\n"
    for command, said in (("info", held), ("clear", f"removed {held}"), ("info", r"no entries, 0\.0 MB\n")):
        monkeypatch.setattr(sys, "argv", ["omnisent", "cache", command, str(tmp_path / "cache")])
        with pytest.raises(SystemExit) as stopped:
            command_line()
        assert not stopped.value.code
        assert re.fullmatch(said, capsys.readouterr().out)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["notes.txt"]
