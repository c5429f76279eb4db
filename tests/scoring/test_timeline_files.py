"""Scores over time as subtitles and as tiers: other readers of these formats find the same times and texts in them."""

from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import webvtt
from pympi.Elan import Eaf
from pympi.Praat import TextGrid

from omnisent.data.planted import write_audio
from omnisent.scoring.options import TimelineFormat
from omnisent.scoring.scales import Scale
from omnisent.scoring.subtitles import read_cues
from omnisent.scoring.timeline_files import segments_of, write_timeline_file
from omnisent.scoring.windows import WindowScore, windows_of

SENTIMENT = Scale("score", -3, 3, 0.5)
TWO = [Scale('the "valence" <电> & co', 1, 9), Scale("arousal", -1, 1)]


def window(start: float, end: float, *scores: float, label: str | None = None) -> WindowScore:
    return WindowScore(start, end, scores, label, None, None if scores else "damaged")


# They overlap, touch, and leave a gap; one is without a score, and one ends after an hour and a fraction of a millisecond.
WINDOWS = [
    window(0, 8, 1.234, label="positive"),
    window(4, 12, -0.061, label="neutral"),
    window(8, 16),
    window(16, 20.0015, -2.5, label="negative"),
    window(3600.0004, 3661.0625, 0.0, label="neutral"),
]
SHOWN = [
    (0, 6000, "+1.23 positive"),
    (6000, 10_000, "-0.06 neutral"),
    (10_000, 16_000, "no score"),
    (16_000, 20_002, "-2.50 negative"),
    (3_600_000, 3_661_062, "0.00 neutral"),
]
TWO_WINDOWS = [window(0, 2, 6.2, 0.5), window(2, 4), window(5, 7, 8.0, -0.25)]
TWO_SHOWN = [
    [(0, 2000, "6.20"), (2000, 4000, "no score"), (5000, 7000, "8.00")],
    [(0, 2000, "+0.50"), (2000, 4000, "no score"), (5000, 7000, "-0.25")],
]


def milliseconds(stamp: str) -> int:
    hours, minutes, seconds = stamp.replace(",", ".").split(":")
    return round(1000 * (int(hours) * 3600 + int(minutes) * 60 + float(seconds)))


def read_cue_file(path: Path) -> list[tuple[int, int, str]]:
    cues = webvtt.read(path) if path.suffix == ".vtt" else webvtt.from_srt(path)
    return [(milliseconds(cue.start), milliseconds(cue.end), cue.text) for cue in cues]


def read_textgrid(path: Path) -> dict[str, list[tuple[int, int, str]]]:
    """The intervals of each tier, which follow each other from its start to its end."""
    grid, tiers = TextGrid(str(path), codec="utf-8"), {}
    for tier in grid.tiers:
        assert tier.tier_type == "IntervalTier"
        ends = [(grid.xmin, tier.xmin), *((start, end) for start, end, _ in tier.intervals), (tier.xmax, grid.xmax)]
        assert all(left[1] == right[0] for left, right in pairwise(ends))
        tiers[tier.name] = [(round(1000 * start), round(1000 * end), text) for start, end, text in tier.intervals]
    return tiers


def read_eaf(path: Path) -> dict[str, list[tuple[int, int, str]]]:
    eaf = Eaf(str(path))
    return {name: [one[:3] for one in eaf.get_annotation_data_for_tier(name)] for name in eaf.get_tier_names()}


@pytest.fixture
def written(tmp_path):
    def write(kind: TimelineFormat, windows, scales, mark="", seconds=0.0, name="my talk.mp4") -> Path:
        out = tmp_path / f"over{kind.suffix}"
        write_timeline_file(out, kind, windows, scales, tmp_path / name, seconds, mark)
        assert not list(tmp_path.glob(".*"))
        return out

    return write


@pytest.mark.parametrize("kind", [TimelineFormat.SRT, TimelineFormat.VTT])
def test_players_show_one_window_at_a_time(kind, written):
    out = written(kind, WINDOWS, [SENTIMENT])
    assert read_cue_file(out) == SHOWN
    assert [(cue.start, cue.end, cue.text) for cue in read_cues(out)] == [(a / 1000, b / 1000, c) for a, b, c in SHOWN]


