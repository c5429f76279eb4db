"""The web page that scores a clip: upload or record it, type the transcript, and see the score.

For a bundle that reads text only, it has a field for a text instead. By default it listens on this machine only. It loads nothing
from other servers, and keeps clips for about an hour. analysis.py computes the numbers, and analysis_page.py renders them.

    omnisent app --model runs/demo/model
"""

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

try:
    import gradio as gr
except ImportError:
    raise ImportError("the page needs Gradio: pip install 'omnisent[app]'") from None

from ..data.planted import make_planted_clips
from ..errors_omnisent import OmniSentError
from ..pipeline_omnisent import MultimodalSentimentPipeline
from .analysis import analyse_clip, modalities_of
from .analysis_page import STYLE, analysis_html, timeline_html
from .scales import Scale, scales_of
from .windows import windows_of

CLEAN_EVERY, KEEP_FOR = 600, 3600  # seconds
INTRODUCTION = """
# {question}
{task}, and press Score. {ranges}.
"""
LIMITS = """
The model scores what {expresser} expresses, not what a person feels. Do not use it to judge people for employment, credit,
policing or health.

{storage}
"""
FAULT = "Not scored because of an error in the program; see the terminal that runs this page."
EXAMPLE_TEXTS = ("I did not expect to like it, and I loved every minute.", "Two hours that I will never get back.")
PAGE_STYLE = """
.gradio-container > main { width: 100%; max-width: 1120px !important; margin: 0 auto !important; }
.gradio-container video { max-height: 240px; }
.gradio-container .progress-level { padding-top: 48px; }
"""
CLEAR = """() => ['<div style="height: 120px"></div>', '']"""  # space for the progress bar
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Wording:
    """What a page says: of its input, for the placeholders of `INTRODUCTION` and `LIMITS`, and of its text field."""

    subject: str
    input: str
    task: str
    expresser: str
    storage: str
    label: str
    info: str | None = None


FOR_CLIPS = _Wording(
    subject="the speaker",
    input="a clip",
    task="Upload or record a short clip of one speaker, type the transcript",
    expresser="a speaker",
    storage="Clips are sent only to the machine that runs this page. They are deleted after about an hour, and when the page is"
    " stopped.",
    label="Transcript",
    info="The words of the clip, or the contents of a .srt or .vtt file.",
)
FOR_TEXTS = _Wording(
    subject="a text",
    input="a text",
    task="Type or paste a text",
    expresser="a text",
    storage="Texts are sent only to the machine that runs this page, and are not stored.",
    label="Text",
)


def build_app(
    pipeline: MultimodalSentimentPipeline, *, max_seconds: float = 600.0, window: float = 8.0, stride: float = 4.0
) -> gr.Blocks:
    """The page, not yet served; one clip is scored at a time, others wait in a queue. With text alone, it asks for no files.

    Args:
        pipeline: computes the scores.
        max_seconds: longer clips are rejected.
        window: seconds of one window; longer clips are also scored over time.
        stride: seconds from one window's start to the next.

    Raises:
        ValueError: when `window` or `stride` is not above 0.
    """
    windows_of(0.0, window, stride)
    config = pipeline.model.config
    scales = scales_of(pipeline)
    reads_media = modalities_of(pipeline) != ["text"]
    words = FOR_CLIPS if reads_media else FOR_TEXTS

    def score(
        video: str | None,
        audio: str | None,
        transcript: str,
        tab: str | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str]:
        chosen = (
            audio if tab == "audio" else video if tab == "video" else video or audio
        )  # only the visible tab is scored
        try:
            analysis = analyse_clip(
                pipeline,
                chosen,
                transcript or "",
                window=window,
                stride=stride,
                max_seconds=max_seconds,
                on_step=lambda done, steps: progress((done, steps), desc="Scoring", unit="passes"),
            )
            name = Path(chosen).name if chosen else None
            return analysis_html(analysis, name=name, scales=scales), timeline_html(analysis, name=name, scales=scales)
        except OmniSentError as error:
            raise _as_sentence(error, chosen) from error
        except Exception as error:
            logger.exception("a clip could not be scored")
            raise gr.Error(FAULT, duration=None, print_exception=False) from error

    with gr.Blocks(title="omnisent", analytics_enabled=False, delete_cache=(CLEAN_EVERY, KEEP_FOR)) as app:
        gr.HTML(f"<style>{PAGE_STYLE}{STYLE}</style>", padding=False)
        gr.Markdown(_introduction(words, scales))
        if config.about is not None:
            gr.HTML(f"<p>This model: {escape(config.about)}.</p>", padding=False)
        tab = gr.State()
        with gr.Row(equal_height=False):
            with gr.Column():
                with gr.Tabs(visible=reads_media):
                    with gr.Tab("Video") as video_tab:
                        video = gr.Video(
                            label="Video",
                            sources=["upload", "webcam"],
                            include_audio=True,
                            webcam_options=gr.WebcamOptions(mirror=False),
                        )
                    with gr.Tab("Audio only") as audio_tab:
                        audio = gr.Audio(label="Audio", sources=["upload", "microphone"], type="filepath")
                transcript = gr.Textbox(
                    label=words.label,
                    info=words.info,
                    placeholder="I did not expect to like it.",
                    lines=2,
                    max_lines=8,
                )
                button = gr.Button("Score", variant="primary")
            with gr.Column():
                result = gr.HTML("<p>The score appears here.</p>", min_height=120, padding=False)
        timeline = gr.HTML(padding=False)
        if reads_media:
            _show_examples([video, transcript])
        else:
            gr.Examples([[text] for text in EXAMPLE_TEXTS], transcript, cache_examples=False)
        gr.Markdown(LIMITS.format(**asdict(words)))
        video_tab.select(lambda: "video", None, tab, queue=False, api_visibility="private")
        audio_tab.select(lambda: "audio", None, tab, queue=False, api_visibility="private")
        # A new request clears the last result, so that none is shown beside an error or another clip.
        button.click(None, None, [result, timeline], js=CLEAR, queue=False, api_visibility="private")
        button.click(
            score,
            [video, audio, transcript, tab],
            [result, timeline],
            api_name="score",
            scroll_to_output=True,
            show_progress_on=result,
        )
    return app.queue(default_concurrency_limit=1)


