"""From a file to model inputs: this package compared with the usual path and with decoding alone, in CPU seconds on one core.

    python benchmarks/preprocessing.py [BUNDLE] [--clips FILE ...]

Usual path: `qwen_omni_utils.process_mm_info` and `Qwen2_5OmniProcessor` with the same frames and pixel budget, its video reader
replaced by one that decodes every frame with PyAV (its own readers have no wheels), and an `ffmpeg` program for the audio. Lower
bound (`floor` in the results): only decoding all frames and the audio with PyAV, in one thread. With a trained bundle, such as the
demo's, it also measures how much the 8-bit resize changes scores of planted clips. `--clips` adds video files of your own, and
compares them with decoding alone.
"""

import argparse
import cProfile
import os
import pstats
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import torch
import torch.nn.functional as F
from common import cpu_seconds, in_turn, ratio, save, spread, table
from qwen_omni_utils import process_mm_info
from qwen_omni_utils.v2_5 import vision_process
from torch.utils.data import DataLoader, Dataset
from transformers import AutoModel, AutoProcessor, Qwen2_5OmniProcessor

from omnisent.data.planted import make_planted_clips, write_video
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.thinker_inputs_omnisent import pixel_values
from omnisent.training.tiny_backbone import make_tiny_backbone

HEIGHTS = {"378p": (378, 672), "720p": (720, 1280), "1080p": (1080, 1920)}
SECONDS = (2, 5, 9, 14)
FPS = 25
BUDGET = {"fps": 2.0, "min_frames": 4, "max_frames": 16, "min_pixels": 128 * 28 * 28, "max_pixels": 200_704}


def make_clip(path: Path, height: int, width: int, seconds: float, seed: int) -> None:
    """A moving head in front of a still background, with camera noise and voice-like audio.

    As in typical files, about half of the frames are then non-reference frames.
    """
    generator = np.random.default_rng(seed)

    def texture() -> np.ndarray:
        field = torch.from_numpy(generator.uniform(40, 215, (1, 3, 24, 40)).astype(np.float32))
        return F.interpolate(field, (height, width), mode="bicubic")[0].permute(1, 2, 0).numpy()

    background, head = texture(), texture()
    noise = F.avg_pool2d(torch.from_numpy(generator.normal(0, 1, (1, 1, height + 2, width + 2))), 3, 1)[0, 0]
    grain = (2 * noise / noise.std()).float().numpy()[..., None]
    rows, columns = np.ogrid[:height, :width]
    frames = np.empty((round(seconds * FPS), height, width, 3), np.uint8)
    for index in range(len(frames)):
        y, x = (round(height / 60 * f(index / 12)) for f in (np.sin, np.cos))
        ellipse = (rows - height / 2 - y) ** 2 / 0.38**2 + (columns - width / 2 - x) ** 2 / 0.28**2 < height**2
        image = np.where(ellipse[..., None], np.roll(head, (y, x), (0, 1)), background)
        frames[index] = (image + np.roll(grain, tuple(generator.integers(0, height, 2)), (0, 1))).clip(0, 255)
    time = np.arange(round(seconds * 44_100)) / 44_100
    audio = 0.3 * np.sin(2 * np.pi * (140 + 30 * np.sin(5 * time)) * time) * (0.6 + 0.4 * np.sin(19 * time))
    write_video(path, frames, FPS, audio.astype(np.float32), sample_rate=44_100, preset="medium")


def decode_alone(path: str) -> None:
    """The lower bound."""
    with av.open(path) as container:
        for stream in (*container.streams.video, *container.streams.audio):
            stream.codec_context.thread_count = 1
        for packet in container.demux():
            packet.decode()


