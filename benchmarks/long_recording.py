"""Is the timeline of a long recording the same when its command was killed, and does its memory stay flat?

    python benchmarks/long_recording.py BUNDLE [--minutes 120] [--kills 5] [--transcribe]

A recording with small frames and a spoken half minute in every five is scored in windows of 30 s: at once, and killed (kill -9) at
random moments. All files of both must be the same, byte for byte. With --transcribe, it is transcribed first, by faster-whisper
with random weights; without, a transcript lies beside it.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import save, table

from omnisent.data.planted import write_video
from omnisent.scoring.subtitles import VTT_START, vtt_cue

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from speech_recognizers import faster_whisper, tiny_whisper
from spoken import RATE, spoken

EVERY, SPOKEN, SIDE = 300, 30, 56  # seconds, seconds, pixels


def make_recording(path: Path, minutes: int) -> None:
    """A video at 1 frame a second, with speech between silences."""
    audio = np.zeros(minutes * 60 * RATE, np.float32)
    for start in range(EVERY // 3, minutes * 60 - SPOKEN, EVERY):
        audio[start * RATE : (start + SPOKEN) * RATE] = spoken(SPOKEN)
    frames = np.random.default_rng(0).integers(0, 255, (minutes * 60, SIDE, SIDE, 3), np.uint8)
    write_video(path, frames, 1, audio)


class Command:
    """`omnisent score` of a recording, into a folder of its own."""

    def __init__(self, recording: Path, whisper: str | None, bundle: str, folder: Path) -> None:
        folder.mkdir()
        self.table = folder / "over.csv"
        self.arguments = [
            *(
                sys.executable,
                "-m",
                "omnisent.cli",
                "score",
                str(recording),
                "--model",
                bundle,
                "--out",
                str(self.table),
            ),
            *("--windows", "30s", "--stride", "30s", "--timeline-format", "textgrid"),
            *(() if whisper is None else ("--transcribe", whisper)),
        ]

    def run(self, kill_after: int | None = None, pause: float = 0.0) -> dict[str, float]:
        """Seconds, and peak memory in MB; killed `pause` seconds after so many lines were kept, if a number is given."""
        started, before = time.perf_counter(), sum(self.kept().values())
        log = self.table.with_suffix(".log")
        with open(log, "wb") as said:
            process = subprocess.Popen(self.arguments, stdout=said, stderr=said)
            if kill_after is not None:
                while sum(self.kept().values()) < before + kill_after and not _has_ended(process.pid):
                    time.sleep(0.02)
                time.sleep(pause)
                os.kill(process.pid, signal.SIGKILL)
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != (0 if kill_after is None else -signal.SIGKILL):
            raise RuntimeError(f"it ended with {process.returncode}:\n{log.read_text()}")
        log.unlink()
        return {"seconds": time.perf_counter() - started, "peak_megabytes": usage.ru_maxrss / 1024}

    def kept(self) -> dict[str, int]:
        """Lines in the part files, each with its header."""
        parts = {path.name: path for path in self.table.parent.glob("*.part")}
        return {name: path.read_bytes().count(b"\n") for name, path in sorted(parts.items())}

    def files(self) -> dict[str, bytes]:
        """What was written."""
        return {path.name: path.read_bytes() for path in sorted(self.table.parent.iterdir())}


def _has_ended(process: int) -> bool:
    """Whether a child has ended; it is not waited for."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--minutes", type=int, default=120)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--transcribe", action="store_true")
    options = parser.parse_args()
    draws = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        whisper = None
        if options.transcribe:
            model = faster_whisper(folder / "faster", tiny_whisper(folder / "whisper", words=True))
            whisper = f"faster-whisper:{model}"
        recordings: dict[int, Path] = {}
        for minutes in (10, options.minutes):
            recordings[minutes] = folder / f"{minutes}.mp4"
            make_recording(recordings[minutes], minutes)
            if whisper is None:
                spoken_at = range(EVERY // 3, minutes * 60 - SPOKEN, EVERY)
                cues = (vtt_cue(1000 * at, 1000 * (at + SPOKEN), [f"minute {at // 60}"]) for at in spoken_at)
                recordings[minutes].with_suffix(".vtt").write_text(VTT_START + "".join(cues))
        short = Command(recordings[10], whisper, options.bundle, folder / "short").run()
        whole = Command(recordings[options.minutes], whisper, options.bundle, folder / "whole")
        fresh = whole.run()
        killed, kills = Command(recordings[options.minutes], whisper, options.bundle, folder / "killed"), []
        for _ in range(options.kills):
            taken = killed.run(draws.randint(1, 4), draws.uniform(0, 2))
            kills.append({"after_seconds": taken["seconds"], "lines_kept": killed.kept()})
            print(kills[-1], flush=True)
        last = killed.run()
        files, others = whole.files(), killed.files()
        result = {
            "minutes": options.minutes,
            "transcribed": options.transcribe,
            "recording_megabytes": recordings[options.minutes].stat().st_size / 1e6,
            "ten_minutes": short,
            "fresh": fresh,
            "kills": kills,
            "last": last,
            "files": {name: len(content) for name, content in files.items()},
            "same": {name: others.get(name) == content for name, content in files.items()},
        }
    runs = {"10 minutes": short, f"{options.minutes} minutes": fresh, f"after {options.kills} kills": last}
    print(table([("recording", "seconds", "peak MB"), *((name, *run.values()) for name, run in runs.items())]))
    print("all files are the same:", all(result["same"].values()) and files.keys() == others.keys())
    save("long_recording_transcribed" if options.transcribe else "long_recording", result)


if __name__ == "__main__":
    main()
