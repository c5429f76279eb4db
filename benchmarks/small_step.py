"""What a training step of the small Thinker costs on a CPU: this package's defaults against configs/small_mosi.yaml.

    python benchmarks/small_step.py --root /data/CMU-MOSI

Both train the same model on CMU-MOSI's transcripts, 16 to a step. The defaults use the long prompt, the transcripts in capitals, a
dropout on the adapter's inputs, and clips in random order. Each is measured in a process of its own, in turn.
"""

import argparse
import json
import subprocess
import sys

import numpy as np
from common import ratio, save, spread, table

STEPS, REPEATS = 8, 3
DEFAULTS = {
    "text_case": "as_is",
    "system_prompt": None,
    "transcript_template": None,
    "instruction": None,
    "lora_dropout": 0.1,
    "train_sampling_strategy": "random",
}


def measure(root: str, variant: str) -> dict[str, float]:
    """Median seconds of a step, mean tokens of its batches with padding, and peak memory, over the first steps of a run."""
    import tempfile
    import time
    from pathlib import Path

    import yaml

    from omnisent.training.arguments import parse_arguments
    from omnisent.training.build import build_trainer
    from omnisent.training.data import prepare_data
    from omnisent.training.environment import peak_memory_bytes
    from omnisent.training.field_names import config_path

    config = yaml.safe_load(Path(config_path("small_mosi")).read_text(encoding="utf-8"))
    if variant == "defaults":
        config = {name: DEFAULTS.get(name, value) for name, value in config.items()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        given = {name: value for name, value in config.items() if value is not None}
        file.write_text(yaml.safe_dump({**given, "root": root, "output_dir": f"{folder}/run", "use_cpu": True}))
        arguments = parse_arguments([str(file)])
        trainer, _ = build_trainer(*arguments, prepare_data(*arguments))
        trainer.create_optimizer()
        trainer.current_gradient_accumulation_steps = 1  # as train() sets it
        seconds, tokens = [], []
        for step, batch in zip(range(STEPS), trainer.get_train_dataloader(), strict=False):
            started = time.perf_counter()
            trainer.training_step(trainer.model, dict(batch))
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()
            if step:  # the first one allocates the memory
                seconds.append(time.perf_counter() - started)
                tokens.append(batch["input_ids"].numel())
    return {
        "seconds": float(np.mean(seconds)),
        "tokens": float(np.mean(tokens)),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with CMU-MOSI's label.csv")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(measure(arguments.root, arguments.variant)))
        return
    measured: dict[str, list[dict[str, float]]] = {"defaults": [], "configs/small_mosi.yaml": []}
    for _ in range(REPEATS):
        for variant, values in measured.items():
            command = [sys.executable, __file__, "--root", arguments.root, "--variant", variant]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            values.append(json.loads(done.stdout.splitlines()[-1]))
    before, after = measured.values()
    keys = ("seconds", "tokens", "peak_memory_bytes")
    result = {
        "steps": STEPS - 1,
        "times_less": {key: ratio([v[key] for v in before], [v[key] for v in after]) for key in keys},
        **{name: {key: spread([v[key] for v in values]) for key in keys} for name, values in measured.items()},
    }
    print(
        table(
            [
                ("a step: times less than the defaults", "median", "min", "max"),
                *((k, *v.values()) for k, v in result["times_less"].items()),
            ]
        )
    )
    print(f"results in {save('small_step', result)}")


if __name__ == "__main__":
    main()
