"""Score every video and audio file in a folder, and write an Excel file with a row for each, in the order of the folder.

    python examples/folder_to_spreadsheet.py my_clips/ scores.xlsx --model runs/demo/model

A .txt, .srt or .vtt file of the same name is a clip's transcript; for others, --transcribe MODEL writes one. The column `error`
says why a file has no score. Started again after an interruption, the command resumes.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from openpyxl import Workbook
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from openpyxl.formatting.rule import ColorScaleRule
from openpyxl.styles import Alignment, Font
from openpyxl.utils import get_column_letter

from omnisent.data.tables import read_rows
from omnisent.scoring.job import score
from omnisent.scoring.loading import Loading, read_config
from omnisent.scoring.options import ScoreOptions
from omnisent.scoring.results import score_names

WIDTHS = {"id": 44, "text": 60, "warning": 30, "error": 60}  # of columns, in characters


def write_workbook(out: Path, rows: Iterable[dict[str, Any]], scales: dict[str, tuple[float, float]]) -> None:
    """Write the rows with coloured scores; `scales` has the lowest and highest score of each column of scores."""
    book = Workbook()
    sheet = book.active
    names: list[str] = []
    for number, row in enumerate(rows, start=2):
        names = names or list(row)
        for column, value in enumerate(row.values(), start=1):
            cell = sheet.cell(number, column, ILLEGAL_CHARACTERS_RE.sub("", value) if isinstance(value, str) else value)
            if isinstance(value, str):
                cell.data_type = "s"  # a transcript that starts with = is no formula
                cell.alignment = Alignment(wrap_text=True, vertical="top")
            elif isinstance(value, float):
                cell.number_format = "0.00"
    for column, name in enumerate(names, start=1):
        sheet.cell(1, column, "file" if name == "id" else name).font = Font(bold=True)
        sheet.column_dimensions[get_column_letter(column)].width = WIDTHS.get(name, 12)
        if name in scales:
            low, high = scales[name]
            ends = {"start_type": "num", "start_value": low, "end_type": "num", "end_value": high}
            middle = {"mid_type": "num", "mid_value": (low + high) / 2, "mid_color": "FFFFFF"}
            rule = ColorScaleRule(**ends, **middle, start_color="E08B3C", end_color="9A7FC4")
            sheet.conditional_formatting.add(
                sheet.cell(2, column).coordinate + f":{get_column_letter(column)}{number}", rule
            )
    sheet.freeze_panes = "B2"
    sheet.auto_filter.ref = sheet.dimensions
    book.save(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="its video and audio files are scored, at any depth")
    parser.add_argument("out", type=Path, help="the .xlsx file to write")
    parser.add_argument("--model", required=True, help="folder or Hub id of a bundle")
    parser.add_argument("--transcribe", metavar="MODEL", help="speech recognition model for clips without a transcript")
    options = parser.parse_args()
    try:
        if not options.folder.is_dir():
            raise FileNotFoundError(f"{options.folder} is not a folder; give the one that holds the clips")
        if options.out.suffix.lower() != ".xlsx" or options.out.exists():
            raise ValueError(f"{options.out}: expected the name of a new file that ends in .xlsx")
        config, table = read_config(Loading(options.model)), options.out.with_name(f"{options.out.name}.jsonl")
        if table.exists():  # scored before an interruption
            note(f"the scores are those of {table}; remove it to score again")
        else:
            files = (str(options.folder),)
            score(ScoreOptions(options.model, files, out=table, transcribe=options.transcribe), notify=note)
        rows = [row for _, row in read_rows(table)]
        names = score_names(config.targets)
        ends = [(scale.low, scale.high) for scale in config.label_scales]
        write_workbook(options.out, rows, dict(zip(names, ends, strict=True)))
        table.unlink()
    except (ValueError, OSError) as error:
        sys.exit(f"folder_to_spreadsheet.py: {error}")
    failed = sum(row["error"] is not None for row in rows)
    print(f"{len(rows) - failed} of {len(rows)} files scored, see {options.out}")


def note(message: str) -> None:
    print(message, file=sys.stderr)


if __name__ == "__main__":
    main()
