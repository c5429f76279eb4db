"""The analysis of a clip as HTML: what is shown of it, where it stands on the scale, and that it fetches and runs nothing."""

import base64
import io
import re

import matplotlib.image
import pytest

from omnisent.scoring.analysis import ClipAnalysis
from omnisent.scoring.analysis_page import analysis_html, timeline_html
from omnisent.scoring.scales import Scale, signed
from omnisent.scoring.windows import WindowScore

SHOWN = {"name": "a.mp4", "scales": [Scale("score", -3.0, 3.0, 0.5)]}
WHOLE = ClipAnalysis(
    (1.5,), "positive", 4.0, ("text", "audio", "video"), {"text": (0.3,), "audio": (2.5,), "video": (1.5,)}, windows=()
)


def test_score_label_and_position_on_the_scale_are_shown():
    text = analysis_html(WHOLE, **SHOWN)
    assert ">+1.50</span>" in text
    assert ">positive</span>" in text
    assert 'os-mark" style="left:75.00%"' in text
    assert 'os-band" style="left:41.67%;width:16.67%"' in text
    assert "a.mp4, 4.0 s" in text
    assert "−3 negative" in text  # noqa: RUF001
    narrow = analysis_html(WHOLE, name="a.mp4", scales=[Scale("score", -1.0, 1.0, 0.1)])
    assert 'os-mark" style="left:100.00%"' in narrow
    assert "positive +1" in narrow


def test_each_modality_has_its_row():
    text = analysis_html(WHOLE, **SHOWN)
    rows = re.findall(r"<tr><td>(\w+)</td><td>(.*?)</td><td>(.*?)</td>", text)
    assert rows == [("Text", "+0.30", "+1.20"), ("Audio", "+2.50", "−1.00"), ("Video", "+1.50", "0.00")]  # noqa: RUF001
    bars = re.findall(r'os-(plus|minus)" style="left:(.*?)%;width:(.*?)%', text)
    assert bars == [("plus", "50.00", "50.00"), ("minus", "8.33", "41.67"), ("plus", "50.00", "0.00")]
    alone = ClipAnalysis((1.5,), "positive", 4.0, ("video",), {}, ())
    assert "<table>" not in analysis_html(alone, **SHOWN)


def test_a_scale_without_two_sides_has_no_band_and_no_word_of_sentiment():
    rated = ClipAnalysis((7.0,), "valence", 4.0, ("text", "video"), {"text": (5.0,), "video": (7.25,)}, ())
    text = analysis_html(rated, name="a.mp4", scales=[Scale("<b>valence", 1.0, 9.0)])
    assert ">7.00</span>" in text
    assert ">&lt;b&gt;valence</span>" in text
    assert 'os-mark" style="left:75.00%"' in text
    assert "<span>1</span><span>5</span><span>9</span>" in text
    assert not re.search("os-band|negative|neutral|positive", text)
    assert re.findall(r"<tr><td>(\w+)</td><td>(.*?)</td><td>(.*?)</td>", text) == [
        ("Text", "5.00", "+2.00"),
        ("Video", "7.25", "−0.25"),  # noqa: RUF001
    ]


def test_several_targets_have_a_bar_and_a_table_each():
    both = ClipAnalysis((7.0, -1.0), None, 4.0, ("text", "video"), {"text": (5.0, 0.0), "video": (7.0, -0.5)}, ())
    text = analysis_html(both, name="a.mp4", scales=[Scale("valence", 1.0, 9.0), Scale("tone", -3.0, 3.0)])
    assert re.findall(r'os-score" title=".*?">(.*?)</span><span class="os-label">(.*?)<', text) == [
        ("7.00", "valence"),
        ("−1.00", "tone"),  # noqa: RUF001
    ]
    assert re.findall(r'os-mark" style="left:(.*?)%', text) == ["75.00", "33.33"]
    assert re.findall(r"<h3>(.*?)</h3>", text) == [
        f"What each modality contributes to {name}" for name in ("valence", "tone")
    ]
    assert re.findall(r"<td>Text</td><td>(.*?)</td><td>(.*?)</td>", text) == [("5.00", "+2.00"), ("0.00", "−1.00")]  # noqa: RUF001
    assert not re.search("os-band|negative|neutral|positive", text)
    assert text.count("a.mp4, 4.0 s") == text.count("need not add up") == 1


def test_a_missing_transcript_is_mentioned():
    mute = ClipAnalysis((1.5,), "positive", 75.0, ("audio", "video"), {"audio": (1.0,), "video": (1.0,)}, ())
    said = "Scored without a transcript. Text carries most of the signal"
    assert said in analysis_html(mute, **SHOWN)
    assert "a.mp4, 1:15" in analysis_html(mute, **SHOWN)
    assert said not in analysis_html(WHOLE, **SHOWN)
    words = ClipAnalysis((0.0,), "neutral", None, ("text",), {}, ())
    assert "the text alone" in analysis_html(words, **{**SHOWN, "name": None})


def test_file_names_are_escaped():
    text = analysis_html(WHOLE, **{**SHOWN, "name": "<img src=x onerror=alert(1)>.mp4"})
    assert "<img" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;.mp4" in text


def test_a_long_clip_has_a_plot_in_the_page_itself():
    windows = [WindowScore(2.0 * k, 2.0 * k + 4, (0.5 * k - 1,), "neutral", "well", None) for k in range(5)]
    long = ClipAnalysis((1.5,), "positive", 12.0, ("text", "video"), {}, windows)
    text = timeline_html(long, **SHOWN)
    (source,) = re.findall(r'src="(.*?)"', text)
    assert source.startswith("data:image/png;base64,")
    picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(source.split(",")[1])))
    assert (picture[..., :3] < 0.5).any()
    assert "Each window of 4 s is scored separately, with the words spoken in it;" in text
    assert timeline_html(WHOLE, **SHOWN) == ""


@pytest.mark.parametrize(("score", "said"), [(1.726, "+1.73"), (-0.5, "\N{MINUS SIGN}0.50"), (-0.001, "0.00")])
def test_scores_are_shown_with_their_sign(score, said):
    assert signed(score) == said
