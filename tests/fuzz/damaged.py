"""Answers: which small damaged media files are read in the fuzz run, each made anew from its number.

A good file of every container that omnisent reads and PyAV writes is made first; the number of a run says which of them is
damaged, and how. Nothing here reads a file.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS, COUNT, SIZE = 12, 24, (48, 64)
KINDS = ("cut", "flipped", "zeroed", "swapped", "sizes")
_EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)


@dataclass(frozen=True)
class Recipe:
    """How one good file is made: its suffix, codecs and options; `None` leaves a stream out."""

    suffix: str
    video: str | None = None
    audio: str | None = None
    rate: int = 48_000
    channels: int = 2
    size: tuple[int, int] = SIZE
    count: int = COUNT
    fps: int = FPS
    pix_fmt: str = "yuv420p"
    options: tuple[tuple[str, str], ...] = ()
    container_options: tuple[tuple[str, str], ...] = ()
    bit_rate: int = 0


_B_FRAMES = (
    ("preset", "veryfast"),
    ("x264-params", "qp=26:bframes=2:keyint=8:aq-mode=0:mbtree=0:weightp=0:scenecut=0"),
)
_X265 = (("preset", "ultrafast"), ("x265-params", "log-level=none:keyint=8:bframes=2:pools=none:frame-threads=1"))
_VPX = (("deadline", "good"), ("cpu-used", "4"), ("g", "8"))
_G8 = (("g", "8"),)

RECIPES: dict[str, Recipe] = {
    "mp4": Recipe("mp4", "libx264", "aac", options=_B_FRAMES),
    "mp4 in fragments": Recipe(
        "mp4", "libx264", "aac", options=_B_FRAMES, container_options=(("movflags", "frag_keyframe+empty_moov"),)
    ),
    "mp4 h265": Recipe("mp4", "libx265", "aac", options=_X265),
    "mov": Recipe("mov", "mpeg4", "pcm_s16le", options=_G8),
    "3gp": Recipe("3gp", "h263", "libopencore_amrnb", rate=8000, channels=1, size=(96, 128), options=_G8),
    "mkv": Recipe("mkv", "libx264", "libopus", options=_B_FRAMES),
    "mkv h265": Recipe("mkv", "libx265", "flac", options=_X265),
    "webm vp8": Recipe("webm", "libvpx", "libopus", options=_VPX),
    "webm vp9": Recipe("webm", "libvpx-vp9", "libopus", options=_VPX),
    "avi": Recipe("avi", "mpeg4", "libmp3lame", options=(*_G8, ("bf", "1"))),
    "avi mjpeg": Recipe("avi", "mjpeg", "pcm_s16le", pix_fmt="yuvj420p"),
    "flv": Recipe("flv", "flv", "libmp3lame", rate=44_100, options=_G8),
    "flv h264": Recipe("flv", "libx264", "aac", options=_B_FRAMES),
    "ts": Recipe("ts", "libx264", "aac", options=_B_FRAMES),
    "ts mpeg2": Recipe("ts", "mpeg2video", "mp2", fps=25, options=_G8),
    "mpg": Recipe("mpg", "mpeg2video", "mp2", fps=25, options=(*_G8, ("bf", "2"))),
    "wmv": Recipe("asf", "wmv2", "wmav2", options=_G8, bit_rate=128_000),
    "mxf": Recipe("mxf", "mpeg2video", "pcm_s16le", fps=25, options=_G8),
    "dv": Recipe("dv", "dvvideo", "pcm_s16le", size=(576, 720), count=6, fps=25),
    "rm": Recipe("rm", "rv20", "ac3", size=(96, 128), options=_G8),
    "ivf": Recipe("ivf", "libvpx", options=_VPX),
    "gif": Recipe("gif", "gif", pix_fmt="rgb8"),
    "wav": Recipe("wav", audio="pcm_s16le"),
    "wav float": Recipe("wav", audio="pcm_f32le"),
    "w64": Recipe("w64", audio="pcm_s16le"),
    "aiff": Recipe("aiff", audio="pcm_s16be"),
    "au": Recipe("au", audio="pcm_s16be"),
    "caf": Recipe("caf", audio="alac"),
    "flac": Recipe("flac", audio="flac"),
    "mp3": Recipe("mp3", audio="libmp3lame"),
    "ogg": Recipe("ogg", audio="libopus"),
    "ogg flac": Recipe("ogg", audio="flac"),
    "m4a": Recipe("m4a", audio="aac"),
    "aac": Recipe("aac", audio="aac"),
    "ac3": Recipe("ac3", audio="ac3"),
    "eac3": Recipe("eac3", audio="eac3"),
    "amr": Recipe("amr", audio="libopencore_amrnb", rate=8000, channels=1),
    "tta": Recipe("tta", audio="tta"),
    "wv": Recipe("wv", audio="wavpack"),
}

# Words beside which a container keeps sizes and counts, and the order of their bytes.
_ISO = (
    b"moov",
    b"trak",
    b"mdia",
    b"stbl",
    b"stsz",
    b"stco",
    b"stts",
    b"stsc",
    b"ctts",
    b"stsd",
    b"mdat",
    b"elst",
    b"mvhd",
)
_RIFF = (b"RIFF", b"LIST", b"avih", b"strh", b"strf", b"idx1", b"data", b"fmt ", b"movi", b"00dc", b"01wb")
_MARKS: dict[str, tuple[tuple[bytes, ...], str]] = {
    **dict.fromkeys(
        ("mp4", "mov", "3gp", "m4a"), ((*_ISO, b"trun", b"tfhd", b"moof", b"mdhd", b"esds", b"avcC"), "big")
    ),
    **dict.fromkeys(
        ("mkv", "webm"), ((b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75", b"\xa3", b"\xae"), "big")
    ),
    **dict.fromkeys(("avi", "wav", "w64"), (_RIFF, "little")),
    "aiff": ((b"FORM", b"COMM", b"SSND"), "big"),
    "au": ((b".snd",), "big"),
    "caf": ((b"desc", b"kuki", b"pakt", b"data"), "big"),
    "flac": ((b"fLaC",), "big"),
    "ogg": ((b"OggS",), "little"),
    "rm": ((b".RMF", b"PROP", b"MDPR", b"DATA", b"INDX"), "big"),
    "gif": ((b"GIF89a", b"\x21\xf9", b"\x2c"), "little"),
}


@dataclass(frozen=True)
class Damaged:
    """One damaged file, with the container and the kind of damage that its seed says."""

    seed: int
    container: str
    kind: str
    data: bytes

    @property
    def has_video(self) -> bool:
        """Whether the good file has moving pictures."""
        return RECIPES[self.container].video is not None

    @property
    def suffix(self) -> str:
        """The suffix of the good file, without a dot."""
        return RECIPES[self.container].suffix


def make_good_files(folder: Path) -> dict[str, Path]:
    """Writes one good file for each recipe, the same bytes each time, and returns them by name."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        name: _write(folder / f"{name.replace(' ', '_')}.{recipe.suffix}", recipe) for name, recipe in RECIPES.items()
    }


