"""Shared by all benchmarks: alternating repeats, medians with minimum and maximum, the machine, and JSON results."""

import json
import os
import platform
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from omnisent.training.environment import code_versions

RESULTS = Path(__file__).parent / "results"


def cpu_seconds() -> float:
    """CPU seconds of this process and of the programs that it ran."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def in_turn(
    tasks: Mapping[str, Callable[[], object]],
    repeats: int = 5,
    warmups: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each task in each repeat; tasks alternate, so that a slow phase of the machine affects all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(-warmups, repeats):
        for name, task in tasks.items():
            started = clock()
            task()
            if repeat >= 0:
                seconds[name].append(clock() - started)
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": float(np.median(values)), "min": float(min(values)), "max": float(max(values))}


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """How many times longer the first took than the second, repeat by repeat."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def machine() -> dict:
    """Processor, cores, memory, versions and commit."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"processor": model, "cores": os.cpu_count(), "memory_bytes": memory, **code_versions()}


def save(name: str, result: dict) -> Path:
    """Write benchmarks/results/<name>.json with the machine it was measured on."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **result}, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def table(rows: Sequence[Sequence[object]]) -> str:
    """Rows as aligned columns, the first one the header."""
    cells = [[_formatted(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def _formatted(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"
