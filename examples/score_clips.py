"""Score the test clips of a table with a published bundle, as a user without this package would.

    python examples/score_clips.py MODEL_ID_OR_DIR TABLE.csv [HOW_MANY]

The table has the columns id, text, video, audio, split, and label or one for each target; media paths are relative to it.
"""

import csv
import sys
from itertools import islice
from pathlib import Path

import torch
from transformers import AutoModel, AutoProcessor


def main(model_id: str, table: str, how_many: str = "4") -> None:
    model = AutoModel.from_pretrained(model_id, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(model_id, trust_remote_code=True)
    with Path(table).open(encoding="utf-8", newline="") as file:
        clips = list(islice((row for row in csv.DictReader(file) if row["split"] == "test"), int(how_many)))
    for clip in clips:
        for key in ("text", "video", "audio"):
            clip[key] = clip[key] or None
        for key in ("video", "audio"):
            clip[key] = clip[key] and str(Path(table).parent / clip[key])
    with torch.inference_mode():
        scores = model(**processor(clips, return_tensors="pt")).scores.reshape(len(clips), -1).tolist()
    # The names of the columns of labels; a bundle of an earlier version has one.
    targets = getattr(model.config, "targets", ("label",))
    for clip, own in zip(clips, scores, strict=True):
        print(clip["id"], end="")
        for name, score in zip(targets, own, strict=True):
            print(f"  {'score' if len(targets) == 1 else name} {score:+.2f}  label {float(clip[name]):+.2f}", end="")
        print()


if __name__ == "__main__":
    main(*sys.argv[1:])
