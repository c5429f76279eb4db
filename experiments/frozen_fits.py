"""Trains the heads of many readouts on frozen states, and keeps each one's test scores; a finished one is not trained again."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..evaluation.statistics import bootstrap_estimates, paired_tests, verdict
from ..heads_omnisent import HEADS, RegressionHead
from ..losses_omnisent import LOSSES, LabelScale
from ..training import run_folder
from .frozen_states import PLACES, FrozenStates

ATTENTION = ("attention, all", "attention, clip")
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 30, 32, 1e-3, 0.01
PAPER = ("last", "last", "mlp", "l1")


@dataclass(frozen=True)
class Fitting:
    """Trains heads on frozen states, and keeps the scores of the test clips.

    Args:
        states: by split.
        scale: of the labels.
        hidden_size: of the mlp head.
        bins: of the losses that have them.
        folder: for the scores.
        seeds: of the heads.
    """

    states: dict[str, FrozenStates]
    scale: LabelScale
    hidden_size: int
    bins: int
    folder: Path
    seeds: Sequence[int]

    def names(self, best_layer: int) -> Iterator[tuple[str, str, str, str]]:
        """Every row: layers, pooling, head, loss. Attention needs the states of all tokens."""
        places = PLACES if self.states["train"].tokens is None else (*PLACES, *ATTENTION)
        return product(("last", str(best_layer), "mix"), places, HEADS, LOSSES)

    def row(self, layers: str, pooling: str, head: str, loss: str, *, permuted: bool = False) -> tuple:
        """The figures of a row, from `valid_mae` on; with `permuted`, trained on labels in a random order."""
        file = self._file((layers, pooling, head, loss, *(["permuted"] if permuted else [])))
        key = [*(found.key for found in self.states.values()), list(self.seeds), self.bins, self.hidden_size]
        key += [EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY]
        if not file.is_file() or run_folder.read_json(file)["key"] != key:
            runs = [self._train(layers, pooling, head, loss, seed, permuted) for seed in self.seeds]
            self.folder.mkdir(parents=True, exist_ok=True)
            run_folder.write_json(file, {"key": key, "runs": runs})
        runs, labels = run_folder.read_json(file)["runs"], self.states["test"].labels
        maes = {split: [run[f"{split}_mae"] for run in runs] for split in ("valid", "test")}
        sds = {split: float(np.std(values, ddof=1)) if len(values) > 1 else None for split, values in maes.items()}
        scores = np.array([run["scores"] for run in runs])
        corrs = [float(np.corrcoef(one, labels)[0, 1]) for one in scores if np.ptp(one) > 0]
        corr = float(np.mean(corrs)) if len(corrs) == len(runs) else None
        means = {split: float(np.mean(values)) for split, values in maes.items()}
        return means["valid"], sds["valid"], means["test"], sds["test"], corr, [run["epoch"] for run in runs]

    def scores(self, name: Sequence[str]) -> np.ndarray:
        """Test scores (S, n) of a finished row."""
        return np.array([run["scores"] for run in run_folder.read_json(self._file(name))["runs"]])

    def _file(self, name: Sequence[str]) -> Path:
        return self.folder / f"{'_'.join(part.replace(', ', '-') for part in name)}.json"

    def estimates(self, name: Sequence[str], convention: str) -> dict:
        """Metrics of a row with their intervals."""
        test = self.states["test"]
        return bootstrap_estimates(self.scores(name), test.labels, convention, groups=test.videos)

    def tests(self, names: Sequence[tuple[str, str, str, str]]) -> list[dict[str, Any]]:
        """The paper's readout against every other row, p adjusted for all."""
        test = self.states["test"]
        labels = test.labels
        ours, others = np.abs(self.scores(PAPER) - labels), [name for name in names if name != PAPER]
        tests = paired_tests(ours, [np.abs(self.scores(name) - labels) for name in others], groups=test.videos)
        return [
            {
                "first": list(PAPER),
                "second": list(name),
                **paired.to_dict(),
                "p_holm": p,
                "verdict": verdict(paired.difference, p),
            }
            for name, (paired, p) in zip(others, tests, strict=True)
        ]

    def _train(self, layers: str, pooling: str, head: str, loss: str, seed: int, permuted: bool) -> dict[str, Any]:
        torch.manual_seed(seed)
        first = self.states["train"].pooled[PLACES[0]]
        kind = pooling.partition(",")[0]
        module = RegressionHead(
            first.shape[-1],
            head=head,
            hidden_size=self.hidden_size,
            dropout=0.2,
            loss=loss,
            bins=self.bins,
            pooling=kind,
            layers=layers,
            layer_count=first.shape[1] - 2,
        )
        objective = LOSSES[loss]
        reader = _Reader(module, layers, pooling, self.states)
        labels = {split: torch.tensor(found.labels, dtype=torch.float32) for split, found in self.states.items()}
        truth = labels["train"][torch.randperm(len(labels["train"]))] if permuted else labels["train"]
        optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        best: dict[str, Any] = {"valid_mae": float("inf")}
        weights = copy.deepcopy(module.state_dict())
        for epoch in range(1, EPOCHS + 1):
            module.train()
            for rows in torch.randperm(len(truth)).split(BATCH):
                optimizer.zero_grad()
                objective.losses(reader.outputs("train", rows), truth[rows], self.scale, self.bins).mean().backward()
                optimizer.step()
            error = float((self._scores(module, reader, objective, "valid") - labels["valid"]).abs().mean())
            if error < best["valid_mae"]:
                best, weights = {"valid_mae": error, "epoch": epoch}, copy.deepcopy(module.state_dict())
        module.load_state_dict(weights)
        scores = self._scores(module, reader, objective, "test")
        return {**best, "test_mae": float((scores - labels["test"]).abs().mean()), "scores": scores.tolist()}

    def _scores(self, module: RegressionHead, reader: "_Reader", objective: Any, split: str) -> torch.Tensor:
        module.eval()
        with torch.no_grad():
            rows = torch.arange(len(self.states[split].labels)).split(4 * BATCH)
            outputs = torch.cat([reader.outputs(split, part) for part in rows])
        return self.scale.clip(objective.scores(outputs, self.scale, self.bins))


