"""The web page that scores a clip: upload or record it, type the transcript, and see the score.

For a bundle that reads text only, it has a field for a text instead. By default it listens on this machine only. It loads nothing
from other servers, and keeps clips for about an hour. analysis.py computes the numbers, and analysis_page.py renders them.

    omnisent app --model runs/demo/model
"""

import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

try:
    import gradio as gr
except ImportError:
    raise ImportError("the page needs Gradio: pip install 'omnisent[app]'") from None

from ..data.planted import make_planted_clips
from ..pipeline_omnisent import MultimodalSentimentPipeline
from .analysis import modalities_of
from .analysis_export import downloads_html
from .clip_panel import Scored, Scoring, Transcribe, Wording, build_panel, html
from .comparison_page import comparison_html
from .scales import Scale, scales_of
from .windows import windows_of

CLEAN_EVERY, KEEP_FOR = 600, 3600  # seconds
STYLE, SCRIPT = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
TOP = """<div class="os-top"><h1>{question}</h1><p>{task}. {ranges}.</p>{about}</div>"""
LIMITS = """<section class="os-card"><h2>What it is not for</h2><ul>
<li>It scores what {expresser} expresses, not what a person feels.</li>
<li>Do not use it to judge people for employment, credit, policing or health.</li>
<li>{unlike} unlike those that it was trained on may be scored wrongly.</li>
</ul><p class="os-small">{storage}</p></section>"""
EXAMPLE_TEXTS = ("I did not expect to like it, and I loved every minute.", "Two hours that I will never get back.")
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
COMPARE, ALONE = "Compare with a second {subject}", "Remove the second {subject}"


@dataclass(frozen=True)
class _Wording:
    """What a page says: of its input, for the placeholders of `TOP` and `LIMITS`, and of its text field."""

    subject: str
    input: str
    task: str
    expresser: str
    unlike: str
    storage: str
    label: str
    info: str | None = None


FOR_CLIPS = _Wording(
    subject="the speaker",
    input="clip",
    task="Drop or record a short clip of one speaker; it is scored at once. Add or correct the transcript, and score again",
    expresser="a speaker",
    unlike="Languages, accents, faces and recordings",
    storage="Clips are sent only to the machine that runs this page. They are deleted after about an hour, and when the page is"
    " stopped.",
    label="Transcript",
    info="The words of the clip, or the contents of a .srt or .vtt file.",
)
FOR_TEXTS = _Wording(
    subject="a text",
    input="text",
    task="Type or paste a text, and press Score",
    expresser="a text",
    unlike="Languages and kinds of text",
    storage="Texts are sent only to the machine that runs this page, and are not stored.",
    label="Text",
)


def build_app(
    pipeline: MultimodalSentimentPipeline,
    *,
    max_seconds: float = 600.0,
    window: float = 8.0,
    stride: float = 4.0,
    transcribe: Transcribe | None = None,
) -> gr.Blocks:
    """The page, not yet served; one clip is scored at a time, others wait in a queue. With text alone, it asks for no files.

    Args:
        pipeline: computes the scores.
        max_seconds: longer clips are rejected.
        window: seconds of one window; longer clips are also scored over time.
        stride: seconds from one window's start to the next.
        transcribe: writes the transcript of a clip that has none, such as a `Transcriber`.

    Raises:
        ValueError: when `window` or `stride` is not above 0.
    """
    windows_of(0.0, window, stride)
    scoring = Scoring(pipeline, max_seconds, window, stride, transcribe)
    reads_media = modalities_of(pipeline) != ["text"]
    words = FOR_CLIPS if reads_media else FOR_TEXTS
    wording = Wording(words.input.capitalize(), words.label, words.info, _examples(reads_media))
    compare, alone = COMPARE.format(subject=words.input), ALONE.format(subject=words.input)
    with gr.Blocks(title="omnisent", analytics_enabled=False, delete_cache=(CLEAN_EVERY, KEEP_FOR)) as app:
        html('<div id="os-status" class="os-hidden" role="status" aria-live="polite"></div>')
        html(_top(words, scales_of(pipeline), pipeline.model.config.about))
        comparison = html()
        with gr.Row(equal_height=False):
            first = build_panel(scoring, wording, letter="A", reads_media=reads_media, visible=True, api_name="score")
            second = build_panel(scoring, wording, letter="B", reads_media=reads_media, visible=False, api_name=None)
        is_compared = gr.State(False)
        toggle = gr.Button(compare, variant="secondary")
        html(LIMITS.format(**asdict(words)))
        states = [is_compared, first.state, second.state]
        toggle.click(
            lambda before: (not before, gr.update(visible=not before), compare if before else alone, "", "", None, ""),
            is_compared,
            [is_compared, second.column, toggle, second.head, second.body, second.state, comparison],
            api_visibility="private",
        )
        for finished in (*first.finished, *second.finished):
            finished.then(_compared, states, comparison, trigger_mode="multiple", api_visibility="private")
    return app.queue(default_concurrency_limit=1)


def _compared(is_compared: bool, first: Scored | None, second: Scored | None) -> str:
    if not is_compared or first is None or second is None:
        return ""
    downloads = downloads_html([first.shown, second.shown], [first.transcript, second.transcript])
    return comparison_html(first.shown, second.shown, downloads)


