"""The geometry of hidden states: PCA and t-SNE of the last token's state, and the similarity of neighbours' labels.

    omnisent geometry RUN_DIR --out DIR

The neighbour test follows the paper (arXiv 2606.05713): the mean difference between a clip's label and those of its k = 5, 10, 20
nearest neighbours (Euclidean distance between states), against the same with labels permuted.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

from ..data.clip import labels_of
from ..training import run_folder
from ..training.backbone import build_model
from ..training.data import prepare_data
from ..training.environment import leave_cores_to_workers
from .states import last_token_states
from .tables import markdown_table, shared_settings

NEIGHBOURS = (5, 10, 20)
PERMUTATIONS = 1000


@dataclass(frozen=True)
class NeighbourDifference:
    """How much the labels of a clip and of its k nearest neighbours differ, label units.

    Attributes:
        k: how many neighbours.
        difference: mean over clips and neighbours.
        permuted: the same with permuted labels, mean over permutations.
        p: fraction of permutations (counting the true labels) with a difference at least as small.
    """

    k: int
    difference: float
    permuted: float
    p: float


@dataclass(frozen=True)
class Geometry:
    """The arrangement of a run's test clips in hidden space.

    Attributes:
        dataset, split, readout, modalities, seed, n: of the run, as in metrics.json.
        neighbours: for each k.
        permutations: of the labels.
        settings: the most important ones of the run.
        environment: of the run, as in environment.json.
        explained_variance: fraction explained by each of the two principal components.
        tsne_perplexity: of the t-SNE plot.
    """

    dataset: str
    split: str
    readout: str
    modalities: list[str]
    seed: int
    n: int
    neighbours: list[NeighbourDifference]
    permutations: int
    settings: dict[str, Any]
    environment: dict[str, Any]
    explained_variance: list[float]
    tsne_perplexity: float

    @property
    def title(self) -> str:
        """Data set, readout and seed, in one line."""
        return f"{self.dataset}, {self.n} {self.split} clips, {self.readout}, seed {self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """The contents of geometry.json."""
        return {**vars(self), "neighbours": [asdict(neighbour) for neighbour in self.neighbours]}


def geometry(run: str | Path, out: str | Path) -> Geometry:
    """Write geometry.json, .md, pca.png and tsne.png for the test clips of a finished run, of either readout.

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
    labels = labels_of(clips)
    low, high = data.facts.score_range
    model = build_model(model_args, label_mean=0.0, label_std=1.0, score_range=(low, high), device=args.device)
    states = last_token_states(model, clips, data.processor, args, every_layer=False)[-1]  # (n, H)
    pca = PCA(2, random_state=0).fit(states)
    perplexity = min(30.0, (len(clips) - 1) / 3)
    metrics = run_folder.read_metrics(run)
    result = Geometry(
        **{key: metrics[key] for key in ("dataset", "split", "readout", "modalities", "seed", "n")},
        neighbours=neighbour_differences(states, labels),
        permutations=PERMUTATIONS,
        settings=shared_settings(run),
        environment=run_folder.read_environment(run),
        explained_variance=[float(fraction) for fraction in pca.explained_variance_ratio_],
        tsne_perplexity=perplexity,
    )
    components = [
        f"component {number} ({100 * fraction:.0f} % of variance)"
        for number, fraction in enumerate(result.explained_variance, start=1)
    ]
    out.mkdir(parents=True, exist_ok=True)
    plot(pca.transform(states), labels, components, (low, high), f"PCA, {result.title}", out / "pca.png")
    embedded = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(states)
    plot(embedded, labels, ["t-SNE 1", "t-SNE 2"], (low, high), f"t-SNE, {result.title}", out / "tsne.png")
    run_folder.write_json(out / "geometry.json", result.to_dict())
    (out / "geometry.md").write_text(markdown(result), encoding="utf-8")
    return result


def neighbour_differences(
    states: np.ndarray, labels: np.ndarray, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> list[NeighbourDifference]:
    """For each k of `NEIGHBOURS`: how much the labels of neighbours differ. A k that is too large for n clips is left out.

    Args:
        states: (n, H).
        labels: (n,) label units.
        permutations: of the labels.
        seed: of the permutations.

    Raises:
        ValueError: when there are too few clips for any k.
    """
    possible = [k for k in NEIGHBOURS if k < len(labels)]
    if not possible:
        raise ValueError(
            f"{len(labels)} clips have no {min(NEIGHBOURS)} neighbours each; at least {min(NEIGHBOURS) + 1} are needed"
        )
    nearest = (
        NearestNeighbors(n_neighbors=possible[-1]).fit(states).kneighbors(return_distance=False)
    )  # (n, k), without the clip itself
    generator = np.random.default_rng(seed)
    shuffled = np.stack([labels, *(generator.permutation(labels) for _ in range(permutations))])  # (1 + P, n)
    differences = []
    for k in possible:
        means = np.array([np.abs(row[:, None] - row[nearest[:, :k]]).mean() for row in shuffled])
        p = float(np.mean(means <= means[0]))
        differences.append(NeighbourDifference(k, float(means[0]), float(means[1:].mean()), p))
    return differences


def conclusion(result: Geometry) -> str:
    """Whether clips with similar labels are close to each other, in one sentence."""
    differences = ", ".join(
        f"{row.difference:.3f} against {row.permuted:.3f} for k = {row.k} (p {row.p:.2g})" for row in result.neighbours
    )
    similar = all(row.p < 0.05 for row in result.neighbours)
    return (
        f"Neighbours in hidden space {'have' if similar else 'do not clearly have'} similar labels: the mean label difference,"
        f" against that of permuted labels, is {differences}."
    )


def markdown(result: Geometry) -> str:
    """The contents of geometry.md."""
    rows = {
        f"k = {row.k}": {
            "label difference": f"{row.difference:.3f}",
            "permuted labels": f"{row.permuted:.3f}",
            "ratio": f"{row.difference / row.permuted:.2f}",
            "p": f"{row.p:.2g}",
        }
        for row in result.neighbours
    }
    parts = (
        f"# Geometry of hidden states, {result.title}",
        conclusion(result),
        markdown_table(pd.DataFrame.from_dict(rows, orient="index")),
        f"{result.permutations} permutations; the first two principal components explain"
        f" {100 * sum(result.explained_variance):.0f} % of the variance.",
    )
    return "\n\n".join(parts) + "\n"


def plot(
    points: np.ndarray,
    labels: np.ndarray,
    axis_names: list[str],
    score_range: tuple[float, float],
    title: str,
    path: Path,
) -> None:
    """Points (n, 2) coloured by label, white at 0."""
    figure = Figure(figsize=(6.5, 5), layout="constrained")
    axes = figure.subplots()
    drawn = axes.scatter(
        points[:, 0],
        points[:, 1],
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