@pytest.mark.parametrize("kind", [TimelineFormat.SRT, TimelineFormat.VTT])
def test_several_targets_have_a_line_each_in_a_cue(kind, written):
    escaped = 'the "valence" &lt;电&gt; &amp; co' if kind == "vtt" else 'the "valence" \u2039电\u203a & co'
    expected = [
        (*valence[:2], f"{escaped}: {valence[2]}\narousal: {arousal[2]}")
        for valence, arousal in zip(*TWO_SHOWN, strict=True)
    ]
    assert read_cue_file(written(kind, TWO_WINDOWS, TWO)) == expected


def test_praat_has_a_tier_for_each_target_and_empty_intervals_where_there_is_no_window(written):
    tiers = read_textgrid(written(TimelineFormat.TEXTGRID, WINDOWS, [SENTIMENT]))
    assert tiers == {"score": [*SHOWN[:4], (20_002, 3_600_000, ""), SHOWN[4]]}
    tiers = read_textgrid(written(TimelineFormat.TEXTGRID, TWO_WINDOWS, TWO))
    gap = (4000, 5000, "")
    assert tiers == {scale.name: [*shown[:2], gap, shown[2]] for scale, shown in zip(TWO, TWO_SHOWN, strict=True)}


def test_a_textgrid_ends_with_the_file(written):
    tiers = read_textgrid(written(TimelineFormat.TEXTGRID, [window(1, 3, 0.5)], TWO[1:], seconds=10.0))
    assert tiers == {"arousal": [(0, 1000, ""), (1000, 3000, "+0.50"), (3000, 10_000, "")]}
    assert read_textgrid(written(TimelineFormat.TEXTGRID, [], TWO[1:], seconds=2.5)) == {"arousal": [(0, 2500, "")]}


def test_a_textgrid_begins_as_praat_writes_it(written):
    lines = written(TimelineFormat.TEXTGRID, [window(0, 2, 0.5)], TWO[1:]).read_text(encoding="utf-8").splitlines()
    assert lines[:12] == [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0.000",
        "xmax = 2.000",
        "tiers? <exists>",
        "size = 1",
        "item []:",
        "    item [1]:",
        '        class = "IntervalTier"',
        '        name = "arousal"',
        "        xmin = 0.000",
    ]


def test_elan_has_a_tier_for_each_target_and_opens_the_media(written, tmp_path):
    assert read_eaf(written(TimelineFormat.EAF, WINDOWS, [SENTIMENT])) == {"score": SHOWN}
    out = written(TimelineFormat.EAF, TWO_WINDOWS, TWO)
    assert read_eaf(out) == dict(zip([scale.name for scale in TWO], TWO_SHOWN, strict=True))
    media = ElementTree.parse(out).getroot().find("HEADER/MEDIA_DESCRIPTOR").attrib
    assert unquote(urlsplit(media["MEDIA_URL"]).path) == str(tmp_path / "my talk.mp4")
    assert (media["RELATIVE_MEDIA_URL"], media["MIME_TYPE"]) == ("./my talk.mp4", "video/mp4")


@pytest.mark.parametrize(
    ("name", "relative"),
    [
        ("\u65e5\u672c 100%.mp4", "./\u65e5\u672c 100%.mp4"),
        ('a & "b"\n\tc.mp4', './a & "b"\n\tc.mp4'),
        ("bad\udcff.mp4", "./bad%FF.mp4"),
        ("a\x01\x1b.mp4", "./a%01%1B.mp4"),
        ("a\uffff.mp4", "./a%EF%BF%BF.mp4"),
    ],
)
def test_any_name_of_the_media_can_be_written_for_elan(written, name, relative, tmp_path):
    out = written(TimelineFormat.EAF, WINDOWS, [SENTIMENT], name=name)
    assert read_eaf(out) == {"score": SHOWN}
    media = ElementTree.parse(out).getroot().find("HEADER/MEDIA_DESCRIPTOR").attrib
    assert media["RELATIVE_MEDIA_URL"] == relative
    assert unquote(urlsplit(media["MEDIA_URL"]).path, errors="surrogateescape") == str(tmp_path / name)


