"""Builds the model that a run trains: base Thinker, quantisation, LoRA, head; or one from a published bundle."""

import logging
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..adapter_omnisent import ADAPTER_CONFIG_FILE, ADAPTER_DIR, AdaptedThinker, peft_adapter, read_lora_config
from ..configuration_omnisent import OmniSentConfig
from ..data.catalog import LABEL, Target
from ..families_omnisent import DEFAULT_FAMILY, FAMILIES, family_of
from ..family_omnisent import LANGUAGE_MODEL, LORA_PRESETS, TOWERS, ThinkerFamily
from ..losses_omnisent import LabelScale
from ..modeling_omnisent import bundle_folder
from ..peft_adapter_omnisent import preset_of
from ..readouts.base import ModelSource, Readout
from ..readouts.catalog import READOUTS
from ..thinker_omnisent import has_untrained_towers, load_thinker, nf4_config, thinker_config
from .arguments import ModelArguments
from .choices import SMALL, is_made_here
from .small_backbone import make_small_backbone
from .tiny_backbone import make_tiny_backbone

logger = logging.getLogger("omnisent.backbone")


def base_model_path(name: str) -> str:
    """A Hub id or folder unchanged; for a base model that is made here, its folder runs/NAME-backbone, created if missing.

    Raises:
        ValueError: for a random base model of no family.
    """
    if not is_made_here(name):
        return name
    builders: dict[str, Callable[[Path], Path]] = {SMALL: partial(make_small_backbone, SMALL)}
    builders |= {family.tiny: partial(make_tiny_backbone, family=family) for family in FAMILIES.values()}
    if name not in builders:
        raise ValueError(f"base_model {name}: expected {', '.join(builders)}, a folder or a Hub id")
    return str(builders[name](Path(f"runs/{name}-backbone")))


def base_of(arguments: ModelArguments) -> tuple[str, str | None]:
    """Base model and revision; those of the bundle in `adapter`, if it records them."""
    if arguments.adapter and READOUTS[arguments.readout].saves_bundle and not _is_of_another_tool(arguments.adapter):
        config = OmniSentConfig.from_pretrained(arguments.adapter)
        return config.base_model or arguments.adapter, config.base_revision
    return base_model_path(arguments.base_model), arguments.base_revision


def lora_config(arguments: ModelArguments, family: ThinkerFamily = DEFAULT_FAMILY) -> LoraConfig:
    """The configuration of the given adapter, or of a new one from the preset for a family of models."""
    if arguments.adapter:
        return read_lora_config(bundle_folder(arguments.adapter))
    return LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        **family.lora_targets(arguments.lora_preset),
    )


def quantization_config(arguments: ModelArguments) -> BitsAndBytesConfig | None:
    """4-bit NF4 with double quantisation, or none."""
    if arguments.quantization == "none":
        return None
    return nf4_config(getattr(torch, arguments.dtype), towers=arguments.quantize_towers)


def build_readout(
    arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase, score_range: tuple[float, float]
) -> Readout:
    """How this run takes the score of a target from the Thinker; `score_range` is in label units."""
    readout = READOUTS[arguments.readout]
    settings = {name: getattr(arguments, name) for name in (*readout.decoding_fields, *readout.training_fields)}
    return readout.build(score_range, tokenizer, settings)


def build_model(
    arguments: ModelArguments,
    *,
    scales: Sequence[LabelScale],
    targets: Sequence[str] = (LABEL,),
    target_weights: Sequence[float] | None = None,
    device: str | torch.device = "cpu",
    towers: bool = True,
) -> AdaptedThinker:
    """The model to train: adapter and head are trainable, everything else is frozen.

    With `adapter`, training continues from that bundle, with the loss and dropouts of the arguments. If the bundle has other
    score ranges, its z-scores are kept and mapped to the scales given here.

    Args:
        arguments: base model, readout, quantisation, adapter and head.
        scales: of the training labels of each target; only the head uses them.
        targets: their names.
        target_weights: of the targets in the loss; `None` if they count the same.
        device: where the model is loaded.
        towers: `False` to load neither tower, if their outputs are cached.

    Raises:
        ValueError: when `adapter` names a bundle without an adapter.
    """
    readout = READOUTS[arguments.readout]
    source = ModelSource(
        base_model_path(arguments.base_model),
        revision=arguments.base_revision,
        bundle=arguments.adapter,
        targets=targets,
        scales=scales,
        target_weights=target_weights,
        settings={name: getattr(arguments, name) for name in readout.model_fields},
        loading=_loading(arguments, device) | {"without": () if towers else TOWERS},
    )
    model = readout.build_model(source)
    if arguments.quantization == "nf4":
        _say_what_is_not_quantised(model, family_of(model.model.config))
    if not model.has_adapter:  # a new adapter changes nothing until it is trained
        model.add_lora(lora_config(arguments, family_of(model.model.config)))
    elif arguments.adapter:
        model.set_lora_dropout(arguments.lora_dropout)
    model.freeze_all_but_trained()
    return model


def _say_what_is_not_quantised(model: AdaptedThinker, family: ThinkerFamily) -> None:
    """Warn of the weights of fused experts, which NF4 leaves as they are."""
    experts = [weight for name, weight in model.named_parameters() if ".experts." in name and "lora_" not in name]
    if family.experts and experts:
        size = sum(weight.numel() * weight.element_size() for weight in experts)
        logger.warning("nf4: the experts of %s are not quantised: %.1f GB stay as they are", family.title, size / 1e9)


