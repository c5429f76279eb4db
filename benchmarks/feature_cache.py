"""Compares an epoch of training with and without the feature cache, with the tiny backbone.

    python benchmarks/feature_cache.py

Preset llm, NF4, float32, batches of 8: the time of a second or later epoch on one core, and on two with a worker that reads
ahead; for planted clips (112 pixels high) and for 720p files of 5 s resized to the same number of pixels. The tiny backbone's
towers are fast, so the cache mostly saves reading media here; at 7B the towers matter too.
"""

import tempfile
from pathlib import Path

import torch
from common import in_turn, ratio, save, spread, table
from preprocessing import make_clip
from torch.utils.data import DataLoader

from omnisent.data.clip import Clip
from omnisent.data.planted import make_planted_clips
from omnisent.losses_omnisent import LabelScale
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.readouts.discriminative import DiscriminativeReadout
from omnisent.thinker_inputs_omnisent import TOWER_INPUTS
from omnisent.towers_omnisent import tower_features
from omnisent.training.arguments import ModelArguments, OmniSentTrainingArguments
from omnisent.training.backbone import build_model
from omnisent.training.collator import ClipCollator, ClipDataset
from omnisent.training.feature_cache import cache_info, fill_cache, open_cache
from omnisent.training.tiny_backbone import make_tiny_backbone


def main() -> None:
    torch.set_num_threads(1)
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        planted = [
            c for c in make_planted_clips(root / "planted", n_train=128, n_valid=8, n_test=8) if c.split == "train"
        ]
        for name, clips in (("planted", planted), ("720p", large_clips(root))):
            result[name] = measure(root / name, clips, make_tiny_backbone(root / "tiny"))
    rows = [
        (f"{name}, {workers}", *epoch_result["times_faster"].values())
        for name, points in result.items()
        for workers, epoch_result in points["epochs"].items()
    ]
    print(table([("times faster with the cache", "median", "min", "max"), *rows]))
    fractions = [(name, *points["parts_of_an_epoch_without"].values()) for name, points in result.items()]
    print(table([("an epoch without, one core: fraction of", "reading", "towers"), *fractions]))
    print(f"results in {save('feature_cache', result)}")


def large_clips(root: Path) -> list[Clip]:
    """Clips with large files, one file each."""
    clips = []
    for index in range(16):
        path = root / f"large-{index}.mp4"
        make_clip(path, 720, 1280, 5, seed=index)
        clips.append(Clip(str(index), "so the story was good", str(path), label=float(index % 3), split="train"))
    return clips


def measure(root: Path, clips: list[Clip], base: Path) -> dict:
    """Time of epochs with and without the cache, and time and size of the cache."""
    processor = OmniSentProcessor.from_base(base, min_pixels=3136, max_pixels=12544)
    model_args = ModelArguments(base_model=str(base), dtype="float32", lora_preset="llm")
    cache = open_cache(root / "cache", model_args, processor)
    readout = DiscriminativeReadout((-3.0, 3.0))
    collate = ClipCollator(processor, readout)
    plain, cached = ClipDataset(clips, processor, [readout]), ClipDataset(clips, processor, [readout], cache)
    args = OmniSentTrainingArguments(output_dir=str(root), use_cpu=True, disable_tqdm=True)
    fill = {"fill": lambda: fill_cache(cache, model_args, cached.inputs, processor, args)}
    filled = in_turn(fill, 1, warmups=0)["fill"][0]
    whole, towerless = (
        build_model(model_args, scales=[LabelScale(0.0, 1.0, -3.0, 3.0)], towers=towers) for towers in (True, False)
    )
    epochs = {}
    for workers in (0, 1):
        ways = {
            "without": lambda n=workers: epoch(plain, whole, collate, n),
            "with": lambda n=workers: epoch(cached, towerless, collate, n),
        }
        seconds = in_turn(ways)
        epochs[f"{workers} workers"] = {
            "seconds_an_epoch": {name: spread(values) for name, values in seconds.items()},
            "times_faster": ratio(seconds["without"], seconds["with"]),
        }
    size = cache_info(root / "cache")
    return {
        "clips": len(clips),
        "seconds_to_fill": filled,
        "bytes_a_clip": size.size / size.entries,
        "epochs": epochs,
        "parts_of_an_epoch_without": fractions_of_epoch(plain, whole, collate),
    }


def epoch(dataset: ClipDataset, model: OmniForSentimentRegression, collate: ClipCollator, workers: int) -> None:
    """Every clip once, with its gradient."""
    model.train()
    for batch in DataLoader(dataset, batch_size=8, num_workers=workers, collate_fn=collate):
        batch.pop("clip_index")
        model(**batch).loss.backward()
        model.zero_grad()


def fractions_of_epoch(
    dataset: ClipDataset, model: OmniForSentimentRegression, collate: ClipCollator
) -> dict[str, float]:
    """Fractions of an epoch without cache that reading and towers take."""
    batches = list(DataLoader(dataset, batch_size=8, collate_fn=collate))
    media = [{name: batch[name] for name in TOWER_INPUTS if name in batch} for batch in batches]
    seconds = in_turn(
        {
            "reading": lambda: list(DataLoader(dataset, batch_size=8, collate_fn=collate)),
            "towers": lambda: [tower_features(model.model, **inputs) for inputs in media],
            "reading, towers and the rest": lambda: epoch(dataset, model, collate, 0),
        }
    )
    whole = seconds.pop("reading, towers and the rest")
    return {name: ratio(values, whole)["median"] for name, values in seconds.items()}


if __name__ == "__main__":
    main()
