"""Runs a list of training runs one after another, each in its own process, and resumes after an interruption.

A finished run is not repeated, an unfinished one continues from its last complete checkpoint, and a folder with a run with other
settings is an error that names the field.
"""

import gc
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

import torch

from omnisent import train

from ..training import run_folder
from ..training.arguments import parse_arguments
from ..training.error_line import error_line

POLL_SECONDS = 1.0
IGNORED_FIELDS = (  # paths, output, and what a GPU sets; two runs that differ only in these give the same scores
    *(
        "output_dir",
        "adapter",
        "feature_cache",
        "resume_from_checkpoint",
        "disable_tqdm",
        "run_name",
        "dataloader_pin_memory",
    ),
)


@dataclass(frozen=True)
class PlannedRun:
    """A run to do.

    Attributes:
        name: in messages.
        folder: of the run.
        argv: its arguments for train.py, without the output folder.
        may_differ: fields in which a run that is in the folder already may have other values.
    """

    name: str
    folder: Path
    argv: tuple[str, ...]
    may_differ: tuple[str, ...] = ()

    @property
    def tracked_as(self) -> str:
        """Its name for the trackers of `report_to`: its folder, `runs/compare/discriminative/seed-0`, after a given name."""
        folder = self.folder.absolute()
        inside = folder.is_relative_to(Path.cwd())
        parts = folder.relative_to(Path.cwd()).parts if inside else folder.parts[-4:]
        return "/".join([*filter(None, [self.config()["run_name"]]), *parts])

    @property
    def finished(self) -> bool:
        """Whether the run is complete: metrics.json is written last."""
        return (self.folder / "metrics.json").is_file()

    def config(self) -> dict:
        """The contents of config.yaml of this run."""
        return run_folder.config_dict(*parse_arguments([*self.argv, "--output_dir", str(self.folder)]))


def run_all(runs: Sequence[PlannedRun]) -> None:
    """Execute the unfinished runs in order, with a line on standard error for each.

    Raises:
        ValueError: for invalid settings, or a folder with a run with other settings, before any run starts.
        RuntimeError: when a run fails, with its own message.
    """
    for run in runs:
        _check_settings(run)
    for number, run in enumerate(runs, start=1):
        if run.finished:
            print(f"[{number}/{len(runs)}] {run.name}: already finished", file=sys.stderr)
            continue
        resumes = run_folder.last_checkpoint(run.folder) is not None
        print(f"[{number}/{len(runs)}] {run.name}{': resuming' if resumes else ''}", file=sys.stderr)
        run_in_fresh_process(run)


def differing_field(first: dict, second: dict, ignored: Iterable[str] = ()) -> str | None:
    """The first field in which two configurations differ, ignoring paths; `None` if there is none."""
    for field in sorted((first.keys() | second.keys()) - {*IGNORED_FIELDS, *ignored}):
        if first.get(field) != second.get(field):
            return field
    return None


def _check_settings(run: PlannedRun) -> None:
    """Raise a ValueError if the settings are invalid, or the folder has a run with other settings."""
    requested = run.config()
    if not (run.folder / "config.yaml").is_file():
        return
    present = run_folder.read_config(run.folder)
    field = differing_field(requested, present, run.may_differ)
    if field:
        raise ValueError(
            f"{run.folder} holds a run with {field} {present.get(field)!r}, but {requested.get(field)!r} is requested;"
            " runs with other settings cannot be compared: give another --out, or remove that folder"
        )


def run_in_fresh_process(run: PlannedRun, *, ends_early: Callable[[], bool] | None = None) -> bool:
    """Execute a run in a new process, so that memory and random state of earlier runs do not affect it; an unfinished one resumes.

    Args:
        run: what to do.
        ends_early: asked every second; the run is ended once it returns true.

    Returns:
        Whether the run is finished; false if it was ended early.

    Raises:
        RuntimeError: when it fails, with its own message.
    """
    resumes = run_folder.last_checkpoint(run.folder) is not None
    argv = [*run.argv, "--output_dir", str(run.folder), *(("--resume_from_checkpoint", "true") if resumes else ())]
    argv += ["--run_name", run.tracked_as]
    context = _start_context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(argv, sender))
    process.start()
    sender.close()
    try:
        while process.is_alive():
            process.join(None if ends_early is None else POLL_SECONDS)
            if ends_early is not None and process.is_alive() and ends_early():
                return False
    finally:
        if process.is_alive():
            process.terminate()
            process.join()
    if process.exitcode:
        try:
            reason = receiver.recv()
        except EOFError:
            reason = f"its process ended with exit code {process.exitcode}; see its output above"
        raise RuntimeError(f"{run.name}: {reason}")
    return True


def _start_context() -> SpawnContext | ForkServerContext:
    """How processes start: forked from one that has imported everything; anew with a GPU.

    The imports (those of bitsandbytes) initialise CUDA, and a process that is forked after that cannot use the GPU.
    """
    if torch.cuda.is_available():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["omnisent.train"])
    return context


def _child(argv: list[str], sender: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    multiprocessing.set_start_method(None, force=True)  # its DataLoader workers start as under train.py itself
    gc.freeze()  # imported modules are no garbage; collections during the run need not visit them
    try:
        train.run(*parse_arguments(argv))
    except (ValueError, OSError) as error:
        sender.send(error_line(error))
        sys.exit(1)


def _end_with_parent() -> None:
    """Exit when the parent process was killed, since the next start would write to the same folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
