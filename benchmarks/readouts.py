"""What each readout costs: the model alone, and from file to score, over the number of answer tokens.

    python benchmarks/readouts.py

Tiny backbone, float32, planted clips, batches of 8, one core. Greedy writing never stops early here, so that the number of
tokens is what it says. At 7B a prompt weighs more, beside the reading of files as well as beside a token.
"""

import tempfile
from pathlib import Path

import torch
from common import in_turn, ratio, save, spread, table

from omnisent.data.planted import make_planted_clips
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.readouts.generative import ExpectedReadout, OmniForSentimentGeneration
from omnisent.training.tiny_backbone import make_tiny_backbone

TOKENS = (1, 2, 4, 8)
BATCH = 8


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        clips = [clip.to_dict() for clip in make_planted_clips(root / "planted", n_train=8, n_valid=8, n_test=48)]
        base = make_tiny_backbone(root / "tiny")
        processor = OmniSentProcessor.from_base(base, min_pixels=3136, max_pixels=12544)
        score = OmniForSentimentRegression.from_thinker(base).eval()
        write = OmniForSentimentGeneration.from_base(base)
        expected = ExpectedReadout((-3.0, 3.0), processor.tokenizer)
        models = {"discriminative": lambda batch: score(**batch)}
        for tokens in TOKENS:
            models[f"generative, greedy, {tokens} tokens"] = lambda batch, n=tokens: write.write_greedily(
                n, -1, **batch
            )
        models["generative, expected"] = lambda batch: expected.predict(write, batch)
        groups = [clips[start : start + BATCH] for start in range(0, len(clips), BATCH)]
        batches = [processor(group) for group in groups]
        with torch.inference_mode():
            alone = in_turn({n: lambda m=m: [m(batch) for batch in batches] for n, m in models.items()})
            whole = in_turn({n: lambda m=m: [m(processor(group)) for group in groups] for n, m in models.items()})
    result = {"clips": len(clips), "batch": BATCH, "cores_used": 1}
    for name, seconds in (("model_alone", alone), ("file_to_score", whole)):
        result[name] = {
            readout: {
                "seconds_a_clip": spread([value / len(clips) for value in values]),
                "times_discriminative": ratio(values, seconds["discriminative"]),
            }
            for readout, values in seconds.items()
        }
        rows = [(readout, *found["times_discriminative"].values()) for readout, found in result[name].items()]
        print(table([(f"{name}: times discriminative", "median", "min", "max"), *rows]))
    print(f"results in {save('readouts', result)}")


if __name__ == "__main__":
    main()
