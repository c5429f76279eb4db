"""Builds a data set from a label table and its clips: reads the table, opens every clip, and reports on every row.

Every row is kept, repaired or left out, with the reason; none is dropped silently. The results of opened files are stored
beside the output, so an interrupted build resumes.

    omnisent data build cmu_mosi --root DIR --out DIR
"""

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from datasets import Dataset, DatasetDict, DatasetInfo, Features, Value
from tqdm.auto import tqdm

from .build_report import CHECKED, BuildReport, BuiltRow, make_report
from .build_report_files import write_report
from .built import REPORT_NAME, Denoise
from .catalog import DATASETS, DatasetFacts
from .clip import SPLITS
from .denoise import check_denoiser, denoise_files
from .media_check import VERSION as CHECK_VERSION
from .media_check import FileCheck, run_tasks
from .mmsa import Defect, MediaFiles, TableRow
from .sources import SOURCES
from .tables import write_table


def build_dataset(
    name: str,
    root: str | Path,
    out: str | Path,
    *,
    with_media: bool = True,
    strict: bool = False,
    workers: int = 2,
    denoise: Denoise = "none",
    time_limit: float = 60.0,
) -> BuildReport:
    """Builds a `datasets` DatasetDict that `read_clips` and `datasets.load_from_disk` read, with a report of every row.

    A clip whose video cannot be read keeps its audio or its text (`repaired`); a row without a usable label, or with
    nothing left to read, is left out. The columns `defect` and `duration` name the defect and the length in seconds.

    Args:
        name: a name in the catalog.
        root: the folder with label.csv and Raw/; for `planted`, the folder to create the clips in; for `human_ratings`, the
            one that holds or gets its archive.
        out: the folder to write; it appears when the build is complete. An earlier build in it is replaced.
        with_media: `False` builds from the table alone.
        strict: any defect is an error, and nothing is built.
        workers: processes that open media.
        denoise: none, deepfilternet or spectral; the audio is kept in `<out>.denoised/`.
        time_limit: seconds that opening one file may take.

    Returns:
        The report, also written as build_report.json, .md and .png, with every row in build_rows.csv.

    Raises:
        FileNotFoundError: when the root, its table or the denoiser is missing.
        FileExistsError: when `out` holds something that is not a built data set.
        ValueError: for a name that is not in the catalog, a table that cannot be read, a path outside the root, or a
            defect with `strict`.
    """
    if name not in DATASETS:
        raise ValueError(f"{name!r} is not a data set that can be built; expected {', '.join(DATASETS)}")
    out, facts = Path(out).absolute(), DATASETS[name]
    _check_out(out)
    check_denoiser(denoise)
    if denoise != "none" and not with_media:
        raise ValueError(f"denoise: {denoise} needs media; build with media, or choose denoise: none")

    defects: list[Defect] = []
    source = SOURCES[facts.source]
    rows = source.read(facts, root, defects.append)
    if with_media:
        media = None if source.media is None else source.media(root)
        built = _with_media(rows, media, defects, _Checks(out, workers, time_limit))
    else:
        built = [
            BuiltRow(replace(row, clip=replace(row.clip, video=None, audio=None)), reason="text only") for row in rows
        ]
    built = _without_empty(built, defects)
    if denoise != "none":
        built = _denoised(built, out, denoise, workers, time_limit, defects)
    report = make_report(facts, Path(root).absolute(), built, defects, with_media=with_media, denoise=denoise)

    draft = out.with_name(f"{out.name}.part-{os.getpid()}")
    former, refused = out.with_name(f"{draft.name}.former"), out.with_name(f"{out.name}.refused")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        write_report(draft, report, built)
        _write_rows(draft / "build_rows.csv", built, defects)
        shutil.rmtree(refused, ignore_errors=True)
        if strict and defects:
            draft.replace(refused)
            raise ValueError(
                f"{root}: {len(defects)} defects, none allowed (strict), first"
                f" {defects[0].id or defects[0].path}: {defects[0].reason};"
                f" all are listed in {refused / 'build_report.md'}"
            )
        _save(draft, facts, report, built)
        if out.exists():
            out.replace(former)
        draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)
    return report


