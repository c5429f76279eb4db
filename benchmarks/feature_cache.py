"""Compares an epoch of training with and without the feature cache, and reading a clip's tower outputs with computing them.

    python benchmarks/feature_cache.py

Epochs: preset llm, NF4, float32, batches of 8: the time of a second or later epoch on one core, and on two with a worker that reads
ahead; for planted clips (112 pixels high) and for 720p files of 5 s resized to the same number of pixels. The tiny backbone's
towers are fast, so the cache mostly saves reading media here; at 7B the towers matter too.

Reading: CPU seconds of one core from a clip to its batch, in random order and from the page cache, against the forward pass of the
towers; of the tiny backbone, and of towers with the 7B's widths and random weights. Of these, one and three blocks are measured,
and the time of 32 is extrapolated, as if all attended within windows only. And against one file a clip, as earlier versions had it.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from common import in_turn, ratio, save, spread, table
from preprocessing import make_clip
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from omnisent.data.clip import Clip
from omnisent.data.planted import make_planted_clips
from omnisent.families_omnisent import DEFAULT_FAMILY
from omnisent.family_omnisent import Thinker
from omnisent.losses_omnisent import LabelScale
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.readouts.discriminative import DiscriminativeReadout
from omnisent.thinker_inputs_omnisent import TOWER_INPUTS
from omnisent.towers_omnisent import tower_features
from omnisent.training.arguments import ModelArguments, OmniSentTrainingArguments
from omnisent.training.backbone import build_model, load_towers
from omnisent.training.collator import ClipCollator, ClipDataset
from omnisent.training.feature_cache import FeatureCache, fill_cache, open_cache
from omnisent.training.feature_store import FeatureStore, cache_info
from omnisent.training.tiny_backbone import make_tiny_backbone

TRUE_BLOCKS, MEASURED_BLOCKS = 32, (1, 3)
GRID, MEL_FRAMES = (8, 18, 32), 420  # 16 frames of 252 x 448 pixels, and 4.2 s of audio
TRUE_ENTRIES = 16
MANY, MANY_A_FILE = 22_856, 14  # clips of CMU-MOSEI, and how many of the 7B's entries in bfloat16 a file holds


def main() -> None:
    torch.set_num_threads(1)
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        planted = [
            c for c in make_planted_clips(root / "planted", n_train=128, n_valid=8, n_test=8) if c.split == "train"
        ]
        base = make_tiny_backbone(root / "tiny")
        for name, clips in (("planted", planted), ("720p", large_clips(root))):
            result[name] = measure(root / name, clips, base)
        reading = {
            "tiny": tiny_reading(root / "planted", planted, base),
            "7B widths": true_reading(root / "true", base),
        }
        result |= {"reading": reading, "opening": opening(root / "many")}
    rows = [
        (f"{name}, {workers}", *epoch_result["times_faster"].values())
        for name, points in result.items()
        if "epochs" in points
        for workers, epoch_result in points["epochs"].items()
    ]
    print(table([("times faster with the cache", "median", "min", "max"), *rows]))
    fractions = [(name, *result[name]["parts_of_an_epoch_without"].values()) for name in ("planted", "720p")]
    print(table([("an epoch without, one core: fraction of", "reading", "towers"), *fractions]))
    rows = [
        (f"{size}, times faster than {other}", *values.values())
        for size, points in reading.items()
        for other, values in points["times_faster_than"].items()
    ]
    print(table([("reading a clip's entry", "median", "min", "max"), *rows]))
    print(f"CPU seconds to open {MANY} clips' entries: {result['opening']['cpu_seconds']['median']:.2f}")
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
    return {
        "clips": len(clips),
        "seconds_to_fill": filled,
        "bytes_a_clip": cache_info(root / "cache").size / len(clips),
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


def tiny_reading(root: Path, clips: list[Clip], base: Path) -> dict:
    """Reading the entries of the planted clips that `measure` has filled, with `reading` for what is returned."""
    processor = OmniSentProcessor.from_base(base, min_pixels=3136, max_pixels=12544)
    model_args = ModelArguments(base_model=str(base), dtype="float32", lora_preset="llm")
    cache, towers = open_cache(root / "cache", model_args, processor), load_towers(model_args, "cpu")
    inputs = ClipDataset(clips, processor, [DiscriminativeReadout((-3.0, 3.0))]).inputs
    batches = [processor.pad([processor.encode(clip)]) for clip in inputs]
    media = [{name: batch[name] for name in TOWER_INPUTS if name in batch} for batch in batches]
    tasks = {"towers": lambda: [tower_features(towers, **clip) for clip in media]}
    return reading(root / "files", cache, inputs, processor, tasks, lambda seconds: seconds / len(clips))


def true_reading(root: Path, base: Path) -> dict:
    """Reading entries of the 7B's size, float32, with `reading` for what is returned."""
    processor = OmniSentProcessor.from_base(base)
    generator = torch.Generator().manual_seed(0)
    patches = torch.randint(0, 256, (GRID[0] * GRID[1] * GRID[2], 1176), generator=generator, dtype=torch.uint8)
    media = {
        "video_patches": patches,
        "video_mean_std": processor.layout.mean_std,
        "video_grid_thw": torch.tensor([GRID]),
        "input_features": torch.randn(1, 128, MEL_FRAMES, generator=generator),
        "feature_attention_mask": torch.ones(1, MEL_FRAMES, dtype=torch.long),
    }
    towers = {blocks: true_towers(blocks) for blocks in MEASURED_BLOCKS}
    few, more = MEASURED_BLOCKS
    features = tower_features(towers[few], **media)
    cache = FeatureCache(FeatureStore(root / "cache"), "")
    inputs = [
        {"text": f"the story was good {index}", "video": str(root / f"{index}.mp4")} for index in range(TRUE_ENTRIES)
    ]
    places = [processor.tokenizer.video_token_id] * len(features["video_embeds"])
    places += [processor.tokenizer.audio_token_id] * len(features["audio_embeds"])
    layout = {"input_ids": torch.tensor(places), "position_ids": torch.arange(len(places)).expand(3, -1)}
    root.mkdir(exist_ok=True)
    with cache.store.writing():
        for clip in inputs:
            Path(clip["video"]).write_text(clip["text"])  # only its digest is used
            for key, tensors in zip(cache.keys(clip), (features, layout), strict=True):
                cache.store.add(key, {name: tensor.clone() for name, tensor in tensors.items()})
    tasks = {f"{n} blocks": lambda thinker=thinker: tower_features(thinker, **media) for n, thinker in towers.items()}

    def of_all_blocks(seconds: float, seconds_of_more: float) -> float:
        return seconds + (TRUE_BLOCKS - few) * (seconds_of_more - seconds) / (more - few)

    return reading(root / "files", cache, inputs, processor, tasks, of_all_blocks)


