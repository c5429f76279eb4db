"""An endpoint under load: are good requests answered as `omnisent score` scores, beside bad ones, and does memory stay flat?

    python benchmarks/serving.py BUNDLE

A bundle's handler.py behind the server of tests/toolkit_server.py, which calls it as the Inference Toolkit does, in a process that
cannot import this package. 100 clients send 1,000 requests: texts, planted clips as base64, and lists. One in twenty is bad, or its
client closes the connection in the middle of it.
"""

import base64
import csv
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import save, table

from omnisent.data.clip import Clip
from omnisent.data.planted import make_planted_clips

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from toolkit_server import Server, running

REQUESTS, CLIENTS, FIRST, ONE_BAD_IN = 1000, 100, 200, 20
GOOD_KINDS = ("text", "clip", "clip", "list")
LIST = 3
OMNISENT = (sys.executable, "-c", "from omnisent.cli import main; main()")
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Load:
    """One request: its kind, its body, and the scores to be answered; `None` for a bad one."""

    kind: str
    body: bytes
    scores: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Answered:
    """What a client got: seconds that it waited, and the status and content of the answer, `None` without one."""

    load: Load
    seconds: float
    status: int | None
    content: Any


def scored_by_the_command(clips: Sequence[Clip], bundle: str, folder: Path) -> dict[str, float]:
    """The scores of clips and, as `ID-text`, of their texts alone, by `omnisent score`."""
    listed, out = folder / "clips.csv", folder / "scores.jsonl"
    with listed.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("id", "text", "video"))
        for clip in clips:
            rows.writerows([(clip.id, clip.text, clip.video), (f"{clip.id}-text", clip.text, "")])
    command = [*OMNISENT, "score", "--table", str(listed), "--model", bundle, "--out", str(out), "--workers", "0"]
    subprocess.run(command, check=True, capture_output=True)
    return {row["id"]: row["score"] for row in map(json.loads, out.read_text().splitlines())}


def good_requests(clips: Sequence[Clip], scores: Mapping[str, float]) -> Iterator[Load]:
    """Texts, clips and lists of clips, without end."""
    files = [base64.b64encode(Path(str(clip.video)).read_bytes()).decode() for clip in clips]
    inputs = [{"text": clip.text, "video": file} for clip, file in zip(clips, files, strict=True)]
    for number, kind in enumerate(cycle(GOOD_KINDS)):
        at = number % len(clips)
        if kind == "text":
            given, expected = clips[at].text, [scores[f"{clips[at].id}-text"]]
        elif kind == "clip":
            given, expected = inputs[at], [scores[clips[at].id]]
        else:
            places = [(at + step) % len(clips) for step in range(LIST)]
            given, expected = [inputs[place] for place in places], [scores[clips[place].id] for place in places]
        yield Load(kind, json.dumps({"inputs": given}).encode(), tuple(expected))