@contextmanager
def running(
    pipeline: MultimodalSentimentPipeline,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    max_megabytes: int = 200,
    **options: Any,
) -> Iterator[str]:
    """Serve the page while the block runs; yields its address. Same arguments as `serve`."""
    with tempfile.TemporaryDirectory(prefix="omnisent-app-") as folder, _upload_folder(folder):
        app = build_app(pipeline, **options)
        try:
            try:
                _, address, _ = app.launch(
                    server_name=host,
                    server_port=port,
                    max_file_size=f"{max_megabytes}mb",
                    share=False,
                    ssr_mode=False,
                    run_history=False,
                    enable_monitoring=False,
                    footer_links=[],
                    prevent_thread_lock=True,
                    quiet=True,
                    theme=_theme(),
                    head=f"<style>{STYLE}</style><script>{SCRIPT}</script>",
                )
            except OSError as error:
                raise OSError(f"cannot listen on {host}:{port}: is the port in use? Give another --port") from error
            yield address
        finally:
            app.close(verbose=False)


def serve(
    pipeline: MultimodalSentimentPipeline,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    max_megabytes: int = 200,
    max_seconds: float = 600.0,
    window: float = 8.0,
    stride: float = 4.0,
    transcribe: Transcribe | None = None,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM, then delete every uploaded file. For the main thread.

    Args:
        pipeline: computes the scores.
        host: the address to listen on; by default only this machine can reach the page. It asks for no password.
        port: the port to listen on.
        max_megabytes: larger files are rejected.
        max_seconds: longer clips are rejected.
        window: seconds of one window; longer clips are also scored over time.
        stride: seconds from one window's start to the next.
        transcribe: writes the transcript of a clip that has none.

    Raises:
        OSError: when the port is in use.
        ValueError: when `window` or `stride` is not above 0.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = {"max_seconds": max_seconds, "window": window, "stride": stride, "transcribe": transcribe}
    try:
        with running(pipeline, host=host, port=port, max_megabytes=max_megabytes, **options) as address:
            print(f"Open {address} in a browser; stop with Ctrl-C.", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        print("Stopped; all clips are deleted.", flush=True)


def _theme() -> gr.themes.Base:
    theme = gr.themes.Default(
        primary_hue="blue", neutral_hue="slate", radius_size="lg", font=FONTS, font_mono=("ui-monospace", "monospace")
    )
    return theme.set(
        button_primary_background_fill="#1d4ed8",
        button_primary_background_fill_hover="#1e40af",
        button_primary_background_fill_dark="#1d4ed8",
        button_primary_background_fill_hover_dark="#2557e0",
        body_background_fill="#f5f6f9",
        body_background_fill_dark="#10141b",
        block_background_fill_dark="#1a1f29",
        input_background_fill_dark="#10141b",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_hover="#eceef3",
        button_secondary_background_fill_dark="#1a1f29",
        button_secondary_background_fill_hover_dark="#2a313e",
        button_secondary_border_color="#c5cbd6",
        button_secondary_border_color_dark="#4a5466",
        button_border_width="1px",
        block_radius="14px",
        input_radius="10px",
        input_text_size="16px",
        block_info_text_size="14px",
        block_title_text_size="16px",
        table_odd_background_fill_dark="#1a1f29",
        table_even_background_fill_dark="#1a1f29",
        block_label_background_fill_dark="#1a1f29",
        block_info_text_color="#535c6e",
        block_info_text_color_dark="#b0b9c8",
        block_label_text_color="#535c6e",
        block_title_text_color="#1b2130",
        block_title_text_color_dark="#edf0f6",
        block_title_text_weight="600",
    )


def _top(words: _Wording, scales: Sequence[Scale], about: str | None) -> str:
    ends = [(scale, scale.written_end(scale.low), scale.written_end(scale.high)) for scale in scales]
    if all(scale.neutral_band is None for scale in scales):
        question = f"Score a {words.input}"
        ranges = (
            f"The model gives {' and '.join(f'{escape(one.name)} from {low} to {high}' for one, low, high in ends)}"
        )
    else:
        ((_, low, high),) = ends
        question = f"How positive is {words.subject}?"
        ranges = f"The score ranges from {low} (strongly negative) through 0 (neutral) to {high} (strongly positive)"
    named = f'<p class="os-about">This model: {escape(about)}.</p>' if about is not None else ""
    return TOP.format(question=question, task=words.task, ranges=ranges, about=named)


def _examples(reads_media: bool) -> list[tuple[str, str | None, str]]:
    """Name, file and text of each example: the most positive and the most negative of a few planted clips, or two texts."""
    if not reads_media:
        return [(f"Example {number}", None, text) for number, text in enumerate(EXAMPLE_TEXTS, 1)]
    folder = tempfile.mkdtemp(prefix="examples-", dir=os.environ.get("GRADIO_TEMP_DIR"))
    clips = make_planted_clips(Path(folder), n_train=16, n_valid=0, n_test=0)
    complete = sorted((clip for clip in clips if clip.video and clip.text), key=lambda clip: clip.label or 0.0)
    ends = (("positive", complete[-1]), ("negative", complete[0]))
    return [(f"Synthetic example, {name}", clip.video, clip.text or "") for name, clip in ends]


@contextmanager
def _upload_folder(folder: str) -> Iterator[None]:
    """Make Gradio keep uploaded files in this folder."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before
