"""From files to scores: the cost beside decoding alone, the start of the command, readers, and how long the model waits.

    python benchmarks/scoring.py BUNDLE

Synthetic clips of three sizes, as in preprocessing.py; the demo's bundle, whose model is tiny, so that reading is most of the
work. The last part has one block of a vision tower as wide as the 7B's in it: a model that costs more than reading.
"""

import copy
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import cpu_seconds, in_turn, ratio, save, spread, table
from preprocessing import BUDGET, HEIGHTS, decode_alone, make_clip, profiled

from omnisent.data.clip import Clip
from omnisent.feeding_omnisent import Batching, Statistics
from omnisent.pipeline_omnisent import MultimodalSentimentPipeline
from omnisent.scoring.batch import score_clips, windows_of
from omnisent.scoring.loading import Loading, load_pipeline
from omnisent.scoring.processes import Process
from omnisent.scoring.readers import auto_workers
from omnisent.thinker_omnisent import published_config

SECONDS = (2, 5, 9)
MANY, FEW = 300, 12
TEXT = "so the story was good"
OMNISENT = (sys.executable, "-c", "from omnisent.cli import main; main()")


def score(pipeline: MultimodalSentimentPipeline, clips: list[Clip], workers: int = 0) -> Statistics:
    """Score clips, and what it took."""
    batching, statistics = Batching(), Statistics()
    windows = windows_of(clips, batching, Process())
    rows = list(score_clips(pipeline, windows, batching=batching, workers=workers, statistics=statistics))
    if any("error" in row for row in rows):
        raise SystemExit(f"scoring: {next(row['error'] for row in rows if 'error' in row)}")
    return statistics


def beside_decoding(pipeline: MultimodalSentimentPipeline, clips: list[Clip]) -> dict:
    """CPU seconds of scoring on one core, in multiples of decoding every frame and all sound."""

    def with_8_bit_resize() -> None:
        pipeline.processor.exact_resize = False
        score(pipeline, clips)
        pipeline.processor.exact_resize = True

    encoded = [pipeline.processor.encode(clip.to_dict()) for clip in clips]
    tasks = {
        "decoding alone": lambda: [decode_alone(str(clip.video)) for clip in clips],
        "encoding": lambda: [pipeline.processor.encode(clip.to_dict()) for clip in clips],
        "scoring": lambda: score(pipeline, clips),
        "scoring, 8-bit resize": with_8_bit_resize,
    }
    spent = in_turn(tasks, clock=time.process_time)
    padded = in_turn({"pad": lambda: pipeline.processor.pad(encoded[:8])}, clock=time.process_time)["pad"]
    return {
        "times_decoding": {
            name: ratio(spent[name], spent["decoding alone"]) for name in tasks if name != "decoding alone"
        },
        "cpu_seconds_a_clip": {
            name: spread([value / len(clips) for value in values]) for name, values in spent.items()
        },
        "pad_milliseconds_a_clip": spread([1000 * value / 8 for value in padded]),
        "profile": profiled(lambda: score(pipeline, clips), len(clips)),
    }


def start(bundle: str, clip: Clip) -> dict:
    """CPU seconds of the command for one clip, and of `import torch`."""
    command = [*OMNISENT, "score", str(clip.video), "--text", TEXT, "--model", bundle]
    commands = {"import torch": [sys.executable, "-c", "import torch"], "one clip": command}
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    tasks = {name: lambda one=one: subprocess.run(one, **quiet) for name, one in commands.items()}
    spent = in_turn(tasks, repeats=3, clock=cpu_seconds)
    return {
        "cpu_seconds": {name: spread(values) for name, values in spent.items()},
        "times_import_torch": ratio(spent["one clip"], spent["import torch"]),
    }


def over_workers(bundle: str, clips: list[Clip], root: Path) -> dict[str, dict]:
    """`--stats` of the command on MANY clips, by its number of workers."""
    listed = root / "clips.csv"
    with open(listed, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "text", "video"))
        writer.writerows((f"clip-{number}", TEXT, clips[number % len(clips)].video) for number in range(MANY))
    found = {}
    for workers in ("0", "1", "2", "auto"):
        stats = root / f"stats-{workers}.json"
        command = [*OMNISENT, "score", "--table", str(listed), "--model", bundle]
        command += ["--out", str(root / f"{workers}.jsonl"), "--workers", workers, "--stats", str(stats)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found[workers] = json.loads(stats.read_text())
    return found


def with_a_wide_tower(pipeline: MultimodalSentimentPipeline, clips: list[Clip]) -> dict:
    """What scoring takes with one of the 32 blocks of the 7B's vision tower, and the workers that the command would choose."""
    tower = pipeline.model.model.visual
    wide = copy.deepcopy(pipeline.model.config.thinker_config.vision_config)
    published = published_config("Qwen/Qwen2.5-Omni-7B").vision_config
    for name in ("hidden_size", "intermediate_size", "num_heads"):
        setattr(wide, name, getattr(published, name))
    wide.depth, wide.fullatt_block_indexes = 1, []
    pipeline.model.model.visual = type(tower)._from_config(wide).eval().requires_grad_(False)
    many = [clips[number % len(clips)] for number in range(FEW)]
    workers = auto_workers(many)
    return {**score(pipeline, many, workers).to_dict(), "workers": workers}


def main(bundle: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, clips = Path(folder), []
        for name, (height, width) in HEIGHTS.items():
            for seconds in SECONDS:
                path = root / f"{name}-{seconds}.mp4"
                make_clip(path, height, width, seconds, seed=seconds)
                clips.append(Clip(path.stem, TEXT, video=str(path)))
        pipeline = load_pipeline(Loading(bundle, device="cpu"))
        for name, value in BUDGET.items():
            setattr(pipeline.processor, name, value)
        cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
        os.sched_setaffinity(0, {min(cores)})
        torch.set_num_threads(1)
        result = {
            "cores_used": 1,
            "budget": BUDGET,
            **beside_decoding(pipeline, clips),
            "start": start(bundle, clips[0]),
        }
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)
        result["workers"] = over_workers(bundle, clips, root)
        result["one_block_as_wide_as_the_7b"] = with_a_wide_tower(pipeline, clips)
    rows = [(name, *values.values()) for name, values in result["times_decoding"].items()]
    print(table([("on one core: times decoding alone", "median", "min", "max"), *rows]))
    print(
        table([("milliseconds a clip", "median", "min", "max"), ("pad", *result["pad_milliseconds_a_clip"].values())])
    )
    print(
        table(
            [
                ("times `import torch`", "median", "min", "max"),
                ("one clip", *result["start"]["times_import_torch"].values()),
            ]
        )
    )
    stats = {f"{name} workers": values for name, values in result["workers"].items()}
    stats["one block as wide as the 7B's, workers auto"] = result["one_block_as_wide_as_the_7b"]
    print(
        table(
            [
                ("", "clips/s", "share of waiting"),
                *((n, v["clips_per_second"], v["waiting_share"]) for n, v in stats.items()),
            ]
        )
    )
    print(f"results in {save('scoring', result)}")


if __name__ == "__main__":
    main(sys.argv[1])