def _check_out(out: Path) -> None:
    if out.exists() and not (out / REPORT_NAME).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out}: holds files that are not a built data set; give a new or an empty folder")


def _with_media(
    rows: Sequence[TableRow], media: MediaFiles | None, defects: list[Defect], checks: "_Checks"
) -> list[BuiltRow]:
    """Each row with the result of opening its file."""
    listed = {row.clip.id for row in rows} | {defect.id for defect in defects}
    if media is not None:
        rows = [replace(row, clip=replace(row.clip, video=media.find(row.video_id, row.clip_id))) for row in rows]
        for (video_id, clip_id), path in media.paths.items():
            if f"{video_id}_{clip_id}" not in listed:
                reason = f"{path}: no row of the table names it"
                defects.append(
                    Defect("clip without a row", "not in the table", reason, f"{video_id}_{clip_id}", None, path)
                )
    checked = checks.run([path for row in rows for path in (row.clip.video, row.clip.audio) if path is not None])
    built = []
    for row in rows:
        clip = row.clip
        if clip.video is not None:
            built.append(_of_video(row, checked[clip.video], defects))
        elif clip.audio is not None:
            built.append(_of_audio(row, checked[clip.audio], defects))
        else:
            built.append(_missing(row, media, defects))
    return built


def _missing(row: TableRow, media: MediaFiles | None, defects: list[Defect]) -> BuiltRow:
    if media is None:
        return BuiltRow(row, reason="text only")
    no_folder = not media.is_cmu and row.video_id not in media.folders
    path = media.expected_path(row.video_id, row.clip_id)
    what = f"the folder Raw/{row.video_id} is missing" if no_folder else "no such file"
    kind = "missing folder" if no_folder else "missing clip"
    return _repaired(BuiltRow(row, has_audio=False), kind, f"{path}: {what}; its text is kept", path, defects)


def _of_video(row: TableRow, check: FileCheck, defects: list[Defect]) -> BuiltRow:
    clip = row.clip
    built = BuiltRow(row, "kept", check.reason, check.kind, check.duration, check.has_sound)
    if check.kind is None:
        return built
    if check.has_video:
        defects.append(Defect(check.kind, "kept", f"{clip.video}: {check.reason}", clip.id, clip.split, clip.video))
        return built
    audio = clip.video if check.has_sound else clip.audio
    built = replace(built, row=replace(row, clip=replace(clip, video=None, audio=audio)))
    kept = "its audio and text are kept" if audio else "its text is kept"
    return _repaired(built, check.kind, f"{clip.video}: {check.reason}; {kept}", clip.video, defects)


def _of_audio(row: TableRow, check: FileCheck, defects: list[Defect]) -> BuiltRow:
    clip = row.clip
    built = BuiltRow(row, "kept", "audio only", None, check.duration, check.has_sound)
    if check.has_sound:
        return built
    kind = check.kind or "unreadable"
    built = replace(built, row=replace(row, clip=replace(clip, audio=None)))
    return _repaired(built, kind, f"{clip.audio}: {check.reason}; its text is kept", clip.audio, defects)


def _repaired(built: BuiltRow, kind: str, reason: str, path: str | None, defects: list[Defect]) -> BuiltRow:
    clip = built.row.clip
    defects.append(Defect(kind, "repaired", reason, clip.id, clip.split, path))
    return replace(built, outcome="repaired", reason=reason, kind=kind)


def _without_empty(built: Iterable[BuiltRow], defects: list[Defect]) -> list[BuiltRow]:
    """Leaves out the rows that have neither text nor readable media."""
    left = []
    for item in built:
        clip = item.row.clip
        if clip.text is None and clip.video is None and clip.audio is None:
            why = f"{clip.id}: neither text nor media can be read" + (f" ({item.reason})" if item.reason else "")
            defects[:] = [defect for defect in defects if defect.id != clip.id or defect.outcome == "left out"]
            defects.append(Defect(item.kind or "nothing to read", "left out", why, clip.id, clip.split))
        else:
            left.append(item)
    return left


