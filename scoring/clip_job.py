"""Scores the clips of one `omnisent score`: where the rows come from, and where they go.

`batch.py` and `ray_engine.py` compute them, `explained.py` also what each score rests on; `results.py` keeps them in a file.
"""

import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..configuration_omnisent import OmniSentConfig
from ..data.clip import Clip
from ..data.draft import draft_of
from ..feeding_omnisent import MOST_TOKENS, Batching, Statistics
from ..pipeline_omnisent import MultimodalSentimentPipeline
from ..readouts.zero_shot import ZeroShotConfig
from .batch import score_clips, settings_of, sources, windows_of, write_rows
from .clips import find_clips
from .embeddings import POOLED, description, write_embeddings
from .loading import Loading, load_pipeline, read_config
from .options import Engine, ScoreOptions
from .output import Emit, ScoreResult, as_json, as_table, introduce, marks_of, summary
from .processes import Process, current_process, wait_for_all
from .ray_engine import score_on_ray
from .readers import auto_workers
from .results import ResumableWriter, own_files, refuse_existing, row_columns
from .transcribe import Transcriber, transcriber_settings

Row = dict[str, Any]


@dataclass
class ClipJob:
    """The clips of a command, and what is done with them.

    Attributes:
        options: checked.
        loading: of the model.
        notify: called with messages before scoring starts.
        emit: called with what is printed.
        process: with several, each has its own windows of clips.
        statistics: counted while clips are scored.
        workers: that read media; `None` until it is known.
    """

    options: ScoreOptions
    loading: Loading
    notify: Callable[[str], None]
    emit: Emit
    process: Process = field(default_factory=current_process)
    statistics: Statistics = field(default_factory=Statistics)
    workers: int | None = None

    @cached_property
    def config(self) -> OmniSentConfig:
        """Of the model; reads no weights."""
        return read_config(self.loading)

    @cached_property
    def clips(self) -> list[Clip]:
        """What is scored, in order."""
        options = self.options
        return find_clips(options.files, options.table, options.text, options.table_options(self.config.targets))

    @cached_property
    def columns(self) -> dict[str, type]:
        """Of a row."""
        marks, explained = marks_of(self.config), self.options.explain
        return row_columns(
            self.options.interval,
            self.config.targets,
            zero_shot="readout" in marks,
            about="about" in marks,
            explained=explained,
        )

    @property
    def batching(self) -> Batching:
        """Of a forward pass."""
        return Batching(self.options.batch_size, self.options.batch_tokens or MOST_TOKENS)

    def run(self) -> ScoreResult | None:
        """Score the clips, and write or print the rows; `None` in all processes but the first."""
        self._check()
        self.workers = self.options.readers
        windows = windows_of(self.clips, self.batching, self.process)
        writer = self._writer(windows) if self.options.file else None
        if self.process.rank == 0:
            introduce(self.options.model, self.config, self.notify)
        remaining = [windows[number] for number in writer.missing] if writer else windows
        done: list[Row] = []
        with closing(self._rows(remaining)) as rows:
            if writer is None:
                done = self._print(rows)
            else:
                write_rows(rows, writer)
        if self.options.stats:
            values = {**self.statistics.to_dict(), "workers": self.workers}
            _write_stats(self._stats_files()[self.process.rank], values)
        if writer is None:
            return self._finished(lambda: iter(done))
        wait_for_all(self.process)
        if self.process.rank > 0:
            return None
        if self.options.prints_rows:
            for row in writer.rows():
                self.emit(as_json(row, self.columns))
        writer.start_finishing([*self._files_beside(), *self._stats_files()])
        result = self._finished(writer.rows)
        writer.finish()
        return result

    def _check(self) -> None:
        """Refuse what this model or this number of processes cannot do."""
        options, several = self.options, self.process.world_size > 1
        if several and (options.file is None or options.engine is Engine.RAY):
            raise ValueError("several processes need --out, and --engine local")
        if isinstance(self.config, ZeroShotConfig):
            if options.interval is not None:
                raise ValueError(
                    f"--interval: {options.model} is a base model, whose zero-shot scores are not calibrated; train it, or leave"
                    " --interval out"
                )
            if options.embed is not None:
                raise ValueError(
                    f"--embed: {options.model} is a base model, which has no head that reads states; give a bundle"
                )
        self._check_files()

    def _check_files(self) -> None:
        """Refuse to replace files beside the table, but those that this command wrote before it was interrupted."""
        options = self.options
        if options.overwrite:
            return
        own = own_files(options.file, self.process) if options.file is not None else frozenset()
        for path in self._files_beside():
            refuse_existing(path, own, "--embed" if path == options.embed else "--out")
        for path in self._stats_files():
            refuse_existing(path, own, "--stats")

    def _stats_files(self) -> list[Path]:
        """The statistics of each process: of several, NAME-RANK.json."""
        path, count = self.options.stats, self.process.world_size
        if path is None:
            return []
        return [path] if count == 1 else [path.with_stem(f"{path.stem}-{rank}") for rank in range(count)]

    def _files_beside(self) -> list[Path]:
        """What is written beside the table: states, and pictures of explanations."""
        options = self.options
        files = [] if options.embed is None else [options.embed]
        if options.draws_explanations:
            from .explained import picture_paths  # which imports matplotlib

            files += picture_paths(self.clips, options.file)
        return files

    def _writer(self, windows: Sequence[Sequence[Clip]]) -> ResumableWriter:
        options, config = self.options, self.config
        readout = marks_of(config).get("readout")
        transcription = transcriber_settings(options.transcribe) if options.transcribe else {"transcribe": None}
        own: dict[str, Any] = {**transcription, "interval": options.interval, "readout": readout}
        if readout is not None:
            own["score_range"] = (config.score_min, config.score_max)
        if len(config.targets) > 1:
            own["targets"] = config.targets
        own["explained"] = options.explain_windows() if options.explain else None
        own["embedded"] = True if options.embed else None
        writer = ResumableWriter(
            options.file or "",
            settings_of(self.loading, self.clips, self.batching, **own),
            sources(self.loading, windows, explained=options.explain),
            self.columns,
            self.process,
            overwrite=options.overwrite,
            aside=(POOLED,) if options.embed else (),
        )
        if writer.changed:
            self.notify(f"{writer.changed} clips changed since they were scored, and are scored again")
        return writer

    def _rows(self, windows: Sequence[Sequence[Clip]]) -> Generator[Row, None, None]:
        """The rows of these clips, each with what limits the meaning of its score."""
        options, marks = self.options, marks_of(self.config)
        clips = [clip for window in windows for clip in window]
        if options.engine is Engine.RAY:
            found = score_on_ray(
                self.loading,
                windows,
                batching=self.batching,
                workers=self.workers,
                transcribe=options.transcribe,
                interval=options.interval,
            )
            rows = _timed(found, self.statistics)
        else:
            transcriber = None
            if options.transcribe:
                transcriber = Transcriber(options.transcribe, self.loading.resolved().device)
            common: dict[str, Any] = {"transcriber": transcriber, "interval": options.interval}
            if options.explain:
                rows = self._explained(clips, **common)
            else:
                self.workers = auto_workers(clips) if self.workers is None else self.workers
                common |= {"workers": self.workers, "statistics": self.statistics, "pooled": options.embed is not None}
                rows = score_clips(self.pipeline, windows, batching=self.batching, **common)
        with closing(rows):  # ends the readers
            for row in rows:
                yield {**row, **marks}

    @cached_property
    def pipeline(self) -> MultimodalSentimentPipeline:
        """Loaded when it is needed."""
        return load_pipeline(self.loading)

    def _explained(self, clips: Sequence[Clip], **common: Any) -> Generator[Row, None, None]:
        from .explained import explain_clips  # which imports matplotlib

        window, stride = self.options.explain_windows()
        return explain_clips(self.pipeline, clips, window=window, stride=stride, **common)

    def _print(self, rows: Iterable[Row]) -> list[Row]:
        """Print rows as they come, or as a table at the end; returns them."""
        done = []
        for row in rows:
            if self.options.prints_rows:
                self.emit(as_json(row, self.columns))
            elif self.options.explain:
                self.emit(self._explanation(row))
            done.append(row)
        if self.options.prints_rows:
            return done
        if not self.options.explain:
            self.emit(as_table(done, self.columns))
        if self.config.disclaimer is not None:
            self.emit(f"{self.options.model}: {self.config.disclaimer}")
        return done

    def _explanation(self, row: Row) -> str:
        from .explained import as_text
        from .scales import scales_of

        return as_text(row, scales_of(self.pipeline))

    def _finished(self, rows: Callable[[], Iterator[Row]]) -> ScoreResult:
        """What is written beside the rows, and what is said at the end."""
        counts, options, messages = summary(rows()), self.options, []
        if options.file is not None:
            messages.append(f"{counts.clips - counts.failed} scores in {options.file}")
        if options.embed is not None:
            written = write_embeddings(options.embed, rows(), description(options.model, self.config))
            messages.append(f"states of {written} of {counts.clips} clips in {options.embed}")
        if options.draws_explanations:
            messages += self._draw(rows())
        messages += counts.warnings(transcribed=options.transcribe is not None)
        return ScoreResult(tuple(messages), counts.failure)

    def _draw(self, rows: Iterator[Row]) -> list[str]:
        """Draw the explanations; returns where they are."""
        from .explained import picture_paths
        from .explanation_plot import plot_explanation
        from .scales import scales_of

        drawn = []
        scales, about = scales_of(self.pipeline), self.config.disclaimer
        for row, path in zip(rows, picture_paths(self.clips, self.options.file), strict=True):
            if row.get("explanation"):
                plot_explanation(row, path, scales=scales, about=about)
                drawn.append(path)
        if len(drawn) < 2:
            return [f"explanation drawn in {path}" for path in drawn]
        return [f"{len(drawn)} explanations drawn in {drawn[0]} to {drawn[-1]}"]


def _timed(rows: Iterable[Row], statistics: Statistics) -> Generator[Row, None, None]:
    """The rows of a cluster, counted; how long its models wait is not known here."""
    started, statistics.waiting_seconds = time.perf_counter(), None
    for row in rows:
        statistics.clips, statistics.seconds = statistics.clips + 1, time.perf_counter() - started
        yield row


def _write_stats(path: Path, values: dict[str, Any]) -> None:
    """Write the statistics of a process, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft_of(path) as draft:
        draft.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
