"""The rated sentences: what is read of their archive, how they are split, how much people agree, and damaged archives."""

import gzip

import pytest

from omnisent.data.build import build_dataset
from omnisent.data.catalog import DATASETS
from omnisent.data.clip import SPLITS, Clip, human_mae
from omnisent.data.human_ratings import HumanRatings
from omnisent.data.load import load_clips
from omnisent.data.rated_sentences import COLUMNS, FACTS, read_archive, read_sentences
from omnisent.hub.card import model_card
from omnisent.train import run
from omnisent.training.arguments import parse_arguments
from rated_archive import EDITORIALS, PRODUCTS, TWEETS, use_archive, write_archive

TEXTS, SINGLE = f"{TWEETS}_GroundTruth.txt", f"{TWEETS}_anonDataRatings.txt"


@pytest.fixture
def archive(tmp_path, monkeypatch):
    path = write_archive(tmp_path / "archive")
    use_archive(monkeypatch, path)
    return path


def clips_of(tmp_path, **changed: bytes) -> dict[str, Clip]:
    files = {f"{stem}_GroundTruth.txt": content for stem, content in changed.items()}
    return {row.clip.id: row.clip for row in read_archive(write_archive(tmp_path, files))}


def test_a_row_has_the_published_mean_and_the_figures_of_its_ratings(tmp_path):
    files = {
        TEXTS: b"7\t-2.25\tI\xe2\x80\x99m &lt;3 R&amp;B, it&amp;#39;s  fine &amp; good \r\n",
        SINGLE: b"7\t1\t2\t[1, 2, 3]\r\n",
    }
    row = read_archive(write_archive(tmp_path, files))[0]
    assert row.to_dict() == {
        **dict.fromkeys(COLUMNS),
        **{"id": "tweets_7", "text": "I\u2019m <3 R&B, it's  fine & good", "label": -2.25, "genre": "tweets"},
        **{"video_id": "tweets_7", "split": row.clip.split, "raters": 3, "label_sd": pytest.approx((2 / 3) ** 0.5)},
        "rater_mae": 1.0,  # 1, 2 and 3 against 2.5, 2 and 1.5
    }


def test_sentences_of_a_document_have_places_in_it_and_one_split(archive):
    clips = [row.clip for row in read_archive(archive)]
    assert [clip.genre for clip in clips] == [
        genre for genre, n in zip(FACTS.genres, (20, 20, 60, 60), strict=True) for _ in range(n)
    ]
    assert len({clip.id for clip in clips}) == 160
    third = next(clip for clip in clips if clip.id == "product_reviews_1_3")
    assert (third.video_id, third.clip_index) == ("product_reviews_1", 3)
    assert len({(clip.video_id, clip.split) for clip in clips}) == len({clip.video_id for clip in clips}) == 80


def test_the_split_of_a_document_is_given_by_its_id(archive):
    splits = {clip.video_id: clip.split for clip in (row.clip for row in read_archive(archive))}
    assert [name for name, split in splits.items() if split == "test"] == [
        *("tweets_6", "film_reviews_3", "film_reviews_4", "film_reviews_16", "product_reviews_14", "product_reviews_15")
    ]
    assert [name for name, split in splits.items() if split == "valid"] == [
        *("tweets_10", "tweets_17", "tweets_18", "product_reviews_1", "product_reviews_7", "product_reviews_10"),
        *("editorials_1", "editorials_14", "editorials_17", "editorials_19"),
    ]


def test_documents_that_share_a_sentence_are_in_one_split(tmp_path):
    variants = [("Yay. Another one", "YAY! another one!!", "yay another ONE")[at % 3] for at in range(30)]
    tweets = "\n".join(f"{at}\t1\t{text}" for at, text in enumerate(variants)).encode()
    # each review repeats a sentence of the review before it
    reviews = "\n".join(f"{at}_{part}\t1\tSentence {at + part}." for at in range(30) for part in (0, 1)).encode()
    clips = clips_of(tmp_path, **{TWEETS: tweets, PRODUCTS: reviews})
    for genre in ("tweets", "product_reviews"):
        assert len({clip.split for clip in clips.values() if clip.genre == genre}) == 1
    assert {clip.split for clip in clips.values() if clip.genre == "editorials"} == {"train", "valid"}


def test_a_sentence_of_two_genres_is_in_one_split(tmp_path):
    plain = clips_of(tmp_path)
    tweet = next(clip for clip in plain.values() if clip.genre == "tweets" and clip.split == "test")
    text = f"9_1\t0\t{tweet.text}".encode()
    assert plain["editorials_9_1"].split == "train"
    assert clips_of(tmp_path, **{EDITORIALS: text})["editorials_9_1"].split == "test"


def test_one_persons_mae_is_the_mean_over_clips_that_all_have_it():
    clips = [Clip("a", rater_mae=0.5), Clip("b", rater_mae=1.0)]
    assert human_mae(clips) == 0.75
    assert human_mae([*clips, Clip("c")]) is None
    assert human_mae([]) is None


