"""Score a long recording over time: a table, a plot, and the three strongest moments with their words.

    python examples/long_recording.py lecture.mp4 --model runs/demo/model --windows 8s

Writes lecture.timeline.csv and lecture.timeline.png to the working directory; if it is interrupted, start it again, and it goes on
where it was. The words come from a .srt or .vtt file of the same name beside the recording, or from --transcribe. A moment is
strong if its score is far from the middle of the scale.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from omnisent.errors_omnisent import OmniSentError
from omnisent.scoring.job import score
from omnisent.scoring.loading import Loading, read_config
from omnisent.scoring.options import ScoreOptions
from omnisent.scoring.results import score_names
from omnisent.scoring.timeline_plot import clock

MOST = 3


def strongest(scored: pd.DataFrame, column: str, middle: float) -> list:
    """At most three rows that do not overlap, the strongest first; `column` is that of the target's scores."""
    chosen: list = []
    by_strength = scored.loc[(scored[column] - middle).abs().sort_values(ascending=False, kind="stable").index]
    for row in by_strength.to_dict("records"):
        if len(chosen) < MOST and all(row["end"] <= one["start"] or row["start"] >= one["end"] for one in chosen):
            chosen.append(row)
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recording", help="a video or audio file")
    parser.add_argument("--model", required=True, help="folder or Hub id of a bundle")
    parser.add_argument(
        "--windows", default="8s", help="length of a window, such as 8s, or sentences (default: %(default)s)"
    )
    parser.add_argument("--transcribe", help="a speech recognition model, for a recording without a transcript")
    given = parser.parse_args()
    out = Path(f"{Path(given.recording).stem}.timeline.csv")
    try:
        score(
            ScoreOptions(
                given.model,
                files=(given.recording,),
                windows=given.windows,
                transcribe=given.transcribe,
                out=out,
                overwrite=True,
            )
        )
        config = read_config(Loading(given.model))
    except (OmniSentError, ValueError, OSError) as error:
        sys.exit(f"long_recording.py: {error}")
    table = pd.read_csv(out, keep_default_na=False)
    columns = score_names(config.targets)
    table[columns] = table[columns].apply(pd.to_numeric, errors="coerce")
    scored = table.dropna(subset=columns)
    if scored.empty:
        sys.exit(f"long_recording.py: none of the {len(table)} windows has a score; the first: {table['error'][0]}")
    for column, scale in zip(columns, config.label_scales, strict=True):
        mean = scored[column].mean()
        print(f"{column}: mean {mean:+.2f} over {len(scored)} of {len(table)} windows; the strongest:")
        for row in strongest(scored, column, (scale.low + scale.high) / 2):
            print(f"  {clock(row['start'])} to {clock(row['end'])}  {row[column]:+.2f}  {row['text'] or '(no words)'}")
    print(f"see {out} and {out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