def test_the_parts_of_an_eaf_file_refer_to_each_other(written):
    root = ElementTree.parse(written(TimelineFormat.EAF, TWO_WINDOWS, TWO)).getroot()
    assert [part.tag for part in root] == ["HEADER", "TIME_ORDER", "TIER", "TIER", "LINGUISTIC_TYPE"]
    slots = {slot.get("TIME_SLOT_ID"): int(slot.get("TIME_VALUE")) for slot in root.iter("TIME_SLOT")}
    notes = list(root.iter("ALIGNABLE_ANNOTATION"))
    assert list(slots.values()) == sorted(slots.values())
    assert sorted(note.get(f"TIME_SLOT_REF{end}") for note in notes for end in (1, 2)) == sorted(slots)
    assert len({note.get("ANNOTATION_ID") for note in notes}) == len(notes) == 6
    kinds = {one.get("LINGUISTIC_TYPE_ID") for one in root.iter("LINGUISTIC_TYPE")}
    assert {tier.get("LINGUISTIC_TYPE_REF") for tier in root.iter("TIER")} == kinds


@pytest.mark.parametrize("mark", ["", "zero-shot"])
def test_scores_of_a_base_model_say_so(mark, written):
    name = "score (zero-shot)" if mark else "score"
    assert list(read_eaf(written(TimelineFormat.EAF, WINDOWS, [SENTIMENT], mark))) == [name]
    assert read_cue_file(written(TimelineFormat.VTT, WINDOWS[:1], [SENTIMENT], mark)) == [
        (0, 8000, f"{name}: +1.23 positive" if mark else "+1.23 positive")
    ]


@pytest.mark.parametrize("duration", [3.0, 19.9, 60.0, 61.7])
@pytest.mark.parametrize(("length", "stride"), [(8, 8), (8, 4), (8, 1), (4, 20), (0.3, 0.1)])
def test_segments_are_in_order_without_overlaps_each_within_its_window(duration, length, stride):
    windows = [window(start, end, 1.0) for start, end in windows_of(duration, length, stride)]
    segments = segments_of(windows, [SENTIMENT])
    for one, segment in zip(windows, segments, strict=True):
        assert 1000 * one.start - 0.5 <= segment.start < segment.end <= 1000 * one.end + 0.5
    assert all(left.end <= right.start for left, right in pairwise(segments))
    if stride <= length:
        assert all(left.end == right.start for left, right in pairwise(segments))
        assert (segments[0].start, segments[-1].end) == (0, round(1000 * duration))


@pytest.mark.parametrize("kind", [kind for kind in TimelineFormat if kind != "csv"])
def test_the_command_writes_them_beside_the_table(kind, score, two_bundle, tmp_path):
    write_audio(tmp_path / "talk.m4a", np.sin(np.arange(80_000) / 20).astype(np.float32) * 0.3)
    command = (tmp_path / "talk.m4a", "--windows", "2s", "--stride", "1s", "--timeline-format", str(kind))
    out = tmp_path / f"over{kind.suffix}"
    code, _, complained = score(*command, "--model", two_bundle, "--out", out)
    assert code == 0, complained
    assert f"see {tmp_path}/over.csv, {out} and {tmp_path}/over.png" in complained
    table = pd.read_csv(tmp_path / "over.csv")
    reader = {"textgrid": read_textgrid, "eaf": read_eaf}.get(str(kind))
    if reader is None:
        cues = [text for _, _, text in read_cue_file(out)]
        assert cues == [
            f"valence: {v:.2f}\narousal: {a:.2f}" for v, a in zip(table.valence, table.arousal, strict=True)
        ]
        return
    assert {name: [text for _, _, text in tier] for name, tier in reader(out).items()} == {
        name: [f"{value:.2f}" for value in table[name]] for name in ("valence", "arousal")
    }


def test_windows_within_others_have_segments_that_follow_each_other():
    spans = [(0, 10), (2, 4), (5, 10), (12, 13), (12, 13), (12, 13)]
    found = [(one.start, one.end) for one in segments_of([window(*span, 1.0) for span in spans], [SENTIMENT])]
    assert found == [(0, 3000), (3000, 4000), (5000, 10_000), (12_000, 12_500), (12_500, 13_000)]
