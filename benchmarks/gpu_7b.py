"""The true 7B Thinker on one GPU, with random weights made on the spot: QLoRA steps, scoring, and the generative readout.

    python benchmarks/gpu_7b.py [--size tiny] [--minutes 7]

Nothing is downloaded or decoded: frames and sound are made up, as 16 frames with 4.2 s of sound (the mean of a CMU-MOSI clip), and
go through the real processor. Random weights take the time and memory of trained ones. `--size tiny` walks the same path in
seconds, on a CPU too; its figures mean nothing. What does not fit in memory or in the minutes is written down as such. A table
comes last.
"""

import argparse
import gc
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial

import bitsandbytes as bnb
import numpy as np
import torch
from common import save, spread, table
from peft import LoraConfig
from torch import nn

from omnisent.audio_omnisent import SAMPLE_RATE
from omnisent.configuration_omnisent import OmniSentConfig
from omnisent.media_omnisent import ClipMedia
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.readouts.generative import ExpectedReadout, OmniForSentimentGeneration
from omnisent.thinker_omnisent import (
    LORA_TARGETS,
    PUBLISHED_THINKERS,
    ThinkerConfig,
    ThinkerWithLMHead,
    thinker_config,
    tower_features,
)
from omnisent.training.tiny_backbone import make_tiny_backbone

FRAMES, SOUND_SECONDS = 16, 4.2
PICTURE = {"7b": (336, 588), "tiny": (56, 84)}
TRAIN_BATCHES, SCORE_BATCHES = (1, 2, 4, 8), (1, 8, 16)
ANSWER_TOKENS = 5
REPEATS = 3


