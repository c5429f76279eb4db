"""Which readout fits a model's states best? Layers, poolings, heads and losses on states that are computed once and not trained.

    omnisent probe configs/small_mosi.yaml --readouts --out runs/readouts [--adapter BUNDLE] [--encoder ID_OR_DIR]

For the base model this asks where the sentiment can be read before training, and for a trained adapter, where after it. First ridge
regression reads every layer; then the last layer, the best one by validation and a mix of all are read with every pooling, head and
loss, trained with the same budget over several seeds. The epoch is chosen on the validation split. A finished row is not repeated.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tqdm.auto import tqdm

from ..adapter_omnisent import adapter_folder
from ..evaluation.variances import p_text
from ..figure_style import BLUE, GREY, MEDIUM, SMALL, line, panel, save_figure
from ..losses_omnisent import LOSSES
from ..modeling_omnisent import bundle_folder
from ..training import run_folder
from ..training.arguments import parse_arguments
from ..training.backbone import build_model, check_same_base, lora_config
from ..training.data import prepare_data
from ..training.environment import leave_cores_to_workers
from ..training.feature_cache import input_settings
from ..training.targets import check_one_target
from .frozen_fits import EPOCHS, PAPER, Fitting
from .frozen_states import PLACES, FrozenStates, StatesOf, encoder_states, file_digests, frozen_states
from .probe import fit_layers
from .states import layer_states
from .tables import markdown_table, seeds_in_words, shared_settings

SHOWN = 15


@dataclass(frozen=True)
class Row:
    """A readout on frozen states; errors are MAE, label units, of scores clipped to the range.

    Attributes:
        layers: `last`, `mix`, or the index of the layer that ridge regression reads best on validation.
        pooling: and over which tokens, such as `mean, clip`.
        head, loss: names in `HEADS` and `LOSSES`.
        valid_mae, test_mae: means over the seeds.
        valid_sd, test_sd: standard deviations over the seeds; `None` for one.
        corr: mean Pearson correlation on the test clips.
        epochs: the chosen epoch of each seed.
    """

    layers: str
    pooling: str
    head: str
    loss: str
    valid_mae: float
    valid_sd: float | None
    test_mae: float
    test_sd: float | None
    corr: float | None
    epochs: list[int]

    @property
    def name(self) -> tuple[str, str, str, str]:
        """What it reads and how."""
        return self.layers, self.pooling, self.head, self.loss


def probe_readouts(
    argv: Sequence[str], out: str | Path, *, encoder: str | None = None, seeds: Sequence[int] = (0, 1, 2)
) -> dict:
    """Fit every readout and write probe.json, .md and .png.

    Args:
        argv: arguments of train.py: a config file and fields that override it; `adapter` for a trained bundle.
        out: folder to write; states are kept in `states/`, test scores of each row in `readouts/`.
        encoder: Hub id or folder of a text encoder to read instead of the Thinker.
        seeds: of the heads.

    Returns:
        The contents of probe.json.
    """
    out = Path(out)
    model_args, data_args, args = parse_arguments([*argv, "--output_dir", str(out)])
    if encoder and model_args.adapter:
        raise ValueError("encoder, adapter: an encoder has no adapter of ours; give one of the two")
    if model_args.adapter:
        check_same_base(model_args, lora_config(model_args).base_model_name_or_path)
    check_one_target(data_args, "a probe")
    leave_cores_to_workers(args)
    data = prepare_data(model_args, data_args, args)
    data.processor.pool_over = "clip"  # marks the clip's own tokens; all are read too
    run_folder.write_config(out, model_args, data_args, args)
    data.write_environment(out)
    states_of: StatesOf
    if encoder:
        states_of = partial(encoder_states, encoder, data_args.text_case, args)
        source = {"encoder": encoder, "files": file_digests(Path(encoder)), "text_case": data_args.text_case}
    else:
        model = build_model(model_args, **data.model_fields, device=args.device)
        adapter = adapter_folder(bundle_folder(model_args.adapter)) if model_args.adapter else None
        source = {**input_settings(model_args, data.processor), "adapter": file_digests(adapter)}
        states_of = partial(layer_states, model, processor=data.processor, args=args)
    states = frozen_states(out / "states", source, data.splits, states_of, context_clips=data.processor.context_clips)
    scale = data.scales[0]
    labels = {split: found.labels for split, found in states.items()}
    by_layer = {place: _by_layer(states, place, data.facts.score_range) for place in PLACES}
    best_layer = min(range(states["train"].layer_count), key=lambda layer: by_layer[PLACES[0]][layer]["valid_mae"])
    fit = Fitting(states, scale, model_args.head_hidden_size, model_args.bins, out / "readouts", seeds)
    names = tqdm(list(fit.names(best_layer)), desc="readouts", unit="row", disable=args.disable_tqdm)
    grid = [Row(*name, *fit.row(*name)) for name in names]
    best = min(grid, key=lambda row: row.valid_mae)
    found = {
        "dataset": data.facts.name,
        "model": encoder or model_args.base_model,
        "adapter": model_args.adapter,
        "n": len(labels["test"]),
        "seeds": list(seeds),
        "constant_mae": float(np.mean(np.abs(labels["test"] - np.median(labels["train"])))),
        "layers": by_layer,
        "best_layer": best_layer,
        "readouts": [asdict(row) for row in grid],
        "best": list(best.name),
        "permuted": asdict(Row(*best.name, *fit.row(*best.name, permuted=True))),
        "metrics": {key: value.to_dict() for key, value in fit.estimates(best.name, data.facts.convention).items()},
        "tests": fit.tests([row.name for row in grid]),
        "settings": shared_settings(out),
        "environment": run_folder.read_environment(out),
    }
    run_folder.write_json(out / "probe.json", found)
    (out / "probe.md").write_text(markdown(found), encoding="utf-8")
    plot(found, out / "probe.png")
    return found


def _by_layer(states: dict[str, FrozenStates], place: str, score_range: tuple[float, float]) -> list[dict[str, float]]:
    """Validation and test MAE of ridge regression on each layer, 0 to L."""
    layers = {split: np.moveaxis(found.pooled[place][:, :-1], 1, 0) for split, found in states.items()}
    fits = fit_layers(layers, {split: found.labels for split, found in states.items()}, score_range)
    return [{"valid_mae": fit.valid_mae, "test_mae": fit.test_mae} for fit in fits]


def conclusion(found: dict[str, Any]) -> str:
    """The best readout against the paper's, in a few sentences."""
    rows = {(row["layers"], row["pooling"], row["head"], row["loss"]): row for row in found["readouts"]}
    best, paper = tuple(found["best"]), rows[PAPER]
    text = f"The paper's readout, {_in_words(PAPER)}, has test MAE {paper['test_mae']:.3f} on these states"
    if best == PAPER:
        return f"{text}; none of the {len(rows)} readouts has a lower validation error."
    test = next(test for test in found["tests"] if tuple(test["second"]) == best)
    return (
        f"{text}. Of {len(rows)} readouts, {_in_words(best)} has the lowest validation error, and test MAE"
        f" {rows[best]['test_mae']:.3f}: difference {test['difference']:+.3f}, 95 % interval {test['low']:+.3f} to"
        f" {test['high']:+.3f}. {_verdict(test, len(found['tests']))}"
        f" Trained on permuted labels it has {found['permuted']['test_mae']:.3f}, and the constant {found['constant_mae']:.3f}."
    )


