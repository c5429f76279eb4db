"""Is the untrained Thinker's state regression-ready by itself? Ridge regression on the last token's state, layer by layer.

    omnisent probe configs/tiny.yaml --out runs/probe [--run runs/compare/discriminative/seed-0]

The Thinker is the base model without an adapter, loaded as the config says; only the ridge is fitted. Layer and penalty are
chosen on the validation split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..data.clip import SPLITS
from ..evaluation.metrics import msa_metrics
from ..training import run_folder
from ..training.arguments import parse_arguments
from ..training.backbone import build_model
from ..training.data import prepare_data
from ..training.environment import leave_cores_to_workers
from .runs import differing_field
from .states import last_token_states
from .tables import markdown_table, shared_settings

ALPHAS = tuple(float(alpha) for alpha in np.geomspace(1e-1, 1e5, 13))
DATA_FIELDS = (
    *("dataset", "root", "modalities", "complete_clips", "on_bad_clip", "system_prompt", "instruction"),
    *("transcript_template", "context_template", "context_clips", "fps", "min_frames", "max_frames", "min_pixels"),
    *("max_pixels", "base_model", "base_revision"),
)


@dataclass(frozen=True)
class Fit:
    """Ridge regression on one layer; errors are MAE, label units.

    Attributes:
        layer: 0 is the token embeddings, L the state that readouts read.
        alpha: the penalty with the lowest validation error.
        valid_mae, test_mae: of scores that are clipped to the range.
        valid_corr, test_corr: Pearson correlation of the same; `None` where the scores are constant.
        scores: (n,) of the test clips.
    """

    layer: int
    alpha: float
    valid_mae: float
    test_mae: float
    valid_corr: float | None
    test_corr: float | None
    scores: np.ndarray


def probe(argv: Sequence[str], out: str | Path, run: str | Path | None = None) -> dict:
    """Fit the probe and write probe.json, .md and .png.

    Args:
        argv: what train.py takes: a config file and fields that override it.
        out: folder to write.
        run: a finished run on the same clips, base and prompt to show beside it.

    Returns:
        What probe.json holds.

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
    leave_cores_to_workers(args)
    data = prepare_data(model_args, data_args, args)
    run_folder.write_config(out, model_args, data_args, args)
    run_folder.write_environment(out, data.clips)
    if run is not None:
        _check_same_clips(Path(run), out)
    # The new adapter that it carries adds exactly nothing.
    scale = {"label_mean": 0.0, "label_std": 1.0, "score_range": data.facts.score_range}
    model = build_model(model_args, **scale, device=args.device)
    states = {name: last_token_states(model, data.splits[name], data.processor, args) for name in SPLITS}
    labels = {name: np.array([clip.label for clip in data.splits[name]]) for name in SPLITS}
    fits = fit_layers(states, labels, data.facts.score_range)
    best = min(fits, key=lambda fit: fit.valid_mae)
    found = {
        "dataset": data.facts.name,
        "split": "test",
        "modalities": data.processor.modalities,
        "n": len(labels["test"]),
        "layers": [{key: value for key, value in vars(fit).items() if key != "scores"} for fit in fits],
        "chosen_layer": best.layer,
        "metrics": msa_metrics(best.scores, labels["test"], data.facts.convention),
        "constant_mae": float(np.mean(np.abs(labels["test"] - np.median(labels["train"])))),
        "run": _figures_of(Path(run)) if run is not None else None,
        "settings": shared_settings(out),
        "environment": run_folder.read_environment(out),
    }
    run_folder.write_json(out / "probe.json", found)
    (out / "probe.md").write_text(_markdown(found), encoding="utf-8")
    _plot(found, out / "probe.png")
    return found


def fit_layers(
    states: dict[str, np.ndarray], labels: dict[str, np.ndarray], score_range: tuple[float, float]
) -> list[Fit]:
    """A ridge regression for each layer, on standardised states.

    Args:
        states: (L + 1, n, H) for train, valid and test.
        labels: (n,) for each, label units.
        score_range: what scores are clipped to.
    """
    fits = []
    for layer in range(len(states["train"])):
        tried = []
        for alpha in ALPHAS:
            ridge = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(states["train"][layer], labels["train"])
            scores = {name: ridge.predict(states[name][layer]).clip(*score_range) for name in ("valid", "test")}
            maes = {name: float(np.mean(np.abs(scores[name] - labels[name]))) for name in scores}
            corrs = {name: _corr(scores[name], labels[name]) for name in scores}
            tried.append(Fit(layer, alpha, maes["valid"], maes["test"], corrs["valid"], corrs["test"], scores["test"]))
        fits.append(min(tried, key=lambda fit: fit.valid_mae))
    return fits


