"""Do the untrained Thinker's hidden states already encode sentiment? Ridge regression on the last token's state, layer by layer.

    omnisent probe configs/tiny.yaml --out runs/probe [--run runs/compare/discriminative/seed-0]

The Thinker is the base model without an adapter, loaded as the config says; only the ridge regression is fitted. Layer and
penalty are chosen on the validation split.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..data.clip import SPLITS, labels_of
from ..evaluation.metrics import msa_metrics, over_constant
from ..figure_style import GREY, MEDIUM, SMALL, WINE, line, panel, save_figure
from ..training import run_folder
from ..training.arguments import DataArguments, parse_arguments
from ..training.backbone import build_model
from ..training.data import prepare_data
from ..training.environment import leave_cores_to_workers
from ..training.targets import check_one_target
from .baselines import BASELINES
from .runs import differing_field
from .states import last_token_states
from .tables import markdown_table, shared_settings

ALPHAS = tuple(float(alpha) for alpha in np.geomspace(1e-1, 1e5, 13))
SAME_FIELDS = (*(field.name for field in fields(DataArguments)), "base_model", "base_revision")


@dataclass(frozen=True)
class LayerFit:
    """Ridge regression on one layer; errors are MAE, label units.

    Attributes:
        layer: 0 for the token embeddings, L for the states that the readouts use.
        alpha: the penalty with the lowest validation error.
        valid_mae, test_mae: of scores clipped to the range.
        valid_corr, test_corr: Pearson correlation of the same scores; `None` if they are constant.
        scores: (n,) of the test clips; not in probe.json.
    """

    layer: int
    alpha: float
    valid_mae: float
    test_mae: float
    valid_corr: float | None
    test_corr: float | None
    scores: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON, without the scores."""
        return {key: value for key, value in vars(self).items() if key != "scores"}


@dataclass(frozen=True)
class TrainedRun:
    """The test results of a finished run, to compare with the probe."""

    readout: str
    decoding: str | None
    seed: int
    mae: float
    corr: float | None


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes:
        dataset, split, modalities, n: of the test clips.
        layers: a fit for each layer, the token embeddings first.
        chosen_layer: the one with the lowest validation error.
        metrics: of the chosen layer's test scores.
        constant_mae: MAE of always predicting the training median, label units.
        run: a trained run to compare with, if one was given.
        settings: the most important ones.
        environment: as in environment.json.
    """

    dataset: str
    split: str
    modalities: list[str]
    n: int
    layers: list[LayerFit]
    chosen_layer: int
    metrics: dict[str, float | None]
    constant_mae: float
    run: TrainedRun | None
    settings: dict[str, Any]
    environment: dict[str, Any]

    @property
    def chosen(self) -> LayerFit:
        """The fit of the chosen layer."""
        return self.layers[self.chosen_layer]

    def to_dict(self) -> dict[str, Any]:
        """The contents of probe.json."""
        parts = {"layers": [fit.to_dict() for fit in self.layers], "run": asdict(self.run) if self.run else None}
        return {**vars(self), **parts}


def probe(argv: Sequence[str], out: str | Path, run: str | Path | None = None) -> Probe:
    """Fit the probe and write probe.json, .md and .png.

    Args:
        argv: arguments of train.py: a config file and fields that override it.
        out: folder to write.
        run: a finished run with the same clips, base model and prompt, to compare with.

    Raises:
        ValueError: when the run's data, prompt or base differ, naming the field; or when the run has no trained adapter.
        FileNotFoundError: when the run is not finished.
    """
    out = Path(out)
    model_args, data_args, args = parse_arguments([*argv, "--output_dir", str(out)])
    if model_args.adapter:
        raise ValueError("adapter: the probe reads the untrained base model; leave the field out")
    if run is not None:
        _check_same_data(Path(run), run_folder.config_dict(model_args, data_args, args))
    check_one_target(data_args, "a probe")
    leave_cores_to_workers(args)
    data = prepare_data(model_args, data_args, args)
    run_folder.write_config(out, model_args, data_args, args)
    data.write_environment(out)
    if run is not None:
        _check_same_clips(Path(run), out)
    # The model has a new adapter, whose output is exactly zero.
    score_range = data.facts.score_range
    model = build_model(model_args, **data.model_fields, device=args.device)
    states = {name: last_token_states(model, data.splits[name], data.processor, args) for name in SPLITS}
    labels = {name: labels_of(data.splits[name]) for name in SPLITS}
    fits = fit_layers(states, labels, score_range)
    best = min(fits, key=lambda fit: fit.valid_mae)
    result = Probe(
        dataset=data.facts.name,
        split="test",
        modalities=data.processor.modalities,
        n=len(labels["test"]),
        layers=fits,
        chosen_layer=best.layer,
        metrics=msa_metrics(best.scores, labels["test"], data.facts.convention),
        constant_mae=float(np.mean(np.abs(labels["test"] - np.median(labels["train"])))),
        run=_trained_run(Path(run)) if run is not None else None,
        settings=shared_settings(out),
        environment=run_folder.read_environment(out),
    )
    run_folder.write_json(out / "probe.json", result.to_dict())
    (out / "probe.md").write_text(markdown(result), encoding="utf-8")
    plot(result, out / "probe.png")
    return result


def fit_layers(
    states: dict[str, np.ndarray], labels: dict[str, np.ndarray], score_range: tuple[float, float]
) -> list[LayerFit]:
    """A ridge regression for each layer, on standardised states.

    Args:
        states: (L + 1, n, H) for train, valid and test.
        labels: (n,) for each, label units.
        score_range: scores are clipped to it.
    """
    fits = []
    for layer in range(len(states["train"])):
        candidates = []
        for alpha in ALPHAS:
            ridge = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(states["train"][layer], labels["train"])
            scores = {name: ridge.predict(states[name][layer]).clip(*score_range) for name in ("valid", "test")}
            maes = {name: float(np.mean(np.abs(scores[name] - labels[name]))) for name in scores}
            corrs = {name: _corr(scores[name], labels[name]) for name in scores}
            candidates.append(
                LayerFit(layer, alpha, maes["valid"], maes["test"], corrs["valid"], corrs["test"], scores["test"])
            )
        fits.append(min(candidates, key=lambda fit: fit.valid_mae))
    return fits


def conclusion(result: Probe) -> str:
    """The MAE of the probe compared with the constant and the trained run, in one sentence."""
    mae, constant, run = result.chosen.test_mae, result.constant_mae, result.run
    ratio = over_constant(mae, constant)
    times = "beside" if ratio is None else f"{ratio:.2f} times"
    start = (
        f"Ridge regression on the untrained states of layer {result.chosen_layer} of {len(result.layers) - 1} has MAE"
        f" {mae:.3f}, {times} that of the constant ({constant:.3f})"
    )
    if run is None:
        return f"{start}."
    if run.mae >= constant:
        return f"{start}; the trained {run.readout} run ({run.mae:.3f}) is no better than the constant."
    if mae >= constant:
        return f"{start}, so it is no better than the constant; the trained {run.readout} run has {run.mae:.3f}."
    return (
        f"{start}; the trained {run.readout} run has {run.mae:.3f}. The untrained states alone reach"
        f" {100 * (constant - mae) / (constant - run.mae):.0f} % of the improvement over the constant."
    )


def _corr(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Pearson correlation; `None` for scores that are constant up to rounding, as those of the token embeddings are."""
    constant = np.allclose(scores, scores[0]) or np.ptp(labels) == 0
    return None if constant else float(np.corrcoef(scores, labels)[0, 1])


