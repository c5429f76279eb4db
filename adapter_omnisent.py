"""The LoRA adapter of a Thinker: add, save, load and merge it, and freeze everything else; strict reading of weight files.

`AdaptedThinker` is the base class of every model that scores clips. It knows no head and no readout.
"""

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer, ParamWrapper
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from .families_omnisent import family_of
from .family_omnisent import LORA_PRESETS
from .lora_omnisent import keep_less
from .peft_adapter_omnisent import PeftAdapter, preset_of

ADAPTER_DIR = "adapter"
ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
HEAD_PREFIX = "score."  # of the head's parameters, which are trained with the adapter


class AdaptedThinker(PreTrainedModel):
    """A model with a Thinker, `model`, that LoRA can adapt, and in some subclasses a head, `score`."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # Trainer then divides the loss by the accumulation steps itself
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    @property
    def has_adapter(self) -> bool:
        """Whether the Thinker has a LoRA adapter that is not merged."""
        return self._hf_peft_config_loaded

    def add_lora(self, lora: LoraConfig) -> None:
        """Add a trainable LoRA adapter to the Thinker, and freeze everything except the adapter and the head."""
        self._inject(lora)
        self.freeze_all_but_trained()

    def freeze_all_but_trained(self) -> None:
        """Make only the adapter and the head trainable, in float32."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad = "lora_" in name or name.startswith(HEAD_PREFIX)
            if parameter.requires_grad:
                parameter.data = parameter.data.float()

    def set_lora_dropout(self, dropout: float) -> None:
        """Change the dropout of the adapter; a probability in [0, 1).

        There is none on the weights of fused experts, which PEFT adapts without; it then refuses to read a configuration with any.
        """
        for module in self.modules():
            if isinstance(module, LoraLayer) and not isinstance(module, ParamWrapper):
                module.lora_dropout["default"] = nn.Dropout(dropout) if dropout else nn.Identity()
        config = self.peft_config["default"]
        config.lora_dropout = 0.0 if config.target_parameters else dropout

    def save_lora(self, folder: str | os.PathLike, base_model: str, base_revision: str | None) -> None:
        """Write the adapter to `adapter/` in a folder, with the name of its base model.

        Raises:
            ValueError: for a weight that is not finite, naming it; nothing is written then.
        """
        adapter = Path(folder) / ADAPTER_DIR
        weights = {k: v.detach().cpu().contiguous() for k, v in get_peft_model_state_dict(self).items()}
        check_weights(adapter / ADAPTER_FILE, weights)
        adapter.mkdir(parents=True, exist_ok=True)
        lora = copy.deepcopy(self.peft_config["default"])
        lora.base_model_name_or_path, lora.revision = base_model, base_revision
        lora.inference_mode = True
        lora.save_pretrained(adapter)
        save_file(weights, adapter / ADAPTER_FILE)

    def load_lora(self, folder: str | os.PathLike) -> None:
        """Load `adapter/` of a bundle or checkpoint folder, or another tool's LoRA checkpoint, strictly; a model without an
        adapter gets one, in float32.

        Raises:
            FileNotFoundError: when a file of the adapter is missing.
            ValueError: when a weight is missing, unexpected, not finite or of another shape, naming it.
        """
        adapter, other = adapter_folder(folder), peft_adapter(folder)
        file = adapter / ADAPTER_FILE
        for path in (adapter / ADAPTER_CONFIG_FILE, file):
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path} is missing, so there is no adapter to load: take another bundle or checkpoint"
                )
        if not self.has_adapter:
            lora = read_lora_config(folder)
            if other and (preset := preset_of(other.modules, self.model)):
                lora.target_modules = LORA_PRESETS[preset]
            self._inject(lora)
            for name, parameter in self.named_parameters():
                if "lora_" in name:  # as in training, whatever the dtype of the backbone
                    parameter.data = parameter.data.float()
        weights = read_weights(file)
        if other:
            weights = {other.names[name]: weight for name, weight in weights.items()}
        check_keys(file, weights, get_peft_model_state_dict(self))
        set_peft_model_state_dict(self, weights)

    def merge_lora(self) -> None:
        """Merge the adapter into the Thinker's weights, which must not be quantised, and remove it."""
        layers = [(name, layer) for name, layer in self.named_modules() if isinstance(layer, LoraLayer)]
        for _, layer in layers:
            layer.merge()
        for name, layer in layers:
            parent, _, child = name.rpartition(".")
            if child != "base_layer":  # else inside another one, of another weight of the same experts
                setattr(self.get_submodule(parent), child, layer.get_base_layer())
        self._hf_peft_config_loaded = False

    def _inject(self, lora: LoraConfig) -> None:
        self.peft_config = {"default": inject_lora(self.model, lora)}
        self.set_lora_dropout(lora.lora_dropout)
        keep_less(self, family_of(self.model.config))
        self._hf_peft_config_loaded = True


