"""The vision tower as omnisent runs it, against transformers' own forward, on one CPU core.

    python benchmarks/towers.py

As wide as the 7B's, with 2 of its 32 blocks (one attends within windows, one within frames) and random weights; one clip of 16
frames of 336 x 588 pixels. The limit is the time of its matrix products alone.
"""

import copy

import torch
from common import in_turn, ratio, save, spread, table
from torch import nn
from torch.nn import functional

from omnisent.families_omnisent import DEFAULT_FAMILY
from omnisent.thinker_inputs_omnisent import pixel_values
from omnisent.thinker_omnisent import published_config
from omnisent.towers_omnisent import speed_up

FRAMES, HEIGHT, WIDTH = 16, 336, 588
BLOCKS = 2


def towers(dtype: torch.dtype) -> dict[str, nn.Module]:
    """The same tower twice."""
    config = published_config("Qwen/Qwen2.5-Omni-7B")
    config.vision_config.depth, config.vision_config.fullatt_block_indexes = BLOCKS, [1]
    config.text_config.num_hidden_layers, config.audio_config.encoder_layers = 1, 1
    with torch.device("meta"):
        meta = DEFAULT_FAMILY.thinker_class(config).visual
    torch.manual_seed(0)
    theirs = type(meta)._from_config(config.vision_config, attn_implementation="sdpa").eval().to(dtype)
    ours = copy.deepcopy(theirs)
    speed_up(ours, DEFAULT_FAMILY)
    return {"transformers": theirs, "omnisent": ours}


def matrix_products(tower: nn.Module, patches: torch.Tensor) -> None:
    """The linear layers of a forward pass on inputs of their sizes, without anything else."""
    rows = {module: len(patches) for module in tower.modules() if isinstance(module, nn.Linear)}
    for module in tower.merger.modules():
        if module in rows:
            rows[module] //= 4
    for module, count in rows.items():
        module(torch.zeros(count, module.in_features, dtype=patches.dtype))
    functional.linear(patches, tower.patch_embed.proj.weight.flatten(1))


def measure(dtype: torch.dtype) -> dict:
    """Seconds and ratios of forward passes, and of the patch embedding alone."""
    layout = DEFAULT_FAMILY.layout_class()
    frames = torch.randint(0, 256, (FRAMES, 3, HEIGHT, WIDTH), dtype=torch.uint8)
    patches, grid = layout.patches(frames)
    values = pixel_values(patches, layout.mean_std).to(dtype)
    both = towers(dtype)
    with torch.no_grad():
        outputs = [tower(values, grid_thw=grid).pooler_output for tower in both.values()]
        tasks = {name: lambda tower=tower: tower(values, grid_thw=grid) for name, tower in both.items()}
        tasks |= {f"{name}, patches": lambda tower=tower: tower.patch_embed(values) for name, tower in both.items()}
        tasks["matrix products"] = lambda: matrix_products(both["omnisent"], values)
        seconds = in_turn(tasks, repeats=3)
    return {
        "largest_difference": (outputs[0] - outputs[1]).abs().max().item(),
        "seconds": {name: spread(taken) for name, taken in seconds.items()},
        "times_faster": ratio(seconds["transformers"], seconds["omnisent"]),
        "patches_times_faster": ratio(seconds["transformers, patches"], seconds["omnisent, patches"]),
        "times_matrix_products": ratio(seconds["omnisent"], seconds["matrix products"]),
        "transformers_seconds": seconds["transformers"],
        "omnisent_seconds": seconds["omnisent"],
    }


def main() -> None:
    torch.set_num_threads(1)
    result: dict = {name: measure(getattr(torch, name)) for name in ("float32", "bfloat16")}
    theirs = result["float32"]["transformers_seconds"]
    result["bfloat16_times_faster_than_float32_before"] = ratio(theirs, result["bfloat16"]["omnisent_seconds"])
    for measured in (result["float32"], result["bfloat16"]):
        del measured["transformers_seconds"], measured["omnisent_seconds"]
    rows = [
        (f"{name}, {what.replace('_', ' ')}", *result[name][what].values())
        for name in ("float32", "bfloat16")
        for what in ("times_faster", "patches_times_faster", "times_matrix_products")
    ]
    rows.append(
        ("bfloat16 against transformers' float32", *result["bfloat16_times_faster_than_float32_before"].values())
    )
    print(table([("vision tower", "median", "min", "max"), *rows]))
    print(f"results in {save('towers', result)}")


if __name__ == "__main__":
    main()
