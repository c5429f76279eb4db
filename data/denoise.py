"""Reduces noise in the clips' audio, and keeps the results beside the data set, named by a hash of their content.

`deepfilternet` calls the program `deepFilter`, which needs its own environment; `spectral` is spectral gating
by the noisereduce library and needs no weights. Both start from the file's own sound, mono, at its own sample rate; the model then
gets the result at 16 kHz.
"""

import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import get_args

from tqdm.auto import tqdm

from .built import Denoise
from .media_check import run_tasks

VERSION = 2  # raise when the same audio would give another result
FILES_A_CALL = 64
_INSTALL_DEEPFILTER = (
    "denoise: deepfilternet needs the program deepFilter, which is not on PATH. It requires numpy < 2, so install"
    " it in its own environment:"
    " python3.11 -m venv ~/deepfilternet && ~/deepfilternet/bin/pip install deepfilternet 'torch==2.1.2'"
    " 'torchaudio==2.1.2' 'numpy<2'"
    ' && export PATH="$PATH:$HOME/deepfilternet/bin"; its first call downloads the weights. Or choose denoise: spectral'
)
_INSTALL_SPECTRAL = "denoise: spectral needs the noisereduce library: pip install 'omnisent[denoise]'"


def check_denoiser(method: str) -> None:
    """Check that a method can be used here.

    Raises:
        ValueError: for a method that does not exist.
        FileNotFoundError, ImportError: with what to install.
    """
    if method not in get_args(Denoise):
        raise ValueError(f"denoise: expected {', '.join(get_args(Denoise))}, found {method!r}")
    if method == "deepfilternet" and shutil.which("deepFilter") is None:
        raise FileNotFoundError(_INSTALL_DEEPFILTER)
    if method == "spectral" and importlib.util.find_spec("noisereduce") is None:
        raise ImportError(_INSTALL_SPECTRAL)


def denoise_files(
    paths: Sequence[str], folder: str | Path, method: Denoise, *, workers: int = 2, time_limit: float = 120.0
) -> tuple[dict[str, str], dict[str, str]]:
    """Write the denoised audio of each file, unless it already exists.

    Args:
        paths: video or audio files; one without audio has no result.
        folder: gets `<method>/<key>.wav`, where the key is a hash of the file's content, the method and its version.
        method: `none` gives no results.
        workers: processes that read audio.
        time_limit: seconds that one file may take.

    Returns:
        Absolute path of the wav by path, and the reason of each failure by path.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `check_denoiser`.
    """
    check_denoiser(method)
    if method == "none" or not paths:
        return {}, {}
    folder = Path(folder).absolute() / method
    folder.mkdir(parents=True, exist_ok=True)
    results = {path: str(folder / f"{_content_key(path, method)}.wav") for path in paths}
    sources = {result: path for path, result in results.items() if not os.path.isfile(result)}
    make = _write_audio if method == "spectral" else _deepfilter
    failed = make({path: result for result, path in sources.items()}, method, workers, time_limit)
    failures = {path: failed[sources[result]] for path, result in results.items() if sources.get(result) in failed}
    return {path: result for path, result in results.items() if os.path.isfile(result)}, failures


def _content_key(path: str, method: str) -> str:
    state = hashlib.sha256(f"{method} {VERSION} ".encode())
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            state.update(piece)
    return state.hexdigest()[:32]


def _write_audio(outs: dict[str, str], method: str, workers: int, time_limit: float) -> dict[str, str]:
    """Writes the audio of each file that has any; returns the reasons of failures."""
    tasks = ({"do": "audio", "path": path, "out": out, "method": method} for path, out in outs.items())
    failures = {}
    with closing(run_tasks(tasks, workers=workers, time_limit=time_limit)) as done:
        for task, result in tqdm(done, total=len(outs), desc=f"audio ({method})", unit="clip", disable=not outs):
            if "written" not in result:
                failures[task["path"]] = result.get("error") or result["died"]
    return failures


def _deepfilter(outs: dict[str, str], method: str, workers: int, time_limit: float) -> dict[str, str]:
    if not outs:
        return {}
    folder = Path(next(iter(outs.values()))).parent
    with tempfile.TemporaryDirectory(prefix=".extracted-", dir=folder) as draft:
        extracted = {path: str(Path(draft) / Path(out).name) for path, out in outs.items()}
        failures = _write_audio(extracted, method, workers, time_limit)
        ready = [path for path in outs if os.path.isfile(extracted[path])]
        for part in tqdm(list(_parts(ready)), desc="deepFilter", unit="call"):
            result_folder = Path(tempfile.mkdtemp(dir=draft))
            fault = _call_deepfilter([extracted[path] for path in part], result_folder, time_limit * len(part))
            for path in part:
                results = sorted(result_folder.glob(f"{Path(outs[path]).stem}*.wav"))
                if results and results[0].stat().st_size:
                    os.replace(results[0], outs[path])
                else:
                    failures[path] = f"deepFilter wrote no result: {fault or 'no reason given'}"
    return failures


def _parts(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(paths), FILES_A_CALL):
        yield paths[start : start + FILES_A_CALL]


def _call_deepfilter(files: Sequence[str], out: Path, time_limit: float) -> str | None:
    """Run deepFilter; returns the error, or None."""
    command = [shutil.which("deepFilter") or "deepFilter", *files, "--output-dir", str(out)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    )
    try:
        _, errors = process.communicate(timeout=time_limit)
    except BaseException as fault:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(fault, subprocess.TimeoutExpired):
            return f"it took longer than {time_limit:g} s"
        raise
    last = (errors.strip() or "no message").splitlines()[-1]
    return f"exit code {process.returncode}: {last}" if process.returncode else None
