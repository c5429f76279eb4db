"""How are clips laid out in hidden space? PCA and t-SNE of the last token's state, and how alike the labels of neighbours are.

    omnisent geometry RUN_DIR --out DIR

The neighbour test follows the paper (arXiv 2606.05713): the mean difference between a clip's label and those of its k = 5, 10, 20
nearest neighbours (Euclidean distance between states), against the same with labels permuted.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

from ..training import run_folder
from ..training.backbone import build_model
from ..training.data import prepare_data
from ..training.environment import leave_cores_to_workers
from .states import last_token_states
from .tables import markdown_table, shared_settings

NEIGHBOURS = (5, 10, 20)
PERMUTATIONS = 1000


def geometry(run: str | Path, out: str | Path) -> dict:
    """Write geometry.json, .md, pca.png and tsne.png for the test clips of a finished run, of either readout.

    Returns:
        What geometry.json holds.

    Raises:
        FileNotFoundError: when the folder holds no finished run with a bundle.
        ValueError: for fewer than 6 test clips.
    """
    run, out = Path(run), Path(out)
    if not (run / "metrics.json").is_file() or not (run / "model").is_dir():
        raise FileNotFoundError(f"{run}: expected a finished training run with metrics.json and model/")
    model_args, data_args, args = run_folder.read_arguments(run, out)
    leave_cores_to_workers(args)
    data = prepare_data(model_args, data_args, args)
    clips = data.splits["test"]
    labels = np.array([clip.label for clip in clips])
    low, high = data.facts.score_range
    model = build_model(model_args, label_mean=0.0, label_std=1.0, score_range=(low, high), device=args.device)
    states = last_token_states(model, clips, data.processor, args, every_layer=False)[-1]  # (n, H)
    found = {
        **{
            key: run_folder.read_metrics(run)[key] for key in ("dataset", "split", "readout", "modalities", "seed", "n")
        },
        "neighbours": neighbour_differences(states, labels),
        "permutations": PERMUTATIONS,
        "settings": shared_settings(run),
        "environment": run_folder.read_environment(run),
    }
    pca = PCA(2, random_state=0).fit(states)
    found["explained_variance"] = [float(share) for share in pca.explained_variance_ratio_]
    shares = [
        f"component {i} ({100 * share:.0f} % of variance)" for i, share in enumerate(found["explained_variance"], 1)
    ]
    out.mkdir(parents=True, exist_ok=True)
    _plot(pca.transform(states), labels, shares, (low, high), f"PCA, {_title(found)}", out / "pca.png")
    perplexity = min(30.0, (len(clips) - 1) / 3)
    embedded = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(states)
    found["tsne_perplexity"] = perplexity
    _plot(embedded, labels, ["t-SNE 1", "t-SNE 2"], (low, high), f"t-SNE, {_title(found)}", out / "tsne.png")
    run_folder.write_json(out / "geometry.json", found)
    (out / "geometry.md").write_text(_markdown(found), encoding="utf-8")
    return found


def neighbour_differences(
    states: np.ndarray, labels: np.ndarray, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> list[dict]:
    """For each k: mean difference of labels between a clip and its k nearest neighbours, and the same for permuted labels.

    Args:
        states: (n, H).
        labels: (n,) label units.
        permutations: of the labels.
        seed: of the permutations.

    Returns:
        k, difference (label units), permuted (mean over permutations) and p: the share of permutations, this one counted in,
        that are as small. A k that n clips do not have is left out.

    Raises:
        ValueError: when there are too few clips for any k.
    """
    known = [k for k in NEIGHBOURS if k < len(labels)]
    if not known:
        raise ValueError(
            f"{len(labels)} clips have no {min(NEIGHBOURS)} neighbours each; at least {min(NEIGHBOURS) + 1} are needed"
        )
    nearest = (
        NearestNeighbors(n_neighbors=known[-1]).fit(states).kneighbors(return_distance=False)
    )  # (n, k), without itself
    generator = np.random.default_rng(seed)
    shuffled = np.stack([labels, *(generator.permutation(labels) for _ in range(permutations))])  # (1 + P, n)
    found = []
    for k in known:
        means = np.array([np.abs(row[:, None] - row[nearest[:, :k]]).mean() for row in shuffled])
        found.append(
            {
                "k": k,
                "difference": float(means[0]),
                "permuted": float(means[1:].mean()),
                "p": float(np.mean(means <= means[0])),
            }
        )
    return found


def conclusion(found: dict) -> str:
    """Whether clips with like labels lie together; computed from the figures."""
    said = ", ".join(
        f"k = {one['k']}: {one['difference']:.3f} against {one['permuted']:.3f} permuted (p {one['p']:.2g})"
        for one in found["neighbours"]
    )
    alike = all(one["p"] < 0.05 for one in found["neighbours"])
    return (
        f"Neighbours in hidden space {'have' if alike else 'do not clearly have'} like labels; mean difference {said}."
    )


def _title(found: dict) -> str:
    return f"{found['dataset']}, {found['n']} {found['split']} clips, {found['readout']}, seed {found['seed']}"


def _markdown(found: dict) -> str:
    rows = {
        f"k = {one['k']}": {
            "label difference": f"{one['difference']:.3f}",
            "permuted labels": f"{one['permuted']:.3f}",
            "ratio": f"{one['difference'] / one['permuted']:.2f}",
            "p": f"{one['p']:.2g}",
        }
        for one in found["neighbours"]
    }
    return (
        "\n\n".join(
            (
                f"# Geometry of hidden states, {_title(found)}",
                conclusion(found),
                markdown_table(pd.DataFrame.from_dict(rows, orient="index")),
                f"{found['permutations']} permutations; the first two principal components hold"
                f" {100 * sum(found['explained_variance']):.0f} % of the variance.",
            )
        )
        + "\n"
    )


def _plot(
    points: np.ndarray,
    labels: np.ndarray,
    axis_names: list[str],
    score_range: tuple[float, float],
    title: str,
    path: Path,
) -> None:
    """Points (n, 2) coloured by their label, white at 0."""
    figure = Figure(figsize=(6.5, 5), layout="constrained")
    axes = figure.subplots()
    drawn = axes.scatter(
        *points.T,
        c=labels,
        cmap="PuOr",
        vmin=score_range[0],
        vmax=score_range[1],
        s=30,
        edgecolors="0.3",
        linewidths=0.4,
    )
    figure.colorbar(drawn, ax=axes, label="label (label units; 0 is neutral)")
    axes.set_xlabel(axis_names[0])
    axes.set_ylabel(axis_names[1])
    axes.set_title(title, fontsize=10)
    figure.savefig(path, dpi=150)
