"""What the builders of CMU-MOSI, CMU-MOSEI and CH-SIMS share: a `datasets` builder over a table. Opens no media.

A loading script may import only the files beside it, and datasets 3 copies only those that the script itself names, on
lines without a comment: hence each builder file imports `.clip` and `.mmsa` too, and hands on what is needed of them.
"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import datasets

from .mmsa import MediaFiles, TableRow, find_table, read_table

logger = logging.getLogger(__name__)


@dataclass
class MmsaConfig(datasets.BuilderConfig):
    """Which rows and paths a builder gives.

    Attributes:
        data_dir: the folder that holds label.csv and Raw/.
        with_media: `False` looks for no media; `video` is then null everywhere.
    """

    with_media: bool = True

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """The name in the cache; it changes with the table and the list of media, so nothing outdated comes back."""
        if self.data_dir is None:
            raise ValueError(f"{self.name}: expected data_dir, the folder that holds label.csv and Raw/")
        state = hashlib.sha256(find_table(self.data_dir).read_bytes())
        if self.with_media:
            state.update("\n".join(sorted(MediaFiles(self.data_dir).paths.values())).encode())
        return super().create_config_id({**config_kwargs, "state": state.hexdigest()}, custom_features)


class MmsaBuilder(datasets.GeneratorBasedBuilder):
    """A data set from a folder in the MMSA or the CMU layout.

    Args:
        data_dir: the folder that holds label.csv and Raw/.
        with_media: `False` leaves `video` null.

    Columns: id, text, video (absolute path, null where there is no file), audio (null: the video's own sound), label,
    split, video_id, clip_index, label_T, label_A, label_V; the splits are train, valid and test, and one without rows
    is left out.

    Raises:
        FileNotFoundError: without the folder or its table.
        ValueError: naming file, line and column, for a table that cannot be read or a row with a defect; `omnisent
            data build` lists all defects and builds without them.
    """

    BUILDER_CONFIG_CLASS = MmsaConfig
    SCORE_RANGE: tuple[float, float]
    SPLITS: tuple[str, ...]
    COLUMNS: dict[str, str]

    def _info(self) -> datasets.DatasetInfo:
        features = datasets.Features({name: datasets.Value(kind) for name, kind in self.COLUMNS.items()})
        return datasets.DatasetInfo(description=(type(self).__doc__ or "").strip(), features=features)

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        root, with_media = Path(self.config.data_dir), self.config.with_media
        rows = read_table(root, label_range=self.SCORE_RANGE, with_media=with_media)
        without = [row.clip.id for row in rows if row.clip.video is None]
        if with_media and without:
            logger.warning("%s: %d of %d clips have no media file, first %s", root, len(without), len(rows), without[0])
        by_split = {name: [row for row in rows if row.clip.split == name] for name in self.SPLITS}
        return [
            datasets.SplitGenerator(name, gen_kwargs={"rows": tuple(part)}) for name, part in by_split.items() if part
        ]

    def _generate_examples(self, rows: tuple[TableRow, ...]):
        for row in rows:
            yield row.clip.id, row.to_dict()
