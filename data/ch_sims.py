"""The builder of CH-SIMS for `datasets`: a class to import and call, and a loading script under datasets 2 and 3.

Opens no media: `omnisent data build ch_sims` does, and reports what is wrong with it.

    from omnisent.data.ch_sims import ChSims
    builder = ChSims(data_dir="DIR")
    builder.download_and_prepare()
    dataset = builder.as_dataset()
"""

from typing import ClassVar

# ruff: noqa: F401 (datasets 3 copies only the files that are named here)
from .built import build_record
from .catalog import DATASETS
from .clip import Clip
from .draft import draft_of
from .mmsa import read_table
from .mmsa_builder import MmsaBuilder, MmsaConfig
from .tables import read_rows


class ChSims(MmsaBuilder):
    """CH-SIMS, with separate labels for text, audio, video and all together.

    The configurations are `v1` (the default) and `v2`. Args, columns and errors as `MmsaBuilder`.
    """

    NAMES: ClassVar = {"v1": "ch_sims", "v2": "ch_sims_v2"}
    BUILDER_CONFIGS = tuple(map(MmsaConfig, NAMES))
    DEFAULT_CONFIG_NAME = "v1"
