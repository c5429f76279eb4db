"""The cost of each readout: the model alone, and from file to score, by number of answer tokens.

    python benchmarks/readouts.py

Tiny backbone, float32, planted clips, batches of 8, one core. Greedy decoding never stops early here, so that the number of
tokens is exact. At 7B the prompt takes a larger part of the time, compared with reading files and with a token. Peak memory is
that of a process with only one readout, including imports and weights.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from common import in_turn, ratio, save, spread, table

from omnisent.data.planted import make_planted_clips
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.readouts.generation_model import OmniForSentimentGeneration
from omnisent.readouts.generative import ExpectedReadout
from omnisent.training.environment import process_peak_bytes
from omnisent.training.tiny_backbone import make_tiny_backbone

TOKENS = (1, 2, 4, 8)
BATCH = 8


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        clips = planted_clips(root)
        base = make_tiny_backbone(root / "tiny")
        processor = OmniSentProcessor.from_base(base, min_pixels=3136, max_pixels=12544)
        models = readouts(base, processor)
        groups = [clips[start : start + BATCH] for start in range(0, len(clips), BATCH)]
        batches = [processor(group) for group in groups]
        with torch.inference_mode():
            alone = in_turn({n: lambda m=m: [m(batch) for batch in batches] for n, m in models.items()})
            whole = in_turn({n: lambda m=m: [m(processor(group)) for group in groups] for n, m in models.items()})
        peaks = {name: peak_of(root, name) for name in models}
    result = {"clips": len(clips), "batch": BATCH, "cores_used": 1, "peak_memory_bytes": peaks}
    for name, seconds in (("model_alone", alone), ("file_to_score", whole)):
        result[name] = {
            readout: {
                "seconds_a_clip": spread([value / len(clips) for value in values]),
                "times_discriminative": ratio(values, seconds["discriminative"]),
            }
            for readout, values in seconds.items()
        }
        rows = [(readout, *cost["times_discriminative"].values()) for readout, cost in result[name].items()]
        print(table([(f"{name}: times discriminative", "median", "min", "max"), *rows]))
    print(table([("peak memory", "MB"), *((name, peak / 1e6) for name, peak in peaks.items())]))
    print(f"results in {save('readouts', result)}")


def planted_clips(root: Path) -> list[dict]:
    """The planted clips, created if missing."""
    clips = make_planted_clips(root / "planted", n_train=8, n_valid=8, n_test=48)
    return [clip.to_dict() for clip in clips]


def readouts(base: Path, processor: OmniSentProcessor) -> dict[str, Callable[[dict], object]]:
    """Each readout as a function of a batch, with the same backbone."""
    score = OmniForSentimentRegression.from_thinker(base).eval()
    write = OmniForSentimentGeneration.from_base(base)
    expected = ExpectedReadout((-3.0, 3.0), processor.tokenizer)
    return {
        "discriminative": lambda batch: score(**batch),
        **{f"generative, greedy, {n} tokens": lambda batch, n=n: write.write_greedily(n, -1, **batch) for n in TOKENS},
        "generative, expected": lambda batch: expected.predict(write, batch),
    }


def peak_of(root: Path, name: str) -> int:
    """Peak bytes of a new process that scores all clips with one readout."""
    command = [sys.executable, __file__, str(root), name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def score_with_one(root: Path, name: str) -> None:
    """The process that `peak_of` starts."""
    torch.set_num_threads(1)
    clips, base = planted_clips(root), make_tiny_backbone(root / "tiny")
    processor = OmniSentProcessor.from_base(base, min_pixels=3136, max_pixels=12544)
    read = readouts(base, processor)[name]
    with torch.inference_mode():
        for start in range(0, len(clips), BATCH):
            read(processor(clips[start : start + BATCH]))
    print(process_peak_bytes())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        score_with_one(Path(sys.argv[1]), sys.argv[2])
    else:
        main()
