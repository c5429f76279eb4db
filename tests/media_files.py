"""Small media for tests, made here: each frame carries its own index as black and white bars. And the same, damaged."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from qwen_omni_utils.v2_5 import vision_process

from omnisent.errors_omnisent import MediaError, OmniSentError
from omnisent.frames_omnisent import VideoSampling
from omnisent.media_omnisent import read_media

BARS = 12


B_FRAMES = {"bf": "3", "g": "25", "preset": "veryfast"}


def barcode(index: int, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: BARS vertical bars, the bits of index, lowest bit first."""
    bits = [(index >> bit) & 1 for bit in range(BARS)]
    row = np.array(bits)[np.arange(width) * BARS // width] * 255
    return np.broadcast_to(row[None, :, None], (height, width, 3)).astype(np.uint8)


def read_barcodes(frames: torch.Tensor) -> list[int]:
    """The index that each of (F, 3, h, w) frames carries."""
    columns = ((torch.arange(BARS) + 0.5) / BARS * frames.shape[-1]).long()
    bits = frames[:, 1, frames.shape[2] // 2][:, columns] > 127
    return [sum(int(bit) << at for at, bit in enumerate(row)) for row in bits]


def noisy(index: int, height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(index).integers(0, 60, (height, width, 3), dtype=np.uint8)
    return np.roll(barcode(index, height, width) // 2, index, axis=0) + noise


def tone(seconds: float, rate: int, channels: int = 1, hertz: float = 440.0, level: float = 0.5) -> np.ndarray:
    """(channels, samples) float32; every channel the same tone."""
    wave = level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.tile(wave.astype(np.float32), (channels, 1))


def hiss(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """(channels, samples) float32 that is nowhere silent."""
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, (channels, round(seconds * rate)))
    return tone(seconds, rate, channels) + noise.astype(np.float32)


def audio_frames(wave: np.ndarray, rate: int, layout: str):
    for start in range(0, wave.shape[1], 1024):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, start : start + 1024]), "fltp", layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        yield frame


def write_clip(
    path,
    count=50,
    fps=25,
    size=(96, 128),
    wave=None,
    rate=48_000,
    codec="libx264",
    pix_fmt="yuv420p",
    audio_codec="aac",
    codec_options=None,
    container_options=None,
    ticks=None,
    draw=barcode,
) -> Path:
    """Writes `count` frames, with the (channels, samples) wave beside them; ticks are each frame's pts in 1/1000 s."""
    with av.open(str(path), "w", options=container_options or {}) as out:
        video = audio = None
        if count:
            video = out.add_stream(codec, rate=fps, options=codec_options or {})
            video.height, video.width, video.pix_fmt = *size, pix_fmt
            video.codec_context.thread_count = 1
            if ticks:
                video.codec_context.time_base = Fraction(1, 1000)
        if wave is not None:
            layout = {1: "mono", 2: "stereo"}[len(wave)]
            audio = out.add_stream(audio_codec, rate=rate, layout=layout)
        sound = audio_frames(wave, rate, layout) if audio else iter(())
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(draw(index, *size), "rgb24")
            frame.pts, frame.time_base = (ticks[index], Fraction(1, 1000)) if ticks else (index, 1 / Fraction(fps))
            out.mux(video.encode(frame))
            for _ in range(round(rate / fps / 1024) if audio else 0):
                piece = next(sound, None)
                if piece is not None:
                    out.mux(audio.encode(piece))
        for piece in sound:
            out.mux(audio.encode(piece))
        for stream in (video, audio):
            if stream is not None:
                out.mux(stream.encode(None))
    return Path(path)


def decode_all(path) -> np.ndarray:
    """(N, H, W, 3) uint8: every frame, decoded plainly."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def indices_of_reference(total: int, fps: float) -> list[int]:
    count = vision_process.smart_nframes({"fps": 2.0, "min_frames": 4, "max_frames": 16}, total, fps)
    return torch.linspace(0, total - 1, count).round().long().tolist()


def ruin(path: Path, kind: str, chosen, fill=255) -> Path:
    """A copy of a file in which the data of some packets of its video or audio is overwritten, by place in the file."""
    with av.open(str(path)) as container:
        packets = [(packet.pos, bytes(packet)) for packet in container.demux(**{kind: 0}) if packet.size]
    data = bytearray(path.read_bytes())
    for place in chosen:
        pos, packet = packets[place]
        at = data.index(packet, pos)  # after a header of its own
        data[at : at + len(packet)] = bytes([fill]) * len(packet)
    ruined = path.with_stem(f"{path.stem}-ruined-{kind}-{min(chosen)}-{len(chosen)}")
    ruined.write_bytes(data)
    return ruined


def marks_of_damage(path: Path, kind: str) -> tuple[int, int]:
    """How many packets fail to decode, and how many decoded frames are marked as corrupt."""
    failed = marked = 0
    with av.open(str(path)) as container:
        container.streams.get(**{kind: 0})[0].codec_context.thread_count = 1
        for packet in container.demux(**{kind: 0}):
            try:
                marked += sum(frame.is_corrupt for frame in packet.decode())
            except av.FFmpegError:
                failed += 1
    return failed, marked


def fault(path, **wanted) -> str:
    with pytest.raises(MediaError) as caught:
        read_media(path, **wanted)
    assert caught.value.path == os.fspath(path)
    assert os.fspath(path) in str(caught.value)
    assert isinstance(caught.value, OmniSentError)
    return caught.value.reason


EVERY = VideoSampling(fps=100, max_frames=60, min_pixels=28 * 28)


def write_ordinary_clip(path: Path) -> Path:
    """Two seconds, B-frames, stereo AAC, index at the front."""
    wave = tone(2.0, 48_000, channels=2)
    return write_clip(path, wave=wave, codec_options=B_FRAMES, container_options={"movflags": "faststart"})


def write_without_frames(path: Path) -> Path:
    """A second of audio beside a video stream that has no frame."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 64, 64, "yuv420p"
        audio = out.add_stream("aac", rate=16_000, layout="mono")
        for frame in audio_frames(tone(1, 16_000), 16_000, "mono"):
            out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
    return path
