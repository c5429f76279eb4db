"""LoRA checkpoints that other tools write with PEFT, such as ms-swift and LLaMA-Factory, as adapters of our models.

It translates the names of modules and refuses what our models do not have; adapter_omnisent.py loads the weights.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from torch import nn

from .families_omnisent import family_of
from .family_omnisent import LORA_PRESETS, Thinker
from .thinker_omnisent import own_module

WRAPPED = "base_model.model."  # before the names of a model that PEFT wraps
# Entries of adapter_config.json that are used, or that change no output of a trained adapter.
USED = ("r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "base_model_name_or_path")
WITHOUT_EFFECT = (
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),  # the names of the weights say it
    *("peft_type", "peft_version", "task_type", "inference_mode", "auto_mapping", "revision", "init_lora_weights"),
)
# Others, such as pissa, change the base model's weights.
INITIAL_WEIGHTS = (True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class PeftAdapter:
    """A LoRA checkpoint of a whole omni-modal model, or of its Thinker.

    Args:
        config_file: its adapter_config.json.
        weights_file: its adapter_model.safetensors.
    """

    config_file: Path
    weights_file: Path

    @cached_property
    def names(self) -> dict[str, str]:
        """Our name of each weight, by its name in the file; reads no weights.

        Raises:
            FileNotFoundError: when a file is missing.
            ValueError: naming the first weight that our models do not have.
        """
        if not self.weights_file.is_file():
            raise FileNotFoundError(f"{self.weights_file} is missing; a .bin file is not read, save it as safetensors")
        try:
            with safe_open(self.weights_file, "pt") as opened:
                keys = sorted(opened.keys())
        except SafetensorError as error:
            raise ValueError(
                f"{self.weights_file}: not a complete safetensors file ({error}); copy it again"
            ) from error
        names: dict[str, str] = {}
        for key in keys:
            found = re.fullmatch(rf"{re.escape(WRAPPED)}(.+)\.(lora_[AB]\.weight)", key)
            module = own_module(found[1]) if found else None
            if found is None or module is None:
                raise ValueError(
                    f"{self.weights_file}: {key} cannot be used; expected LoRA weights of the Thinker's language model and towers"
                    " alone, without talker, lm_head, DoRA, biases or whole modules (modules_to_save)"
                )
            names[key] = f"model.{module}.{found[2]}"
            if len(set(names.values())) < len(names):
                raise ValueError(f"{self.weights_file}: {key} is there twice, under another name too; copy it again")
        if not names:
            raise ValueError(f"{self.weights_file} has no weights; take another checkpoint")
        return names

    @property
    def modules(self) -> dict[str, str]:
        """The adapted modules by their paths in the headless Thinker, with their names in the model that was trained."""
        return {
            own.removeprefix("model.").rsplit(".", 2)[0]: key.removeprefix(WRAPPED).rsplit(".", 2)[0]
            for key, own in self.names.items()
        }

    def lora_config(self) -> LoraConfig:
        """The configuration of the same adapter in our models.

        Raises:
            FileNotFoundError: when a file is missing.
            ValueError: naming the weight or the entry that our models do not support.
        """
        modules, entries = self.modules, self._entries()
        patterns: dict[str, dict[str, Any]] = {"rank_pattern": {}, "alpha_pattern": {}}
        for name, pattern in patterns.items():
            given = entries.get(name) or {}
            for own, theirs in modules.items():
                if (key := get_pattern_key(given.keys(), theirs)) in given:
                    pattern[re.escape(own)] = given[key]
        return LoraConfig(
            r=entries["r"],
            lora_alpha=entries["lora_alpha"],
            lora_dropout=entries.get("lora_dropout") or 0.0,
            use_rslora=bool(entries.get("use_rslora")),
            target_modules=rf"(.*\.)?({'|'.join(map(re.escape, modules))})",
            base_model_name_or_path=entries.get("base_model_name_or_path"),
            **patterns,
        )

    def _entries(self) -> dict[str, Any]:
        entries, defaults = json.loads(self.config_file.read_text(encoding="utf-8")), LoraConfig().to_dict()
        if entries.get("peft_type") != "LORA":
            raise ValueError(f"{self.config_file}: peft_type is {entries.get('peft_type')!r}; expected LORA")
        unsupported = {
            name: value
            for name, value in entries.items()
            if name not in (*USED, *WITHOUT_EFFECT) and value and value != defaults.get(name)
        }
        if entries.get("init_lora_weights", True) not in INITIAL_WEIGHTS:
            unsupported["init_lora_weights"] = entries["init_lora_weights"]
        for name, value in unsupported.items():
            raise ValueError(f"{self.config_file}: {name} is {value!r}, which is not supported; expected plain LoRA")
        return entries


def preset_of(modules: Iterable[str], thinker: Thinker) -> str | None:
    """The preset of `LORA_PRESETS` that adapts just these modules of a headless Thinker, if there is one."""
    wanted = set(modules)
    linears = [name for name, module in thinker.named_modules() if isinstance(module, nn.Linear)]
    for preset in LORA_PRESETS:
        targets = family_of(thinker.config).lora_targets(preset)
        if "target_parameters" in targets:  # experts, which no such checkpoint adapts
            continue
        lora = LoraConfig(**targets)
        if {name for name in linears if check_target_module_exists(lora, name)} == wanted:
            return preset
    return None
