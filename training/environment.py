"""The machine and code of a run, as recorded in environment.json: cores, versions, commit, memory."""

import importlib.metadata
import os
import platform
import resource
import subprocess
from pathlib import Path

import torch
from transformers import TrainingArguments

PACKAGES = (
    *("omnisent", "torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets", "numpy"),
    *("av", "soxr", "qwen-omni-utils"),
)


def leave_cores_to_workers(args: TrainingArguments) -> None:
    """On a CPU, compute only with the cores that DataLoader workers leave free; more threads than cores slow both down."""
    if args.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - args.dataloader_num_workers))


def device_name() -> str:
    """The GPU's name, else the processor's."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()


def process_count() -> int:
    """How many processes train together."""
    return int(torch.distributed.get_world_size()) if torch.distributed.is_initialized() else 1


def code_versions() -> dict:
    """Python, platform, versions of the packages that results depend on, and the commit of this one."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "commit": commit_of(Path(__file__).resolve().parent.parent),
        "versions": {name: installed_version(name) for name in PACKAGES},
    }


def installed_version(name: str) -> str | None:
    """Version of a package; `None` when it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit_of(folder: Path) -> str | None:
    """The commit of a git checkout, with `-dirty` appended if files differ; `None` for any other folder.

    A folder *inside* a checkout, such as a package in a virtual environment, does not count as one.
    """
    git = ["git", "-C", str(folder)]
    try:
        root = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=True)
        if not os.path.samefile(root.stdout.strip(), folder):
            return None
        described = [*git, "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def peak_memory_bytes() -> int:
    """Peak memory of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return process_peak_bytes()


def process_peak_bytes() -> int:
    """Peak memory of this process, in bytes.

    Linux reports it per process. `ru_maxrss` is the fallback: in a new process it starts at the peak of its parent.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
