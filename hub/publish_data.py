"""Publishes a built data set: Parquet and a card in one commit; media only on request, with a warning for protected ones.

omnisent data publish DIR REPO_ID
"""

import importlib.metadata
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset, Features, load_from_disk
from jinja2 import Template

from ..data.built import REPORT_NAME, build_record
from ..data.catalog import DatasetFacts, dataset_facts
from .upload import PublishError, publish_folder

IDS = ("id", "split", "video_id", "clip_index")  # columns that say which clips there are, and nothing that they contain
OWN_PATHS = ("README.md", ".gitattributes", "data/", "media/")


def media_warning(folder: str | Path) -> str | None:
    """Why the media of a built data set must not be redistributed; `None` if they may be."""
    return _facts(folder).media_terms


def publish_dataset(
    folder: str | Path,
    repo_id: str,
    *,
    with_media: bool = False,
    has_rights: bool = False,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload a built data set in one commit; running it again replaces what an earlier run published.

    Local paths are never published: `video` and `audio` become paths in the repository, or null without media.

    Args:
        folder: what `omnisent data build` wrote.
        repo_id: the data set's name on the Hub, `owner/name`.
        with_media: upload the clips too.
        has_rights: the caller may publish the data. Without it, of a research set only ids and splits are uploaded.
        private, token: as `publish_folder` takes them.

    Returns, raises: as `publish_folder`.
    """
    warning = media_warning(folder)
    if with_media and warning and not has_rights:
        raise PublishError(warning)
    return publish_folder(
        repo_id,
        repo_type="dataset",
        assemble=lambda draft: _assemble(Path(folder), draft, repo_id, with_media, bool(warning) and not has_rights),
        is_ours=lambda path: path.startswith(OWN_PATHS),
        replaced=("data/*", "media/*"),
        message=f"Publish {_facts(folder).title}",
        private=private,
        token=token,
    )


def _facts(folder: str | Path) -> DatasetFacts:
    if build_record(folder) is None:
        raise PublishError(f"{folder} is not a built data set; make one with `omnisent data build`")
    return dataset_facts(str(folder))


def _assemble(folder: Path, draft: Path, repo_id: str, with_media: bool, ids_only: bool) -> None:
    """Write the files to upload: data/<split>.parquet, README.md and, if requested, media/; rows of ids, or all columns."""
    (draft / "data").mkdir()
    for split, part in load_from_disk(str(folder)).items():
        columns = [name for name in part.features if not ids_only or name in IDS]
        published = (_published(row, draft, with_media) for row in part)
        rows = [{name: row[name] for name in columns} for row in published]
        features = Features({name: part.features[name] for name in columns})
        Dataset.from_list(rows, features=features).to_parquet(draft / "data" / f"{split}.parquet")
    (draft / "README.md").write_text(_card(folder, repo_id, with_media, ids_only), encoding="utf-8")


def _published(row: Mapping, draft: Path, with_media: bool) -> dict:
    """A row whose media paths refer to copies in the draft, or are null."""
    row = dict(row)
    for name in ("video", "audio"):
        if row[name] is not None and with_media:
            source = Path(row[name])
            target = f"media/{row['split']}/{row['id']}{source.suffix}"
            (draft / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, draft / target)
            row[name] = target
        else:
            row[name] = None
    return row


def _card(folder: Path, repo_id: str, with_media: bool, ids_only: bool) -> str:
    facts, report = _facts(folder), json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))
    low, high = facts.score_range
    if not facts.has_media:
        without = "The data set is text alone."
    elif facts.synthetic:
        without = "Not included."
    else:
        without = f"Not included; `omnisent data build {facts.name}` joins these rows with your copies of the clips."
    template = Template(
        Path(__file__).with_name("dataset_card.md").read_text(encoding="utf-8"), keep_trailing_newline=True
    )
    return template.render(
        title=facts.title,
        has_media=facts.has_media,
        repo_id=repo_id,
        license=facts.license,
        about=facts.about,
        splits=[
            _split_figures(split, figures, report["with_media"])
            for split, figures in report["statistics"].items()
            if figures["rows"]
        ],
        low=low,
        high=high,
        denoise=report["denoise"],
        ids_only=ids_only,
        media="The clips are in `media/`." if with_media and facts.has_media else without,
        licence=facts.rights or facts.media_terms or "",
        citation=f"Cite the data set's own paper: *{facts.paper}*." if facts.paper else "",
        version=importlib.metadata.version("omnisent"),
    )


def _split_figures(split: str, figures: Mapping, with_media: bool) -> dict:
    label, without = figures["label"], figures["missing"]
    missing = without if with_media else {**without, "audio": "-", "video": "-"}
    return {
        "name": split,
        "clips": figures["rows"],
        "mean": f"{label['mean']:.4f}",
        "sd": f"{label['sd']:.4f}",
        **{name: missing[name] for name in ("text", "audio", "video")},
    }
