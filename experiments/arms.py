"""The arms of a comparison: the ways to score, each a name and the fields of a run in which it differs from the others.

Without a file, they are each readout, trained, and decoded in each way that reads something else of the model; a readout that works
without training is also run zero-shot. A file is YAML:

    arms:
      - name: head
      - name: words
        readout: generative
        learning_rate: 1.0e-4
      - name: words-median
        readout: generative
        decoding: median
        adapter_of: words
      - name: zero-shot
        readout: generative
        evaluate_only: true

Every other field is that of the config. The first arm is the one that all others are tested against. `dataset` may name another
build of the same clips, such as one whose audio is denoised.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ..readouts.catalog import READOUTS
from ..readouts.generative import DECODINGS
from ..training.arguments import read_fields, read_mapping
from ..training.field_names import shipped_arms
from .baselines import BASELINES

SAME_FOR_ALL = (  # fields of the comparison, its data and its folders
    *("root", "genres", "modalities", "swapped", "group_split", "complete_clips", "on_bad_clip"),
    *("seed", "data_seed", "adapter", "evaluate", "output_dir", "resume_from_checkpoint"),
)

OUTSIDE = "predictions"  # folder of scores from elsewhere, by name


@dataclass(frozen=True)
class Arm:
    """One way to score.

    Attributes:
        name: of its folder, and in comparison.json.
        label: its name in tables.
        fields: of a run, in which it differs.
        adapter_of: the name of the arm whose adapter it scores with, if it does not train its own.
    """

    name: str
    label: str
    fields: dict[str, Any]
    adapter_of: str | None = None

    @property
    def trains(self) -> bool:
        """Whether it trains an adapter."""
        return not self.fields.get("evaluate_only", False)

    @property
    def argv(self) -> tuple[str, ...]:
        """Its fields as arguments of train.py."""
        return tuple(part for name, value in self.fields.items() for part in (f"--{name}", *_written(value)))

    def own_seeds(self, seeds: Sequence[int]) -> Sequence[int]:
        """The seeds of its runs; only the first if it does not depend on the seed, such as zero-shot answers."""
        return seeds if self.trains or self.adapter_of else seeds[:1]


def default_arms() -> list[Arm]:
    """Each readout, trained once with its first decoding, and decoded in each way that reads something else; and zero-shot."""
    arms = []
    for name, readout in READOUTS.items():
        of_kind = {decoding.reads: way for way, decoding in reversed(DECODINGS.items())}
        decodings = (
            [way for way in DECODINGS if way in of_kind.values()] if "decoding" in readout.decoding_fields else [None]
        )
        stages = ("trained", "zero-shot") if readout.uses_lm_head else ("trained",)
        for stage, decoding in product(stages, decodings):
            parts = [name, *([stage] if len(stages) > 1 else []), *([decoding] if decoding else [])]
            fields: dict[str, Any] = {"readout": name, **({"decoding": decoding} if decoding else {})}
            trained = stage == "trained"
            by = None if not trained or decoding == decodings[0] else "-".join([name, stage, str(decodings[0])])
            if not trained or by:
                fields["evaluate_only"] = True
            arms.append(Arm("-".join(parts), ", ".join(parts), fields, by))
    return arms


def read_arms(path: str | Path) -> list[Arm]:
    """The arms in a file, or in a shipped one, by its name.

    Raises:
        FileNotFoundError: when it is missing.
        ValueError: naming the file and the arm that is wrong, and what is expected.
    """
    path = shipped_arms().get(str(path), Path(path))
    if not path.is_file():
        names = ", ".join(shipped_arms())
        raise FileNotFoundError(f"{path}: no such file; expected {names}, or a YAML file with a list `arms:`")
    read = read_mapping(path)
    rows = read.get("arms") if read.keys() == {"arms"} else None
    if not isinstance(rows, list) or len(rows) < 2 or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            f"{path}: expected `arms:` alone, a list of at least two arms with `name:` and fields of a run"
        )
    arms: list[Arm] = []
    for number, row in enumerate(rows, start=1):
        try:
            arms.append(_arm(row, arms))
        except ValueError as error:
            raise ValueError(f"{path}, arm {row.get('name', number)}: {error}") from error
    return arms


def _arm(row: dict[str, Any], before: Sequence[Arm]) -> Arm:
    own = dict(row)
    name, label, adapter_of = own.pop("name", None), own.pop("label", None), own.pop("adapter_of", None)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise ValueError(f"name: expected small letters, digits, dots and dashes, as it names a folder, not {name!r}")
    if name in {"costs", OUTSIDE, *BASELINES, *(arm.name for arm in before)}:
        raise ValueError(f"name: {name} is taken; choose another")
    wrong = [field for field in own if field in SAME_FOR_ALL]
    if wrong:
        raise ValueError(f"{wrong[0]}: it is the same for all arms; give it in the config or on the command line")
    trained = {arm.name: arm for arm in before if arm.trains}
    if adapter_of is not None and adapter_of not in trained:
        raise ValueError(
            f"adapter_of: expected an arm before it that trains ({', '.join(trained) or 'none'}), not {adapter_of!r}"
        )
    if adapter_of is not None:
        own = {**trained[adapter_of].fields, **own, "evaluate_only": True}
    label = str(label or name)
    if label in {*(arm.label for arm in before), *(baseline.label for baseline in BASELINES.values())}:
        raise ValueError(f"label: {label} is taken; choose another")
    return Arm(name, label, read_fields(own), adapter_of)


def baseline_folder(out: Path, name: str) -> Path:
    """The folder of a baseline, or of scores from elsewhere."""
    return out / name if name in BASELINES else out / OUTSIDE / name


def _written(value: Any) -> list[str]:
    """A value as on the command line."""
    if isinstance(value, list):
        return [part for one in value for part in _written(one)]
    return [str(value).lower() if isinstance(value, bool) else str(value)]
