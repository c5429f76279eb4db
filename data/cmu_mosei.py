"""The builder of CMU-MOSEI for `datasets`: a class to import and call, and a loading script under datasets 2 and 3.

Opens no media: `omnisent data build cmu_mosei` does, and reports what is wrong with it.

    from omnisent.data.cmu_mosei import CmuMosei
    builder = CmuMosei(data_dir="DIR")
    builder.download_and_prepare()
    dataset = builder.as_dataset()
"""

import datasets

from .clip import SPLITS
from .mmsa import COLUMNS
from .mmsa_builder import MmsaBuilder


class CmuMosei(MmsaBuilder):
    """CMU-MOSEI: 22,856 opinion clips of 3,225 videos, labels in [-3, 3]. Args, columns and errors as `MmsaBuilder`."""

    VERSION = datasets.Version("1.0.0")  # raise when the same folder would give other rows
    SCORE_RANGE = (-3.0, 3.0)
    SPLITS = SPLITS
    COLUMNS = COLUMNS
