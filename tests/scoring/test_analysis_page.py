"""A clip's analysis as HTML: what is shown of it and where on the scale, in words too, and that nothing of the user's runs."""

import re
from dataclasses import replace

import pytest

from omnisent.scoring.analysis import ClipAnalysis
from omnisent.scoring.analysis_page import ShownClip, contributions_html, interval_html, score_html
from omnisent.scoring.comparison_page import comparison_html
from omnisent.scoring.scales import Scale, signed
from omnisent.scoring.time_strip import player_html
from omnisent.scoring.windows import WindowScore

SENTIMENT = [Scale("score", -3.0, 3.0, 0.5)]
WHOLE = ClipAnalysis(
    (1.5,), "positive", 4.0, ("text", "audio", "video"), {"text": (0.3,), "audio": (2.5,), "video": (1.5,)}, windows=()
)
WINDOWS = [WindowScore(2.0 * k, 2.0 * k + 4, (0.5 * k - 1,), "neutral", "<b>well", None) for k in range(4)]
WINDOWS.append(WindowScore(8.0, 12.0, (), None, None, "no audio here"))


def shown(analysis: ClipAnalysis, name: str | None = "a.mp4", scales=SENTIMENT, level=None) -> ShownClip:
    return ShownClip(analysis, name, scales, level)


def test_score_label_and_position_on_the_scale_are_shown_and_said():
    text = score_html(shown(WHOLE))
    assert ">+1.50</span>" in text
    assert ">positive</span>" in text
    assert 'os-mark os-plus os-row0" style="left:75.00%"' in text
    assert 'os-band" style="left:41.67%;width:16.67%"' in text
    assert "a.mp4, 4.0 s" in text
    assert "−3 negative" in text  # noqa: RUF001
    assert 'role="img" aria-label="+1.50, positive, on a scale from −3 to +3"' in text  # noqa: RUF001
    assert 'data-said="Score: +1.50, positive, on a scale from −3 to +3"' in text  # noqa: RUF001
    narrow = score_html(shown(WHOLE, scales=[Scale("score", -1.0, 1.0, 0.1)]))
    assert 'os-mark os-plus os-row0" style="left:100.00%"' in narrow
    assert "positive +1" in narrow


def test_an_interval_is_on_the_scale_and_in_its_own_section_and_without_one_nothing_is_claimed():
    sure = shown(replace(WHOLE, low=(0.6,), high=(2.4,)), level=0.9)
    assert 'os-range os-plus os-row0" style="left:60.00%;width:30.00%"' in score_html(sure)
    assert "90 % interval +0.60 to +2.40" in score_html(sure)
    assert '<p class="os-interval">+0.60 to +2.40</p>' in interval_html(sure)
    assert "about 90 in 100 have a rating inside it" in interval_html(sure)
    assert "os-range" not in score_html(shown(WHOLE))
    assert "This model is not calibrated, so it gives no interval" in interval_html(shown(WHOLE))


def test_each_modality_has_its_row():
    text = contributions_html(shown(WHOLE))
    assert rows(text) == [("Text", "+1.20", "+0.30"), ("Audio", "−1.00", "+2.50"), ("Video", "0.00", "+1.50")]  # noqa: RUF001
    bars = re.findall(r'os-(plus|minus)" style="left:(.*?)%;width:(.*?)%', text)
    assert bars == [("plus", "50.00", "50.00"), ("minus", "8.33", "41.67"), ("plus", "50.00", "0.00")]
    assert contributions_html(shown(ClipAnalysis((1.5,), "positive", 4.0, ("video",), {}, ()))) == ""


def rows(text: str) -> list[tuple[str, ...]]:
    """Modality, what it adds, and the score without it."""
    return re.findall(r'<th scope="row">(\w+)</th><td>(.*?)</td><td class.*?</td><td>(.*?)</td>', text)


def test_words_are_shown_where_an_analysis_has_them():
    words = (("<i>loved", (0.8,)), ("it", (-0.2,)))
    text = contributions_html(shown(ClipAnalysis((1.5,), "positive", None, ("text",), {}, (), words=words)))
    assert 'os-plus" style="--os-weight:1.00">&lt;i&gt;loved<span class="os-hidden"> (+0.80)</span>' in text
    assert 'os-minus" style="--os-weight:0.25">it<span' in text
    assert "Strongest: &lt;i&gt;loved +0.80, it −0.20." in text  # noqa: RUF001


def test_a_scale_without_two_sides_has_no_band_and_no_word_of_sentiment():
    rated = ClipAnalysis((7.0,), "valence", 4.0, ("text", "video"), {"text": (5.0,), "video": (7.25,)}, ())
    valence = shown(rated, scales=[Scale("<b>valence", 1.0, 9.0)])
    text = score_html(valence) + contributions_html(valence)
    assert ">7.00</span>" in text
    assert ">&lt;b&gt;valence</span>" in text
    assert 'os-mark os-plain os-row0" style="left:75.00%"' in text
    assert "<span>1</span><span>5</span><span>9</span>" in text
    assert not re.search("os-band|negative|neutral|positive", text)
    assert rows(text) == [("Text", "+2.00", "5.00"), ("Video", "−0.25", "7.25")]  # noqa: RUF001