def read_every_frame(element: dict) -> tuple[torch.Tensor, dict, float]:
    """The reader of the usual path: decode all frames, then choose."""
    with av.open(element["video"]) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        fps = float(stream.average_rate)
    count = vision_process.smart_nframes(element, total_frames=len(frames), video_fps=fps)
    index = torch.linspace(0, len(frames) - 1, count).round().long()
    video = torch.from_numpy(np.stack([frames[i] for i in index])).permute(0, 3, 1, 2)
    return video, {}, count / len(frames) * fps


class UsualPath:
    """qwen-omni-utils and Qwen2_5OmniProcessor, used as documented."""

    def __init__(self, base: Path, ours: OmniSentProcessor):
        self.processor, self.ours = Qwen2_5OmniProcessor.from_pretrained(base), ours
        vision_process.VIDEO_READER_BACKENDS["pyav"] = read_every_frame
        vision_process.get_video_reader_backend = lambda: "pyav"

    def __call__(self, path: str) -> dict:
        conversation = [
            {"role": "system", "content": [{"type": "text", "text": self.ours.system_prompt}]},
            {
                "role": "user",
                "content": [
                    {"type": "video", "video": path, **BUDGET},
                    {"type": "text", "text": self.ours.instruction},
                ],
            },
        ]
        text = self.processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        audio, _, videos, options = process_mm_info(conversation, use_audio_in_video=True, return_video_kwargs=True)
        return self.processor(
            text=text,
            videos=videos,
            audio=audio,
            fps=options["fps"][0],
            do_sample_frames=False,
            do_resize=False,
            load_audio_from_video=True,
            audio_from_video_indices=[0],
            return_tensors="pt",
        )


