"""The builder of CMU-MOSEI for `datasets`: a class to import and call, and a loading script under datasets 2 and 3.

Opens no media: `omnisent data build cmu_mosei` does, and reports what is wrong with it.

    from omnisent.data.cmu_mosei import CmuMosei
    builder = CmuMosei(data_dir="DIR")
    builder.download_and_prepare()
    dataset = builder.as_dataset()
"""

from typing import ClassVar

import datasets

# ruff: noqa: F401 (datasets 3 copies only the files that are named here)
from .built import build_record
from .catalog import DATASETS
from .clip import Clip
from .draft import draft_of
from .mmsa import read_table
from .mmsa_builder import MmsaBuilder
from .tables import read_rows


class CmuMosei(MmsaBuilder):
    """CMU-MOSEI, with six emotions in [0, 3] where label.csv has them. Args, columns and errors as `MmsaBuilder`."""

    VERSION = datasets.Version("1.1.0")
    NAMES: ClassVar = {"default": "cmu_mosei"}
