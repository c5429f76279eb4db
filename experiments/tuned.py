"""What a sweep found, for a comparison: its best settings of each arm, and what finding them cost."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..evaluation.comparison_result import Tuning
from ..training import run_folder
from ..training.arguments import parse_arguments
from .arms import Arm


def read_sweep(path: str | Path) -> dict[str, Any]:
    """The contents of the sweep.json of a finished sweep.

    Raises:
        FileNotFoundError: when there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the sweep.json of a finished sweep")
    return run_folder.read_json(path)


def tuned_arms(arms: Sequence[Arm], path: str | Path, argv: Sequence[str]) -> list[Arm]:
    """The arms with the best settings that a sweep found; an arm that uses another one's adapter has the settings of that one.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a sweep that has not tuned an arm, tuned it with other fields, or on another data set or base model.
    """
    sweep_file = read_sweep(path)
    model_args, data_args, _ = parse_arguments(list(argv))
    for name, wanted in (("dataset", data_args.dataset), ("base_model", model_args.base_model)):
        if sweep_file["settings"][name] != wanted:
            raise ValueError(f"{path}: it was tuned with {name} {sweep_file['settings'][name]!r}, not {wanted!r}")
    found = sweep_file["arms"]
    tuned: list[Arm] = []
    for arm in arms:
        by = arm.adapter_of or arm.name
        if not arm.trains and arm.adapter_of is None:
            tuned.append(arm)
            continue
        if by not in found or (arm.trains and found[by]["fields"] != arm.fields):
            raise ValueError(
                f"{path}: it has not tuned the arm {by} with these fields; run the sweep with the same --arms"
            )
        tuned.append(replace(arm, fields={**arm.fields, **found[by]["best"]["settings"]}))
    return tuned


def tuning_of(arms: Sequence[Arm], path: str | Path) -> dict[str, Tuning]:
    """What a sweep spent on each arm that trains, and its best validation result, by the arm's name.

    Raises:
        FileNotFoundError: when there is no such file.
    """
    sweep_file = read_sweep(path)
    found = sweep_file["arms"]
    return {
        arm.name: Tuning(
            trials=len(found[arm.name]["trials"]),
            hours=found[arm.name]["seconds"] / 3600,
            metric=sweep_file["metric"],
            best=found[arm.name]["best"]["value"],
            settings=found[arm.name]["best"]["settings"],
        )
        for arm in arms
        if arm.trains
    }