def conclusion(found: dict) -> str:
    """How far the untrained state takes a linear readout, between the constant and the trained run; computed from the figures."""
    mae, constant = found["metrics"]["mae"], found["constant_mae"]
    said = (
        f"A ridge on the untrained state of layer {found['chosen_layer']} of {len(found['layers']) - 1} has MAE {mae:.3f},"
        f" {mae / constant:.2f} of the constant's {constant:.3f}"
    )
    if found["run"] is None:
        return f"{said}."
    trained = found["run"]["mae"]
    if trained >= constant:
        return f"{said}; the trained {found['run']['readout']} run ({trained:.3f}) is no better than the constant."
    if mae >= constant:
        return f"{said}, so by itself it is no better; the trained {found['run']['readout']} run has {trained:.3f}."
    gained = 100 * (constant - mae) / (constant - trained)
    return (
        f"{said}; the trained {found['run']['readout']} run has {trained:.3f}, so the untrained state already gives"
        f" {gained:.0f} % of what training gains over the constant."
    )


def _corr(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Pearson correlation; `None` for scores that differ by rounding alone, as those of the token embeddings do."""
    constant = np.allclose(scores, scores[0]) or np.ptp(labels) == 0
    return None if constant else float(np.corrcoef(scores, labels)[0, 1])


def _check_same_data(run: Path, config: dict) -> None:
    if not (run / "metrics.json").is_file():
        raise FileNotFoundError(f"{run}: expected a finished training run with metrics.json")
    if not run_folder.read_metrics(run)["trainable_parameters"]:
        raise ValueError(f"{run} has no trained adapter (trainable_parameters in metrics.json); name a training run")
    theirs = run_folder.read_config(run)
    field = differing_field({k: config.get(k) for k in DATA_FIELDS}, {k: theirs.get(k) for k in DATA_FIELDS})
    if field:
        raise ValueError(
            f"{run} has {field} {theirs.get(field)!r}, the probe {config.get(field)!r}; they can stand side by side only on"
            " the same clips, prompt and base model"
        )


def _check_same_clips(run: Path, out: Path) -> None:
    if run_folder.read_environment(run)["clips_sha256"] != run_folder.read_environment(out)["clips_sha256"]:
        raise ValueError(
            f"{run} was given other clips than the probe (clips_sha256 in environment.json); the data set has changed since"
        )


def _figures_of(run: Path) -> dict:
    metrics = run_folder.read_metrics(run)
    return {key: metrics[key] for key in ("readout", "decoding", "seed", "mae", "corr")}


def _markdown(found: dict) -> str:
    rows = {
        ("token embeddings" if entry["layer"] == 0 else f"layer {entry['layer']}"): {
            "MAE, valid": f"{entry['valid_mae']:.3f}",
            "MAE, test": f"{entry['test_mae']:.3f}",
            "Corr, test": "" if entry["test_corr"] is None else f"{entry['test_corr']:.3f}",
            "ridge penalty": f"{entry['alpha']:.3g}",
            "": "chosen on valid" if entry["layer"] == found["chosen_layer"] else "",
        }
        for entry in found["layers"]
    }
    return (
        "\n\n".join(
            (
                f"# Probe of the untrained Thinker on {found['dataset']}",
                f"{found['n']} test clips, {', '.join(found['modalities'])}; base model {found['settings']['base_model']}.",
                conclusion(found),
                markdown_table(pd.DataFrame.from_dict(rows, orient="index")),
            )
        )
        + "\n"
    )


def _plot(found: dict, path: Path) -> None:
    """MAE over the layers, with the constant and the trained run as lines."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    layers = [entry["layer"] for entry in found["layers"]]
    for split, colour in (("valid", "#56B4E9"), ("test", "#0072B2")):
        axes.plot(
            layers,
            [entry[f"{split}_mae"] for entry in found["layers"]],
            marker="o",
            color=colour,
            label=f"ridge, {split}",
        )
    chosen = found["layers"][found["chosen_layer"]]
    axes.scatter(
        [chosen["layer"]], [chosen["test_mae"]], s=160, facecolors="none", edgecolors="black", label="chosen on valid"
    )
    axes.axhline(found["constant_mae"], color="0.5", linestyle="--", label="constant (train median)")
    if found["run"]:
        axes.axhline(found["run"]["mae"], color="#D55E00", linestyle=":", label=f"trained, {found['run']['readout']}")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=15, integer=True))
    axes.set_xlabel("layer of the untrained Thinker (0: token embeddings)")
    axes.set_ylabel("MAE (label units), lower is better")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)
    axes.set_title(f"{found['dataset']}, {found['n']} test clips, {', '.join(found['modalities'])}", fontsize=10)
    figure.savefig(path, dpi=150)
