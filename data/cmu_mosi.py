"""The builder of CMU-MOSI for `datasets`: a class to import and call, and a loading script under datasets 2 and 3.

Opens no media: `omnisent data build cmu_mosi` does, and reports what is wrong with it.

    from omnisent.data.cmu_mosi import CmuMosi
    builder = CmuMosi(data_dir="DIR")
    builder.download_and_prepare()
    dataset = builder.as_dataset()
"""

import datasets

from .clip import SPLITS
from .mmsa import COLUMNS
from .mmsa_builder import MmsaBuilder


class CmuMosi(MmsaBuilder):
    """CMU-MOSI: 2,199 opinion clips of 93 videos, labels in [-3, 3]. Args, columns and errors as `MmsaBuilder`."""

    VERSION = datasets.Version("1.0.0")  # raise when the same folder would give other rows
    SCORE_RANGE = (-3.0, 3.0)
    SPLITS = SPLITS
    COLUMNS = COLUMNS