class Clips(Dataset):
    """Encoded clips, to measure DataLoader workers."""

    def __init__(self, paths: list[str], processor: OmniSentProcessor):
        self.paths, self.processor = paths, processor

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> int:
        return self.processor.encode({"video": self.paths[index]})["input_ids"].shape[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", help="a trained bundle")
    parser.add_argument("--clips", nargs="+", default=[], help="video files of your own")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copy(imageio_ffmpeg.get_ffmpeg_exe(), root / "ffmpeg")
        os.environ["PATH"] = f"{root}{os.pathsep}{os.environ['PATH']}"
        base = make_tiny_backbone(root / "tiny")
        exact = OmniSentProcessor.from_base(base, **BUDGET)
        fast = OmniSentProcessor.from_base(base, **BUDGET, exact_resize=False)
        usual = UsualPath(base, exact)
        paths = {}
        for name, (height, width) in HEIGHTS.items():
            for seconds in SECONDS:
                path = root / f"{name}-{seconds}.mp4"
                make_clip(path, height, width, seconds, seed=seconds)
                paths[f"{name} {seconds} s"] = str(path)
        result = measure(paths, exact, fast, usual)
        if options.clips:
            result["own_clips"] = measure({Path(path).name: path for path in options.clips}, exact, fast)
        result["profile"] = profiled(lambda: [exact.encode({"video": path}) for path in paths.values()], len(paths))
        result["workers"] = over_workers(list(paths.values()), exact)
        if options.bundle:
            result["score_change_of_8_bit_resize"] = score_change(options.bundle, root)
    print(f"results in {save('preprocessing', result)}")


def measure(
    paths: dict[str, str], exact: OmniSentProcessor, fast: OmniSentProcessor, usual: UsualPath | None = None
) -> dict:
    """CPU seconds per clip of each path on one core, and ratios over all clips."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    clips, totals = {}, {}
    for name, path in paths.items():
        tasks = {
            "floor": lambda path=path: decode_alone(path),
            "ours": lambda path=path: exact.encode({"video": path}),
            "ours, 8-bit resize": lambda path=path: fast.encode({"video": path}),
        }
        if usual is not None:
            tasks["usual"] = lambda path=path: usual(path)
        seconds = in_turn(tasks, clock=cpu_seconds)
        here, quick = tasks["ours"](), tasks["ours, 8-bit resize"]()
        moved = (quick["video_patches"].float() - here["video_patches"].float()).abs().mean().item()
        clips[name] = {
            "cpu_seconds": {task: spread(values) for task, values in seconds.items()},
            "mean_change_of_a_level_by_8_bit_resize": moved,
        }
        if usual is not None:
            values = pixel_values(here["video_patches"], exact.layout.mean_std)
            difference = usual(path)["pixel_values_videos"] - values
            clips[name]["largest_patch_difference_to_usual"] = difference.abs().max().item()
        for task, values in seconds.items():
            totals[task] = np.add(totals.get(task, 0), values)
        print(
            f"{name}: " + ", ".join(f"{task} {np.median(values):.3f} s" for task, values in seconds.items()), flush=True
        )
    os.sched_setaffinity(0, cores)
    ratios = {
        "ours: times the floor": ratio(totals["ours"], totals["floor"]),
        "8-bit resize: times the floor": ratio(totals["ours, 8-bit resize"], totals["floor"]),
    }
    if usual is not None:
        ratios["ours: times faster than usual"] = ratio(totals["usual"], totals["ours"])
        ratios["8-bit resize: times faster than usual"] = ratio(totals["usual"], totals["ours, 8-bit resize"])
    print(table([("over all clips", "median", "min", "max"), *((name, *r.values()) for name, r in ratios.items())]))
    return {"cores_used": 1, "budget": BUDGET, "clips": clips, "ratios": ratios}


def profiled(task: Callable[[], object], clips: int, rows: int = 16) -> list[dict]:
    """The functions with the largest own CPU time in a task for so many clips."""
    profiler = cProfile.Profile(time.process_time)
    profiler.enable()
    task()
    profiler.disable()
    functions = sorted(pstats.Stats(profiler).stats.items(), key=lambda item: -item[1][2])
    total = sum(values[2] for _, values in functions)
    table_rows = [
        {
            "function": f"{Path(file).name} {name}".removeprefix("~ "),
            "calls_per_clip": values[1] / clips,
            "cpu_seconds_per_clip": values[2] / clips,
            "share": values[2] / total,
        }
        for (file, _, name), values in functions[:rows]
    ]
    print(table([tuple(table_rows[0]), *(row.values() for row in table_rows)]))
    return table_rows


def score_change(bundle: str, root: Path) -> dict[str, float]:
    """How much the 8-bit resize changes scores of planted test clips with video; label units."""
    model = AutoModel.from_pretrained(bundle, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(bundle, trust_remote_code=True)
    clips = [clip.to_dict() for clip in make_planted_clips(root / "planted") if clip.split == "test" and clip.video]
    scores = []
    for processor.exact_resize in (True, False):
        with torch.inference_mode():
            scores.append(torch.cat([model(**processor(clip)).scores for clip in clips]))
    moved = (scores[1] - scores[0]).abs()
    change = {"clips": len(clips), "mean": moved.mean().item(), "largest": moved.max().item()}
    print(
        f"8-bit resize changes {len(clips)} scores by {change['mean']:.4f} on average, at most {change['largest']:.4f}"
    )
    return change


def over_workers(paths: list[str], processor: OmniSentProcessor) -> dict:
    """Clips per second with one and two DataLoader workers, without their start.

    DataLoader deals clips to its workers in turn; each clip comes twice, so that both have the same clips.
    """
    twice = Clips([path for path in paths for _ in range(2)], processor)
    options = {"batch_size": None, "persistent_workers": True}
    loaders = {str(workers): DataLoader(twice, num_workers=workers, **options) for workers in (1, 2)}
    seconds = in_turn({workers: lambda loader=loader: list(loader) for workers, loader in loaders.items()})
    rates = {workers: spread([len(twice) / value for value in values]) for workers, values in seconds.items()}
    rates["two: times one"] = ratio(seconds["1"], seconds["2"])
    print(table([("workers", "clips/s", "min", "max"), *((name, *rate.values()) for name, rate in rates.items())]))
    return rates


if __name__ == "__main__":
    sys.exit(main())
