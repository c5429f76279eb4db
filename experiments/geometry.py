"""The geometry of hidden states: PCA and t-SNE of the last token's state, and how far it is arranged by the labels.

    omnisent geometry RUN_DIR --out DIR
    omnisent geometry --untrained CONFIG --out DIR

The neighbour test follows the paper (arXiv 2606.05713): the mean difference between a clip's label and those of its k = 5, 10, 20
nearest neighbours (Euclidean distance between states), against the same with labels permuted. Clips of the same video are no
neighbours: their labels are alike, so states that know only the video would pass. Beside it stands the alignment of all states with
the labels: linear CKA (Kornblith et al., ICML 2019), and RSA (Kriegeskorte et al., 2008), the rank correlation of the distances
between clips of different videos with the differences of their labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import pairwise_distances

from ..data.clip import labels_of
from ..figure_style import MEDIUM, SIDES, panel, save_figure
from ..training import run_folder
from ..training.arguments import parse_arguments
from ..training.backbone import build_model
from ..training.data import prepare_data
from ..training.environment import leave_cores_to_workers
from ..training.targets import check_one_target
from .states import last_token_states
from .tables import markdown_table, shared_settings

NEIGHBOURS = (5, 10, 20)
PERMUTATIONS = 1000
RSA_PERMUTATIONS = 200  # each ranks all pairs of clips


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
class Alignment:
    """How far the states are arranged by the labels.

    Attributes:
        value: 0 for not at all, 1 for entirely.
        permuted: the same with permuted labels, mean over permutations.
        p: fraction of permutations (counting the true labels) with a value at least as large.
    """

    value: float
    permuted: float
    p: float


@dataclass(frozen=True)
class Geometry:
    """The arrangement of test clips in hidden space.

    Attributes:
        dataset, split, modalities, n: as in metrics.json.
        readout, seed: of the run; `None` for the untrained base model.
        neighbours: for each k.
        cka, rsa: alignments of the states with the labels.
        permutations: of the labels.
        settings: the most important ones of the run.
        environment: of the run, as in environment.json.
        explained_variance: fraction explained by each of the two principal components.
        tsne_perplexity: of the t-SNE plot.
    """

    dataset: str
    split: str
    readout: str | None
    modalities: list[str]
    seed: int | None
    n: int
    neighbours: list[NeighbourDifference]
    cka: Alignment
    rsa: Alignment
    permutations: int
    settings: dict[str, Any]
    environment: dict[str, Any]
    explained_variance: list[float]
    tsne_perplexity: float

    @property
    def title(self) -> str:
        """Data set, readout and seed, in one line."""
        model = "untrained" if self.readout is None else f"{self.readout}, seed {self.seed}"
        return f"{self.dataset}, {self.n} {self.split} clips, {model}"

    def to_dict(self) -> dict[str, Any]:
        """The contents of geometry.json."""
        return asdict(self)


def geometry(run: str | Path | None, out: str | Path, *, untrained: Sequence[str] = ()) -> Geometry:
    """Write geometry.json, .md, pca.png and tsne.png for the test clips of a finished run, of either readout.

    Args:
        run: its folder; `None` for the untrained base model.
        out: folder to write.
        untrained: arguments of train.py, which name the base model and the clips where there is no run.

    Raises:
        FileNotFoundError: when the folder holds no finished run with a bundle.
        ValueError: for neither or both of run and config, or fewer than 6 test clips.
    """
    out = Path(out)
    if (run is None) == (not untrained):
        raise ValueError("expected a finished run folder, or --untrained CONFIG, and not both")
    if run is None:
        model_args, data_args, args = parse_arguments([*untrained, "--output_dir", str(out)])
        if model_args.adapter:
            raise ValueError("adapter: --untrained reads the base model; leave the field out, or give a run folder")
        metrics: dict[str, Any] = {"readout": None, "seed": None, "split": "test"}
    else:
        run = Path(run)
        if not (run / "metrics.json").is_file() or not (run / "model").is_dir():
            raise FileNotFoundError(f"{run}: expected a finished training run with metrics.json and model/")
        model_args, data_args, args = run_folder.read_arguments(run, out)
        metrics = run_folder.read_metrics(run)
    check_one_target(data_args, "the geometry of hidden states")
    leave_cores_to_workers(args)
    data = prepare_data(model_args, data_args, args)
    clips = data.splits["test"]
    labels, videos = labels_of(clips), [clip.video_id or clip.id for clip in clips]
    if run is None:
        run_folder.write_config(out, model_args, data_args, args)
        data.write_environment(out)
    source = out if run is None else Path(run)
    low, high = data.facts.score_range
    model = build_model(model_args, **data.model_fields, device=args.device)
    states = last_token_states(model, clips, data.processor, args, every_layer=False)[-1]  # (n, H)
    pca = PCA(2, random_state=0).fit(states)
    perplexity = min(30.0, (len(clips) - 1) / 3)
    result = Geometry(
        dataset=data.facts.name,
        **{key: metrics[key] for key in ("split", "readout", "seed")},
        modalities=data.processor.modalities,
        n=len(clips),
        neighbours=neighbour_differences(states, labels, videos),
        cka=cka(states, labels),
        rsa=rsa(states, labels, videos),
        permutations=PERMUTATIONS,
        settings=shared_settings(source),
        environment=run_folder.read_environment(source),
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


def cka(states: np.ndarray, labels: np.ndarray, *, permutations: int = PERMUTATIONS, seed: int = 0) -> Alignment:
    """Linear centred kernel alignment of states (n, H) with labels (n,)."""
    centred = states - states.mean(0)
    kernel = centred @ centred.T
    size = float(np.linalg.norm(kernel))

    def value(values: np.ndarray) -> float:
        around = values - values.mean()
        return float(around @ kernel @ around / (size * (around @ around)))

    return _alignment(value, labels, permutations, seed)


def rsa(
    states: np.ndarray, labels: np.ndarray, groups: Sequence[str], *, permutations: int = PERMUTATIONS, seed: int = 0
) -> Alignment:
    """Spearman correlation of the distances between clips of different groups with the differences of their labels.

    Args:
        states: (n, H).
        labels: (n,) label units.
        groups: the n clips' videos.
        permutations: of the labels.
        seed: of the permutations.
    """
    names = np.array(groups)
    first, second = np.triu_indices(len(labels), 1)
    apart = names[first] != names[second]
    first, second = first[apart], second[apart]
    distances = rankdata(pairwise_distances(states)[first, second])
    distances = (distances - distances.mean()) / distances.std()

    def value(values: np.ndarray) -> float:
        ranks = rankdata(np.abs(values[first] - values[second]))
        return float(np.mean(distances * (ranks - ranks.mean())) / ranks.std())

    return _alignment(value, labels, min(permutations, RSA_PERMUTATIONS), seed)


def _alignment(value: Callable[[np.ndarray], float], labels: np.ndarray, permutations: int, seed: int) -> Alignment:
    generator = np.random.default_rng(seed)
    found = value(labels)
    by_chance = [value(generator.permutation(labels)) for _ in range(permutations)]
    p = (1 + sum(one >= found for one in by_chance)) / (1 + permutations)
    return Alignment(found, float(np.mean(by_chance)), float(p))


def neighbour_differences(
    states: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str] | None = None,
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> list[NeighbourDifference]:
    """For each k of `NEIGHBOURS`: how much the labels of neighbours differ. A k that is too large for n clips is left out.

    Args:
        states: (n, H).
        labels: (n,) label units.
        groups: the n clips' videos; clips of the same one are no neighbours. Without them, every clip is its own.
        permutations: of the labels.
        seed: of the permutations.

    Raises:
        ValueError: when there are too few clips for any k.
    """
    names = np.arange(len(labels)) if groups is None else np.array(groups)
    same = names[:, None] == names  # (n, n)
    fewest = int((~same).sum(1).min())
    possible = [k for k in NEIGHBOURS if k <= fewest]
    if not possible:
        raise ValueError(
            f"{len(labels)} clips have no {min(NEIGHBOURS)} neighbours in other videos each; at least {min(NEIGHBOURS)} are needed"
        )
    distances = np.where(same, np.inf, pairwise_distances(states))
    nearest = distances.argsort(1, kind="stable")[:, : possible[-1]]  # (n, k)
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
        f" against that of permuted labels, is {differences}. CKA with the labels is {result.cka.value:.3f} (permuted"
        f" {result.cka.permuted:.3f}, p {result.cka.p:.2g}), RSA {result.rsa.value:.3f} (p {result.rsa.p:.2g})."
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
        cmap=SIDES,
        vmin=score_range[0],
        vmax=score_range[1],
        s=30,
        edgecolors="0.3",
        linewidths=0.4,
    )
    figure.colorbar(drawn, ax=axes, label="label (label units; 0 is neutral)")
    axes.set_xlabel(axis_names[0])
    axes.set_ylabel(axis_names[1])
    axes.set_title(title, fontsize=MEDIUM)
    panel(axes)
    save_figure(figure, path)
