"""The options of `omnisent score` and `omnisent app`, and the checks of them that need nothing loaded.

Only the standard library is imported, so that an error about an option is immediate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..data.table_options import FIELDS, TableOptions, parse_columns
from ..training.choices import ATTENTION, DTYPES, QUANTIZATIONS
from .windows import SENTENCES, parse_seconds, windows_of

AUTO = "auto"  # a number of workers
REAL_MODEL = "runs/real/model"  # the bundle that `make real` makes
STDOUT = Path("-")  # as `out`
EXPLAIN_WINDOW = 30.0  # seconds; a shorter file is not scored over time when it is explained
EMBEDDINGS = (".npz", ".parquet")
SCORE_RANGE, WIDEST_RANGE = (-3.0, 3.0), 100.0  # of a base model's answers: the default, and the widest


class Engine(StrEnum):
    """Where clips are scored: in this process, or by actors of a Ray cluster."""

    LOCAL = "local"
    RAY = "ray"


class TimelineFormat(StrEnum):
    """For which programs scores over time are written; CSV is the table alone."""

    CSV = "csv"
    SRT = "srt"
    VTT = "vtt"
    TEXTGRID = "textgrid"
    EAF = "eaf"

    @property
    def suffix(self) -> str:
        """Of the names of its files."""
        return ".TextGrid" if self is TimelineFormat.TEXTGRID else f".{self}"


def check_choices(dtype: str | None, quantize: str | None, attn_implementation: str | None = None) -> None:
    """Refuse a dtype, quantisation or attention that does not exist; `None` stands for the default.

    Raises:
        ValueError: with the values that exist.
    """
    given = (
        ("dtype", dtype, DTYPES),
        ("quantize", quantize, QUANTIZATIONS),
        ("attn-implementation", attn_implementation, ATTENTION),
    )
    for name, value, choices in given:
        if value is not None and value not in choices:
            raise ValueError(f"--{name} must be one of {', '.join(choices)}, not {value!r}")


def given_or_real(model: str | None) -> str:
    """The bundle that is given; without one, `REAL_MODEL`.

    Raises:
        ValueError: when neither is there.
    """
    if model is None and not Path(REAL_MODEL, "config.json").is_file():
        raise ValueError(f"give a bundle with --model, or make {REAL_MODEL} with `make real`; it is not there yet")
    return model or REAL_MODEL


@dataclass(frozen=True)
class ScoreOptions:
    """The options of one `omnisent score`; an option that is not given is `None`.

    Attributes:
        model: a bundle, or a base model to score zero-shot: folder, or id on the Hub.
        files: files, folders and patterns.
        table: a table of clips, instead of files.
        columns: headers of a table by our names, such as `text=Transkript`, see `parse_columns`.
        encoding, decimal: of a table, see `TableOptions`.
        text: the transcript of one file, or a text to score without a file.
        out: the table to write, or `-` for rows on standard output; without it, a table is printed.
        overwrite: `out` may exist, and is replaced.
        as_json: print rows as JSON, one a line, instead of a table.
        quiet: no progress, introduction or warning; errors are still said.
        explain: also say what each modality and each word adds to a score, and score a long file over time.
        embed: a .parquet or .npz file to write, with the states that the head reads.
        transcribe: a speech recognition model for clips without a transcript.
        windows: length of a window, such as `8s`, or `sentences`, to score one file over time; of an explanation, a length.
        stride: time from one window's start to the next; half a window by default, a whole one in an explanation.
        timeline_format: of a file with the scores over time for another program, beside their table.
        interval: a level such as 0.9, for the columns low and high.
        score_range: lowest and highest answer of a base model, label units.
        device, dtype, quantize, attn_implementation: how the model is loaded, see `loading.Loading`.
        batch_size: most clips of a forward pass.
        batch_tokens: most tokens of a forward pass, with padding.
        workers: how many processes read media, or `auto`: within the cores and the memory of this machine.
        stats: a JSON file to write: clips, seconds, clips a second, and the fraction of the time that the model waited for clips.
        engine: where clips are scored.
    """

    model: str
    files: tuple[str, ...] = ()
    table: str | Path | None = None
    columns: str | None = None
    encoding: str | None = None
    decimal: str | None = None
    text: str | None = None
    out: Path | None = None
    overwrite: bool = False
    as_json: bool = False
    quiet: bool = False
    explain: bool = False
    embed: Path | None = None
    transcribe: str | None = None
    windows: str | None = None
    stride: str | None = None
    timeline_format: TimelineFormat | None = None
    interval: float | None = None
    score_range: tuple[float, float] | None = None
    device: str | None = None
    dtype: str | None = None
    quantize: str | None = None
    attn_implementation: str | None = None
    batch_size: int = 8
    batch_tokens: int | None = None
    workers: str = AUTO
    stats: Path | None = None
    engine: Engine = Engine.LOCAL

    def check(self) -> None:
        """Refuse options that exclude each other, and values that no model can be loaded with.

        Raises:
            ValueError: naming the options, or an invalid duration.
        """
        check_choices(self.dtype, self.quantize, self.attn_implementation)
        _ = self.readers
        if self.score_range is not None and not 0.1 <= self.score_range[1] - self.score_range[0] <= WIDEST_RANGE:
            raise ValueError(
                f"--score-range: expected a lowest and a highest score, at most {WIDEST_RANGE:g} apart, not"
                f" {self.score_range[0]:g} and {self.score_range[1]:g}"
            )
        self._check_table()
        self._check_output()
        if self.explain:
            self._check_explain()
            return
        if self.windows is None:
            if given := self._given("timeline_format", "stride"):
                raise ValueError(f"{', '.join(given)} needs --windows, which scores one file over time")
            return
        given = self._given("table", "text", "interval", "batch_tokens", "stats") + self._given_readers()
        if given:
            raise ValueError(
                f"{', '.join(given)} cannot be combined with --windows, which reads one file, and its transcript from a .srt or"
                " .vtt file or from --transcribe"
            )
        if len(self.files) != 1:
            raise ValueError(f"--windows scores one file over time, but {len(self.files)} are given")
        if self.is_by_sentence and self.stride is not None:
            raise ValueError("--stride cannot be combined with --windows sentences: sentences follow each other")
        window, stride = self.window_and_stride()
        if window is not None and stride is not None:
            windows_of(0.0, window, stride)
        self.timeline_paths()

    @property
    def file(self) -> Path | None:
        """The table to write; `None` if the scores are printed alone."""
        return None if self.out == STDOUT else self.out

    @property
    def prints_rows(self) -> bool:
        """Whether rows are printed as JSON."""
        return self.as_json or self.out == STDOUT

    @property
    def draws_explanations(self) -> bool:
        """Whether explanations are drawn; not where rows are printed as JSON alone."""
        return self.explain and (self.file is not None or not self.prints_rows)

    def _check_output(self) -> None:
        if self.embed is not None:
            self._check_embed(self.embed)
        if self.stats is not None and self.stats.suffix.lower() != ".json":
            raise ValueError(f"--stats {self.stats}: expected a file that ends in .json")
        is_alone = self.windows is None and self.file is self.embed is self.stats is None
        if self.overwrite and is_alone and not self.draws_explanations:
            raise ValueError("--overwrite replaces the file of --out; give one")
        if self.windows is not None and self.out == STDOUT and not self.explain:
            raise ValueError(
                "--out - cannot be combined with --windows, which writes a table and a plot; --json prints its rows too"
            )

    def _check_embed(self, file: Path) -> None:
        if file.suffix.lower() not in EMBEDDINGS:
            raise ValueError(f"--embed {file}: expected a file that ends in {' or '.join(EMBEDDINGS)}")
        if self.file is not None and self.file.resolve() == file.resolve():
            raise ValueError(f"--embed and --out are the same file, {file}; give each its own")
        if self.explain or self.windows is not None or self.engine is Engine.RAY:
            raise ValueError("--embed cannot be combined with --explain, --windows or --engine ray; give one of them")

    def _check_explain(self) -> None:
        if given := self._given("timeline_format", "batch_tokens", "stats") + self._given_readers():
            raise ValueError(
                f"{', '.join(given)} cannot be combined with --explain, which reads and scores one clip after another"
            )
        if self.file is not None and self.file.suffix.lower() != ".jsonl":
            raise ValueError(f"--explain: {self.file} cannot hold explanations; give an --out that ends in .jsonl")
        if self.is_by_sentence:
            raise ValueError("--windows sentences cannot be combined with --explain; give a duration such as 8s")
        windows_of(0.0, *self.explain_windows())

    def _given(self, *names: str) -> list[str]:
        """Which of these options are given, as they are written."""
        return [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None]

    def _given_readers(self) -> list[str]:
        """Which options of how many clips are read at once are given."""
        return ["--engine ray"] * (self.engine is Engine.RAY) + ["--workers"] * (self.workers != AUTO)

    def explain_windows(self) -> tuple[float, float]:
        """As `window_and_stride`, for explanations.

        Raises:
            ValueError: for an invalid duration.
        """
        window = parse_seconds(self.windows) if self.windows else EXPLAIN_WINDOW
        return window, parse_seconds(self.stride) if self.stride else window

    def timeline_paths(self) -> tuple[Path, Path | None]:
        """The table of scores over time, and the file for another program beside it, if there is one; for options with `windows`.

        `out` is one of the two; without it, they are NAME.timeline.csv and so on in the working directory.

        Raises:
            ValueError: for a table in another format than CSV where that is wanted, and for a file that would be taken for the
                transcript of the scored one.
        """
        media, kind = Path(self.files[0]), self.timeline_format
        out = self.out or Path(f"{media.stem}.timeline.csv")
        if kind is None or (kind is TimelineFormat.CSV and out.suffix.lower() == ".csv"):
            return out, None
        if kind is TimelineFormat.CSV:
            raise ValueError(f"--timeline-format csv is a table in CSV, but --out is {out}; leave one of them out")
        is_other = out.suffix.lower() == kind.suffix.lower()
        table, other = (out.with_suffix(".csv"), out) if is_other else (out, out.with_suffix(kind.suffix))
        if (
            kind in (TimelineFormat.SRT, TimelineFormat.VTT)
            and other.resolve() == media.with_suffix(other.suffix).resolve()
        ):
            raise ValueError(
                f"{other} would be read as the transcript of {media}; give another --out, such as"
                f" {other.with_name(f'{other.stem}.timeline{other.suffix}')}"
            )
        return table, other

    def _check_table(self) -> None:
        of_tables = ("columns", "encoding", "decimal")
        given = [f"--{name}" for name in of_tables if getattr(self, name) is not None]
        if given and self.table is None:
            raise ValueError(f"{', '.join(given)} says how a table is read; give one with --table")
        self.table_options()

    def table_options(self, targets: Sequence[str] | None = None) -> TableOptions:
        """How the table is read. Scoring needs no labels, so the columns of targets are left out, and the table may lack them.

        Args:
            targets: the bundle's; `columns` may name them as in training. `None`: it may have any names.

        Raises:
            ValueError: naming the option.
        """
        try:
            columns = {} if self.columns is None else parse_columns(self.columns)
            known = list(columns) if targets is None else [*FIELDS, *targets]
            for name in columns:
                if name not in known:
                    raise ValueError(f"columns: unknown name {name!r}; expected one of {', '.join(known)}")
            used = {name: header for name, header in columns.items() if name in FIELDS}
            return TableOptions((), used, encoding=self.encoding, decimal=self.decimal or ".")
        except ValueError as error:
            raise ValueError(f"--{error}") from None

    @property
    def readers(self) -> int | None:
        """How many processes read media; `None` for as many as the machine allows.

        Raises:
            ValueError: for `workers` that are neither `auto` nor a number.
        """
        if self.workers == AUTO:
            return None
        if not self.workers.isdecimal():
            raise ValueError(f"--workers must be {AUTO} or a number of processes, not {self.workers!r}")
        return int(self.workers)

    @property
    def is_by_sentence(self) -> bool:
        """Whether the windows of a file are the sentences of its transcript."""
        return self.windows == SENTENCES

    def window_and_stride(self) -> tuple[float, float] | tuple[None, None]:
        """Seconds of a window, and from one window's start to the next, of sentences `None`; for options with `windows`.

        Raises:
            ValueError: for an invalid duration.
        """
        if self.is_by_sentence:
            return None, None
        window = parse_seconds(self.windows or "")
        return window, parse_seconds(self.stride) if self.stride else window / 2
