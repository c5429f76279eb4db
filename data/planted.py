"""Planted clips: real mp4 files whose text, voice and face each carry a known fraction of the label. All are generated here.

Words, pitch and face follow three independent latents in [-1, 1]; the label is 3 * (0.5 text + 0.3 voice + 0.2 face).
A modality that a clip lacks adds nothing, so every ablation has a known correct result.

    python -m omnisent.data.planted runs/planted
"""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from tqdm.auto import tqdm

from .clip import SPLITS, Clip
from .labelled_folder import read_clips
from .tables import write_table

VERSION = 2  # raise when the same settings would give other clips
LABEL_FRACTIONS = {"text": 0.5, "audio": 0.3, "video": 0.2}
MISSING_RATE = 0.06
FPS = 12
SAMPLE_RATE = 16_000
SIZES = ((112, 112), (112, 112), (112, 112), (140, 112), (112, 140))
COLUMNS = {
    **dict.fromkeys(("id", "text", "video", "audio"), str),
    "label": float,
    **dict.fromkeys(("split", "video_id"), str),
    "clip_index": int,
}
WORDS = (
    ("horrible", "awful"),
    ("bad", "boring"),
    ("plain", "ordinary"),
    ("good", "nice"),
    ("wonderful", "brilliant"),
)
SUBJECTS = ("the acting", "the story", "the music", "the ending", "the dialogue", "the camera", "the pace", "the cast")
OPENINGS = ("well", "so", "you know", "to me", "this time", "honestly", "I saw it on Friday and", "as for the film")


@dataclass(frozen=True)
class Latents:
    """The latents of a planted clip, each in [-1, 1]; `None` for a modality that it lacks."""

    text: float | None
    audio: float | None
    video: float | None

    @property
    def label(self) -> float:
        """Sentiment in [-3, 3], in steps of 0.1."""
        parts = [LABEL_FRACTIONS[name] * (getattr(self, name) or 0.0) for name in LABEL_FRACTIONS]
        return round(3 * sum(parts), 1) + 0.0


N_TRAIN, N_VALID, N_TEST = 320, 64, 128  # clips, unless others are asked for


def make_planted_clips(
    out: str | Path, *, n_train: int = N_TRAIN, n_valid: int = N_VALID, n_test: int = N_TEST, seed: int = 0
) -> list[Clip]:
    """Create the clips, or read them if the folder already contains the same.

    The folder appears when it is complete. Planted clips with other settings are replaced; any other content is refused.

    Args:
        out: folder for clips.csv, planted.json (settings and latents) and media/.
        n_train: clips of the train split.
        n_valid: clips of the valid split.
        n_test: clips of the test split.
        seed: the same seed gives the same labels, frames and audio.

    Returns:
        The clips with absolute media paths, in the order train, valid, test.

    Raises:
        FileExistsError: when the folder contains other files.
    """
    out = Path(out)
    settings = _settings(n_train, n_valid, n_test, seed)
    if not _holds(out, settings):
        draft = out.with_name(f"{out.name}.part-{os.getpid()}")
        try:
            _write(draft, settings)
            if not _holds(out, settings):  # another process may have been faster
                if out.exists():
                    shutil.rmtree(out)
                draft.replace(out)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return read_clips(out)


def are_made(out: str | Path) -> bool:
    """Whether a folder holds the planted clips of the default settings, with all their files."""
    folder = Path(out)
    return (folder / "planted.json").is_file() and _holds(folder, _settings())


def _settings(n_train: int = N_TRAIN, n_valid: int = N_VALID, n_test: int = N_TEST, seed: int = 0) -> dict[str, int]:
    return {"version": VERSION, "n_train": n_train, "n_valid": n_valid, "n_test": n_test, "seed": seed}


def read_latents(out: str | Path) -> dict[str, Latents]:
    """The latents of each clip, by id."""
    saved = json.loads((Path(out) / "planted.json").read_text(encoding="utf-8"))
    return {clip_id: Latents(**values) for clip_id, values in saved["latents"].items()}