@contextmanager
def running(
    pipeline: MultimodalSentimentPipeline,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    max_megabytes: int = 200,
    **limits: float,
) -> Iterator[str]:
    """Serve the page while the block runs; yields its address. Same arguments as `serve`."""
    with tempfile.TemporaryDirectory(prefix="omnisent-app-") as folder, _upload_folder(folder):
        app = build_app(pipeline, **limits)
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
                    theme=gr.themes.Default(primary_hue="blue", font=FONTS, font_mono=("ui-monospace", "monospace")),
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

    Raises:
        OSError: when the port is in use.
        ValueError: when `window` or `stride` is not above 0.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    limits = {"max_seconds": max_seconds, "window": window, "stride": stride}
    try:
        with running(pipeline, host=host, port=port, max_megabytes=max_megabytes, **limits) as address:
            print(f"Open {address} in a browser; stop with Ctrl-C.", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        print("Stopped; all clips are deleted.", flush=True)


def _introduction(words: _Wording, scales: Sequence[Scale]) -> str:
    ends = [(scale, scale.written_end(scale.low), scale.written_end(scale.high)) for scale in scales]
    if all(scale.neutral_band is None for scale in scales):
        question = f"Score {words.input}"
        ranges = (
            f"The model gives {' and '.join(f'{escape(one.name)} from {low} to {high}' for one, low, high in ends)}"
        )
    else:
        ((_, low, high),) = ends
        question = f"How positive is {words.subject}?"
        ranges = f"The score ranges from {low} (strongly negative) through 0 (neutral) to {high} (strongly positive)"
    return INTRODUCTION.format(question=question, task=words.task, ranges=ranges)


def _as_sentence(error: OmniSentError, path: str | None) -> gr.Error:
    """The error's message with the file's name in place of its path, as text and not as HTML."""
    text = str(error)
    if path is not None:
        text = text.replace(path, Path(path).name)
    if path is None or not text.startswith(Path(path).name):
        text = text[:1].upper() + text[1:]
    return gr.Error(f"{escape(text.rstrip('.'), quote=False)}.", duration=None, print_exception=False)


def _show_examples(inputs: list[gr.components.Component]) -> None:
    """Offer the most positive and the most negative of a few planted clips; Gradio copies their files."""
    with tempfile.TemporaryDirectory() as folder:
        clips = make_planted_clips(Path(folder, "clips"), n_train=16, n_valid=0, n_test=0)
        complete_clips = [clip for clip in clips if clip.video and clip.text]
        ends = (
            max(complete_clips, key=lambda clip: clip.label or 0.0),
            min(complete_clips, key=lambda clip: clip.label or 0.0),
        )
        gr.Examples(
            [[clip.video, clip.text] for clip in ends],
            inputs,
            cache_examples=False,
            label="Examples: synthetic clips, which only show how the page works",
        )


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