def bad_requests(clip: Clip) -> Iterator[Load]:
    """Requests that cannot be answered, without end; the last kind is broken off by its client."""
    file = base64.b64encode(Path(str(clip.video)).read_bytes()).decode()
    videos = {
        "broken base64": file[:-3],
        "a cut file": file[: len(file) // 8 * 4],
        "text as video": base64.b64encode(b"These are words, not a video." * 20).decode(),
        "empty": "",
        "a path": str(clip.video),
        "an address": "http://127.0.0.1:9/clip.mp4",
    }
    bodies = {kind: json.dumps({"inputs": {"video": video}}).encode() for kind, video in videos.items()}
    bodies |= {"not JSON": b'{"inputs": ', "broken off": json.dumps({"inputs": {"video": file}}).encode()}
    for kind, body in cycle(bodies.items()):
        yield Load(kind, body)


def mixed(good: Iterator[Load], bad: Iterator[Load], count: int) -> list[Load]:
    """So many requests, one bad one in `ONE_BAD_IN`."""
    return [next(bad if number % ONE_BAD_IN == ONE_BAD_IN - 1 else good) for number in range(count)]


def send(server: Server, load: Load) -> Answered:
    """Send one request, and wait for its answer."""
    started = time.perf_counter()
    if load.kind == "broken off":
        head = f"POST / HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: {len(load.body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head.encode() + load.body[: len(load.body) // 2])
        return Answered(load, time.perf_counter() - started, None, None)
    status, body = server.request("POST", "/", load.body)
    return Answered(load, time.perf_counter() - started, status, json.loads(body))


def answers(
    server: Server, loads: Sequence[Load], clients: int, after: Callable[[int], None] = lambda count: None
) -> list[Answered]:
    """All answers, from so many clients at once; `after` is called with the number of answers so far."""
    waiting, lock, found = iter(loads), threading.Lock(), []

    def client() -> None:
        while True:
            with lock:
                load = next(waiting, None)
            if load is None:
                return
            answered = send(server, load)
            with lock:
                found.append(answered)
                after(len(found))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def difference(answered: Answered) -> float:
    """The largest difference of an answer's scores from those expected; infinite if it is no such answer."""
    results = answered.content if isinstance(answered.content, list) else [answered.content]
    if answered.status != 200 or not all("score" in result for result in results):
        return float("inf")
    return max(abs(result["score"] - score) for result, score in zip(results, answered.load.scores or (), strict=True))


def is_refused(answered: Answered, folder: Path) -> bool:
    """Whether a bad request got one message, which names no file of the server."""
    if answered.load.kind == "broken off":
        return answered.status is None
    return (
        answered.status == 400 and list(answered.content) == ["error"] and str(folder) not in answered.content["error"]
    )


def measured(bundle: str, folder: Path, requests: int = REQUESTS, clients: int = CLIENTS, first: int = FIRST) -> dict:
    """What the load test found; `first` requests warm the server up before its memory is compared."""
    planted = make_planted_clips(folder / "planted", n_train=32, n_valid=0, n_test=0)
    clips = [clip for clip in planted if clip.video and clip.text and not clip.audio][:16]
    scores = scored_by_the_command(clips, bundle, folder)
    loads = mixed(good_requests(clips, scores), bad_requests(clips[0]), requests)
    with running(Path(bundle), folder / "server") as server:
        process, memory = psutil.Process(server.pid), {}
        memory["loaded"] = process.memory_info().rss

        def after(count: int) -> None:
            if count in (first, requests):
                memory[f"after {count}"] = process.memory_info().rss
            memory["largest"] = max(memory.get("largest", 0), process.memory_info().rss)

        started = time.perf_counter()
        found = answers(server, loads, clients, after)
        seconds = time.perf_counter() - started
        is_healthy = server.request("GET", "/health")[0] == 200
    good, bad = [one for one in found if one.load.scores], [one for one in found if not one.load.scores]
    differences = [difference(one) for one in good]
    waited = [one.seconds for one in good]
    return {
        "requests": requests,
        "clients": clients,
        "good": {
            "sent": dict(Counter(one.load.kind for one in good)),
            "answered_as_omnisent_score": sum(one <= TOLERANCE for one in differences),
            "largest_difference": max(differences),
        },
        "bad": {
            "sent": dict(Counter(one.load.kind for one in bad)),
            "refused": sum(is_refused(one, folder) for one in bad),
        },
        "seconds": seconds,
        "requests_per_second": requests / seconds,
        "waited_seconds": {
            name: float(np.quantile(waited, q)) for name, q in (("median", 0.5), ("95 %", 0.95), ("max", 1))
        },
        "memory_bytes": memory,
        "healthy_afterwards": is_healthy,
        "temporary_files_left": len(list((folder / "server" / "tmp").glob("omnisent-*"))),
    }


def main(bundle: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = measured(str(Path(bundle).resolve()), Path(folder))
    good, bad, memory = result["good"], result["bad"], result["memory_bytes"]
    rows = [
        ("good requests", sum(good["sent"].values())),
        ("answered as `omnisent score`", good["answered_as_omnisent_score"]),
        ("largest difference of a score", good["largest_difference"]),
        ("bad requests", sum(bad["sent"].values())),
        ("refused with one message, or broken off", bad["refused"]),
        ("requests a second", result["requests_per_second"]),
        *((f"waited, s, {name}", seconds) for name, seconds in result["waited_seconds"].items()),
        *((f"memory {name}, MB", round(size / 1e6, 1)) for name, size in memory.items()),
        ("temporary files left", result["temporary_files_left"]),
    ]
    print(table([("", "measured"), *rows]))
    print(f"results in {save('serving', result)}")


if __name__ == "__main__":
    main(sys.argv[1])
