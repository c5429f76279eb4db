"""Answers: is any of 1,000 damaged media files read wrong: by a crash, without end, in silence, as no finite number?

Each is read in a worker process under a memory and a time limit, and beside it plainly by FFmpeg, which says whether the
decoder itself reports damage. One seed again: `PYTHONPATH=tests python -m fuzz.run --seeds 17`.

    PYTHONPATH=tests python -m fuzz.run --runs 1000 --out runs/fuzz
"""

import argparse
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from fuzz.damaged import KINDS, RECIPES, Damaged, damaged_file, make_good_files, read_good_files
from omnisent.audio_omnisent import MAX_SAMPLE
from omnisent.errors_omnisent import MediaError
from omnisent.frames_omnisent import VideoSampling
from omnisent.long_media_omnisent import LongMedia
from omnisent.media_omnisent import ClipMedia, read_media

TIME_LIMIT, MEMORY_LIMIT = 20.0, 1 << 30  # seconds a file, bytes above those that a worker starts with
# What a run can end in; the last five must not be.
OUTCOMES = ("read", "warned", "refused", "silent", "unnamed", "not finite", "crashed", "hung")
BROKEN = OUTCOMES[3:]
ALL_FRAMES = VideoSampling(fps=1000, max_frames=64, min_pixels=28 * 28, max_pixels=8 * 28 * 28)


def read_one(damaged: Damaged, folder: Path) -> dict[str, Any]:
    """Reads one damaged file: its `outcome`, the `cause` of a refusal or what is warned of, and FFmpeg's own `report`."""
    path = folder / f"{damaged.seed}.{damaged.suffix}"
    path.write_bytes(damaged.data)
    try:
        result = _read(path, damaged.has_video)
        if damaged.seed % 3 == 0 and result["outcome"] not in BROKEN:
            result |= _read_segments(path, damaged.has_video)
        if result["outcome"] == "read":
            report = decoder_report(path, damaged.has_video)
            result |= {"outcome": "silent", "cause": report} if report else {}
        return result
    finally:
        path.unlink()


def _read(path: Path, has_video: bool) -> dict[str, Any]:
    try:
        media = read_media(path, video=has_video, sampling=ALL_FRAMES)
    except MediaError as error:
        return refusal(path, error)
    fault = what_is_not_finite(media)
    if fault:
        return {"outcome": "not finite", "cause": fault}
    return {"outcome": "warned" if media.warning else "read", "cause": media.warning or ""}


def _read_segments(path: Path, has_video: bool) -> dict[str, Any]:
    """Reads three segments of the file as of a long one; an outcome only where it must not be."""
    try:
        with LongMedia(path) as media:
            for start, end in ((0, 0.5), (0.4, 1.5), (1.2, None)):
                if start < media.duration:
                    video = has_video and media.has_video
                    fault = what_is_not_finite(media.read(start, end, video=video, sampling=ALL_FRAMES))
                    if fault:
                        return {"outcome": "not finite", "cause": f"{start} s: {fault}"}
    except MediaError as error:
        result = refusal(path, error)
        return result if result["outcome"] in BROKEN else {}
    return {}


def refusal(path: Path, error: MediaError) -> dict[str, Any]:
    """A refusal with its cause; `unnamed` where it does not say which file, or nothing of use."""
    is_named = str(path) in str(error) and len(error.reason) > 20 and str(error).encode("utf-8")
    return {"outcome": "refused" if is_named else "unnamed", "cause": error.kind, "reason": error.reason}


def what_is_not_finite(media: ClipMedia) -> str:
    """Which value of a clip no clip can have, or nothing."""
    if media.audio is not None and not (np.abs(media.audio) <= MAX_SAMPLE).all():
        return f"a sample of {np.abs(media.audio).max()}"
    if not 0 <= media.duration < 1e9:
        return f"a duration of {media.duration}"
    if media.frames is None:
        return ""
    if len(media.frames) % 2 or str(media.frames.dtype) != "torch.uint8":
        return f"frames of {media.frames.dtype}, {len(media.frames)}"
    return "" if 0 < media.seconds_per_frame_pair < 1e9 else f"{media.seconds_per_frame_pair} seconds a pair of frames"