def _check_same_data(run: Path, config: dict) -> None:
    if not (run / "metrics.json").is_file():
        raise FileNotFoundError(f"{run}: expected a finished training run with metrics.json")
    if not run_folder.read_metrics(run)["trainable_parameters"]:
        raise ValueError(f"{run} has no trained adapter (trainable_parameters in metrics.json); name a training run")
    theirs = run_folder.read_config(run)
    field = differing_field({k: config.get(k) for k in SAME_FIELDS}, {k: theirs.get(k) for k in SAME_FIELDS})
    if field:
        raise ValueError(
            f"{run} has {field} {theirs.get(field)!r}, the probe {config.get(field)!r}; they can be compared only on"
            " the same clips, prompt and base model"
        )


def _check_same_clips(run: Path, out: Path) -> None:
    part = run_folder.other_clips(run, out)
    if part:
        raise ValueError(f"{run}: the {part} of its clips are not those of the probe; the data set has changed since")


def _trained_run(run: Path) -> TrainedRun:
    metrics = run_folder.read_metrics(run)
    return TrainedRun(**{field.name: metrics[field.name] for field in fields(TrainedRun)})


def markdown(result: Probe) -> str:
    """The contents of probe.md."""
    rows = {
        ("token embeddings" if fit.layer == 0 else f"layer {fit.layer}"): {
            "MAE, valid": f"{fit.valid_mae:.3f}",
            "MAE, test": f"{fit.test_mae:.3f}",
            "Corr, test": "" if fit.test_corr is None else f"{fit.test_corr:.3f}",
            "ridge penalty": f"{fit.alpha:.3g}",
            "": "chosen on valid" if fit.layer == result.chosen_layer else "",
        }
        for fit in result.layers
    }
    parts = (
        f"# Probe of the untrained Thinker on {result.dataset}",
        conclusion(result),
        f"{result.n} test clips ({', '.join(result.modalities)}); base model {result.settings['base_model']}.",
        markdown_table(pd.DataFrame.from_dict(rows, orient="index")),
    )
    return "\n\n".join(parts) + "\n"


def plot(result: Probe, path: Path) -> None:
    """MAE by layer, with the constant and the trained run as lines."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    layers = [fit.layer for fit in result.layers]
    for place, (split, maes) in enumerate(
        (
            ("test", [fit.test_mae for fit in result.layers]),
            ("valid", [fit.valid_mae for fit in result.layers]),
        )
    ):
        axes.plot(layers, maes, **line(place), label=f"ridge, {split}")
    axes.scatter(
        [result.chosen_layer],
        [result.chosen.test_mae],
        s=160,
        facecolors="none",
        edgecolors="black",
        label="chosen on valid",
    )
    axes.axhline(result.constant_mae, color=GREY, linestyle="--", label=BASELINES["constant"].label)
    if result.run:
        axes.axhline(result.run.mae, color=WINE, linestyle=":", label=f"trained, {result.run.readout}")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=15, integer=True))
    axes.set_xlabel("layer of the untrained Thinker (0: token embeddings)")
    axes.set_ylabel("MAE (label units), lower is better")
    axes.set_ylim(bottom=0)
    panel(axes)
    axes.legend(fontsize=SMALL)
    axes.set_title(f"{result.dataset}, {result.n} test clips, {', '.join(result.modalities)}", fontsize=MEDIUM)
    save_figure(figure, path)