def true_towers(blocks: int) -> Thinker:
    """Towers with the 7B's widths, random weights and few blocks, beside a small language model."""
    widths = DEFAULT_FAMILY.published["Qwen/Qwen2.5-Omni-7B"]["vision_config"]
    torch.manual_seed(0)
    config = DEFAULT_FAMILY.config_class(
        vision_config={**widths, "depth": blocks},
        audio_config={"encoder_layers": blocks},
        text_config={"num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 8},
    )
    return DEFAULT_FAMILY.thinker_class(config).eval().requires_grad_(requires_grad=False)


def reading(
    root: Path,
    cache: FeatureCache,
    clips: list[dict],
    processor: OmniSentProcessor,
    towers: dict[str, Callable[[], object]],
    tower_seconds: Callable[..., float],
) -> dict:
    """CPU seconds a clip, and how much faster than the towers, and than one file a clip, reading is.

    Clips are read in random order, and each is padded to a batch of its own.

    Args:
        root: a folder to write, for one file a clip.
        cache: with the entries of all clips.
        clips: as the processor takes them.
        processor: of the cache.
        towers: tasks to measure.
        tower_seconds: of the towers for one clip, from the seconds of these tasks.
    """
    root.mkdir(parents=True)
    files = [root / f"{index}.safetensors" for index in range(len(clips))]
    for clip, file in zip(clips, files, strict=True):
        save_file({name: tensor.clone() for name, tensor in cache.load(clip).items()}, file)
    order = Random(0).choices(range(len(clips)), k=max(len(clips), 64))

    def read_entries() -> None:
        for index in order:
            processor.pad([cache.load(clips[index])])

    def read_files() -> None:
        for index in order:
            cache.keys(clips[index])  # earlier versions made a key for each clip as well
            processor.pad([load_file(files[index])])

    tasks = {"entries": read_entries, "files": read_files}
    seconds = in_turn({**tasks, **towers}, clock=time.process_time)
    of_towers = [tower_seconds(*values) for values in zip(*(seconds[name] for name in towers), strict=True)]
    of_entries, of_files = ([value / len(order) for value in seconds[name]] for name in tasks)
    entry = cache.load(clips[0])
    return {
        "bytes_a_clip": sum(tensor.nbytes for tensor in entry.values()),
        "cpu_seconds_a_clip": {
            "towers": spread(of_towers),
            "entry": spread(of_entries),
            "file": spread(of_files),
        },
        "times_faster_than": {
            "the towers": ratio(of_towers, of_entries),
            "one file a clip": ratio(of_files, of_entries),
        },
    }


def opening(root: Path) -> dict:
    """CPU seconds to open the entries of many clips, in as many files as at 7B, with little in them."""
    store = FeatureStore(root / "cache")
    with store.writing():
        for index in range(MANY):
            store.add(
                f"tower_outputs/{index:032x}", {name: torch.zeros(1, 8) for name in ("audio_embeds", "video_embeds")}
            )
            store.add(f"token_layouts/{index:032x}", {name: torch.zeros(8) for name in ("input_ids", "position_ids")})
            if index % MANY_A_FILE == 0:
                store.flush()
    seconds = in_turn({"": lambda: FeatureStore(root / "cache")}, clock=time.process_time)[""]
    return {"clips": MANY, "files": len(list((root / "cache").iterdir())), "cpu_seconds": spread(seconds)}


if __name__ == "__main__":
    main()
