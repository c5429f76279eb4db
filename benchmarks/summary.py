"""Prints each measured figure beside its goal and its limit, from benchmarks/results/: the table of docs/PERFORMANCE.md.

python benchmarks/summary.py
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from common import RESULTS, table


class Figure(NamedTuple):
    """A figure and where it is.

    Attributes:
        name: what it is.
        goal: the value to reach.
        limit: what the decoder or the matrix products alone would give.
        keys: the name of the result file, and the keys in it.
    """

    name: str
    goal: str
    limit: str
    keys: tuple[str, ...]


FASTER, FLOOR = "times faster than usual", "times the floor"
FIGURES = (
    Figure(
        "encoding, bit-equal: times decoding alone", "at most 1.5", "1", ("preprocessing", "ratios", f"ours: {FLOOR}")
    ),
    Figure(
        "encoding, 8-bit resize: times decoding alone",
        "at most 1.15",
        "",
        ("preprocessing", "ratios", f"8-bit resize: {FLOOR}"),
    ),
    Figure(f"encoding, bit-equal: {FASTER}", "at least 2.5", "", ("preprocessing", "ratios", f"ours: {FASTER}")),
    Figure(
        f"encoding, 8-bit resize: {FASTER}", "at least 3.5", "", ("preprocessing", "ratios", f"8-bit resize: {FASTER}")
    ),
    Figure("two readers: times one", "at least 1.8", "2", ("preprocessing", "workers", "two: times one")),
    Figure("scoring, tiny model: times decoding alone", "at most 2.6", "1", ("scoring", "times_decoding", "scoring")),
    Figure(
        "scoring, 8-bit resize: times decoding alone",
        "at most 2",
        "",
        ("scoring", "times_decoding", "scoring, 8-bit resize"),
    ),
    Figure(
        "explanation, tiny model: times a score",
        "at most 2.5",
        "",
        ("explain", "backbones", "tiny", "720p 12 s", "times_a_score"),
    ),
    Figure("padding, ms a clip", "at most 2", "", ("scoring", "pad_milliseconds_a_clip")),
    Figure("start to first score, CPU s", "at most 8", "", ("scoring", "start", "cpu_seconds", "one clip")),
    Figure("start to first score: times `import torch`", "", "1", ("scoring", "start", "times_import_torch")),
    Figure(
        "waiting share, one block as wide as the 7B's",
        "at most 0.1",
        "0",
        ("scoring", "one_block_as_wide_as_the_7b", "waiting_share"),
    ),
    Figure("vision tower, float32: times faster", "at least 3", "", ("towers", "float32", "times_faster")),
    Figure("vision tower, float32: times its matrix products", "", "1", ("towers", "float32", "times_matrix_products")),
    Figure(
        "vision tower, bfloat16: times faster than float32 was",
        "",
        "",
        ("towers", "bfloat16_times_faster_than_float32_before"),
    ),
    Figure(
        "reading a cached clip: times faster than tiny towers",
        "at least 10",
        "",
        ("feature_cache", "reading", "tiny", "times_faster_than", "the towers"),
    ),
    Figure(
        "step, batches grouped by length: times random order", "", "", ("step", "times_random", "grouped by length")
    ),
    *(
        Figure(
            f"epoch with cached features, {clips} clips, {workers}: times faster",
            goal,
            "",
            ("feature_cache", clips, "epochs", workers, "times_faster"),
        )
        for clips, goal in (("planted", "at least 5"), ("720p", ""))
        for workers in ("0 workers", "1 workers")
    ),
    *(
        Figure(
            f"{readout}, model alone: times discriminative",
            "",
            "",
            ("readouts", "model_alone", readout, "times_discriminative"),
        )
        for readout in ("generative, greedy, 8 tokens", "generative, expected")
    ),
)


def value_of(figure: Figure) -> Any:
    """The measured figure: median, min and max, or a number; `None` if it was not measured."""
    file = RESULTS / f"{figure.keys[0]}.json"
    value = json.loads(file.read_text()) if file.is_file() else None
    for key in figure.keys[1:]:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def rows() -> Iterator[tuple]:
    """Name, goal, limit, median, smallest and largest of each figure."""
    for figure in FIGURES:
        value = value_of(figure)
        values = list(value.values()) if isinstance(value, dict) else [value, "", ""]
        yield figure.name, figure.goal, figure.limit, *("not measured" if one is None else one for one in values)


def main() -> None:
    print(table([("figure", "goal", "limit", "median", "smallest", "largest"), *rows()]))


if __name__ == "__main__":
    main()
