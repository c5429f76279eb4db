"""What a training step keeps and needs at its peak on a CPU, and what `omnisent plan` expects of it.

    python benchmarks/step_memory.py

Kept: the distinct storages that autograd saves in the forward pass, by what saved them, with PEFT's layers and with this package's.
Peak: the highest resident memory of a step, less that of the process before the model was made; every configuration in a process of
its own, in which freed memory goes back to the system at once. Text only, random weights.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

from common import save, table

RETURNS_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
SIZES = {
    "256": (256, 704, 12, 4, 2, 8192),
    "small Thinker": (576, 1536, 30, 9, 3, 49159),
    "1024": (1024, 2816, 8, 16, 4, 32768),
}
# size, clips, dtype, checkpointing, layers
SETTINGS = [
    *(
        ("small Thinker", 8, dtype, False, layers)
        for dtype in ("float32", "bfloat16")
        for layers in ("peft", "omnisent")
    ),
    *(
        (size, clips, dtype, checkpointing, "omnisent")
        for size, clips in (("256", 32), ("small Thinker", 4), ("1024", 8))
        for dtype in ("float32", "bfloat16")
        for checkpointing in (False, True)
    ),
]
COLUMNS = ("CPU s", "kept KiB/token/layer", "kept MB", "peak MB", "planned MB", "planned/peak")
PARTS = {  # of the innermost module that saves a tensor
    "lora_dropout": "dropout masks",
    "lora_A": "inputs after dropout",
    "lora_B": "outputs of LoRA's A",
    "self_attn": "attention",
    "mlp": "gated MLP",
    "layernorm": "norms",
    "_proj": "projections with LoRA: inputs, outputs of A",
}


def measure(setting: dict) -> dict:
    """Kept and peak bytes of a step, and the plan's expectation."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    from omnisent.configuration_omnisent import OmniSentConfig
    from omnisent.families_omnisent import DEFAULT_FAMILY
    from omnisent.family_omnisent import LORA_PRESETS
    from omnisent.modeling_omnisent import OmniForSentimentRegression
    from omnisent.thinker_omnisent import thinker_config
    from omnisent.training.arguments import DataArguments, ModelArguments, OmniSentTrainingArguments
    from omnisent.training.plan import plan

    def build(folder: str, layers: int | None = None):
        """A model in training, its optimizer, and its number of layers and words."""
        config = thinker_config(folder)
        config.text_config.num_hidden_layers = layers or config.text_config.num_hidden_layers
        torch.set_default_dtype(getattr(torch, setting["dtype"]))
        thinker = DEFAULT_FAMILY.thinker_class(config)
        torch.set_default_dtype(torch.float32)
        thinker.visual = thinker.audio_tower = None  # as with a feature cache
        for module in thinker.modules():
            module._is_hf_initialized = True
        model = OmniForSentimentRegression(OmniSentConfig(thinker_config=config), thinker)
        lora = LoraConfig(r=32, lora_alpha=32, lora_dropout=0.1, target_modules=LORA_PRESETS["llm"])
        if setting["layers"] == "peft":
            inject_adapter_in_model(lora, model)
            model.freeze_all_but_trained()
        else:
            model.add_lora(lora)
        if setting["checkpointing"]:
            model.activation_checkpointing_enable({"use_reentrant": False})
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
        return model.train(), optimizer, config.text_config

    def step(model, optimizer, text, clips: int, tokens: int) -> dict:
        ids = torch.randint(text.vocab_size - 100, (clips, tokens))
        mask = torch.ones_like(ids)
        mask[0, :4] = 0  # a padded batch, as most are
        batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.zeros(clips)}
        batch["position_ids"] = torch.arange(tokens).expand(3, clips, tokens)
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return batch

    torch.manual_seed(0)
    step(*build(setting["small"], layers=1), 2, 16)  # loads the libraries
    gc.collect()
    before = _resident("VmRSS")
    model, optimizer, text = build(setting["folder"])
    planned = plan(
        ModelArguments(base_model=setting["folder"], dtype=setting["dtype"], quantization="none", lora_preset="llm"),
        DataArguments(modalities=["text"], feature_cache="cache"),
        OmniSentTrainingArguments(
            use_cpu=True,
            per_device_train_batch_size=setting["clips"],
            activation_checkpointing=setting["checkpointing"],
        ),
    )
    clips, tokens = setting["clips"], planned.tokens_per_clip
    step(model, optimizer, text, clips, tokens)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    started = time.process_time()
    batch = step(model, optimizer, text, clips, tokens)
    seconds = time.process_time() - started
    peak = _resident("VmHWM") - before
    with _kept(model) as kept:
        model(**batch)
    layer_tokens = clips * tokens * text.num_hidden_layers
    return {
        "cpu_seconds": seconds,
        "kept_bytes": sum(kept.values()),
        "kept_bytes_a_token_and_layer": {part: count / layer_tokens for part, count in sorted(kept.items())},
        "peak_bytes": peak,
        "planned": planned.to_dict(),
        "planned_over_peak": planned.expected_peak_bytes / peak,
    }