class Bench:
    """The device, the inputs and the clock of one run."""

    def __init__(self, size: str, minutes: float):
        self.size = size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.end = time.monotonic() + 60 * minutes
        with tempfile.TemporaryDirectory() as folder:
            base = make_tiny_backbone(f"{folder}/tiny")
            self.processor = OmniSentProcessor.from_base(base)
            self.config = self._config(thinker_config(base))
        generator = torch.Generator().manual_seed(0)
        height, width = PICTURE[size]
        frames = torch.randint(0, 256, (FRAMES, 3, height, width), generator=generator, dtype=torch.uint8)
        sound = np.random.default_rng(0).normal(0, 0.1, round(SOUND_SECONDS * SAMPLE_RATE)).astype(np.float32)
        media = ClipMedia(frames, 2 * SOUND_SECONDS / FRAMES, sound, SOUND_SECONDS)
        self.clip = self.processor.assemble("I did not expect to like it as much as I did.", media)

    def _config(self, tiny: ThinkerConfig) -> ThinkerConfig:
        if self.size == "tiny":
            return tiny
        names = ("audio_token_id", "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        config = ThinkerConfig(**PUBLISHED_THINKERS["Qwen/Qwen2.5-Omni-7B"])
        for name in (*names, "audio_start_token_id", "audio_end_token_id"):
            setattr(config, name, getattr(tiny, name))
        return config

    def batch(self, clips: int, known: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
        """So many clips on the device; with the towers' output of one where it is known."""
        layout = ("input_ids", "position_ids")
        clip = self.clip if known is None else {**{name: self.clip[name] for name in layout}, **known}
        batch = self.processor.pad([clip] * clips).to(self.device)
        floats = {name: value.to(self.dtype) for name, value in batch.items() if value.is_floating_point()}
        return {**batch, **floats}

    def thinker(self, *, nf4: bool) -> ThinkerWithLMHead:
        """The Thinker with lm_head; its linear layers but the lm_head are quantised."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with self.device:
                thinker = ThinkerWithLMHead(self.config)
        finally:
            torch.set_default_dtype(before)
        if nf4:
            for module in list(thinker.model.modules()):
                for name, layer in module.named_children():
                    if isinstance(layer, nn.Linear):
                        setattr(module, name, _nf4(layer, self.dtype))
        for module in thinker.modules():
            module._is_hf_initialized = True
        return thinker.requires_grad_(False).eval()

    def measure(self, task: Callable[[], object]) -> dict:
        """Seconds and peak bytes of a task, or why there are none."""
        if time.monotonic() > self.end:
            return {"skipped": "out of time"}
        try:
            task()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            seconds = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                task()
                if self.device.type == "cuda":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - started)
        except torch.OutOfMemoryError:
            return {"skipped": "out of memory"}
        finally:
            self.free()
        peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None
        return {"seconds": spread(seconds), "peak_memory_bytes": peak}

    def free(self) -> None:
        """Give back what is not used."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def matmul_rate(self) -> float:
        """Floating point operations a second of a large product in the computation's dtype."""
        side = 8192 if self.device.type == "cuda" else 512
        left, right = (torch.randn(side, side, device=self.device, dtype=self.dtype) for _ in range(2))
        found = self.measure(lambda: [left @ right for _ in range(10)])
        return 10 * 2 * side**3 / found["seconds"]["median"]

    def forward_operations(self, *, towers: bool) -> float:
        """Of one clip's forward pass, in its linear layers and attention scores: two for each multiplication."""
        text, vision, audio = self.config.text_config, self.config.vision_config, self.config.audio_config
        tokens = len(self.clip["input_ids"])
        total = _stack(tokens, text.num_hidden_layers, text.hidden_size, text.intermediate_size, 3, text)
        if towers:
            patches, sounds = len(self.clip["pixel_values_videos"]), math.ceil(SOUND_SECONDS * 50)
            total += _stack(patches, vision.depth, vision.hidden_size, vision.intermediate_size, 3)
            total += _stack(sounds, audio.encoder_layers, audio.d_model, audio.encoder_ffn_dim, 2)
        return total


def _stack(tokens: int, layers: int, hidden: int, intermediate: int, mlp: int, text=None) -> float:
    """Operations of a stack of layers on a sequence; grouped keys and values are counted as they are."""
    kv = 1.0 if text is None else text.num_key_value_heads / text.num_attention_heads
    linear = (2 + 2 * kv) * hidden**2 + mlp * hidden * intermediate
    attention = 2 * tokens * hidden if text is not None else 0  # the towers attend within windows
    return 2.0 * layers * tokens * (linear + attention)


def _nf4(layer: nn.Linear, dtype: torch.dtype) -> bnb.nn.Linear4bit:
    small = bnb.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        layer.bias is not None,
        compute_dtype=dtype,
        quant_type="nf4",
        device="meta",
    )
    device = layer.weight.device
    small.weight = bnb.nn.Params4bit(layer.weight.data, quant_type="nf4", requires_grad=False).to(device)
    small.bias = layer.bias
    small.support_avx512bf16_for_cpu = False
    return small


def training(bench: Bench) -> Iterator[dict]:
    """QLoRA steps: both presets, cached features for preset llm, batches, checkpointing off and on."""
    for preset, cached in (("paper", False), ("llm", False), ("llm", True)):
        bench.free()
        thinker = bench.thinker(nf4=True).model
        known = _features(bench, thinker) if cached else None
        if cached:
            thinker.visual = thinker.audio_tower = None
        model = _regression(bench, thinker)
        model.add_lora(LoraConfig(r=32, lora_alpha=32, lora_dropout=0.1, target_modules=LORA_TARGETS[preset]))
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        model.train()
        for checkpointing in (True, False):
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            else:
                model.gradient_checkpointing_disable()
            for clips in TRAIN_BATCHES:
                batch = {**bench.batch(clips, known), "labels": torch.zeros(clips, device=bench.device)}

                def step(model=model, batch=batch, optimizer=optimizer) -> None:
                    model(**batch).loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()

                found = bench.measure(step)
                operations = clips * bench.forward_operations(towers=not cached) * 2  # forward, and back to the inputs
                what = {"what": f"train {preset}{', cached' * cached}", "checkpointing": checkpointing, "clips": clips}
                yield {**what, **found, **_rate(bench, found, operations)}
        del model, optimizer, thinker


def scoring(bench: Bench) -> Iterator[dict]:
    """Both readouts on the same inputs, bf16 and NF4, with and without cached features."""
    for nf4 in (False, True):
        bench.free()
        whole = bench.thinker(nf4=nf4)
        known = _features(bench, whole.model)
        ways = _ways(bench, whole)
        kind = "NF4" if nf4 else str(bench.dtype).removeprefix("torch.")
        for clips in SCORE_BATCHES:
            for cached in (False, True):
                batch = bench.batch(clips, known if cached else None)
                operations = clips * bench.forward_operations(towers=not cached)
                for way, task in ways.items():
                    with torch.inference_mode():
                        found = bench.measure(partial(task, batch))
                    what = {"what": f"{way}, {kind}{', cached' * cached}", "clips": clips}
                    yield {**what, **found, **_rate(bench, found, operations)}
        del whole, ways  # before the next ones are made


def _ways(bench: Bench, whole: ThinkerWithLMHead) -> dict[str, Callable[[dict], object]]:
    """Each readout as a function of a batch, all on the same weights."""
    score = _regression(bench, whole.model).eval()
    write = OmniForSentimentGeneration(whole, "random").eval()
    expected = ExpectedReadout((-3.0, 3.0), bench.processor.tokenizer)
    return {
        "discriminative": lambda batch: score(**batch),
        f"generative, greedy, {ANSWER_TOKENS} tokens": lambda batch: write.write_greedily(ANSWER_TOKENS, -1, **batch),
        "generative, expected": lambda batch: expected.predict(write, batch),
    }


def _regression(bench: Bench, thinker) -> OmniForSentimentRegression:
    return OmniForSentimentRegression(OmniSentConfig(thinker_config=bench.config), thinker)


def _features(bench: Bench, thinker) -> dict[str, torch.Tensor]:
    batch = bench.batch(1)
    names = ("input_features", "feature_attention_mask", "pixel_values_videos", "video_grid_thw")
    with torch.no_grad():
        return tower_features(thinker, **{name: batch[name] for name in names})


def _rate(bench: Bench, found: dict, operations: float) -> dict:
    return {"share_of_matmul_rate": operations / found["seconds"]["median"] / bench.rate} if "seconds" in found else {}


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("7b", "tiny"), default="7b")
    parser.add_argument("--minutes", type=float, default=7.0, help="no measurement is started after so long")
    parser.add_argument("--name", help="of the result file, in place of gpu_<size>")
    wanted = parser.parse_args(argv)
    if wanted.size == "7b" and not torch.cuda.is_available():
        raise SystemExit("gpu_7b: there is no GPU here; `--size tiny` walks the same path on a CPU")
    torch.manual_seed(0)
    bench = Bench(wanted.size, wanted.minutes)
    bench.rate = bench.matmul_rate()
    rows = []
    for part in (training, scoring):
        for row in part(bench):
            rows.append(row)
            print(row["what"], row["clips"], row.get("skipped") or f"{row['seconds']['median']:.4f} s", flush=True)
    device = torch.cuda.get_device_name() if bench.device.type == "cuda" else "cpu"
    result = {
        "size": wanted.size,
        "device": device,
        "matmul_operations_per_second": bench.rate,
        "tokens_a_clip": len(bench.clip["input_ids"]),
        "rows": rows,
    }
    print(
        table(
            [("what", "checkpointing", "clips", "seconds", "clips/s", "peak GB", "of matmul rate"), *map(_shown, rows)]
        )
    )
    print(f"results in {save(wanted.name or f'gpu_{wanted.size}', result)}")
    return result


def _shown(row: dict) -> tuple:
    if "skipped" in row:
        return row["what"], row.get("checkpointing", ""), row["clips"], row["skipped"], "", "", ""
    seconds, peak = row["seconds"]["median"], row["peak_memory_bytes"]
    first = row["what"], row.get("checkpointing", ""), row["clips"], seconds, row["clips"] / seconds
    return *first, "" if peak is None else peak / 1e9, row["share_of_matmul_rate"]


if __name__ == "__main__":
    main()
