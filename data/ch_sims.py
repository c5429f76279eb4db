"""The builder of CH-SIMS for `datasets`: a class to import and call, and a loading script under datasets 2 and 3.

Opens no media: `omnisent data build ch_sims` does, and reports what is wrong with it.

    from omnisent.data.ch_sims import ChSims
    builder = ChSims(data_dir="DIR")
    builder.download_and_prepare()
    dataset = builder.as_dataset()
"""

import datasets

from .clip import SPLITS
from .mmsa import COLUMNS
from .mmsa_builder import MmsaBuilder, MmsaConfig


class ChSims(MmsaBuilder):
    """CH-SIMS: Chinese clips with a label each for text, sound, picture and all together, in [-1, 1].

    The configurations are `v1` (2,281 clips, the default) and `v2` (4,403 clips). Args, columns and errors as
    `MmsaBuilder`.
    """

    VERSION = datasets.Version("1.0.0")  # raise when the same folder would give other rows
    SCORE_RANGE = (-1.0, 1.0)
    SPLITS = SPLITS
    COLUMNS = COLUMNS
    BUILDER_CONFIGS = (MmsaConfig(name="v1"), MmsaConfig(name="v2"))
    DEFAULT_CONFIG_NAME = "v1"