DAMAGED = [
    ({TEXTS: b"1\t1\tgood\r\n\r\n2\tgood\r\n"}, rf"{TEXTS}, line 3: expected 3 cells with tabs between them, found 2"),
    ({TEXTS: b"1\t4.5\tgood"}, rf"{TEXTS}, line 1: expected a mean rating from -4 to 4, found '4.5'"),
    ({TEXTS: b"1\tnan\tgood"}, rf"{TEXTS}, line 1: expected a mean rating from -4 to 4, found 'nan'"),
    ({TEXTS: b"x\t1\tgood"}, rf"{TEXTS}, line 1: expected an id such as 12 or 12_3, found 'x'"),
    ({TEXTS: b"1\t1\tgood\n2\t1\t\xff"}, rf"{TEXTS}, line 2: not UTF-8"),
    ({TEXTS: b"1\t1\tgood\n1\t1\tbad", SINGLE: b"1\t1\t0\t[1, 1]"}, rf"{TEXTS}, line 2: id '1' is there twice"),
    ({TEXTS: b"1\t1\tgood", SINGLE: b"2\t1\t0\t[1, 1]"}, rf"{TEXTS}, line 1: id '1' .*is not in {SINGLE}"),
    ({TEXTS: b"1\t1\tgood", SINGLE: b"1\t1\t0\t[1, 1]\n2\t1\t0\t[1, 1]"}, rf"{SINGLE}: id '2' is not in {TEXTS}"),
    ({SINGLE: b"1\t1\t0\t[1, 1]\n1\t1\t0\t[1, 1]"}, rf"{SINGLE}, line 2: id '1' is there twice"),
    *(
        (
            {SINGLE: b"1\t1\t0\t[1, 1]\n2\t1\t0\t" + cell},
            rf"{SINGLE}, line 2: expected at least two ratings from -4 to 4, .* found",
        )
        for cell in (b"[1, 5]", b"[1]", b"[1, 2", b"3", b"[1, 0.5]", b"[1, true]")
    ),
    ({TEXTS: None}, rf"hutto_ICWSM_2014/{TEXTS}' not found"),
]


@pytest.mark.parametrize(("changed", "said"), DAMAGED, ids=lambda value: value[:60] if isinstance(value, str) else "")
def test_a_row_that_cannot_be_read_is_named_with_its_file_and_line(tmp_path, changed, said):
    path = write_archive(tmp_path, changed)
    with pytest.raises(ValueError, match=said) as stopped:
        read_archive(path)
    assert str(stopped.value).startswith(f"{path}: ")
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda data: b"no archive", lambda data: gzip.compress(b"no archive")],
)
def test_a_damaged_archive_is_named(archive, damage):
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(
        ValueError,
        match=r"vaderSentiment-3\.3\.2\.tar\.gz: the archive is damaged .*; remove it, so that it is fetched again$",
    ):
        read_archive(archive)


def test_an_archive_other_than_the_pinned_one_is_refused(archive):
    write_archive(archive.parent, {TEXTS: b"1\t1\tgood"})
    with pytest.raises(ValueError, match=r"expected the file of vaderSentiment 3\.3\.2 with SHA-256"):
        read_sentences(archive.parent)


def test_without_a_root_the_archive_is_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    use_archive(monkeypatch, write_archive(tmp_path / "omnisent"))
    assert len(load_clips("human_ratings")) == 160


def test_a_built_data_set_gives_the_same_clips(archive, tmp_path):
    report = build_dataset("human_ratings", archive.parent, tmp_path / "built", strict=True)
    assert (report.rows, report.videos, report.defects, report.is_complete) == (160, 80, (), False)
    assert "160 rows of 80 documents built: 160 kept." in (tmp_path / "built" / "build_report.md").read_text()
    named = load_clips("human_ratings", root=archive.parent)
    built = load_clips(str(tmp_path / "built"))
    assert sorted(built, key=str) == sorted(named, key=str)
    chosen = load_clips(str(tmp_path / "built"), genres=["tweets", "editorials"])
    assert {clip.genre for clip in chosen} == {"tweets", "editorials"}
    assert len(chosen) == 80


@pytest.mark.parametrize(("config", "genres"), [("all", FACTS.genres), ("tweets", ("tweets",))])
def test_the_builder_gives_the_rows_of_a_genre_or_of_all(archive, tmp_path, config, genres):
    builder = HumanRatings(config_name=config, data_dir=str(archive.parent), cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare()
    made = builder.as_dataset()
    assert builder.info.license == "mit"
    wanted = [row.to_dict() for row in read_archive(archive) if row.clip.genre in genres]
    for split in SPLITS:
        assert made[split].to_list() == [row for row in wanted if row["split"] == split]
        assert list(made[split].features) == list(COLUMNS)


def test_a_run_is_trained_and_tested_on_the_chosen_genres(archive, settings, tmp_path):
    options = {"dataset": "human_ratings", "root": str(archive.parent), "genres": ["product_reviews", "editorials"]}
    config = settings(**options, modalities=["text"], max_steps=2, eval_steps=2, save_steps=2)
    metrics = run(*parse_arguments([config]))
    test = [
        row.clip for row in read_archive(archive) if row.clip.split == "test" and row.clip.genre in options["genres"]
    ]
    assert metrics["n"] == len(test) > 0
    assert "spearman" in metrics
    card = model_card(tmp_path / "run", "org/name", base_model="org/base")
    assert f"Test split of human_ratings (product reviews, editorials): {len(test)} clips, text" in card
    assert "MIT License, Copyright (c) 2016 C.J. Hutto" in card


@pytest.mark.slow
def test_the_published_archive_has_the_official_counts_and_agreement():
    clips = load_clips("human_ratings")
    assert (
        tuple(sum(clip.split == split for clip in clips) for split in SPLITS) == DATASETS["human_ratings"].split_counts
    )
    by_genre = {genre: [clip for clip in clips if clip.genre == genre] for genre in FACTS.genres}
    assert [len(part) for part in by_genre.values()] == [4200, 10605, 3708, 5190]
    assert [round(human_mae(part), 3) for part in by_genre.values()] == [0.680, 0.744, 0.572, 0.622]
    assert min(clip.label for clip in clips) >= -4
    assert max(clip.label for clip in clips) <= 4
