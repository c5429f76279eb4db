"""Checks media files in worker processes, which may hang or crash: does a file decode to its end, and how long is it?

A worker is a separate Python process that reads tasks from its standard input and exits when it closes, so none outlives
the build, even if the build is killed. One that takes too long is ended by the kernel's alarm; one that dies is replaced.

    python -m omnisent.data.media_check < tasks.jsonl > results.jsonl
"""

import json
import math
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import wave
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from ..decoding_omnisent import mp4_boxes
from ..errors_omnisent import MediaError, MediaFault
from ..frames_omnisent import VideoSampling
from ..media_omnisent import ClipMedia, read_media

VERSION = 2  # raise when the same file would get another result
STARTING_SECONDS = 120.0
# Training's default number of frames, since whether a damaged file is accepted depends on it.
_SMALL = VideoSampling(min_pixels=28 * 28, max_pixels=4 * 28 * 28, exact_resize=False)
_STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
_KINDS = {
    MediaFault.MISSING: "missing clip",
    MediaFault.EMPTY: "zero bytes",
    MediaFault.TRUNCATED: "truncated",
    MediaFault.NO_FRAMES: "zero length",
}
TOOK_TOO_LONG, CRASHED = "took too long", "crashed the reader"


@dataclass(frozen=True)
class FileCheck:
    """The result of checking one file.

    Attributes:
        kind: None for a good file, else a fixed word: missing clip, zero bytes, truncated, audio only, zero
            length, unreadable (also if too many frames are missing), damaged (its frames can be read, but with
            faults), took too long, crashed the reader.
        reason: details for people.
        has_video, has_sound: whether frames and audio can be read.
        duration: seconds; of the video, else of the audio; None if neither can be read.
    """

    kind: str | None
    reason: str
    has_video: bool
    has_sound: bool
    duration: float | None


def check_file(path: str) -> FileCheck:
    """Read the audio and the frames as training does, then decode all frames with the strictest error detection."""
    with av.logging.Capture() as log:
        try:
            media = read_media(path, sampling=_SMALL)
        except MediaError as error:
            return _check_without_video(path, error)
        frames, fault = _decode_frames(path)
    fault = media.warning or fault or _cut_box(path)
    errors = [text.strip() for level, _, text in log if level <= av.logging.ERROR]
    if errors and not fault:
        fault = f"the decoder reports: {errors[0][:120]}"
    has_sound = _has_audio(media)
    contents = f"{frames} frames, {media.duration:.2f} s, {'audio' if has_sound else 'no audio'}"
    reason = f"{contents}; {fault}" if fault else contents
    return FileCheck("damaged" if fault else None, reason, True, has_sound, media.duration)


def _check_without_video(path: str, error: MediaError) -> FileCheck:
    kind, reason = _KINDS.get(error.kind, "unreadable"), error.reason
    try:
        media = read_media(path, video=False)
    except MediaError:
        return FileCheck(kind, reason, False, False, None)
    has_sound = _has_audio(media)
    if has_sound and error.kind == MediaFault.NO_VIDEO:
        kind = "audio only"
    elif not has_sound and media.duration <= 0 and kind == "unreadable":
        kind = "zero length"
    return FileCheck(kind, reason, False, has_sound, media.duration if has_sound else None)


def _has_audio(media: ClipMedia) -> bool:
    return media.audio is not None and len(media.audio) > 0


def _decode_frames(path: str) -> tuple[int, str]:
    """Number of decoded video frames, and the fault that the decoder reports, if any."""
    frames, corrupt = 0, 0
    with av.open(f"file:{path}", options={"protocol_whitelist": "file"}) as container:
        art = av.stream.Disposition.attached_pic
        stream = next(stream for stream in container.streams.video if not stream.disposition & art)
        stream.codec_context.options = _STRICT
        stream.codec_context.thread_count = 1
        try:
            for packet in container.demux(stream):
                for frame in packet.decode():
                    frames += 1
                    corrupt += frame.is_corrupt
        except (av.FFmpegError, IndexError) as fault:
            return frames, f"decoding stops with '{getattr(fault, 'strerror', fault)}' after {frames} frames"
    return frames, f"{corrupt} frames are corrupt" if corrupt else ""


def _cut_box(path: str) -> str:
    """The fault of an MP4 or MOV whose last box ends after the file; all its frames may still be there."""
    size, boxes = os.path.getsize(path), list(mp4_boxes(path))
    if not boxes or boxes[0][0] != b"ftyp" or boxes[-1][1] <= size:
        return ""
    return f"truncated: its boxes need {boxes[-1][1]} bytes, the file has {size}"


def extract_audio(path: str, out: str, method: str) -> dict:
    """Write the audio of a file as 16-bit mono wav at its own sample rate; for `spectral`, denoised.

    Returns:
        `{"written": bool}`, False if the file has no audio, or `{"error": reason}`.
    """
    try:
        media: ClipMedia = read_media(path, video=False, own_rate=True)
    except MediaError as error:
        return {"error": error.reason}
    if media.audio is None or not _has_audio(media):
        return {"written": False}
    samples = media.audio  # (samples,)
    if method == "spectral":
        import noisereduce

        rate = media.audio_rate
        quiet = _quietest(samples, rate)
        # windows of at most 32 ms: with the default, 64 ms at 16 kHz, speech is attenuated by half
        window = 2 ** int(math.log2(0.032 * rate))
        samples = noisereduce.reduce_noise(y=samples, sr=rate, y_noise=quiet, stationary=True, n_fft=window)
    write_wav(out, np.nan_to_num(samples), media.audio_rate)
    return {"written": True}


