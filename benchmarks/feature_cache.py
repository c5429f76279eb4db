"""An epoch of training with tower outputs from the cache against one without, on planted clips and the tiny backbone.

    python benchmarks/feature_cache.py

Preset llm, NF4, float32, batches of 8, one DataLoader worker: what a second or later epoch takes. The tiny backbone's towers cost
little, so most of what is saved here is reading media; at 7B the towers count too.
"""

import tempfile
from pathlib import Path

import torch
from common import in_turn, ratio, save, spread, table
from torch.utils.data import DataLoader

from omnisent.data.planted import make_planted_clips
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.readouts.discriminative import DiscriminativeReadout
from omnisent.training.arguments import DataArguments, ModelArguments, OmniSentTrainingArguments
from omnisent.training.backbone import build_model
from omnisent.training.collator import ClipCollator, ClipDataset
from omnisent.training.feature_cache import cache_info, fill_cache, open_cache
from omnisent.training.tiny_backbone import make_tiny_backbone


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        clips = [clip for clip in make_planted_clips(root / "planted") if clip.split == "train"]
        base = make_tiny_backbone(root / "tiny")
        processor = OmniSentProcessor.from_base(base, min_pixels=3136, max_pixels=12544)
        model_args = ModelArguments(base_model=str(base), dtype="float32", lora_preset="llm")
        model = build_model(model_args, label_mean=0.0, label_std=1.0, score_range=(-3.0, 3.0))
        cache = open_cache(model, model_args, DataArguments(feature_cache=str(root / "cache")), processor)
        readout = DiscriminativeReadout((-3.0, 3.0))
        plain, cached = ClipDataset(clips, processor, readout), ClipDataset(clips, processor, readout, cache)
        args = OmniSentTrainingArguments(output_dir=str(root), use_cpu=True, disable_tqdm=True)
        first = in_turn({"fill": lambda: fill_cache(cache, model, cached.inputs, processor, args)}, 1, warmups=0)[
            "fill"
        ]
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)

        def epoch(dataset: ClipDataset) -> None:
            loader = DataLoader(dataset, batch_size=8, num_workers=1, collate_fn=ClipCollator(processor, readout))
            model.train()
            for batch in loader:
                model(**batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()

        seconds = in_turn({"without": lambda: epoch(plain), "with": lambda: epoch(cached)})
        size = cache_info(root / "cache")
    result = {
        "clips": len(clips),
        "seconds_an_epoch": {name: spread(values) for name, values in seconds.items()},
        "times_faster": ratio(seconds["without"], seconds["with"]),
        "seconds_to_fill": first[0],
        "bytes_a_clip": size.size / size.entries,
    }
    print(
        table(
            [("an epoch", "median s", "min", "max"), *((n, *s.values()) for n, s in result["seconds_an_epoch"].items())]
        )
    )
    faster = result["times_faster"]
    print(
        f"{faster['median']:.1f} times faster ({faster['min']:.1f} to {faster['max']:.1f}); filling took {first[0]:.1f} s"
    )
    print(f"results in {save('feature_cache', result)}")


if __name__ == "__main__":
    main()
