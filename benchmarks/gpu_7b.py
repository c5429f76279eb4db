"""The 7B Thinker on one GPU, with random weights: QLoRA steps, scoring, and the generative readout.

    python benchmarks/gpu_7b.py [--size tiny] [--minutes 7]

Nothing is downloaded or decoded: the real processor encodes 16 random frames with 4.2 s of random audio (the mean length of a
CMU-MOSI clip). Random weights take the same time and memory as trained ones. `--size tiny` runs the same code in seconds, also on
a CPU; its results are meaningless. Measurements that do not fit in memory or time are recorded as skipped. A table is printed at
the end.
"""

import argparse
import copy
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
from omnisent.families_omnisent import DEFAULT_FAMILY
from omnisent.family_omnisent import LORA_PRESETS, ThinkerConfig, ThinkerWithLMHead
from omnisent.media_omnisent import ClipMedia
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.readouts.generation_model import OmniForSentimentGeneration
from omnisent.readouts.generative import ExpectedReadout
from omnisent.thinker_inputs_omnisent import TOWER_INPUTS, pixel_values
from omnisent.thinker_omnisent import published_config, thinker_config
from omnisent.towers_omnisent import tower_features
from omnisent.training.tiny_backbone import make_tiny_backbone

FRAMES, AUDIO_SECONDS = 16, 4.2
FRAME_SIZE = {"7b": (336, 588), "tiny": (56, 84)}
TRAIN_BATCHES, SCORE_BATCHES, TOWER_BATCHES = (1, 2, 4, 8), (1, 8, 16), (1, 4)
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
        height, width = FRAME_SIZE[size]
        frames = torch.randint(0, 256, (FRAMES, 3, height, width), generator=generator, dtype=torch.uint8)
        audio = np.random.default_rng(0).normal(0, 0.1, round(AUDIO_SECONDS * SAMPLE_RATE)).astype(np.float32)
        media = ClipMedia(frames, 2 * AUDIO_SECONDS / FRAMES, audio, AUDIO_SECONDS)
        self.clip = self.processor.assemble("I did not expect to like it as much as I did.", media)

    def _config(self, tiny: ThinkerConfig) -> ThinkerConfig:
        if self.size == "tiny":
            return tiny
        names = ("audio_token_id", "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        config = published_config("Qwen/Qwen2.5-Omni-7B")
        for name in (*names, "audio_start_token_id", "audio_end_token_id"):
            setattr(config, name, getattr(tiny, name))
        return config

    def batch(self, clips: int, features: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
        """A batch of `clips` copies on the device, with cached tower outputs if given."""
        layout = ("input_ids", "position_ids")
        clip = self.clip if features is None else {**{name: self.clip[name] for name in layout}, **features}
        batch = self.processor.pad([clip] * clips).to(self.device)
        floats = {name: value.to(self.dtype) for name, value in batch.items() if value.is_floating_point()}
        return {**batch, **floats}

    def thinker(self, *, nf4: bool) -> ThinkerWithLMHead:
        """The Thinker with lm_head; its linear layers but the lm_head are quantised."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with self.device:
                thinker = DEFAULT_FAMILY.with_lm_head_class(self.config)
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
        """Seconds and peak bytes of a task, or why it was skipped."""
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
        """Release unused memory."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def matmul_rate(self) -> float:
        """Floating point operations per second of a large matrix product in the computation's dtype."""
        side = 8192 if self.device.type == "cuda" else 512
        left, right = (torch.randn(side, side, device=self.device, dtype=self.dtype) for _ in range(2))
        measured = self.measure(lambda: [left @ right for _ in range(10)])
        return 10 * 2 * side**3 / measured["seconds"]["median"]

    def forward_operations(self, *, towers: bool) -> float:
        """Floating point operations of one clip's forward pass, in linear layers and attention scores: two per multiplication."""
        text, audio = self.config.text_config, self.config.audio_config
        tokens = len(self.clip["input_ids"])
        total = _stack(tokens, text.num_hidden_layers, text.hidden_size, text.intermediate_size, 3, text)
        if towers:
            audio_frames = math.ceil(AUDIO_SECONDS * 50)
            total += self.vision_operations()
            total += _stack(audio_frames, audio.encoder_layers, audio.d_model, audio.encoder_ffn_dim, 2)
        return total

    def vision_operations(self) -> float:
        """Likewise, of the vision tower alone."""
        vision = self.config.vision_config
        return _stack(len(self.clip["video_patches"]), vision.depth, vision.hidden_size, vision.intermediate_size, 3)


def _stack(tokens: int, layers: int, hidden: int, intermediate: int, mlp: int, text=None) -> float:
    """Operations of a stack of layers on a sequence; grouped keys and values are counted once per group."""
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
        features = _features(bench, thinker) if cached else None
        if cached:
            thinker.visual = thinker.audio_tower = None
        model = _regression(bench, thinker)
        model.add_lora(LoraConfig(r=32, lora_alpha=32, lora_dropout=0.1, target_modules=LORA_PRESETS[preset]))
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        model.train()
        for checkpointing in (True, False):
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            else:
                model.gradient_checkpointing_disable()
            for clips in TRAIN_BATCHES:
                batch = {**bench.batch(clips, features), "labels": torch.zeros(clips, device=bench.device)}

                def step(model=model, batch=batch, optimizer=optimizer) -> None:
                    model(**batch).loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()

                measured = bench.measure(step)
                operations = (
                    clips * bench.forward_operations(towers=not cached) * 2
                )  # forward, and backward to the inputs
                what = {"what": f"train {preset}{', cached' * cached}", "checkpointing": checkpointing, "clips": clips}
                yield {**what, **measured, **_rate(bench, measured, operations)}
        del model, optimizer, thinker


def towers(bench: Bench) -> Iterator[dict]:
    """The vision tower as transformers runs it, and as omnisent does."""
    thinker = bench.thinker(nf4=False).model
    before = copy.deepcopy(thinker.visual)
    for clips in TOWER_BATCHES:
        batch = bench.batch(clips)
        video = {name: batch[name] for name in TOWER_INPUTS[2:]}
        values = pixel_values(video["video_patches"], bench.processor.layout.mean_std.to(bench.device)).to(bench.dtype)
        ways = {
            "transformers": lambda values=values, grid=video["video_grid_thw"], tower=before: tower(
                values, grid_thw=grid
            ),
            "omnisent": lambda video=video: tower_features(thinker, **video),
        }
        for way, task in ways.items():
            with torch.inference_mode():
                measured = bench.measure(task)
            operations = clips * bench.vision_operations()
            yield {"what": f"vision tower, {way}", "clips": clips, **measured, **_rate(bench, measured, operations)}


def scoring(bench: Bench) -> Iterator[dict]:
    """Both readouts on the same inputs, bf16 and NF4, with and without cached features."""
    for nf4 in (False, True):
        bench.free()
        whole = bench.thinker(nf4=nf4)
        features = _features(bench, whole.model)
        ways = _ways(bench, whole)
        kind = "NF4" if nf4 else str(bench.dtype).removeprefix("torch.")
        for clips in SCORE_BATCHES:
            for cached in (False, True):
                batch = bench.batch(clips, features if cached else None)
                operations = clips * bench.forward_operations(towers=not cached)
                for way, task in ways.items():
                    with torch.inference_mode():
                        measured = bench.measure(partial(task, batch))
                    what = {"what": f"{way}, {kind}{', cached' * cached}", "clips": clips}
                    yield {**what, **measured, **_rate(bench, measured, operations)}
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
    config = OmniSentConfig(
        thinker_config=copy.deepcopy(bench.config)
    )  # which resets the attention of what it is given
    return OmniForSentimentRegression(config, thinker)


def _features(bench: Bench, thinker) -> dict[str, torch.Tensor]:
    batch = bench.batch(1)
    with torch.no_grad():
        return tower_features(thinker, **{name: batch[name] for name in TOWER_INPUTS})


def _rate(bench: Bench, measured: dict, operations: float) -> dict:
    if "seconds" not in measured:
        return {}
    return {"share_of_matmul_rate": operations / measured["seconds"]["median"] / bench.rate}


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("7b", "tiny"), default="7b")
    parser.add_argument("--minutes", type=float, default=7.0, help="start no measurement after this many minutes")
    parser.add_argument("--name", help="name of the result file, instead of gpu_<size>")
    options = parser.parse_args(argv)
    if options.size == "7b" and not torch.cuda.is_available():
        raise SystemExit("gpu_7b: there is no GPU here; `--size tiny` runs the same code on a CPU")
    torch.manual_seed(0)
    bench = Bench(options.size, options.minutes)
    bench.rate = bench.matmul_rate()
    rows: list[dict] = []
    name = options.name or f"gpu_{options.size}"
    result = {
        "size": options.size,
        "device": torch.cuda.get_device_name() if bench.device.type == "cuda" else "cpu",
        "matmul_operations_per_second": bench.rate,
        "tokens_a_clip": len(bench.clip["input_ids"]),
        "rows": rows,
    }
    for part in (towers, training, scoring):
        for row in part(bench):
            rows.append(row)
            save(name, result)  # now, so that a run that is stopped keeps its rows
            print(row["what"], row["clips"], row.get("skipped") or f"{row['seconds']['median']:.4f} s", flush=True)
    print(
        table(
            [
                ("what", "checkpointing", "clips", "seconds", "clips/s", "peak GB", "of matmul rate"),
                *map(_table_row, rows),
            ]
        )
    )
    print(f"results in {save(name, result)}")
    return result


def _table_row(row: dict) -> tuple:
    if "skipped" in row:
        return row["what"], row.get("checkpointing", ""), row["clips"], row["skipped"], "", "", ""
    seconds, peak = row["seconds"]["median"], row["peak_memory_bytes"]
    first = row["what"], row.get("checkpointing", ""), row["clips"], seconds, row["clips"] / seconds
    return *first, "" if peak is None else peak / 1e9, row["share_of_matmul_rate"]


if __name__ == "__main__":
    main()
