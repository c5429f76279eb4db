"""Score a long recording over time: a table, a plot, and the three strongest moments with their words.

    python examples/long_recording.py lecture.mp4 --model runs/demo/model --window 8s

Writes lecture.timeline.csv and lecture.timeline.png to the working directory. The words come from a .srt or .vtt file of the same
name beside the recording. A moment is strong if its score is far from the middle of the scale.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from omnisent.errors_omnisent import OmniSentError
from omnisent.scoring.loading import Loading, load_pipeline
from omnisent.scoring.scales import Scale, scales_of
from omnisent.scoring.timeline import write_timeline
from omnisent.scoring.timeline_plot import clock
from omnisent.scoring.windows import WindowScore, parse_seconds

MOST = 3


def strongest(windows: Sequence[WindowScore], place: int, scale: Scale) -> list[WindowScore]:
    """At most three windows that do not overlap, the strongest first; `place` is that of the target."""
    chosen: list[WindowScore] = []
    for window in sorted(windows, key=lambda one: -abs(one.scores[place] - scale.middle)):
        if len(chosen) < MOST and all(window.end <= one.start or window.start >= one.end for one in chosen):
            chosen.append(window)
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recording", type=Path, help="a video or audio file")
    parser.add_argument("--model", required=True, help="folder or Hub id of a bundle")
    parser.add_argument("--window", default="8s", help="length of a window, such as 8s or 1m30s (default: %(default)s)")
    parser.add_argument("--stride", help="time from one window's start to the next; by default half a window")
    options = parser.parse_args()
    out = Path(f"{options.recording.stem}.timeline.csv")
    try:
        window = parse_seconds(options.window)
        stride = parse_seconds(options.stride) if options.stride else window / 2
        pipeline = load_pipeline(Loading(options.model))
        windows = write_timeline(options.recording, pipeline, out, window=window, stride=stride, batch_size=8)
    except (OmniSentError, ValueError, OSError) as error:
        sys.exit(f"long_recording.py: {error}")
    scored = [window for window in windows if window.scores]
    if not scored:
        sys.exit(f"long_recording.py: none of the {len(windows)} windows has a score; the first: {windows[0].error}")
    for place, scale in enumerate(scales_of(pipeline)):
        mean = sum(window.scores[place] for window in scored) / len(scored)
        print(f"{scale.name}: mean {scale.written(mean)} over {len(scored)} of {len(windows)} windows; the strongest:")
        for window in strongest(scored, place, scale):
            times = f"{clock(window.start)} to {clock(window.end)}"
            print(f"  {times:16} {scale.written(window.scores[place])}  {window.text or '(no words)'}")
    print(f"see {out} and {out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