def planted_sentences(count: int = 400) -> list[str]:
    """Sentences like those of the clips, for training a small tokenizer."""
    generator = np.random.default_rng(0)
    return [_sentence(generator, value) for value in np.linspace(-1, 1, count)]


def write_video(
    path: str | Path,
    frames: np.ndarray,
    fps: float,
    audio: np.ndarray | None = None,
    sample_rate: int = SAMPLE_RATE,
    preset: str = "ultrafast",
) -> None:
    """Write H.264 and AAC.

    Args:
        path: the container follows its ending, e.g. `.mp4`.
        frames: (F, h, w, 3) uint8 RGB; h and w even.
        fps: frames per second.
        audio: (samples,) float32 in [-1, 1], or `None` for a video without an audio stream.
        sample_rate: samples per second.
        preset: of x264; `"medium"`, as in most real files, takes longer to write and to read.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        stream.options = {"preset": preset, "crf": "26"}
        track = None if audio is None else _audio_stream(container, sample_rate)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
        if track is not None and audio is not None:
            _write_samples(container, track, audio)


def write_audio(path: str | Path, audio: np.ndarray, sample_rate: int = SAMPLE_RATE) -> None:
    """Write AAC alone, e.g. to `.m4a`; `audio` is (samples,) float32 in [-1, 1]."""
    with av.open(str(path), "w") as container:
        _write_samples(container, _audio_stream(container, sample_rate), audio)


def _audio_stream(container, sample_rate: int):
    return container.add_stream("aac", rate=sample_rate, layout="mono", bit_rate=64_000)


def _write_samples(container, stream, audio: np.ndarray) -> None:
    step = 1024
    for start in range(0, len(audio), step):
        block = np.ascontiguousarray(audio[None, start : start + step], dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = stream.rate, start, Fraction(1, stream.rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _holds(out: Path, settings: dict) -> bool:
    settings_file = out / "planted.json"
    if not settings_file.is_file():
        if out.exists() and any(out.iterdir()):
            raise FileExistsError(f"{out}: holds files that are not planted clips; give a new or an empty folder")
        return False
    try:
        same = json.loads(settings_file.read_text(encoding="utf-8"))["settings"] == settings
        return same and len(read_clips(out)) > 0
    except (ValueError, KeyError, FileNotFoundError):  # damaged or incomplete, so create it again
        return False


def _write(out: Path, settings: dict) -> None:
    (out / "media").mkdir(parents=True)
    generator = np.random.default_rng(settings["seed"])
    rows, latents = [], {}
    plan = _plan(generator, settings)
    for index, (split, video_id, clip_index) in enumerate(tqdm(plan, desc="planted clips", unit="clip")):
        clip_id = f"{video_id}_{clip_index}"
        drawn = _draw_latents(generator, index)
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
        row |= {"id": clip_id, "split": split, "video_id": video_id, "clip_index": clip_index, "label": drawn.label}
        seconds = float(generator.uniform(1.0, 2.4))
        sentence, audio = _sentence(generator, drawn.text or 0.0), _voice(generator, drawn.audio or 0.0, seconds)
        frames = _face(generator, drawn.video or 0.0, seconds)
        if drawn.text is not None:
            row["text"] = sentence
        if drawn.video is not None:
            row["video"] = f"media/{clip_id}.mp4"
            write_video(out / row["video"], frames, FPS, None if drawn.audio is None else audio)
        else:
            row["audio"] = f"media/{clip_id}.m4a"
            write_audio(out / row["audio"], audio)
        rows.append(row)
        latents[clip_id] = {name: getattr(drawn, name) for name in LABEL_FRACTIONS}
    write_table(out / "clips.csv", COLUMNS, (list(row.values()) for row in rows))
    text = json.dumps({"settings": settings, "shares": LABEL_FRACTIONS, "latents": latents}, indent=1, allow_nan=False)
    (out / "planted.json").write_text(text + "\n", encoding="utf-8")


def _plan(generator: np.random.Generator, settings: dict) -> list[tuple[str, str, int]]:
    """Split, video and index of every clip; a video has two to five clips, all in one split."""
    plan, video = [], 0
    for split in SPLITS:
        left = settings[f"n_{split}"]
        while left > 0:
            clips = min(left, int(generator.integers(2, 6)))
            plan += [(split, f"planted-{video:04d}", place) for place in range(clips)]
            left, video = left - clips, video + 1
    return plan


def _draw_latents(generator: np.random.Generator, index: int) -> Latents:
    """Independent latents; of every fifty clips three lack their text, three their audio and three their video."""
    spread = np.sin(np.pi / 2 * generator.uniform(-1, 1, 3))  # more at the ends than in the middle
    values: dict[str, float | None] = {
        name: round(float(value), 3) for name, value in zip(LABEL_FRACTIONS, spread, strict=True)
    }
    period = round(3 / MISSING_RATE)
    for offset, name in enumerate(LABEL_FRACTIONS):
        if index % period in (offset, offset + period // 3, offset + 2 * period // 3):
            values[name] = None
    return Latents(**values)


def _sentence(generator: np.random.Generator, value: float) -> str:
    """Three graded words whose mean grade is the latent's, to a third of a grade."""
    target = (value + 1) * 2 * 3
    whole = round(target)
    grades = np.full(3, whole // 3)
    grades[: whole % 3] += 1
    generator.shuffle(grades)
    subjects = generator.choice(len(SUBJECTS), 3, replace=False)
    words = [WORDS[grade][generator.integers(len(WORDS[grade]))] for grade in grades]
    parts = [f"{SUBJECTS[s]} was {word}" for s, word in zip(subjects, words, strict=True)]
    return f"{OPENINGS[generator.integers(len(OPENINGS))]} {parts[0]}, {parts[1]} and {parts[2]}."


def _voice(generator: np.random.Generator, value: float, seconds: float) -> np.ndarray:
    """A hummed tone (samples,): pitch 120 to 480 Hz and loudness rise with the latent."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 240 * 2.0**value
    phase = 2 * np.pi * pitch * time + 0.3 * np.sin(2 * np.pi * 5 * time)
    tone = sum(np.sin(k * phase) / k for k in (1, 2, 3, 4))
    syllables = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * time + generator.uniform(0, 6))
    audio = 0.15 * (1.5 + value) / 1.5 * syllables * tone + generator.normal(0, 0.003, len(time))
    return audio.astype(np.float32)


def _face(generator: np.random.Generator, value: float, seconds: float) -> np.ndarray:
    """A talking face (F, h, w, 3) uint8: the mouth's ends rise, and the light warms, with the latent."""
    height, width = SIZES[generator.integers(len(SIZES))]
    count = max(4, round(seconds * FPS))
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    warm = np.array([128 + 100 * value, 110.0, 128 - 100 * value])
    frames = np.empty((count, height, width, 3), np.uint8)
    shift = generator.uniform(-0.1, 0.1, 2)
    for index in range(count):
        image = np.broadcast_to(warm, (height, width, 3)).copy()
        u, v = x - shift[0] - 0.03 * np.sin(index / 2), y - shift[1]
        image[u**2 / 0.36 + v**2 / 0.6 < 1] = (205, 170, 145)
        for side in (-0.22, 0.22):
            image[(u - side) ** 2 + (v + 0.22) ** 2 < 0.006] = (30, 30, 40)
        opening = 0.03 + 0.05 * abs(np.sin(index * 1.3))
        mouth = 0.32 + value * (0.12 - 2.0 * u**2)
        image[(abs(u) < 0.3) & (abs(v - mouth) < opening)] = (140, 20, 40)
        noise = generator.normal(0, 4, (height, width, 1))
        frames[index] = np.clip(image + noise, 0, 255).astype(np.uint8)
    return frames


if __name__ == "__main__":
    print(f"{len(make_planted_clips(sys.argv[1]))} clips in {sys.argv[1]}")