def _resident(field: str) -> int:
    """Bytes: `VmRSS` now, `VmHWM` at the peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


@contextmanager
def _kept(model):
    """Bytes of the distinct storages that autograd saves, by part; parameters and buffers are not counted."""
    import torch
    from torch.nn.modules import module as modules

    names = {module: name for name, module in model.named_modules()}
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    stack, found = [], defaultdict(int)

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            place = names.get(stack[-1], "") if stack else ""
            found[
                next((label for name, label in PARTS.items() if name in place.rpartition("layers.")[2]), "other")
            ] += storage.nbytes()
        return tensor

    enter = modules.register_module_forward_pre_hook(lambda module, _: stack.append(module))
    leave = modules.register_module_forward_hook(lambda module, _, __: stack.pop() and None)
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield found
    finally:
        enter.remove()
        leave.remove()


def write_configs(folder: Path) -> dict[str, str]:
    """Folders with the config.json of Thinkers of several sizes; there are no weights."""
    from omnisent.families_omnisent import DEFAULT_FAMILY
    from omnisent.thinker_omnisent import thinker_config
    from omnisent.training.tiny_backbone import make_tiny_backbone

    folders = {}
    for name, sizes in SIZES.items():
        config = thinker_config(make_tiny_backbone(folder / "tiny"))
        for field, value in zip(FIELDS, sizes, strict=True):
            setattr(config.text_config, field, value)
        config.text_config.layer_types = ["full_attention"] * config.text_config.num_hidden_layers
        config.text_config.head_dim = 64
        config.text_config.rope_parameters = {**config.text_config.rope_parameters, "mrope_section": [8, 12, 12]}
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(DEFAULT_FAMILY.official_config(config)), encoding="utf-8")
        folders[name] = str(folder / name)
    return folders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.setting:
        print(json.dumps(measure(json.loads(options.setting))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folders = write_configs(Path(folder))
        for name, clips, dtype, checkpointing, layers in SETTINGS:
            setting = {
                "small": folders["256"],
                "folder": folders[name],
                "dtype": dtype,
                "clips": clips,
                "checkpointing": checkpointing,
            }
            command = [sys.executable, __file__, "--setting", json.dumps({**setting, "layers": layers})]
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **RETURNS_MEMORY}
            )
            what = {"size": name, "clips": clips, "dtype": dtype, "checkpointing": checkpointing, "layers": layers}
            rows.append({**what, **json.loads(done.stdout.splitlines()[-1])})
            print(_row(rows[-1]), flush=True)
    print(table([("size", "clips", "dtype", "checkpointing", "layers", *COLUMNS), *map(_row, rows)]))
    print(f"results in {save('step_memory', {'sizes': SIZES, 'rows': rows})}")


def _row(row: dict) -> tuple:
    of_layer = sum(row["kept_bytes_a_token_and_layer"].values())
    values = row["cpu_seconds"], of_layer / 1024, row["kept_bytes"] / 1e6, row["peak_bytes"] / 1e6
    what = row["size"], row["clips"], row["dtype"], row["checkpointing"], row["layers"]
    return *what, *values, row["planned"]["expected_peak_bytes"] / 1e6, row["planned_over_peak"]


if __name__ == "__main__":
    main()
