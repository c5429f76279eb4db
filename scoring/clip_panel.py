"""The part of the page that scores one clip: its inputs, and below them what is shown of it. The page has two for a comparison."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ..data.clip import Clip
from ..errors_omnisent import OmniSentError
from ..pipeline_omnisent import MultimodalSentimentPipeline
from .analysis import analyse_clip, calibrated_level, check_length
from .analysis_export import downloads_html
from .analysis_page import ShownClip, contributions_html, interval_html, score_html
from .scales import scales_of
from .time_strip import player_html

FAULT = "Not scored because of an error in the program; see the terminal that runs this page."
BUSY = '<div class="os-card os-busy"></div>'  # space for the progress bar
Transcribe = Callable[[Clip], tuple[str | None, str | None]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scoring:
    """How clips are scored: the pipeline, the limits of a clip, the windows, and what transcribes clips, if anything does."""

    pipeline: MultimodalSentimentPipeline
    max_seconds: float
    window: float
    stride: float
    transcribe: Transcribe | None = None


@dataclass(frozen=True)
class Scored:
    """A scored clip with the transcript that was used."""

    shown: ShownClip
    transcript: str


@dataclass(frozen=True)
class Wording:
    """What a panel says of its input and its text field, and of its examples: name, file and text of each."""

    subject: str
    label: str
    info: str | None
    examples: Sequence[tuple[str, str | None, str]] = ()


@dataclass(frozen=True)
class ClipPanel:
    """The components of a panel that the page needs; a result fills head, body and state."""

    column: gr.Column
    head: gr.HTML
    body: gr.HTML
    state: gr.State
    finished: Sequence[Any]


def html(value: str = "", **options: Any) -> gr.HTML:
    """A component for HTML that page.css alone styles."""
    return gr.HTML(value, apply_default_css=False, padding=False, **options)


def score_clip(
    scoring: Scoring, path: str | None, transcript: str, progress: gr.Progress
) -> tuple[Scored, str | None, str | None]:
    """Score a clip; without a transcript, write one first if there is a model for it.

    Returns:
        The clip; the transcript that was written for it, empty if no words were found, or `None` if none was asked for; and a
        warning of the model that writes it.

    Raises:
        gr.Error: in one sentence, what is wrong with the clip.
    """
    pipeline, written, warning = scoring.pipeline, None, None
    try:
        if scoring.transcribe is not None and path is not None and not transcript.strip():
            with pipeline.processor.open(path) as media:
                check_length(path, media.duration, scoring.max_seconds)
                has_video = media.has_video
            progress(None, desc="Writing the transcript")
            id_ = Path(path).name
            clip = Clip(id=id_, video=path) if has_video else Clip(id=id_, audio=path)
            written, warning = scoring.transcribe(clip)
            written = written or ""
        level = calibrated_level(pipeline)
        analysis = analyse_clip(
            pipeline,
            path,
            written or transcript,
            window=scoring.window,
            stride=scoring.stride,
            max_seconds=scoring.max_seconds,
            interval=level,
            words=True,
            on_step=lambda done, steps: progress((done, steps), desc="Scoring", unit="passes"),
        )
    except OmniSentError as error:
        raise as_sentence(error, path) from error
    except Exception as error:
        logger.exception("a clip could not be scored")
        raise gr.Error(FAULT, duration=None, print_exception=False) from error
    name = Path(path).name if path else None
    return Scored(ShownClip(analysis, name, scales_of(pipeline), level), written or transcript), written, warning


def result_html(scored: Scored, path: str | None) -> str:
    """All that is shown below the transcript."""
    shown = scored.shown
    parts = (contributions_html(shown), player_html(shown, path), interval_html(shown))
    downloads = f'<section class="os-card"><h2>Download</h2>{downloads_html([shown], [scored.transcript])}</section>'
    return f'<div class="os-stack">{"".join(parts)}{downloads}</div>'


def build_panel(
    scoring: Scoring, words: Wording, *, letter: str, reads_media: bool, visible: bool, api_name: str | None
) -> ClipPanel:
    """Add the components of one clip to the page.

    Args:
        scoring: how it is scored.
        words: what the panel says.
        letter: "A" or "B", shown while two are compared.
        reads_media: whether it asks for files.
        visible: whether it is shown at first.
        api_name: of its endpoint, or `None` for none.
    """
    classes = ["os-clip", "os-second"] if letter == "B" else ["os-clip"]
    with gr.Column(visible=visible, elem_classes=classes) as column:
        html(f'<h2 class="os-name"><b class="os-letter os-{letter.lower()}">{letter}</b> {words.subject} {letter}</h2>')
        state, tab, used = gr.State(), gr.State("file"), gr.State(False)
        tabs, file, camera, microphone = _file_inputs(tab) if reads_media else _no_file_inputs()
        arrivals = [file.upload, camera.stop_recording, microphone.stop_recording] if reads_media else []
        examples = []
        if words.examples:
            with gr.Row(elem_classes="os-examples"):
                examples = [gr.Button(name, variant="secondary", size="md") for name, _, _ in words.examples]
        head = html(elem_id=f"os-head-{letter.lower()}") if reads_media else None
        transcript = gr.Textbox(label=words.label, info=words.info, lines=2, max_lines=8)
        button = gr.Button("Score", variant="primary")
        head = head or html(elem_id=f"os-head-{letter.lower()}")
        body = html()

    def score(
        file: str | None,
        transcript: str | None,
        camera: str | None,
        microphone: str | None,
        tab: str | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str, Any, Scored]:
        path = {"camera": camera, "microphone": microphone}.get(tab or "file", file)  # only the visible tab is scored
        scored, written, warning = score_clip(scoring, path, transcript or "", progress)
        noted = score_html(scored.shown) + _transcript_note(scoring, written, warning)
        return noted, result_html(scored, path), written if written is not None else gr.skip(), scored

    inputs, outputs = [file, transcript, camera, microphone, tab], [head, body, transcript, state]
    # By default, Gradio drops an event while an earlier one of the same kind runs.
    each: dict[str, Any] = {"trigger_mode": "multiple"}
    options = {**each, "concurrency_id": "score", "scroll_to_output": True, "show_progress_on": head}
    # A new request clears the last result, so that none is shown beside an error or another clip.
    clear = f"() => {{ omnisentBusy(); return ['{BUSY}', '', null]; }}"
    cleared = {**each, "js": clear, "queue": False, "api_visibility": "private"}
    shown = [head, body, state]
    starts = [button.click(None, None, shown, **cleared)]
    named: dict[str, Any] = {"api_name": api_name} if api_name else {"api_visibility": "private"}
    finished = [button.click(score, inputs, outputs, **named, **options)]
    private: dict[str, Any] = {"api_visibility": "private"}
    for arrival in arrivals:
        taken = arrival(
            lambda text, again: ("" if again else text, True), [transcript, used], [transcript, used], **private, **each
        )
        starts.append(taken.then(None, None, shown, **cleared))
        finished.append(starts[-1].then(score, inputs, outputs, **private, **options))
    for example, (_, path, text) in zip(examples, words.examples, strict=True):
        targets = [file, transcript, used, tabs, tab] if reads_media else [transcript]
        values = [path, text, True, gr.update(selected="file"), "file"] if reads_media else [text]
        chosen = example.click(lambda values=values: values, None, targets, **private, **each)
        starts.append(chosen.then(None, None, shown, **cleared))
        finished.append(starts[-1].then(score, inputs, outputs, **private, **options))
    for end in finished:
        end.failure(None, None, head, js="() => ''", queue=False, api_visibility="private")
    return ClipPanel(column, head, body, state, finished)


def _file_inputs(tab: gr.State) -> list[Any]:
    """The tabs, and the inputs in them for a file, a camera and a microphone; `tab` is kept to the name of the selected one."""
    with gr.Tabs(selected="file") as tabs:
        with gr.Tab("File", id="file") as for_file:
            file = gr.File(label="Video or audio file", file_types=["video", "audio"], height=150)
        with gr.Tab("Record video", id="camera") as for_camera:
            camera = gr.Video(
                label="Camera",
                sources=["webcam"],
                include_audio=True,
                webcam_options=gr.WebcamOptions(mirror=False),
                height=300,
            )
        with gr.Tab("Record audio", id="microphone") as for_microphone:
            microphone = gr.Audio(label="Microphone", sources=["microphone"], type="filepath")
    for name, one in (("file", for_file), ("camera", for_camera), ("microphone", for_microphone)):
        one.select(lambda name=name: name, None, tab, queue=False, api_visibility="private")
    return [tabs, file, camera, microphone]


def _no_file_inputs() -> list[Any]:
    return [gr.State() for _ in range(4)]


def _transcript_note(scoring: Scoring, written: str | None, warning: str | None) -> str:
    """That the transcript was written by a model, or why there is none."""
    if written:
        return '<p class="os-note">The transcript was written by a speech recognition model; correct it, and score again.</p>'
    return f'<p class="os-note">{escape(warning[:1].upper() + warning[1:])}.</p>' if warning else ""


def as_sentence(error: OmniSentError, path: str | None) -> gr.Error:
    """The error's message with the file's name in place of its path, as text and not as HTML."""
    text = str(error)
    if path is not None:
        text = text.replace(path, Path(path).name)
    if path is None or not text.startswith(Path(path).name):
        text = text[:1].upper() + text[1:]
    return gr.Error(f"{escape(text.rstrip('.'), quote=False)}.", duration=None, print_exception=False)
