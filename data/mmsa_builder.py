"""A `datasets` builder for any data set of the catalog in the MMSA or the CMU layout. Opens no media.

A loading script may import only the files beside it, and datasets 3 copies only those that the script itself names, on
lines without a comment: hence each builder file imports every module that is needed here.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import datasets

from .catalog import DATASETS, DatasetFacts
from .clip import SPLITS
from .mmsa import COLUMNS, MediaFiles, TableRow, find_table, read_table

logger = logging.getLogger(__name__)


@dataclass
class MmsaConfig(datasets.BuilderConfig):
    """Configuration of a builder.

    Attributes:
        data_dir: the folder that holds label.csv and Raw/.
        with_media: `False` ignores media; `video` is then null everywhere.
    """

    with_media: bool = True

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """The name in the cache; it changes with the table and the list of media, so nothing outdated is reused."""
        if self.data_dir is None:
            raise ValueError(f"{self.name}: expected data_dir, the folder that holds label.csv and Raw/")
        state = hashlib.sha256(find_table(self.data_dir).read_bytes())
        if self.with_media:
            state.update("\n".join(sorted(MediaFiles(self.data_dir).paths.values())).encode())
        return super().create_config_id({**config_kwargs, "state": state.hexdigest()}, custom_features)


class MmsaBuilder(datasets.GeneratorBasedBuilder):
    """A data set from a folder in the MMSA or the CMU layout, with its facts from the catalog.

    Args:
        config_name: a name in the catalog; a subclass may define its own names (`NAMES`).
        data_dir: the folder that holds label.csv and Raw/.
        with_media: `False` leaves `video` null.

    Columns: id, text, video (absolute path, null if there is no file), audio (null: the video's own audio), label,
    split, video_id, clip_index, label_T, label_A, label_V and the data set's further
    targets; the splits are train, valid and test, and one without rows is left out.

    Raises:
        FileNotFoundError: when the folder or its table is missing.
        ValueError: naming file, line and column, for a table that cannot be read or a row with a defect; `omnisent
            data build` lists all defects and builds without them.
    """

    VERSION = datasets.Version("1.0.0")  # raise when the same folder would give other rows
    BUILDER_CONFIG_CLASS = MmsaConfig
    NAMES: ClassVar[Mapping[str, str]] = {}  # names in the catalog, by the name of the configuration

    @property
    def facts(self) -> DatasetFacts:
        """The facts of the data set in the catalog."""
        name = self.NAMES.get(self.config.name, self.config.name)
        known = [known for known, facts in DATASETS.items() if facts.source == "mmsa"]
        if name not in known:
            raise ValueError(f"{name!r} is not a data set in this layout; expected {', '.join(self.NAMES or known)}")
        return DATASETS[name]

    def _info(self) -> datasets.DatasetInfo:
        columns = {**COLUMNS, **dict.fromkeys(self.facts.further_ranges, "float64")}
        features = datasets.Features({name: datasets.Value(kind) for name, kind in columns.items()})
        return datasets.DatasetInfo(description=self.facts.about, citation=self.facts.paper, features=features)

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        root, with_media = Path(self.config.data_dir), self.config.with_media
        facts = self.facts
        rows = read_table(root, label_range=facts.score_range, further=facts.further_ranges, with_media=with_media)
        without = [row.clip.id for row in rows if row.clip.video is None]
        if with_media and without:
            logger.warning("%s: %d of %d clips have no media file, first %s", root, len(without), len(rows), without[0])
        by_split = {name: [row for row in rows if row.clip.split == name] for name in SPLITS}
        return [
            datasets.SplitGenerator(name, gen_kwargs={"rows": tuple(part)}) for name, part in by_split.items() if part
        ]

    def _generate_examples(self, rows: tuple[TableRow, ...]):
        for row in rows:
            yield row.clip.id, row.to_dict()
