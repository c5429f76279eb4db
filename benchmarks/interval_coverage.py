"""How often a 90 % interval holds the label of a new clip, over simulated calibrations on CMU-MOSI's validation split.

    python benchmarks/interval_coverage.py [--calibrations 500]

The errors of a clip are luck in its video and in the clip. Several checkpoints have the same true error, and the one with the
lowest MAE on the validation split is kept. Three calibrations: its own residuals, as of independent clips; `cross_fitted`
residuals, as of independent clips; and these with the design effect of videos, as bundles have it. The true coverage of each
half-width is known.
"""

import argparse
import math

import numpy as np
from common import save, table
from scipy import stats

from omnisent.evaluation.intervals import LEVEL, conformal_quantile, cross_fitted

VALID = (9, 11, 15, 21, 22, 25, 28, 30, 34, 34)  # clips of each validation video of CMU-MOSI
ICC = (0.05, 0.1, 0.2, 0.5)  # share of the variance of errors that is between videos
CHECKPOINTS, SHARED = 7, 0.8  # share of the variance of errors that all checkpoints have in common


def coverages(icc: float, calibrations: int) -> dict[str, np.ndarray]:
    """The true coverage (calibrations,) of each way to calibrate."""
    generator, places = np.random.default_rng(0), np.repeat(np.arange(len(VALID)), VALID)
    videos, zeros = [str(place) for place in places], np.zeros(len(places))
    found: dict[str, list[float]] = {"residuals of the best": [], "cross-fitted": [], "with design effect": []}

    def luck() -> np.ndarray:
        return generator.normal(0, math.sqrt(icc), len(VALID))[places] + generator.normal(
            0, math.sqrt(1 - icc), len(places)
        )

    for _ in range(calibrations):
        common = math.sqrt(SHARED) * luck()
        errors = [(common + math.sqrt(1 - SHARED) * luck())[:, None] for _ in range(CHECKPOINTS)]
        best = min(errors, key=lambda one: float(np.abs(one).mean()))
        fitted = np.abs(cross_fitted(errors, zeros, videos, metric="mae", conventions=["generic"])[:, 0])
        for name, width in zip(
            found,
            (
                conformal_quantile(np.abs(best[:, 0]), LEVEL),
                conformal_quantile(fitted, LEVEL),
                conformal_quantile(fitted, LEVEL, videos),
            ),
            strict=True,
        ):
            found[name].append(1.0 if width is None else float(2 * stats.norm.cdf(width) - 1))
    return {name: np.array(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibrations", type=int, default=500)
    count = parser.parse_args().calibrations
    rows = [
        {"icc": icc, "calibrated by": name, "mean": values.mean(), "5th percentile": np.quantile(values, 0.05)}
        for icc in ICC
        for name, values in coverages(icc, count).items()
    ]
    print(table([tuple(rows[0]), *(tuple(row.values()) for row in rows)]))
    print(f"results in {save('coverage', {'calibrations': count, 'level': LEVEL, 'rows': rows})}")


if __name__ == "__main__":
    main()