@dataclass(frozen=True)
class _Reader:
    """The outputs of a head for clips of a split, from their frozen states."""

    module: RegressionHead
    layers: str
    pooling: str
    states: dict[str, FrozenStates]

    def outputs(self, split: str, rows: torch.Tensor) -> torch.Tensor:
        """(B, K) of the clips at B indices."""
        states = self.states[split]
        if self.pooling not in ATTENTION:
            return self.module.layers(self._mixed(states.pooled[self.pooling], rows.numpy()))
        return self.module.layers(self.module.pool(*self._tokens(states, rows)))

    def _mixed(self, states: np.ndarray, rows: np.ndarray) -> torch.Tensor:
        """What is read (n, H) of n rows of states (N, L + 2, H)."""
        if self.layers != "mix":
            return torch.from_numpy(states[rows, -1 if self.layers == "last" else int(self.layers)].astype(np.float32))
        weights = self.module.reader.shares() * self.module.reader.scale
        return torch.einsum("l,nlh->nh", weights, torch.from_numpy(states[rows, :-1].astype(np.float32)))

    def _tokens(self, states: FrozenStates, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is read (B, T, H) of the tokens of B clips, and which of them are theirs (B, T)."""
        assert states.tokens is not None
        spans = [np.arange(states.starts[row], states.starts[row + 1]) for row in rows]
        flat = np.concatenate(spans)
        read = self._mixed(states.tokens, flat)
        own = states.own[flat] if self.pooling == ATTENTION[1] else np.ones(len(flat))
        lengths = [len(span) for span in spans]
        tokens, mask = (
            torch.nn.utils.rnn.pad_sequence(part.split(lengths), batch_first=True)
            for part in (read, torch.from_numpy(own.astype(np.float32)))
        )
        return tokens, mask