def _verdict(test: dict[str, Any], tests: int) -> str:
    """Which of two readouts has the lower error, by the adjusted p."""
    if test["p_holm"] is None:
        return "No verdict from one seed."
    better = {"first": "The paper's has the lower MAE", "second": "It has the lower MAE", "undecided": "Undecided"}
    return f"{better[test['verdict']]} (p {p_text(test['p_holm'])}, adjusted for {tests} tests)."


def _in_words(name: Sequence[str]) -> str:
    layers, pooling, head, loss = name
    where = "a mix of the layers" if layers == "mix" else "the last layer" if layers == "last" else f"layer {layers}"
    return f"{pooling} of {where} with {head} and {loss}"


def markdown(found: dict[str, Any]) -> str:
    """The contents of probe.md."""
    rows = sorted(found["readouts"], key=lambda row: row["valid_mae"])
    shown = [
        *rows[:SHOWN],
        *(row for row in rows[SHOWN:] if (row["layers"], row["pooling"], row["head"], row["loss"]) == PAPER),
    ]
    table = pd.DataFrame(
        [
            {
                "": number,
                "layers": row["layers"],
                "pooling": row["pooling"],
                "head": row["head"],
                "loss": row["loss"],
                "MAE, valid": _with_sd(row["valid_mae"], row["valid_sd"]),
                "MAE, test": _with_sd(row["test_mae"], row["test_sd"]),
                "Corr, test": "" if row["corr"] is None else f"{row['corr']:.3f}",
            }
            for number, row in ((rows.index(row) + 1, row) for row in shown)
        ]
    ).set_index("")
    state = f"with the adapter {found['adapter']}" if found["adapter"] else "not trained"
    parts = (
        f"# Readouts on frozen states, {found['dataset']}",
        conclusion(found),
        f"{found['n']} test clips; {found['model']}, {state}; {len(rows)} readouts, {seeds_in_words(found['seeds'])} each,"
        f" {EPOCHS} epochs, the best one chosen on validation.",
        f"The {SHOWN} readouts with the lowest validation error, and the paper's:",
        markdown_table(table),
    )
    return "\n\n".join(parts) + "\n"