def inject_lora(thinker: nn.Module, lora: LoraConfig, **options: Any) -> LoraConfig:
    """Add LoRA layers to a Thinker as it stands, and return the configuration that they were made with.

    PEFT rewrites the targets of some architectures when it is given a model of transformers, so it is given a plain module. Weights
    of fused experts it adapts without dropout alone.

    Args:
        thinker: with or without its lm_head.
        lora: the adapter.
        **options: of `inject_adapter_in_model`.
    """
    lora = copy.copy(lora)
    if lora.target_parameters:
        lora.lora_dropout = 0.0
    holder = nn.Module()
    holder.model = thinker
    inject_adapter_in_model(lora, holder, **options)
    return lora


def adapter_folder(folder: str | os.PathLike) -> Path:
    """The folder with the adapter's files: that of another tool's LoRA checkpoint itself, else `adapter/` in it."""
    return Path(folder) if peft_adapter(folder) else Path(folder) / ADAPTER_DIR


def peft_adapter(folder: str | os.PathLike) -> PeftAdapter | None:
    """The LoRA checkpoint of another tool in a folder; `None` if it has no adapter_config.json in its root, as no bundle has."""
    config = Path(folder) / ADAPTER_CONFIG_FILE
    return PeftAdapter(config, config.with_name(ADAPTER_FILE)) if config.is_file() else None


def read_lora_config(folder: str | os.PathLike) -> LoraConfig:
    """The configuration of the adapter of a bundle, a checkpoint folder or another tool's LoRA checkpoint.

    Raises:
        ValueError: naming what our models do not support of another tool's.
    """
    other = peft_adapter(folder)
    return other.lora_config() if other else LoraConfig.from_pretrained(adapter_folder(folder))


def check_weights(file: str | os.PathLike, weights: Mapping[str, torch.Tensor]) -> None:
    """Check that every weight is finite.

    Raises:
        ValueError: naming the file and the first weight that is not.
    """
    for name, weight in weights.items():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            raise ValueError(
                f"{file}: {name} has NaN or infinite values, so every score would be wrong; train again, or download again"
            )


def check_weight_file(file: Path) -> None:
    """Check a safetensors file as `check_weights` does, reading one weight at a time."""
    with safe_open(file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118 (not a mapping)
            check_weights(file, {name: opened.get_tensor(name)})


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The weights of a safetensors file, all of them finite.

    Raises:
        ValueError: when it is incomplete, or naming the first weight that is not finite.
    """
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file}: not a complete safetensors file ({error}); download or copy it again") from error
    check_weights(file, weights)
    return weights


def check_keys(file: Path, weights: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Check that the weights of a file have the names and shapes that a model expects.

    Raises:
        ValueError: naming the first weight that is missing, unexpected or of another shape.
    """
    missing, unexpected = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    for kind, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            raise ValueError(
                f"{file}: {len(keys)} {kind} weights, first {min(keys)}; the file and its configuration do not belong together"
            )
    for key, value in weights.items():
        if value.shape != expected[key].shape:
            raise ValueError(f"{file}: {key} has shape {tuple(value.shape)}, expected {tuple(expected[key].shape)}")