def _quietest(samples: np.ndarray, rate: int) -> np.ndarray:
    """The quietest fifth of (samples,), in pieces of 50 ms and at least 200 ms in total: the background noise."""
    size = rate // 20
    if len(samples) < 8 * size:
        return samples
    pieces = samples[: len(samples) // size * size].reshape(-1, size)  # (pieces, size)
    count = max(4, len(pieces) // 5)
    return pieces[np.sort((pieces**2).mean(axis=1).argsort()[:count])].ravel()


def write_wav(path: str | Path, samples: np.ndarray, rate: int) -> None:
    """Write (samples,) float32 in [-1, 1] as 16-bit mono wav with `rate` samples per second, atomically."""
    draft = f"{path}.{os.getpid()}.part"
    with wave.open(draft, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes())
    os.replace(draft, path)


def run_tasks(tasks: Iterable[dict], *, workers: int, time_limit: float) -> Generator[tuple[dict, dict], None, None]:
    """Each task with its result, as they finish; `{"died": reason, "kind": kind}` if the worker died.

    Args:
        tasks: `{"do": "check", "path": ...}` or `{"do": "audio", "path": ..., "out": ..., "method": ...}`; further
            keys are kept.
        workers: processes.
        time_limit: seconds a task may take.

    Raises:
        RuntimeError: when a worker cannot start.
    """
    waiting = deque(tasks)
    pool: list[_Worker] = []
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or any(worker.task for worker in pool):
                while (
                    waiting and len(pool) < workers and len(pool) < len(waiting) + sum(w.task is not None for w in pool)
                ):
                    pool.append(_Worker(time_limit, selector))
                now = time.monotonic()
                timeout = max(0.0, min(worker.deadline for worker in pool) - now)
                for key, _ in selector.select(timeout):
                    worker = key.data
                    task = worker.task
                    for result in worker.results():
                        yield task, result
                    if worker.has_ended:
                        pool.remove(worker)
                    elif worker.task is None and waiting:
                        worker.give(waiting.popleft())
                for worker in [w for w in pool if w.deadline <= time.monotonic()]:
                    task = worker.task
                    worker.end()
                    pool.remove(worker)
                    if task is not None:
                        yield task, _died(TOOK_TOO_LONG, f"took longer than {time_limit:g} s")
        finally:
            for worker in pool:
                worker.end()


def _died(kind: str, reason: str) -> dict:
    return {"died": reason, "kind": kind}


class _Worker:
    """A worker process with its current task."""

    def __init__(self, time_limit: float, selector: selectors.BaseSelector) -> None:
        self.time_limit, self.selector = time_limit, selector
        self.task: dict | None = None
        self.is_ready = self.has_ended = False
        self.deadline = time.monotonic() + STARTING_SECONDS
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `end`)
        command = [sys.executable, "-P", "-m", "omnisent.data.media_check", str(time_limit)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process: Any = subprocess.Popen(  # its pipes are not None
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=environment
        )
        self.last_error, self._unread = "", b""
        assert self.process.stdout is not None
        selector.register(self.process.stdout, selectors.EVENT_READ, self)

    def give(self, task: dict) -> None:
        self.task = task
        self.deadline = time.monotonic() + self.time_limit + 5.0  # the worker's own alarm comes first
        with suppress(BrokenPipeError):  # its death is noticed at the next read
            self.process.stdin.write(json.dumps(task).encode() + b"\n")
            self.process.stdin.flush()

    def results(self) -> Iterator[dict]:
        """New results of the worker: that of its task, or how it died."""
        piece = os.read(self.process.stdout.fileno(), 1 << 16)
        if not piece:
            yield from self._death()
            return
        *lines, self._unread = (self._unread + piece).split(b"\n")
        for line in lines:
            self.deadline = float("inf")
            if self.is_ready:
                self.task = None
                yield json.loads(line)
            self.is_ready = True

    def _death(self) -> Iterator[dict]:
        was_busy, code = self.task is not None, self.end(timeout=5.0)
        if not self.is_ready:
            raise RuntimeError(f"a worker process could not start (exit code {code}): {self.last_error}")
        if not was_busy:
            return
        if code == -signal.SIGALRM:
            yield _died(TOOK_TOO_LONG, f"took longer than {self.time_limit:g} s")
        elif code < 0:
            yield _died(CRASHED, f"the reader crashed with {signal.Signals(-code).name}")
        else:
            yield _died(CRASHED, f"the reader ended with code {code}: {self.last_error}")

    def end(self, timeout: float = 0.0) -> int:
        """End the process, immediately if it is busy, and return its exit code."""
        if self.has_ended:
            return self.process.returncode
        self.has_ended = True
        self.selector.unregister(self.process.stdout)
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout if self.task is not None or not self.is_ready else 5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.seek(0)
        self.last_error = (self.errors.read()[-4000:].decode(errors="replace").strip() or "no message").splitlines()[-1]
        self.errors.close()
        return self.process.returncode


def main() -> None:
    """The worker: a line "ready", then one JSON result for each JSON task on standard input."""
    time_limit = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # other output must not mix with the results
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    av.logging.set_level(av.logging.ERROR)
    print(json.dumps("ready"), file=results, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, time_limit)
        try:
            result = _do(task)
        except Exception as error:  # a bug of the reader is a result about the file, and must not end the build
            result = _died(CRASHED, f"{type(error).__name__}: {error}")
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(result), file=results, flush=True)
    os._exit(0)  # immediately: the teardown of libraries takes a second


def _do(task: dict) -> dict:
    if task["do"] == "audio":
        return extract_audio(task["path"], task["out"], task["method"])
    return vars(check_file(task["path"]))


if __name__ == "__main__":
    main()