def decoder_report(path: Path, has_video: bool) -> str:
    """What FFmpeg reports when all of a file's best video and audio is decoded in order; nothing for no damage.

    An exception, a packet or frame that is marked as corrupt, an error in the log of a decoder, or of the file's reader.
    """
    before = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture() as log, av.open(f"file:{path}", metadata_errors="replace") as container:
            reports, frame_count = _reports(container, has_video, log)
    except av.FFmpegError as fault:
        return f"{type(fault).__name__}: {fault.strerror}"
    finally:
        av.logging.set_level(before[0])
        av.logging.set_skip_repeated(before[1])
    # The number of frames taken is even, so that of an odd number one is not used, and its damage need not be said.
    return next((text for kind, text in reports if kind != "video" or not frame_count % 2), "")


def _reports(container: Any, has_video: bool, log: list[tuple[int, str, str]]) -> tuple[list[tuple[str, str]], int]:
    """Each report with the kind of its stream, or `file`, and the number of packets of video."""
    found: list[tuple[str, str]] = []
    reader, frame_count = container.format.name, 0

    def note(kind: str, part: str) -> None:
        found.extend((kind, f"{part}: {text.strip()}") for _, name, text in log if name == part)
        log.clear()

    note("file", reader)
    streams = {container.streams.best(kind) for kind in ("audio", *(["video"] if has_video else []))} - {None}
    for stream in streams:
        stream.codec_context.thread_count = 1
    for packet in _packets(container):
        note("file", reader)
        if packet.stream not in streams:
            continue
        context, kind = packet.stream.codec_context, packet.stream.type
        frame_count += kind == "video" and packet.size > 0
        try:
            frames = packet.decode()
        except av.FFmpegError as fault:
            frames = []
            found.append((kind, f"{context.name}: {fault.strerror}"))
        note(kind, context.name)
        found.extend((kind, f"{context.name}: a frame is marked as corrupt") for frame in frames if frame.is_corrupt)
        # The last packet of a WAV from a pipe is a short one, and is marked though nothing is missing.
        if packet.is_corrupt and not (reader == "wav" and context.name.startswith("pcm_")):
            found.append((kind, f"{context.name}: a packet is marked as corrupt"))
    return found, frame_count


def _packets(container: Any) -> Iterator[Any]:
    """All packets; PyAV trips over the end of a file in which a stream began after the header."""
    packets = container.demux()
    while True:
        try:
            yield next(packets)
        except (StopIteration, IndexError):
            return


def run_seeds(
    seeds: Iterable[int], good: Path, *, workers: int = 2, command: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Reads the damaged file of each seed in worker processes; a worker that dies costs its file alone.

    Args:
        good: the folder of the good files.
        command: starts another worker, for tests of this.
    """
    waiting, pool = deque(seeds), []
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or pool:
                while waiting and len(pool) < workers:
                    pool.append(_Worker(command or [sys.executable, "-m", "fuzz.run", "--worker", str(good)], selector))
                for key, _ in selector.select(1.0):
                    yield from key.data.answers()
                for worker in [worker for worker in pool if worker.is_late or worker.has_ended]:
                    pool.remove(worker)
                    yield from worker.end()
                for worker in pool:
                    if worker.seed is None and waiting:
                        worker.give(waiting.popleft())
                for worker in [worker for worker in pool if worker.seed is None and not waiting]:
                    pool.remove(worker)
                    yield from worker.end()
        finally:
            for worker in pool:
                list(worker.end())


class _Worker:
    """A process that reads one file after the other, and the seed that it is at."""

    def __init__(self, command: list[str], selector: selectors.BaseSelector) -> None:
        places = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(places)}
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `end`)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=environment
        )
        self.selector, self.seed, self.has_ended, self._unread = selector, None, False, b""
        self.deadline = float("inf")
        selector.register(self.process.stdout, selectors.EVENT_READ, self)

    @property
    def is_late(self) -> bool:
        return time.monotonic() > self.deadline

    def give(self, seed: int) -> None:
        self.seed, self.deadline = seed, time.monotonic() + 60 + 2 * TIME_LIMIT  # its own alarm comes first
        self.process.stdin.write(f"{seed}\n".encode())
        self.process.stdin.flush()

    def answers(self) -> Iterator[dict[str, Any]]:
        piece = os.read(self.process.stdout.fileno(), 1 << 16)
        self.has_ended = not piece
        *lines, self._unread = (self._unread + piece).split(b"\n")
        for line in lines:
            self.seed, self.deadline = None, float("inf")
            yield json.loads(line)

    def end(self) -> Iterator[dict[str, Any]]:
        """Ends the process, and says how it died if it was at a file."""
        self.selector.unregister(self.process.stdout)
        if self.is_late:
            self.process.kill()
        self.process.stdin.close()
        code = self.process.wait()
        self.process.stdout.close()
        self.errors.seek(0)
        words = self.errors.read()[-2000:].decode(errors="replace").strip()
        self.errors.close()
        if self.seed is None:
            return
        is_hung = code in (-signal.SIGALRM, -signal.SIGKILL)
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        yield {
            "seed": self.seed,
            "outcome": "hung" if is_hung else "crashed",
            "cause": f"{name} {words[-300:]}".strip(),
        }


def work(good_folder: Path) -> None:
    """The worker: one JSON result for each seed on standard input."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints must not stand among the answers
    good = read_good_files(good_folder)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
    if pages is not None:
        limit = pages * resource.getpagesize() + MEMORY_LIMIT
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            seed, start = int(line), time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT)
            try:
                result = read_one(damaged_file(good, seed), Path(folder))
            except Exception as error:  # whatever is no MediaError ends a score command, so it is a crash
                result = {"outcome": "crashed", "cause": f"{type(error).__name__}: {error}"}
            signal.setitimer(signal.ITIMER_REAL, 0)
            result |= {"seed": seed, "seconds": round(time.monotonic() - start, 3)}
            print(json.dumps(result), file=answers, flush=True)


