"""What a comparison would have to be to find a difference: from the noise of a finished one, or from stated noise.

omnisent power runs/lab --difference 0.03
omnisent power --difference 0.03 --video-sd 0.15 --seed-sd 0.02 --videos 31
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ..evaluation.comparison_result import read_comparison
from ..evaluation.conclusion import best_rival, tests_with_p
from ..evaluation.power import Noise, power_table
from ..evaluation.variances import ALPHA
from .tables import markdown_table


def power_of(
    difference: float,
    comparison: Path | None,
    *,
    rival: str | None = None,
    video_sd: float | None = None,
    seed_sd: float | None = None,
    videos: int | None = None,
    seeds: Sequence[int],
    target: float,
) -> str:
    """A table in Markdown: for each number of seeds, the power with the videos at hand, and the videos that are needed.

    Args:
        difference: in MAE, label units.
        comparison: folder of a finished comparison, or `None`.
        rival: the arm that its first arm is tested against; `None` for the best on validation.
        video_sd, seed_sd: instead of what the comparison shows.
        videos: instead of those of the comparison.
        seeds: numbers of seeds, from 2 on.
        target: probability of finding the difference.

    Raises:
        FileNotFoundError: for a folder without comparison.json.
        ValueError: when the noise is not known, there is no such arm, or a number is out of range.
    """
    if not difference > 0:
        raise ValueError("difference: expected a number above 0")
    if min(seeds) < 2:
        raise ValueError(f"seeds: a verdict needs at least 2, not {min(seeds)}")
    units, tests = "videos", 1
    if comparison is not None:
        finished = read_comparison(comparison / "comparison.json")
        rival = best_rival(finished) if rival is None else rival
        test = next((test for test in finished.tests if test.second == rival), None)
        if test is None:
            raise ValueError(
                f"rival: expected one of {', '.join(test.second for test in finished.tests)}, not {rival!r}"
            )
        if test.paired.seeds < 2 and seed_sd is None:
            raise ValueError(
                f"{comparison}: it has one seed, which does not show how seeds differ; add seeds, or give --seed-sd"
            )
        noise, units, tests = Noise.of(test.paired), finished.units, max(tests_with_p(finished), 1)
        noise = replace(
            noise, **{key: value for key, value in (("video_sd", video_sd), ("seed_sd", seed_sd)) if value is not None}
        )
        videos = test.paired.groups if videos is None else videos
        of = f"the noise between {finished.arms[test.first].label} and {finished.arms[rival].label}"
    else:
        if rival is not None:
            raise ValueError("rival: name the folder of a finished comparison too")
        if video_sd is None or seed_sd is None:
            raise ValueError("name the folder of a finished comparison, or both --video-sd and --seed-sd")
        noise, of = Noise(video_sd, seed_sd), "the noise that is given"
    rows = power_table(difference, noise, videos=videos, seeds=seeds, target=target, alpha=ALPHA / tests)
    needed = f"{units} for a power of {target:g}"
    table = pd.DataFrame(
        [
            {
                **({} if videos is None else {f"power with {videos} {units}": f"{row['power']:.2f}"}),
                needed: "add seeds" if row["videos needed"] is None else row["videos needed"],
            }
            for row in rows
        ],
        index=[f"{row['seeds']} seeds" for row in rows],
    )
    adjusted = f" p is adjusted for {tests} tests." if tests > 1 else ""
    return (
        f"A true difference of {difference:g} in MAE, with {of}: standard deviation {noise.video_sd:.3f} between {units} and"
        f" {noise.seed_sd:.3f} between seeds.{adjusted}\n\n{markdown_table(table)}"
    )