def test_several_targets_have_a_bar_and_a_table_each():
    both = ClipAnalysis((7.0, -1.0), None, 4.0, ("text", "video"), {"text": (5.0, 0.0), "video": (7.0, -0.5)}, ())
    two = shown(both, scales=[Scale("valence", 1.0, 9.0), Scale("tone", -3.0, 3.0)])
    text = score_html(two) + contributions_html(two)
    assert re.findall(r'os-score" title=".*?">(.*?)</span><span class="os-label">(.*?)<', text) == [
        ("7.00", "valence"),
        ("−1.00", "tone"),  # noqa: RUF001
    ]
    assert re.findall(r'os-mark os-\w+ os-row0" style="left:(.*?)%', text) == ["75.00", "33.33"]
    assert re.findall(r"<h2>(.*?)</h2>", text) == [f"What each modality adds to {name}" for name in ("valence", "tone")]
    assert [row for row in rows(text) if row[0] == "Text"] == [("Text", "+2.00", "5.00"), ("Text", "−1.00", "0.00")]  # noqa: RUF001
    assert not re.search("os-band|negative|neutral|positive", text)
    assert text.count("a.mp4, 4.0 s</p>") == text.count("need not be the score") == 1


def test_a_missing_transcript_is_mentioned():
    mute = ClipAnalysis((1.5,), "positive", 75.0, ("audio", "video"), {"audio": (1.0,), "video": (1.0,)}, ())
    said = "Scored without a transcript. Text carries most of the signal"
    assert said in score_html(shown(mute))
    assert "a.mp4, 1:15" in score_html(shown(mute))
    assert said not in score_html(shown(WHOLE))
    words = ClipAnalysis((0.0,), "neutral", None, ("text",), {}, ())
    assert "the text alone" in score_html(shown(words, None))
    assert player_html(shown(words, None), None) == ""


def test_file_names_and_words_are_escaped():
    name = "<img src=x onerror=alert(1)>.mp4"
    clip = shown(replace(WHOLE, windows=WINDOWS), name)
    for text in (score_html(clip), player_html(clip, f"/tmp/{name}"), comparison_html(clip, clip)):
        assert not re.search("<img|<b>well", text)
    assert "&lt;img src=x onerror=alert(1)&gt;.mp4" in score_html(clip)
    assert 'src="gradio_api/file=/tmp/%3Cimg%20src%3Dx' in player_html(clip, f"/tmp/{name}")


def test_a_long_clip_has_a_strip_below_its_player_and_a_table_of_the_same_numbers():
    text = player_html(shown(replace(WHOLE, seconds=12.0, windows=WINDOWS)), "/tmp/a.mp4")
    assert '<video class="os-player" controls' in text
    cells = re.findall(r'left:(.*?)%;width:(.*?)%" data-start="(.*?)"', text)
    assert cells[1] == ("16.667", "16.667", "2")
    assert cells[4] == ("66.667", "33.333", "8")
    assert sum(float(width) for _, width, _ in cells) == pytest.approx(100, abs=0.01)
    bars = re.findall(r'<b class="os-(\w+)"(?: style="(?:top|bottom):50%;height:(.*?)%")?', text)
    assert bars == [("minus", "50.0"), ("minus", "25.0"), ("plus", "1.5"), ("plus", "25.0"), ("none", "")]
    assert (
        'role="slider" tabindex="0" aria-label="Score over time, by window" aria-valuemin="1" aria-valuemax="5"' in text
    )
    assert 'aria-valuetext="0:00 to 0:04: −1.00, neutral, “&lt;b&gt;well”"' in text  # noqa: RUF001
    assert "0:08 to 0:12: no score, no audio here" in text
    assert re.findall(r"<td>(.*?)</td>", text) == ["−1.00", "−0.50", "0.00", "+0.50", "none"]  # noqa: RUF001
    assert "Each window of 4 s is scored separately, with the words spoken in it;" in text
    short = player_html(shown(WHOLE), "/tmp/a.mp4")
    assert "os-strip" not in short
    assert "no longer than one window" in short
    sound = player_html(shown(replace(WHOLE, modalities=("text", "audio"))), "/tmp/a.m4a")
    assert '<audio class="os-player" controls' in sound


def test_two_clips_are_on_one_scale_with_their_difference():
    other = replace(WHOLE, scores=(-0.75,), label="negative")
    text = comparison_html(shown(WHOLE), shown(other, "b.mp4"))
    assert re.findall(r'os-mark os-([ab]) os-row(\d)" style="left:(.*?)%"', text) == [
        ("a", "0", "75.00"),
        ("b", "1", "37.50"),
    ]
    assert '<dd class="os-difference">−2.25</dd>' in text  # noqa: RUF001
    assert 'data-said="Compared: A +1.50, B −0.75, B minus A −2.25"' in text  # noqa: RUF001
    assert "a.mp4, 4.0 s" in text
    assert "b.mp4, 4.0 s" in text
    assert "interval" not in text


@pytest.mark.parametrize(("high", "said"), [(0.6, "intervals overlap"), (0.5, "intervals do not overlap")])
def test_whether_intervals_overlap_is_said_only_where_there_are_some(high, said):
    first = shown(replace(WHOLE, low=(0.6,), high=(2.4,)), level=0.9)
    second = shown(replace(WHOLE, scores=(-0.2,), low=(-1.0,), high=(high,)), level=0.9)
    text = comparison_html(first, second)
    assert f"The 90 % {said}" in text
    assert text.count("os-range") == 2
    assert said in comparison_html(second, first)


@pytest.mark.parametrize(("score", "said"), [(1.726, "+1.73"), (-0.5, "\N{MINUS SIGN}0.50"), (-0.001, "0.00")])
def test_scores_are_shown_with_their_sign(score, said):
    assert signed(score) == said
