"""What a comparison would have to be to find a difference: from the noise of a finished one, or from stated noise.

omnisent power runs/lab --difference 0.03
omnisent power --difference 0.03 --video-sd 0.15 --seed-sd 0.02 --videos 31
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ..evaluation.comparison_result import Comparison
from ..evaluation.power import Noise, power_table
from ..training import run_folder
from .comparison_report import best_rival
from .tables import markdown_table


def power_of(
    difference: float,
    comparison: Path | None,
    *,
    rival: str | None,
    video_sd: float | None,
    seed_sd: float | None,
    videos: int | None,
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
        seeds: numbers of seeds.
        target: probability of finding the difference.

    Raises:
        FileNotFoundError: for a folder without comparison.json.
        ValueError: when the noise is not known, or there is no such arm.
    """
    if not difference > 0:
        raise ValueError("difference: expected a number above 0")
    if comparison is None:
        if video_sd is None or seed_sd is None:
            raise ValueError("name the folder of a finished comparison, or both --video-sd and --seed-sd")
        noise, of = Noise(video_sd, seed_sd), "the noise that is given"
    else:
        noise, at_hand, of = _noise(comparison, rival, seed_sd)
        noise = replace(noise, video_sd=noise.video_sd if video_sd is None else video_sd)
        videos = at_hand if videos is None else videos
    rows = power_table(difference, noise, videos=videos, seeds=seeds, target=target)
    table = pd.DataFrame(
        [
            {
                "seeds": row["seeds"],
                **({} if videos is None else {f"power with {videos} videos": f"{row['power']:.2f}"}),
                f"videos for a power of {target:g}": "no number is enough"
                if row["videos needed"] is None
                else row["videos needed"],
            }
            for row in rows
        ]
    ).set_index("seeds")
    return (
        f"A true difference of {difference:g} in MAE, with {of}: standard deviation {noise.video_sd:.3f} between videos and"
        f" {noise.seed_sd:.3f} between seeds.\n\n{markdown_table(table)}"
    )


def _noise(folder: Path, rival: str | None, seed_sd: float | None) -> tuple[Noise, int, str]:
    """What hides the difference between the first arm and a rival, the number of videos, and the pair in words."""
    file = folder / "comparison.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; expected the folder of a finished comparison")
    finished = Comparison.from_dict(run_folder.read_json(file))
    rival = best_rival(finished) if rival is None else rival
    test = next((test for test in finished.tests if test.second == rival), None)
    if test is None:
        raise ValueError(f"rival: expected one of {', '.join(test.second for test in finished.tests)}, not {rival!r}")
    paired = test.paired
    noise = (
        Noise.of(paired)
        if seed_sd is None
        else Noise(
            (paired.group_variance * paired.effective_groups) ** 0.5, seed_sd, paired.effective_groups / paired.groups
        )
    )
    labels = finished.arms
    return noise, paired.groups, f"the noise between {labels[test.first].label} and {labels[test.second].label}"
