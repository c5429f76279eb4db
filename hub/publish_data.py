"""Publishes a built data set: Parquet and a card in one commit; media only when asked for, and never in silence.

omnisent data publish DIR REPO_ID
"""

import importlib.metadata
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset, load_from_disk
from jinja2 import Template

from ..data.built import REPORT_NAME, build_record
from ..data.catalog import dataset_facts
from .upload import PublishError, publish_folder

OURS = ("README.md", ".gitattributes", "data/", "media/")
TITLES = {
    "cmu_mosi": "CMU-MOSI",
    "cmu_mosei": "CMU-MOSEI",
    "ch_sims": "CH-SIMS",
    "ch_sims_v2": "CH-SIMS v2",
    "planted": "Planted clips",
}
PAPERS = {
    "cmu_mosi": "MOSI: Multimodal Corpus of Sentiment Intensity and Subjectivity Analysis in Online Opinion Videos (2016)",
    "cmu_mosei": "Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and Interpretable Dynamic Fusion Graph (ACL 2018)",
    "ch_sims": "CH-SIMS: A Chinese Multimodal Sentiment Analysis Dataset with Fine-grained Annotation of Modality (ACL 2020)",
    "ch_sims_v2": "Make Acoustic and Visual Cues Matter: CH-SIMS v2.0 Dataset and AV-Mixup Consistent Module (ICMI 2022)",
}
MEDIA_FORBIDDEN = (
    "The raw clips of {title} are other people's recordings, given out for research; they may not be passed on. Publish them only"
    " with a right to do so from their owners."
)


def media_warning(folder: str | Path) -> str | None:
    """What the licence of a built data set says against publishing its media; `None` when nothing does."""
    name = _name(folder)
    return MEDIA_FORBIDDEN.format(title=TITLES[name]) if name in PAPERS else None


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
        has_rights: the caller has the right to publish the media; needed with media of a research set.
        private: for a repository that does not exist yet.
        token: in place of the one that is logged in.

    Returns:
        The address of the commit.

    Raises:
        PublishError: in one line, what went wrong and what to do; nothing was committed then.
    """
    warning = media_warning(folder)
    if with_media and warning and not has_rights:
        raise PublishError(warning)
    return publish_folder(
        repo_id,
        repo_type="dataset",
        assemble=lambda draft: _assemble(Path(folder), draft, repo_id, with_media),
        is_ours=lambda path: path.startswith(OURS),
        replaced=("data/*", "media/*"),
        message=f"Publish {TITLES[_name(folder)]}",
        private=private,
        token=token,
    )


def _name(folder: str | Path) -> str:
    record = build_record(folder)
    if record is None:
        raise PublishError(f"{folder} is not a built data set; make one with `omnisent data build`")
    return record.name


def _assemble(folder: Path, draft: Path, repo_id: str, with_media: bool) -> None:
    """The folder that is uploaded: data/<split>.parquet, media/ when asked for, README.md."""
    (draft / "data").mkdir()
    for split, part in load_from_disk(str(folder)).items():
        rows = [_published(row, draft, with_media) for row in part]
        Dataset.from_list(rows, features=part.features).to_parquet(draft / "data" / f"{split}.parquet")
    (draft / "README.md").write_text(_card(folder, repo_id, with_media), encoding="utf-8")


def _published(row: Mapping, draft: Path, with_media: bool) -> dict:
    """A row whose paths lead to copies in the draft, or nowhere."""
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


def _card(folder: Path, repo_id: str, with_media: bool) -> str:
    name, report = _name(folder), json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))
    title, (low, high) = TITLES[name], dataset_facts(str(folder)).score_range
    if name in PAPERS:
        about = f"Transcripts and sentiment labels of {title}, with the official splits."
        without = f"Not included; `omnisent data build {name}` joins these rows with clips that you hold."
        licence, kind = MEDIA_FORBIDDEN.format(title=title), "other"
        citation = f"Cite the data set's own paper: *{PAPERS[name]}*."
    else:
        about = "Made clips whose text, voice and face each carry a known share of the label: for tests, not about sentiment."
        without, licence, kind, citation = "Not included.", "Made by a program; no rights are claimed.", "cc0-1.0", ""
    template = Template(
        Path(__file__).with_name("dataset_card.md").read_text(encoding="utf-8"), keep_trailing_newline=True
    )
    return template.render(
        title=title,
        repo_id=repo_id,
        license=kind,
        about=about,
        splits=[_split_figures(split, found, report["with_media"]) for split, found in report["statistics"].items()],
        low=low,
        high=high,
        denoise=report["denoise"],
        media="The clips are in `media/`." if with_media else without,
        licence=licence,
        citation=citation,
        version=importlib.metadata.version("omnisent"),
    )


def _split_figures(split: str, figures: Mapping, with_media: bool) -> dict:
    label, without = figures["label"], figures["missing"]
    shown = without if with_media else {**without, "audio": "-", "video": "-"}
    return {
        "name": split,
        "clips": figures["rows"],
        "mean": f"{label['mean']:.4f}",
        "sd": f"{label['sd']:.4f}",
        **{name: shown[name] for name in ("text", "audio", "video")},
    }