def read_good_files(folder: Path) -> dict[str, bytes]:
    """The files that `make_good_files` left in a folder."""
    return {
        name: (folder / f"{name.replace(' ', '_')}.{recipe.suffix}").read_bytes() for name, recipe in RECIPES.items()
    }


def damaged_file(good: dict[str, bytes], seed: int) -> Damaged:
    """The damaged file of a number: the container goes round first, then the kind of damage."""
    names = list(RECIPES)
    container, kind = names[seed % len(names)], KINDS[seed // len(names) % len(KINDS)]
    data = _DAMAGE[kind](bytearray(good[container]), container, good, np.random.default_rng(seed))
    return Damaged(seed, container, kind, bytes(data))


def damaged_files(good: dict[str, bytes], seeds: range | list[int]) -> Iterator[Damaged]:
    """The damaged files of some numbers, for whoever wants to do more with them than to read them."""
    return (damaged_file(good, seed) for seed in seeds)


def _cut(data: bytearray, container: str, good: dict[str, bytes], rng: np.random.Generator) -> bytearray:
    return data[: rng.integers(1, len(data))]


def _flip(data: bytearray, container: str, good: dict[str, bytes], rng: np.random.Generator) -> bytearray:
    for at in rng.integers(0, len(data), 1 << rng.integers(0, 8)):
        data[at] ^= 1 << rng.integers(0, 8)
    return data


def _zero(data: bytearray, container: str, good: dict[str, bytes], rng: np.random.Generator) -> bytearray:
    for at in rng.integers(0, len(data), 1 << rng.integers(0, 4)):
        size = min(1 << rng.integers(3, 12), len(data) - at)
        data[at : at + size] = bytes(int(size))
    return data


def _swap(data: bytearray, container: str, good: dict[str, bytes], rng: np.random.Generator) -> bytearray:
    other = good[list(good)[rng.integers(0, len(good))]]
    size = 1 << rng.integers(3, 11)
    return bytearray(other[:size]) + data[size:] if rng.integers(0, 2) else bytearray(other[:size]) + data


def _fake_sizes(data: bytearray, container: str, good: dict[str, bytes], rng: np.random.Generator) -> bytearray:
    marks, order = _MARKS.get(RECIPES[container].suffix, ((), "big"))
    places = [at for mark in marks for at in _places_of(bytes(data), mark)]
    for _ in range(rng.integers(1, 4)):
        width = int(rng.choice((1, 2, 4)))
        if places:
            at = int(rng.choice(places)) + int(rng.choice((-4, 4, 5, 8, 12, 16, 20)))
        else:
            at = int(rng.integers(0, min(len(data), 512)))
        at = min(max(at, 0), len(data) - width)
        value = int(rng.choice(_EXTREMES)) & (256**width - 1)
        data[at : at + width] = value.to_bytes(width, order)
    return data


def _places_of(data: bytes, mark: bytes) -> list[int]:
    places, at = [], data.find(mark)
    while at >= 0 and len(places) < 64:
        places.append(at)
        at = data.find(mark, at + 1)
    return places


_DAMAGE: dict[str, Callable[[bytearray, str, dict[str, bytes], np.random.Generator], bytearray]] = {
    "cut": _cut,
    "flipped": _flip,
    "zeroed": _zero,
    "swapped": _swap,
    "sizes": _fake_sizes,
}


def _write(path: Path, recipe: Recipe) -> Path:
    seconds = recipe.count / recipe.fps if recipe.video else 2.0
    options = {"fflags": "+bitexact", **dict(recipe.container_options)}
    with av.open(str(path), "w", options=options) as out:
        video = _video_stream(out, recipe) if recipe.video else None
        audio = _audio_stream(out, recipe) if recipe.audio else None
        blocks = _blocks(recipe, seconds, audio) if audio else iter(())
        for index in range(recipe.count if video else 0):
            frame = av.VideoFrame.from_ndarray(_picture(index, *recipe.size), "rgb24").reformat(
                format=recipe.pix_fmt, threads=1
            )
            frame.pts, frame.time_base = index, Fraction(1, recipe.fps)
            out.mux(video.encode(frame))
            block = next(blocks, None)
            out.mux(audio.encode(block) if block is not None else [])
        for block in blocks:
            out.mux(audio.encode(block))
        for stream in (video, audio):
            out.mux(stream.encode(None) if stream is not None else [])
    return path


def _video_stream(out: av.container.OutputContainer, recipe: Recipe) -> av.VideoStream:
    stream = out.add_stream(recipe.video, rate=recipe.fps, options={"flags": "+bitexact", **dict(recipe.options)})
    stream.height, stream.width, stream.pix_fmt = *recipe.size, recipe.pix_fmt
    stream.codec_context.thread_count = 1
    if recipe.video not in ("gif", "dvvideo"):
        stream.bit_rate = 200_000
    return stream


def _audio_stream(out: av.container.OutputContainer, recipe: Recipe) -> av.AudioStream:
    layout = "mono" if recipe.channels == 1 else "stereo"
    stream = out.add_stream(recipe.audio, rate=recipe.rate, layout=layout, options={"flags": "+bitexact"})
    if recipe.bit_rate:
        stream.bit_rate = recipe.bit_rate
    return stream


def _picture(index: int, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: stripes that move, under noise, so that each frame has something to lose."""
    noise = np.random.default_rng(index).integers(0, 48, (height, width, 3))
    stripes = (np.arange(width) + 3 * index) // 8 % 2 * 160
    return (noise + stripes[None, :, None]).astype(np.uint8)


def _blocks(recipe: Recipe, seconds: float, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """The sound, noise over a tone, in blocks of a frame of video each."""
    size = recipe.rate // recipe.fps
    place = np.arange(round(seconds * recipe.rate))
    wave = 0.3 * np.sin(2 * np.pi * 300 * place / recipe.rate) + np.random.default_rng(1).uniform(-0.1, 0.1, len(place))
    wave = np.repeat(wave.astype(np.float32)[:, None], recipe.channels, axis=1)  # (samples, channels)
    resampler = av.AudioResampler(stream.format.name, stream.layout.name, recipe.rate)
    for start in range(0, len(wave), size):
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(wave[start : start + size].reshape(1, -1)), "flt", stream.layout.name
        )
        frame.sample_rate, frame.pts, frame.time_base = recipe.rate, start, Fraction(1, recipe.rate)
        yield from resampler.resample(frame)
