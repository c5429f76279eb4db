"""One training step: the time of its parts, the cost of padding, and the effect of the attention implementation.

    python benchmarks/step.py

Tiny backbone, NF4, float32, preset llm, cached tower outputs, one core; clips as long as those of CMU-MOSI (log-normal, mean 4.2
s, at most 14 s). The profiler's table is for one step.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from common import in_turn, ratio, save, spread, table
from torch.profiler import ProfilerActivity, profile, record_function
from transformers.trainer_pt_utils import LengthGroupedSampler

from omnisent.audio_omnisent import SAMPLE_RATE
from omnisent.losses_omnisent import LabelScale
from omnisent.media_omnisent import ClipMedia
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.thinker_inputs_omnisent import TOWER_INPUTS
from omnisent.thinker_omnisent import language_inputs
from omnisent.towers_omnisent import tower_features
from omnisent.training.arguments import ModelArguments
from omnisent.training.backbone import build_model
from omnisent.training.tiny_backbone import make_tiny_backbone

CLIPS, BATCH = 64, 8
FRAME_SIZE = (56, 84)
FPS, FRAMES = 2.0, (4, 16)


def make_clip(processor: OmniSentProcessor, seconds: float) -> dict[str, torch.Tensor]:
    """Encoded noise of a given length, with as many frames as the processor would sample."""
    frames = 2 * round(min(max(seconds * FPS, FRAMES[0]), FRAMES[1]) / 2)
    pixels = torch.randint(0, 256, (frames, 3, *FRAME_SIZE), dtype=torch.uint8)
    audio = np.random.default_rng(0).normal(0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)
    return processor.assemble("so the story was good", ClipMedia(pixels, 2 * seconds / frames, audio, seconds))


def with_features(
    model: OmniForSentimentRegression, processor: OmniSentProcessor, clip: dict
) -> dict[str, torch.Tensor]:
    """A clip with tower outputs instead of audio and video, as from a feature cache."""
    batch = dict(processor.pad([clip]))
    layout = {name: clip[name] for name in ("input_ids", "position_ids")}
    with torch.no_grad():
        return {**layout, **tower_features(model.model, **{name: batch[name] for name in TOWER_INPUTS})}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(1.25, 0.6, CLIPS), 1, 14)
    with tempfile.TemporaryDirectory() as folder:
        base = make_tiny_backbone(Path(folder) / "tiny")
        processor = OmniSentProcessor.from_base(base)
        models = {name: _model(base, name) for name in ("sdpa", "eager")}
    model = models["sdpa"]
    whole = [make_clip(processor, seconds) for seconds in lengths]
    clips = [with_features(model, processor, clip) for clip in whole]
    orders = {
        "random": generator.permutation(CLIPS).tolist(),
        "grouped by length": list(LengthGroupedSampler(BATCH, lengths=(1000 * lengths).astype(int).tolist())),
    }
    batches = {
        name: [
            {**processor.pad([clips[i] for i in order[at : at + BATCH]]), "labels": torch.zeros(BATCH)}
            for at in range(0, CLIPS, BATCH)
        ]
        for name, order in orders.items()
    }
    tasks = {name: lambda epoch=epoch: _epoch(model, epoch) for name, epoch in batches.items()}
    tasks["random, eager attention"] = lambda: _epoch(models["eager"], batches["random"])
    seconds = in_turn(tasks)
    result = {
        "clips": CLIPS,
        "batch": BATCH,
        "padding_share": {
            name: 1 - sum(int(b["attention_mask"].sum()) for b in epoch) / sum(b["input_ids"].numel() for b in epoch)
            for name, epoch in batches.items()
        },
        "times_random": {name: ratio(values, seconds["random"]) for name, values in seconds.items()},
        "seconds_a_step": {name: spread([v * BATCH / CLIPS for v in values]) for name, values in seconds.items()},
        "parts": parts(model, processor, whole[:BATCH]),
        "profile": profiled(model, batches["random"][0]),
    }
    rows = [(name, *times.values()) for name, times in result["times_random"].items()]
    print(table([("a step: times random order", "median", "min", "max"), *rows]))
    print(table([("", "fraction of padding"), *result["padding_share"].items()]))
    print(table([("part of a step, towers included", "median fraction"), *result["parts"].items()]))
    print(table([("operation", "calls", "own ms", "fraction"), *(row.values() for row in result["profile"])]))
    print(f"results in {save('step', result)}")


def _model(base: Path, attention: str) -> OmniForSentimentRegression:
    torch.manual_seed(0)
    arguments = ModelArguments(
        base_model=str(base), dtype="float32", lora_preset="llm", quantize_towers=False, attn_implementation=attention
    )
    return build_model(arguments, scales=[LabelScale(0.0, 1.0, -3.0, 3.0)]).train()


def _epoch(model: OmniForSentimentRegression, batches: list[dict]) -> None:
    for batch in batches:
        model(**batch).loss.backward()
        model.zero_grad()


def parts(model: OmniForSentimentRegression, processor: OmniSentProcessor, clips: list[dict]) -> dict[str, float]:
    """Fraction of a step's time that each of its parts takes, for a batch with audio and video."""
    batch = dict(processor.pad(clips))
    audio = {name: batch[name] for name in ("input_features", "feature_attention_mask")}
    video = {name: batch[name] for name in TOWER_INPUTS[2:]}
    features = tower_features(model.model, **audio, **video)

    def language_model() -> torch.Tensor:
        read = language_inputs(model.model, batch["input_ids"], **features)
        return model.model.language_model(
            **read,
            attention_mask=batch["attention_mask"],
            position_ids=batch["position_ids"],
            use_cache=False,
        ).last_hidden_state

    hidden = language_model().detach()
    seconds = in_turn(
        {
            "audio tower, forward": lambda: tower_features(model.model, **audio),
            "vision tower, forward": lambda: tower_features(model.model, **video),
            "embedding and language model, forward": language_model,
            "the same, forward and backward": lambda: language_model().sum().backward(),
            "pooling and head": lambda: model.score(hidden, batch["attention_mask"]),
            "whole step": lambda: model(**batch, labels=torch.zeros(len(clips))).loss.backward(),
        }
    )
    model.zero_grad()
    return {name: float(np.median(values) / np.median(seconds["whole step"])) for name, values in seconds.items()}


def profiled(model: OmniForSentimentRegression, batch: dict, rows: int = 12) -> list[dict]:
    """The operations with the largest own time in a step."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler, record_function("step"):
        model(**batch).loss.backward()
    model.zero_grad()
    events = [event for event in profiler.key_averages() if event.key != "step"]
    total = sum(event.self_cpu_time_total for event in events)
    events.sort(key=lambda event: -event.self_cpu_time_total)
    return [
        {
            "operation": event.key,
            "calls": event.count,
            "own_ms": event.self_cpu_time_total / 1000,
            "share": event.self_cpu_time_total / total,
        }
        for event in events[:rows]
    ]


if __name__ == "__main__":
    main()