class _Checks:
    """Opens files, and stores the results in `<out>.checks.jsonl`, by path, size and modification time."""

    def __init__(self, out: Path, workers: int, time_limit: float) -> None:
        self.store = out.with_name(f"{out.name}.checks.jsonl")
        self.workers, self.time_limit = workers, time_limit

    def run(self, paths: Sequence[str]) -> dict[str, FileCheck]:
        """The check of each file, by path."""
        stored = self._stored()
        keys = {path: self._key(path) for path in paths}
        checks = {path: stored[key] for path, key in keys.items() if key in stored}
        tasks = [{"do": "check", "path": path} for path in keys if path not in checks]
        if not tasks:
            return checks
        self.store.parent.mkdir(parents=True, exist_ok=True)
        bar = tqdm(total=len(keys), initial=len(checks), desc="opening clips", unit="clip")
        running = run_tasks(tasks, workers=self.workers, time_limit=self.time_limit)
        with bar, closing(running), self.store.open("a", encoding="utf-8") as store:
            for task, result in running:
                path = task["path"]
                if "died" in result:  # perhaps the machine's fault, so the next build tries again
                    checks[path] = FileCheck(result["kind"], result["died"], False, False, None)
                else:
                    checks[path] = FileCheck(**result)
                    store.write(json.dumps({"key": keys[path], **result}, allow_nan=False) + "\n")
                    store.flush()
                bar.update()
        return checks

    def _key(self, path: str) -> str:
        status = os.stat(path)
        return f"{CHECK_VERSION} {status.st_size} {status.st_mtime_ns} {path}"

    def _stored(self) -> dict[str, FileCheck]:
        stored = {}
        if self.store.is_file():
            for line in self.store.read_text(encoding="utf-8", errors="replace").split("\n"):
                try:
                    result = json.loads(line)
                    key = result.pop("key")
                    stored[key] = FileCheck(**result)
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue  # an incomplete line of an interrupted build
        return stored


def _denoised(
    built: Sequence[BuiltRow], out: Path, method: Denoise, workers: int, time_limit: float, defects: list[Defect]
) -> list[BuiltRow]:
    files = {item.row.clip.id: item.row.clip.audio or item.row.clip.video for item in built if item.has_audio}
    sources = {clip_id: path for clip_id, path in files.items() if path is not None}
    folder = out.with_name(f"{out.name}.denoised")
    denoised, failures = denoise_files(
        list(sources.values()), folder, method, workers=workers, time_limit=2 * time_limit
    )
    result = []
    for item in built:
        clip = item.row.clip
        source = sources.get(clip.id)
        if source in failures:
            reason = f"{source}: {method} failed, its original audio is kept: {failures[source]}"
            defects.append(Defect("not denoised", "kept", reason, clip.id, clip.split, source))
            item = replace(item, kind=item.kind or "not denoised")
        elif source in denoised:
            item = replace(item, row=replace(item.row, clip=replace(clip, audio=denoised[source])))
        result.append(item)
    return result


def _save(folder: Path, facts: DatasetFacts, report: BuildReport, built: Sequence[BuiltRow]) -> None:
    columns = {**SOURCES[facts.source].columns, **dict.fromkeys(facts.further_ranges, "float64"), **CHECKED}
    features = Features({name: Value(kind) for name, kind in columns.items()})
    info = DatasetInfo(
        description=f"{facts.name}, built by omnisent; audio: denoise {report.denoise}",
        features=features,
    )
    parts = {}
    for split in SPLITS:
        rows = [item.to_dict() for item in built if item.row.clip.split == split]
        if rows:
            parts[split] = Dataset.from_list(rows, features=features, info=info)
    DatasetDict(parts).save_to_disk(str(folder))


def _write_rows(path: Path, built: Sequence[BuiltRow], defects: Sequence[Defect]) -> None:
    """Every row of the table, and every file without a row, with its outcome."""
    columns = {**dict.fromkeys(("id", "split", "outcome", "kind", "reason"), str), "duration": float}
    rows: list[tuple] = [
        (item.row.clip.id, item.row.clip.split, item.outcome, item.kind, item.reason, item.duration) for item in built
    ]
    rows += [
        (defect.id, defect.split, defect.outcome, defect.kind, defect.reason, None)
        for defect in defects
        if defect.outcome in ("left out", "not in the table")
    ]
    write_table(path, columns, rows)
