"""Prints measured ratios and goals, from benchmarks/results/: the table of docs/PERFORMANCE.md.

python benchmarks/summary.py
"""

import json
from collections.abc import Iterator

from common import RESULTS, table

ROWS = (
    (
        "preprocessing, frames bit-equal: times faster than usual",
        "at least 2.5",
        "preprocessing",
        "ours: times faster than usual",
    ),
    ("preprocessing, frames bit-equal: times decoding alone", "at most 1.5", "preprocessing", "ours: times the floor"),
    (
        "preprocessing, 8-bit resize: times faster than usual",
        "at least 3.5",
        "preprocessing",
        "8-bit resize: times faster than usual",
    ),
    (
        "preprocessing, 8-bit resize: times decoding alone",
        "at most 1.15",
        "preprocessing",
        "8-bit resize: times the floor",
    ),
)
CACHE = (("planted", "at least 5"), ("720p", ""))


def rows() -> Iterator[tuple]:
    """Name, goal, median, smallest and largest of each ratio."""
    results = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    for name, goal, file, key in ROWS:
        yield name, goal, *results[file]["ratios"][key].values()
    for clips, goal in CACHE:
        for workers, epoch in results["feature_cache"][clips]["epochs"].items():
            yield (
                f"epoch with cached features, {clips} clips, {workers}: times faster",
                goal,
                *epoch["times_faster"].values(),
            )
    for size, points in results["feature_cache"]["reading"].items():
        faster = points["times_faster_than"]["the towers"]
        yield f"reading a cached clip, {size}: times faster than the towers", "at least 10", *faster.values()
    yield (
        "step, batches grouped by length: times random order",
        "",
        *results["step"]["times_random"]["grouped by length"].values(),
    )
    yield "step, eager attention: times sdpa", "", *results["step"]["times_random"]["random, eager attention"].values()
    for readout, cost in results["readouts"]["model_alone"].items():
        yield f"{readout}, model alone: times discriminative", "", *cost["times_discriminative"].values()


def main() -> None:
    print(table([("ratio", "goal", "median", "smallest", "largest"), *rows()]))


if __name__ == "__main__":
    main()