def with_names(result: dict[str, Any]) -> dict[str, Any]:
    """A result with the container and the kind of damage that its seed says."""
    names = list(RECIPES)
    seed = result["seed"]
    return result | {"container": names[seed % len(names)], "kind": KINDS[seed // len(names) % len(KINDS)]}


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of outcomes by container and kind, causes of refusal, and the runs that must not be."""
    table: dict[str, dict[str, Counter]] = {name: {kind: Counter() for kind in KINDS} for name in RECIPES}
    for result in results:
        table[result["container"]][result["kind"]][result["outcome"]] += 1
    return {
        "runs": len(results),
        "outcomes": {name: sum(result["outcome"] == name for result in results) for name in OUTCOMES},
        "by_kind": {kind: Counter(result["outcome"] for result in results if result["kind"] == kind) for kind in KINDS},
        "by_container_and_kind": table,
        "refused_by_cause": dict(
            Counter(result["cause"] for result in results if result["outcome"] == "refused").most_common()
        ),
        "slowest_seconds": max((result.get("seconds", 0) for result in results), default=0),
        "broken": [result for result in results if result["outcome"] in BROKEN],
    }


def as_table(found: dict[str, Any]) -> str:
    """The counts as Markdown: a cell is read cleanly / read with a warning / refused, then what must not be."""

    def cell(counts: dict[str, int]) -> str:
        plain = " / ".join(str(counts.get(name, 0)) for name in OUTCOMES[:3])
        return ", ".join([plain, *(f"{counts[name]} {name}" for name in BROKEN if counts.get(name))])

    rows = [
        ("container", *KINDS),
        ("---",) * (len(KINDS) + 1),
        *(
            (name, *(cell(kinds[kind]) for kind in KINDS))
            for name, kinds in found["by_container_and_kind"].items()
            if any(kinds.values())
        ),
        ("all", *(cell(found["by_kind"][kind]) for kind in KINDS)),
    ]
    total = ", ".join(f"{count} {name}" for name, count in found["outcomes"].items())
    causes = "".join(f"- {count} {cause}\n" for cause, count in found["refused_by_cause"].items())
    lines = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return (
        f"{found['runs']} damaged files: {total}. A cell: read / read with a warning / refused.\n\n{lines}\n\n{causes}"
    )


def main() -> int:
    """Runs the seeds, writes and prints the table; 1 where a run ended as none must."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000, help="how many damaged files (1000)")
    parser.add_argument("--seeds", type=int, nargs="+", help="these alone")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/fuzz"), help="folder of fuzz.json and fuzz.md (runs/fuzz)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return 0
    seeds = options.seeds or range(options.runs)
    with tempfile.TemporaryDirectory() as folder:
        make_good_files(Path(folder))
        results = []
        for result in run_seeds(seeds, Path(folder), workers=options.workers):
            results.append(with_names(result))
            if len(results) % 100 == 0:
                print(f"{len(results)} of {len(seeds)}", file=sys.stderr)
    results.sort(key=lambda result: result["seed"])
    found = summary(results)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "fuzz.json").write_text(json.dumps(found | {"results": results}, indent=1), encoding="utf-8")
    (options.out / "fuzz.md").write_text(as_table(found), encoding="utf-8")
    print(as_table(found))
    for result in found["broken"]:
        print(json.dumps(result), "-- again: PYTHONPATH=tests python -m fuzz.run --seeds", result["seed"])
    return 1 if found["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