def _with_sd(mean: float, sd: float | None) -> str:
    return f"{mean:.3f}" + ("" if sd is None else f" ± {sd:.3f}")


def plot(found: dict[str, Any], path: Path) -> None:
    """Ridge by layer and place, and the error of every readout by layers and pooling."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    styles = {place: line(number) for number, place in enumerate(PLACES)}
    for place, fits in found["layers"].items():
        left.plot([fit["test_mae"] for fit in fits], markersize=4, **styles[place], label=place)
    left.axhline(found["constant_mae"], color=GREY, linestyle="--", label="constant (train median)")
    left.xaxis.set_major_locator(MaxNLocator(nbins=15, integer=True))
    left.set_xlabel("layer (0: token embeddings)")
    left.set_ylabel("test MAE (label units), lower is better")
    left.set_title("ridge regression on one layer", fontsize=MEDIUM)
    left.legend(fontsize=SMALL, edgecolor="none", framealpha=0.9)
    groups = sorted({(row["layers"], row["pooling"]) for row in found["readouts"]})
    markers = dict(zip(LOSSES, "ov^sD", strict=False))
    for row in found["readouts"]:
        place = groups.index((row["layers"], row["pooling"]))
        full = row["head"] == "mlp"
        colour = BLUE if full else "none"
        right.scatter(
            place, row["test_mae"], marker=markers.get(row["loss"], "o"), facecolors=colour, edgecolors=BLUE, s=22
        )
    right.set_xticks(
        range(len(groups)),
        [f"{layers}: {pooling}" for layers, pooling in groups],
        rotation=60,
        ha="right",
        fontsize=SMALL,
    )
    for loss, marker in markers.items():
        right.scatter([], [], marker=marker, color=BLUE, label=loss, s=22)
    right.scatter([], [], marker="o", facecolors="none", edgecolors=BLUE, label="linear head", s=22)
    right.legend(fontsize=SMALL, frameon=False, ncols=2)
    right.set_title("trained readouts, mean over seeds", fontsize=MEDIUM)
    for axes in (left, right):
        panel(axes)
    figure.suptitle(f"{found['dataset']}, {found['n']} test clips, frozen states of {found['model']}", fontsize=MEDIUM)
    save_figure(figure, path)
