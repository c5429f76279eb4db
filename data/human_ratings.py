"""The builder of the human ratings for `datasets`: a class to import and call, and a loading script under datasets 2 and 3.

from omnisent.data.human_ratings import HumanRatings
builder = HumanRatings()        # or HumanRatings("tweets", data_dir="DIR")
builder.download_and_prepare()
dataset = builder.as_dataset()
"""

import datasets

# ruff: noqa: F401 (datasets 3 copies only the files that are named here)
from .built import build_record
from .catalog import DATASETS
from .clip import SPLITS, Clip
from .draft import draft_of
from .mmsa import TableRow
from .pinned_file import PinnedFile
from .rated_sentences import COLUMNS, FACTS, RatedRow, read_sentences
from .tables import read_rows


class HumanRatings(datasets.GeneratorBasedBuilder):
    """Sentences of four genres with the mean of many people's sentiment ratings.

    Args:
        config_name: `all` (the default), or one of the genres: tweets, film_reviews, product_reviews, editorials.
        data_dir: the folder that holds or gets the archive, by default the user's cache.

    Columns: those of `MmsaBuilder` (media and unimodal labels are null), genre, label_sd (standard deviation of the ratings),
    raters (their number), rater_mae (mean absolute difference between one rating and the mean of the others).

    Raises:
        OSError: when the archive cannot be downloaded.
        ValueError: for an archive that cannot be read.
    """

    VERSION = datasets.Version("1.0.0")  # raise when the same archive would give other rows
    BUILDER_CONFIGS = tuple(map(datasets.BuilderConfig, ("all", *FACTS.genres)))
    DEFAULT_CONFIG_NAME = "all"

    def _info(self) -> datasets.DatasetInfo:
        features = datasets.Features({name: datasets.Value(kind) for name, kind in COLUMNS.items()})
        return datasets.DatasetInfo(
            description=FACTS.about, citation=FACTS.paper, license=FACTS.license, features=features
        )

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        rows = read_sentences(self.config.data_dir)
        chosen = [row for row in rows if self.config.name in ("all", row.clip.genre)]
        return [
            datasets.SplitGenerator(split, gen_kwargs={"rows": tuple(row for row in chosen if row.clip.split == split)})
            for split in SPLITS
        ]

    def _generate_examples(self, rows: tuple[RatedRow, ...]):
        for row in rows:
            yield row.clip.id, row.to_dict()
