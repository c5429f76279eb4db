"""Growth of time and memory with the number of clips, their length and the batch size; each point in its own process.

    python benchmarks/growth.py

Tiny backbone, float32, one core, no workers; synthetic clips of 112 x 112 pixels with audio. Seconds are the median of five
repeats up to 500 clips, and of one beyond. Peak memory is that of the process, including imports.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import RESULTS, in_turn, save, table
from matplotlib.figure import Figure

from omnisent.data.planted import write_video
from omnisent.figure_style import BLUE, panel, save_figure
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.training.environment import process_peak_bytes
from omnisent.training.tiny_backbone import make_tiny_backbone

CLIPS = (100, 250, 500, 1000, 2000)
SECONDS = (1, 2, 5, 10, 20, 40, 60)
BATCHES = (1, 2, 4, 8, 16, 32)
FPS = 12
REPEATS = 5


def make_clip(path: Path, seconds: float) -> None:
    """A moving gradient with a tone."""
    count = round(seconds * FPS)
    ramp = np.linspace(0, 200, 112, dtype=np.float32)
    frames = np.stack([np.roll(np.add.outer(ramp, ramp) / 2, 3 * index, 1) for index in range(count)]).astype(np.uint8)
    audio = 0.3 * np.sin(np.arange(round(seconds * 16_000)) / 12)
    write_video(path, frames[..., None].repeat(3, -1), FPS, audio.astype(np.float32))


def point(base: str, video: str, clips: int, batch: int) -> None:
    """Score `clips` copies of a clip; prints seconds, peak bytes and tokens per clip as JSON."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    processor = OmniSentProcessor.from_base(base, min_pixels=3136, max_pixels=12544)
    model = OmniForSentimentRegression.from_thinker(base).eval()
    clip = {"video": video, "text": "so the story was good"}
    with torch.inference_mode():
        model(**processor(clip))
        repeats = REPEATS if clips <= 500 else 1
        seconds = in_turn({"all": lambda: score_all(model, processor, clip, clips, batch)}, repeats, warmups=0)["all"]
    peak = process_peak_bytes()
    tokens = len(processor.encode(clip)["input_ids"])
    print(json.dumps({"seconds": float(np.median(seconds)), "peak_memory_bytes": peak, "tokens_a_clip": tokens}))


def score_all(
    model: OmniForSentimentRegression, processor: OmniSentProcessor, clip: dict, clips: int, batch: int
) -> None:
    """Score `clips` copies of a clip, without keeping the results."""
    for start in range(0, clips, batch):
        model(**processor([clip] * min(batch, clips - start)))


def measure(base: Path, video: Path, clips: int, batch: int) -> dict:
    """One point, in a new process."""
    command = [sys.executable, __file__, str(base), str(video), str(clips), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    result = {"clips": {}, "clip_seconds": {}, "batch": {}}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        base = make_tiny_backbone(root / "tiny")
        for seconds in SECONDS:
            make_clip(root / f"{seconds}.mp4", seconds)
        for clips in CLIPS:
            result["clips"][clips] = measure(base, root / "2.mp4", clips, 8)
        for seconds in SECONDS:
            result["clip_seconds"][seconds] = measure(base, root / f"{seconds}.mp4", 32, 8)
        for batch in BATCHES:
            result["batch"][batch] = measure(base, root / "2.mp4", 128, batch)
    for name, points in result.items():
        rows = [
            (at, measured["seconds"], measured["peak_memory_bytes"] / 1e6, measured["tokens_a_clip"])
            for at, measured in points.items()
        ]
        print(table([(name, "seconds", "peak MB", "tokens per clip"), *rows]))
    plot(result, RESULTS / "growth.png")
    print(f"results in {save('growth', result)} and growth.png")


def plot(result: dict, path: Path) -> None:
    """Seconds and peak memory over number of clips, length and batch size."""
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    titles = {
        "clips": "number of clips (2 s each, batches of 8)",
        "clip_seconds": "length of a clip, s (32 clips)",
        "batch": "batch size (128 clips)",
    }
    for column, (name, title) in enumerate(titles.items()):
        points = {float(at): measured for at, measured in result[name].items()}
        for row, (key, scale, label) in enumerate(
            (("seconds", 1, "seconds"), ("peak_memory_bytes", 1e6, "peak memory, MB"))
        ):
            axes = figure.add_subplot(2, 3, 3 * row + column + 1)
            heights = [measured[key] / scale for measured in points.values()]
            axes.plot(list(points), heights, marker="o", color=BLUE)
            axes.set_ylim(0, 1.1 * max(heights))
            axes.set_xlim(left=0)
            axes.set_xlabel(title)
            axes.set_ylabel(label)
            panel(axes)
    path.parent.mkdir(exist_ok=True)
    save_figure(figure, path)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        point(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
