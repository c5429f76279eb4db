"""The figures of the paper (arXiv 2606.05713), row by row, and where a reproduction has the same figure. Measures nothing.

The text of the paper gives no splits of its seeds, no prompt and no number of epochs, and does not say whether Acc-2 leaves out
neutral clips. Its rows are set beside Acc-2 and F1 over the clips that are not neutral.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

HEAD, DENOISED, TRAINED, ZERO_SHOT = "head", "head-denoised", "written", "zero-shot"  # arms of the comparison
ALL = ("text", "audio", "video")
NEIGHBOURS = 10  # k of the neighbours in hidden space


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper's tables.

    Attributes:
        table: of the paper, in words.
        row: its name there.
        figures: as published, by the key of a metric or of metrics.json; accuracies as fractions, memory in bytes.
        study: which of our studies has the figures: `comparison`, `ablation` or `geometry`.
        what: the arm of the comparison, or the modalities of the ablation.
        pick: whether the mean over seeds is meant, or the seed with the lowest MAE.
        note: what to know of the row; empty for nothing.
    """

    table: str
    row: str
    figures: Mapping[str, float]
    study: Literal["comparison", "ablation", "geometry"]
    what: str | tuple[str, ...] = ""
    pick: Literal["mean", "best"] = "mean"
    note: str = ""


def _of_five(mae: float, corr: float, acc_7: float, acc_2: float, f1: float) -> Mapping[str, float]:
    return MappingProxyType({"mae": mae, "corr": corr, "acc_7": acc_7, "acc_2_non0": acc_2, "f1_non0": f1})


HEADLINE, READOUTS, MODALITIES, DENOISING = "headline", "readout comparison", "modality ablation", "denoised sound"
ROWS: dict[str, tuple[PaperRow, ...]] = {
    "cmu_mosi": (
        PaperRow(
            HEADLINE, "best of four seeds", _of_five(0.551, 0.888, 0.529, 0.895, 0.895), "comparison", DENOISED, "best"
        ),
        PaperRow(HEADLINE, "mean of four seeds", _of_five(0.570, 0.877, 0.523, 0.891, 0.891), "comparison", DENOISED),
        PaperRow(
            READOUTS,
            "discriminative",
            {"mae": 0.667, "corr": 0.824, "acc_2_non0": 0.854, "unparsable_rate": 0.0, "out_of_range_rate": 0.0},
            "comparison",
            HEAD,
            note="the paper gives .598 for plain sound elsewhere",
        ),
        PaperRow(
            READOUTS,
            "generative, zero-shot",
            {"mae": 1.443, "corr": 0.491, "acc_2_non0": 0.733, "unparsable_rate": 0.028, "out_of_range_rate": 0.0005},
            "comparison",
            ZERO_SHOT,
        ),
        PaperRow(
            READOUTS,
            "generative, trained",
            {"mae": 1.521, "corr": 0.197, "acc_2_non0": 0.582, "unparsable_rate": 0.0, "out_of_range_rate": 0.0},
            "comparison",
            TRAINED,
            note="worse than always predicting the training median, 1.456",
        ),
        PaperRow(
            "cost of scoring",
            "discriminative",
            {"seconds_per_clip": 1.14, "peak_memory_bytes": 10.78e9},
            "comparison",
            HEAD,
            note="depends on the GPU, which is another one here",
        ),
        PaperRow(
            "cost of scoring",
            "generative, zero-shot",
            {"seconds_per_clip": 1.47, "peak_memory_bytes": 10.78e9},
            "comparison",
            ZERO_SHOT,
        ),
        PaperRow(
            MODALITIES,
            "text",
            {"mae": 0.552},
            "ablation",
            ("text",),
            note="text alone is the best row of the paper's table",
        ),
        PaperRow(MODALITIES, "text, video", {"mae": 0.631}, "ablation", ("text", "video")),
        PaperRow(MODALITIES, "text, video, audio", {"mae": 0.667}, "ablation", ALL),
        PaperRow(DENOISING, "plain", {"mae": 0.598}, "comparison", HEAD, note="the paper gives .667 elsewhere"),
        PaperRow(DENOISING, "denoised", {"mae": 0.551}, "comparison", DENOISED, "best"),
        PaperRow(
            "hidden space",
            f"difference in label of {NEIGHBOURS} nearest neighbours",
            {"difference": 0.950, "permuted": 1.896},
            "geometry",
            note="ours leave out neighbours of the same video, which the paper's may not",
        ),
    ),
    "cmu_mosei": (
        PaperRow(HEADLINE, "best seed", _of_five(0.506, 0.790, 0.550, 0.871, 0.870), "comparison", DENOISED, "best"),
        PaperRow(READOUTS, "discriminative", {"mae": 0.521, "corr": 0.790}, "comparison", HEAD),
        PaperRow(READOUTS, "generative, zero-shot", {"mae": 1.431, "corr": 0.473}, "comparison", ZERO_SHOT),
    ),
}
