"""The field's metrics as an `evaluate` module, so that other projects can load this file by its path or from the Hub.

Only wraps `msa_metrics`. Never imported by the rest of the package.

    evaluate.load("evaluation/msa_metric.py", "mosi").compute(predictions=[2.4, -0.2], references=[2.0, -0.6])
"""

import datasets
import evaluate

from .formulas import Formula
from .metrics import CONVENTIONS, METRICS, msa_metrics

__all__ = [
    "Formula",
    "MSAMetric",
]  # evaluate copies the files that this one imports, and metrics.py needs that of `Formula`

_CITATION = """\
@inproceedings{mao2022msena,
  title = {M-SENA: An Integrated Platform for Multimodal Sentiment Analysis},
  author = {Mao, Huisheng and Yuan, Ziqi and Xu, Hua and Yu, Wenmeng and Liu, Yihe and Gao, Kai},
  booktitle = {Proceedings of ACL 2022: System Demonstrations},
  year = {2022}
}
"""


class MSAMetric(evaluate.Metric):
    """Metrics of sentiment scores; the config names the convention, `"mosi"`, `"sims"` or `"generic"`.

    Inputs:
        predictions: (n,) scores, label units.
        references: (n,) labels, in [-3, 3] for `"mosi"` and [-1, 1] for `"sims"`; any scale for `"generic"`.

    Returns:
        What `msa_metrics` returns: fractions in [0, 1], MAE and RMSE in label units, `None` where a value is undefined.

    Raises:
        ValueError: when no convention is named, for empty or unequally long input, or values that are not finite.
    """

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in CONVENTIONS:
            names = ", ".join(repr(name) for name in CONVENTIONS)
            raise ValueError(
                f"msa_metric: name the convention, one of {names}, when loading; found {self.config_name!r}"
            )
        return evaluate.MetricInfo(
            description=f"Multimodal sentiment analysis: {self._titles()}.",
            citation=_CITATION,
            inputs_description=str(msa_metrics.__doc__),
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _titles(self) -> str:
        return ", ".join(metric.name for metric in METRICS.values() if self.config_name in metric.formulas)

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float | None]:
        return msa_metrics(predictions, references, self.config_name)
