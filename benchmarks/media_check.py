"""What the check of `on_bad_clip: skip` costs on one core, against encoding each clip, and again when its results are kept.

    python benchmarks/media_check.py [FILE ...]

Without files, it makes clips of several sizes and lengths. The projection is for all clips of CMU-MOSEI on eight cores, against the
time for which the other processes of a run wait (`ddp_timeout`).
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import ratio, save, spread, table
from preprocessing import BUDGET, HEIGHTS, make_clip

from omnisent.data.catalog import DATASETS
from omnisent.data.clip import Clip
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.training.arguments import OmniSentTrainingArguments
from omnisent.training.bad_clips import find_bad_clips
from omnisent.training.media_checks import MediaChecks
from omnisent.training.tiny_backbone import make_tiny_backbone

CORES, REPEATS = 8, 3
SIZES = [("378p", 5), ("378p", 9), ("720p", 5), ("720p", 9)]
REAL = 0.22  # CPU seconds in which a real clip was read and encoded


def cpu_seconds(task: Callable[[], object]) -> float:
    """CPU seconds of this process, which do not depend on what else the machine does."""
    started = time.process_time()
    task()
    return time.process_time() - started


def main() -> None:
    """Measure, print and save."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # so that all is read in this process
    count = sum(DATASETS["cmu_mosei"].split_counts or ())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base = make_tiny_backbone(folder / "base")
        processor = OmniSentProcessor.from_base(base, **BUDGET)
        files = sys.argv[1:]
        for height, seconds in [] if files else SIZES:
            path = folder / f"{height}-{seconds}s.mp4"
            make_clip(path, *HEIGHTS[height], seconds, seed=seconds)
            files.append(str(path))
        clips = [Clip(path, "I did not expect to like it.", path, split="train") for path in files]
        taken: dict[str, list[float]] = {"encode": [], "check": [], "kept": []}
        for repeat in range(-1, REPEATS):
            checks = MediaChecks(processor, folder / f"{repeat}.jsonl", quiet=True)
            tasks: dict[str, Callable[[], object]] = {
                "encode": lambda: [processor.encode(clip.to_dict()) for clip in clips],
                "check": lambda checks=checks: find_bad_clips(clips, checks),
                "kept": lambda checks=checks: find_bad_clips(clips, checks),
            }
            for name, task in tasks.items():
                seconds = cpu_seconds(task) / len(clips)
                taken[name] += [seconds] if repeat >= 0 else []
    per_clip = {name: spread(values) for name, values in taken.items()}
    cost = per_clip["check"]["median"]
    result = {
        "clips": [Path(path).name for path in files],
        "cpu_seconds_per_clip": per_clip,
        "encode_over_check": ratio(taken["encode"], taken["check"]),
        "mosei": {
            "clips": count,
            "cores": CORES,
            "seconds": count * cost / CORES,
            f"seconds_at_{REAL}": count * REAL / CORES,
            "seconds_kept": count * per_clip["kept"]["median"],
            "ddp_timeout": OmniSentTrainingArguments(use_cpu=True).ddp_timeout,
        },
    }
    print(table([("", "CPU ms a clip"), *((name, 1000 * value["median"]) for name, value in per_clip.items())]))
    print(f"{result['mosei']}\nresults in {save('media_check', result)}")


if __name__ == "__main__":
    main()
