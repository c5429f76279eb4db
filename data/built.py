"""The record of a built data set: its name, and how its audio was denoised. Reads only its report."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

REPORT_NAME = "build_report.json"
Denoise = Literal["none", "deepfilternet", "spectral"]


@dataclass(frozen=True)
class BuildRecord:
    """The options that a data set was built with.

    Attributes:
        name: its name in the catalog, which gives score range and metric convention.
        denoise: `none`, `deepfilternet` or `spectral`.
        with_media: whether its media were checked.
    """

    name: str
    denoise: str
    with_media: bool


def build_record(folder: str | Path) -> BuildRecord | None:
    """The record of the data set in a folder; None for a path that is not a built data set.

    Raises:
        ValueError: when the report is damaged.
    """
    report = Path(folder) / REPORT_NAME
    if not report.is_file():
        return None
    try:
        values = json.loads(report.read_text(encoding="utf-8"))
        return BuildRecord(values["name"], values["denoise"], values["with_media"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{report}: not a build report ({error!r}); build the data set again") from error
