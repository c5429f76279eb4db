"""How often a verdict is wrong, and how often an interval holds the truth: two systems without a true difference, simulated.

    python benchmarks/verdicts.py [--trials 1000] [--intervals]

The errors of two systems differ by luck alone: luck in a video, in a training (seed), in a clip, and in a clip under one seed. The
videos have the sizes of CMU-MOSI's test split, or as many of the mean size as CMU-MOSEI's has. Three ways to judge: clips as
independent observations, a t test over seeds alone, and `paired_test` with videos and seeds. With `--intervals`, a second table has
the coverage of the intervals of `estimates`, for simulated scores whose true figures are known, and how often `metric_tests` calls
two such systems different, metric by metric; it takes longer.
"""

import argparse
import math

import numpy as np
from common import save, table
from scipy import stats

from omnisent.evaluation.metric_tests import metric_tests
from omnisent.evaluation.statistics import estimates, paired_test, resampled

# Clips of each test video of CMU-MOSI.
MOSI = (
    43,
    35,
    33,
    31,
    30,
    30,
    30,
    29,
    27,
    24,
    24,
    24,
    23,
    22,
    22,
    21,
    20,
    19,
    19,
    18,
    18,
    16,
    16,
    16,
    16,
    15,
    15,
    14,
    14,
    12,
    10,
)
SIZES = {"CMU-MOSI": MOSI, "CMU-MOSEI": (7,) * 602 + (6,) * 74}  # 676 videos, 4,658 clips
ERROR_SD = 0.6  # of a clip's difference in absolute error, label units
SEED_SD = (0.0, 0.02, 0.1)
ICC = (0.05, 0.1, 0.2)  # share of the variance between clips that is between videos
SEEDS = (2, 3, 5)
OWN = 0.5  # share of the variance within videos that is each seed's own
LABEL_SD, RESIDUAL_SD, SHIFT_SD = 1.5, 0.9, 0.05  # of the simulated scores: labels, errors, and a seed's shift
RESAMPLES = 200
TESTED = ("mae", "corr", "acc_7", "acc_2_non0", "f1_non0")


def luck(generator: np.random.Generator, places: np.ndarray, seeds: int, icc: float, sd: float) -> np.ndarray:
    """Values (seeds, n) of mean 0 and standard deviation `sd`, of which a share is common to the clips of a video."""
    videos = generator.normal(0, math.sqrt(icc), places.max() + 1)[places]
    clips = generator.normal(0, math.sqrt((1 - icc) * (1 - OWN)), len(places))
    return sd * (videos + clips + generator.normal(0, math.sqrt((1 - icc) * OWN), (seeds, len(places))))


def verdicts(sizes: tuple[int, ...], seeds: int, icc: float, seed_sd: float, trials: int) -> dict[str, float]:
    """How often each way to judge calls a difference of 0 sure, at 5 %, and how often the interval holds 0."""
    generator, places = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    videos = [str(place) for place in places]
    clips_alone = seeds_alone = together = covered = 0
    for _ in range(trials):
        first = 50 + luck(generator, places, seeds, icc, ERROR_SD) + generator.normal(0, seed_sd, (seeds, 1))
        found = paired_test(first, np.full((1, len(places)), 50.0), groups=videos, flips=1)
        clips_alone += stats.ttest_1samp(first.mean(0), 50).pvalue < 0.05
        seeds_alone += stats.ttest_1samp(first.mean(1), 50).pvalue < 0.05
        together += found.verdict != "undecided"
        covered += found.low <= 0 <= found.high
    return {
        "clips as independent": clips_alone / trials,
        "t test over seeds": seeds_alone / trials,
        "paired_test": together / trials,
        "coverage": covered / trials,
    }


def coverage(sizes: tuple[int, ...], seeds: int, icc: float, trials: int) -> dict[str, float]:
    """How often the interval of MAE and of the correlation holds the true figure, and how often two equal systems differ."""
    generator, places = np.random.default_rng(1), np.repeat(np.arange(len(sizes)), sizes)
    videos = [str(place) for place in places]
    truth = {
        "mae": math.sqrt(2 / math.pi) * math.hypot(RESIDUAL_SD, SHIFT_SD),
        "corr": LABEL_SD / math.hypot(LABEL_SD, RESIDUAL_SD),
    }
    held, different = dict.fromkeys(truth, 0), dict.fromkeys(TESTED, 0)
    for _ in range(trials):
        labels = generator.normal(0, LABEL_SD, len(places))
        first, second = (
            resampled(
                labels + luck(generator, places, seeds, icc, RESIDUAL_SD) + generator.normal(0, SHIFT_SD, (seeds, 1)),
                labels,
                "mosi",
                groups=videos,
                resamples=RESAMPLES,
            )
            for _ in range(2)
        )
        found, tests = estimates(first), metric_tests(first, {"second": second})["second"]
        for key, value in truth.items():
            low, high = found[key].low, found[key].high
            held[key] += low is not None and high is not None and low <= value <= high
        for key in TESTED:
            different[key] += tests[key].verdict != "undecided"
    return {
        **{f"{key} held": count / trials for key, count in held.items()},
        **{f"{key} differs": count / trials for key, count in different.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument(
        "--intervals", action="store_true", help="also the coverage of intervals, by a fifth of the trials"
    )
    given = parser.parse_args()
    judged = [
        {"videos": name, "icc": icc, "seeds": seeds, "seed_sd": sd, **verdicts(sizes, seeds, icc, sd, given.trials)}
        for name, sizes in SIZES.items()
        for icc in ICC
        for seeds in SEEDS
        for sd in SEED_SD
    ]
    cells = [("CMU-MOSI", icc, seeds) for icc in ICC for seeds in SEEDS] + [("CMU-MOSEI", icc, 3) for icc in ICC]
    intervals = [
        {"videos": name, "icc": icc, "seeds": seeds, **coverage(SIZES[name], seeds, icc, max(1, given.trials // 5))}
        for name, icc, seeds in cells
        if given.intervals
    ]
    for rows in (judged, intervals):
        if rows:
            print(table([tuple(rows[0]), *(tuple(row.values()) for row in rows)]))
    print(f"results in {save('verdicts', {'trials': given.trials, 'verdicts': judged, 'intervals': intervals})}")


if __name__ == "__main__":
    main()
