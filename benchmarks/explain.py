"""What an explanation costs beside a score: modalities and each word left out of a clip that is read once.

    python benchmarks/explain.py [BACKBONE]

Synthetic videos with a transcript of 30 words, on one core. The model is untrained: the tiny random backbone, whose language
model is nearly free, and the folder of another, such as the small Thinker, whose language model is most of the work.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import in_turn, ratio, save, spread, table
from preprocessing import BUDGET, HEIGHTS, make_clip

from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.pipeline_omnisent import MultimodalSentimentPipeline
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.scoring.explanation import explain
from omnisent.training.tiny_backbone import make_tiny_backbone

LIMIT = 2.5  # times a score
SECONDS = (8, 12, 20)
HEIGHT = "720p"
MIDDLE = f"{HEIGHT} 12 s"  # the clip for another backbone
REPEATS, REPEATS_OF_OTHERS = 5, 2
WORDS = (
    "I did not expect to like it but the acting was wonderful and the story moved me until the very end although the music was a"
    " little too loud"
)


def measure(base: Path, clips: dict[str, str], repeats: int) -> dict[str, dict]:
    """CPU seconds of a score and of an explanation of each clip, and their ratio."""
    torch.manual_seed(0)
    model = OmniForSentimentRegression.from_thinker(base, dtype=torch.float32).eval()
    processor = OmniSentProcessor.from_base(base, **BUDGET)
    pipeline = MultimodalSentimentPipeline(model=model, processor=processor, device="cpu")
    found = {}
    for name, path in clips.items():
        clip = {"video": path, "text": WORDS}
        tasks = {"score": lambda clip=clip: pipeline(clip), "explain": lambda clip=clip: explain(pipeline, clip)}
        spent = in_turn(tasks, repeats=repeats, warmups=1 if repeats == REPEATS else 0, clock=time.process_time)
        found[name] = {
            "tokens": len(processor.encode(clip)["input_ids"]),
            "words": len(WORDS.split()),
            "cpu_seconds": {task: spread(values) for task, values in spent.items()},
            "times_a_score": ratio(spent["explain"], spent["score"]),
        }
    return found


def main(other: str | None) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root, clips = Path(folder), {}
        for seconds in SECONDS:
            path = root / f"{seconds}.mp4"
            make_clip(path, *HEIGHTS[HEIGHT], seconds, seed=seconds)
            clips[f"{HEIGHT} {seconds} s"] = str(path)
        make_tiny_backbone(root / "tiny")
        result = {"tiny": measure(root / "tiny", clips, REPEATS)}
        keep(result)
        if other is not None:
            result[Path(other).name] = measure(Path(other), {MIDDLE: clips[MIDDLE]}, REPEATS_OF_OTHERS)
    rows = [
        (base, name, one["tokens"], *one["times_a_score"].values())
        for base, found in result.items()
        for name, one in found.items()
    ]
    print(table([("times a score", "clip", "tokens", "median", "min", "max"), *rows]))
    print(f"limit {LIMIT}; results in {keep(result)}")


def keep(result: dict) -> Path:
    """Write the results so far."""
    return save("explain", {"limit": LIMIT, "budget": BUDGET, "backbones": result})


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