def check_towers(arguments: ModelArguments, modalities: Sequence[str]) -> None:
    """Check that a base model whose towers are random is used for text alone; reads its configuration, no weights.

    Raises:
        ValueError: naming the modalities that its towers cannot read, unless `allow_untrained_towers`.
    """
    base, revision = base_of(arguments)
    unread = [name for name in modalities if name != "text"]
    if unread and not arguments.allow_untrained_towers and has_untrained_towers(base, revision=revision):
        raise ValueError(
            f"modalities: the towers of {arguments.base_model} were never trained, so {' and '.join(unread)} would be noise; set"
            " modalities to [text], or allow_untrained_towers to true to use them all the same"
        )


def check_adapter(arguments: ModelArguments, targets: Sequence[Target], *, training: bool) -> None:
    """Check that the bundle or LoRA checkpoint in `adapter` fits the other arguments; reads its configuration, no weights.

    Args:
        arguments: of the run.
        targets: of the run.
        training: whether the run trains; its score ranges may then differ from the bundle's.

    Raises:
        FileNotFoundError: when there is no such bundle, or it has no adapter.
        ValueError: naming the field that contradicts the bundle, and the value that it needs.
    """
    if not arguments.adapter:
        return
    folder = bundle_folder(arguments.adapter)
    other = peft_adapter(folder)
    if other is None and not (folder / ADAPTER_DIR / ADAPTER_CONFIG_FILE).is_file():
        raise FileNotFoundError(
            f"adapter: {folder / ADAPTER_DIR} is missing; is {arguments.adapter} a merged model? It has no adapter to use"
        )
    if other and not training and READOUTS[arguments.readout].saves_bundle:
        raise ValueError(
            f"adapter: {arguments.adapter} has an adapter but no head, so there is nothing to evaluate; train a head on it, or set"
            " readout to generative"
        )
    lora = read_lora_config(folder)
    check_same_base(arguments, lora.base_model_name_or_path)
    of_bundle = {"lora_r": lora.r, "lora_alpha": lora.lora_alpha}
    if other:
        base, revision = base_of(arguments)
        with torch.device("meta"):
            config = thinker_config(base, revision=revision)
            preset = preset_of(other.modules, family_of(config).thinker_class(config))
    else:
        own = _as_set(lora.target_modules)
        preset = next((name for name, targets in LORA_PRESETS.items() if _as_set(targets) == own), None)
    if preset is None:
        logger.info("%s adapts layers of its own choice, whatever lora_preset says", arguments.adapter)
    of_bundle |= {} if preset is None else {"lora_preset": preset}
    of_bundle |= READOUTS[arguments.readout].settings_of_bundle(folder)
    names = [target.name for target in targets]
    rated, ranges = of_bundle.pop("targets", names), of_bundle.pop("score_ranges", None)
    if len(rated) != len(names) or (len(rated) > 1 and list(rated) != names):
        raise ValueError(
            f"targets: those of the bundle of `adapter` are {', '.join(rated)}, and of this run {', '.join(names)}; give the same"
            " in the same order"
        )
    for (low, high), target in zip(ranges or [target.score_range for target in targets], targets, strict=True):
        if not training and (low, high) != target.score_range:
            raise ValueError(
                f"adapter: {arguments.adapter} scores from {low:g} to {high:g}, but the labels of this data set lie in"
                f" {list(target.score_range)}, so metrics would be meaningless; train on it first"
            )
    kind = "checkpoint" if other else "bundle"
    for field, value in of_bundle.items():
        if getattr(arguments, field) != value:
            raise ValueError(
                f"{field} is {getattr(arguments, field)!r}, but {value!r} in the {kind} of `adapter`; give {value!r}"
            )


def check_same_base(arguments: ModelArguments, recorded: str | None) -> None:
    """Check that an adapter belongs to the base model; a recorded folder that no longer exists is accepted."""
    given = base_model_path(arguments.base_model)
    if not recorded:  # as PEFT leaves it for a part of a model
        logger.warning(
            "%s does not record its base model; it is taken to be %s", arguments.adapter, arguments.base_model
        )
        return
    same = given in (recorded, _downloaded_id(recorded))
    if os.path.isdir(given):
        same = os.path.samefile(given, recorded) if os.path.isdir(recorded) else os.path.isabs(recorded)
    if not same:
        raise ValueError(
            f"base_model is {arguments.base_model}, but the bundle of `adapter` belongs to {recorded}; give that as base_model"
        )


def _downloaded_id(folder: str) -> str | None:
    """The Hub id that a folder in the cache of huggingface_hub or modelscope belongs to."""
    if found := re.search(r"/models--([^/]+?)--([^/]+)/snapshots/", folder):
        return f"{found[1]}/{found[2]}"
    if found := re.search(r"/modelscope/(?:.+/)?([^/]+/[^/]+?)/?$", folder):
        return found[1].replace("___", ".")
    return None


def _is_of_another_tool(adapter: str) -> bool:
    return peft_adapter(bundle_folder(adapter)) is not None


def _as_set(targets: str | list[str] | set[str]) -> set[str]:
    return {targets} if isinstance(targets, str) else set(targets)


def load_towers(arguments: ModelArguments, device: str | torch.device) -> PreTrainedModel:
    """The towers of the Thinker, without its language model, loaded as `build_model` would load them."""
    base, revision = base_of(arguments)
    return load_thinker(base, revision=revision, without=(LANGUAGE_MODEL,), **_loading(arguments, device)).eval()


def _loading(arguments: ModelArguments, device: str | torch.device) -> dict[str, Any]:
    options = {"dtype": getattr(torch, arguments.dtype), "quantization_config": quantization_config(arguments)}
    if arguments.attn_implementation:
        options["attn_implementation"] = arguments.attn_implementation
    if torch.device(device).type != "cpu":
        options["device_map"] = {"": device}
    return options
