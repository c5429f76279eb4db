"""OmniForSentimentRegression: the Thinker of an omni-modal model with a regression head on its last non-padding token.

One forward pass gives one score per clip. `from_pretrained` loads three forms: base + `adapter/` + `head.safetensors` (what
training writes), the same from the Hub, and a merged checkpoint. Media are read by processing_omnisent.py.
"""

import copy
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import save_file
from torch import nn
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import ModelOutput

from .adapter_omnisent import ADAPTER_DIR, AdaptedThinker, check_keys, check_weight_file, check_weights, read_weights
from .configuration_omnisent import AUTO_MAP, CUSTOM_PIPELINES, REQUIRES, OmniSentConfig, requirements
from .families_omnisent import family_of
from .family_omnisent import Thinker, ThinkerConfig
from .heads_omnisent import RegressionHead, check_finite
from .thinker_omnisent import (
    HUB_KEYWORDS,
    copy_loading_info,
    execution_device,
    fix_nf4_on_cpu,
    language_inputs,
    load_thinker,
    pinned_revision,
    read_layers,
    set_dtype,
    thinker_config,
)

# Not among the files that the model's and the processor's code import, which are copied with them.
PIPELINE_FILES = (
    *("pipeline_omnisent.py", "feeding_omnisent.py"),
    *("handler.py", "serving_omnisent.py", "loading_omnisent.py"),
)
REQUIREMENTS_FILE = "requirements.txt"
HEAD_FILE = "head.safetensors"
BUNDLE_HUB_KEYWORDS = (*HUB_KEYWORDS, "revision", "force_download")
AUTO_KEYWORDS = ("trust_remote_code", "code_revision", "adapter_kwargs", "_from_auto", "_from_pipeline")


@dataclass
class OmniSentOutput(ModelOutput):
    """Output of [`OmniForSentimentRegression`]; B clips, H hidden. With K > 1 targets, the second dimension is K, but of `pooled`.

    Attributes:
        loss: scalar; only when `labels` were given.
        logits: (B,) float32, z-scored: label units are `logits * label_std + label_mean`. With a loss that has bins, the head's
            outputs (B, O).
        scores: (B,) or (B, K) float32, label units; clipped to the score range unless the model is in training mode.
        distribution: (B, bins) probabilities of the bins, whose centres are `model.bin_centres`; `None` without bins.
        spread: (B,) standard deviation of the distribution, label units; likewise.
        pooled: (B, H) what the head reads of each clip.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    distribution: torch.Tensor | None = None
    spread: torch.Tensor | None = None
    pooled: torch.Tensor | None = None


class OmniForSentimentRegression(AdaptedThinker):
    """Score of a clip in label units from the last non-padding token of the Thinker, in one forward pass.

    `model` is the headless Thinker and `score` the head, so LoRA module names are those of the generative class.

    Args:
        config: an [`OmniSentConfig`].
        thinker: a loaded Thinker to wrap; built from the configuration, with random weights, when not given.

    Inputs:
        What [`OmniSentProcessor`] returns. `position_ids` are required: only they tell which clip has audio.

    Example:
        >>> model = AutoModel.from_pretrained("org/omnisent", trust_remote_code=True)
        >>> processor = AutoProcessor.from_pretrained("org/omnisent", trust_remote_code=True)
        >>> model(**processor([{"video": "clip.mp4", "text": "I loved it"}], return_tensors="pt")).scores
    """

    config_class = OmniSentConfig
    main_input_name = "input_ids"
    input_modalities = ("text", "audio", "video")
    _keep_in_fp32_modules_strict = ("score",)
    _bundle: Path | None = None  # the folder that the model was loaded from

    def __init__(self, config: OmniSentConfig, thinker: Thinker | None = None):
        super().__init__(config)
        of_thinker: ThinkerConfig = config.thinker_config
        self.model: Thinker = family_of(of_thinker).thinker_class(of_thinker) if thinker is None else thinker
        text_config = of_thinker.text_config
        sizes = (text_config.hidden_size, text_config.num_hidden_layers)
        self.score = RegressionHead.from_settings(config, *sizes, targets=len(config.targets))
        self.post_init()
        if thinker is not None:
            copy_loading_info(self, thinker)
            self.score.to(execution_device(thinker.language_model.norm))

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.LayerNorm):
            module.reset_parameters()

    @property
    def bin_centres(self) -> torch.Tensor | None:
        """Centres of the bins of `distribution`, (bins,) or (K, bins), label units; `None` for a loss without bins."""
        return self.config.objective.centres()

    @property
    def layer_weights(self) -> list[float] | None:
        """The weight of each layer in a mix, from the token embeddings to the last; their sum is 1. `None` without a mix."""
        reader = self.score.reader
        return reader.shares().tolist() if reader.mixes else None

    def unclipped_scores(self, logits: torch.Tensor) -> torch.Tensor:
        """Scores (B,) or (B, K) in label units of the logits of an output."""
        return self.config.objective.scores(logits.reshape(len(logits), -1))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        feature_attention_mask: torch.Tensor | None = None,
        video_patches: torch.Tensor | None = None,
        video_mean_std: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        audio_embeds: torch.Tensor | None = None,
        video_embeds: torch.Tensor | None = None,
        clip_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        sample_weight: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> OmniSentOutput:
        """Score B clips.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), 0 for padding, on either side.
            position_ids: (3, B, T), time, height and width, computed per clip; of Qwen3-Omni float32, else integers.
            input_features: (A, mel bins, M) log-mel of the A clips that have audio.
            feature_attention_mask: (A, M).
            video_patches: (P, patch values) uint8.
            video_mean_std: (2, channels), with which they are normalised.
            video_grid_thw: (V, 3).
            audio_embeds: (audio tokens, H), precomputed output of the audio tower, instead of `input_features`.
            video_embeds: (video tokens, H, or more), likewise, of the vision tower; see `language_inputs`.
            clip_mask: (B, T), 1 for the tokens of transcript, audio and video; needed with `pool_over="clip"`.
            labels: (B,), or (B, K) for K targets, label units; nan where one is missing.
            sample_weight: (B,) of the clips in the loss; 1 by default.
            return_dict: `False` for a tuple.

        Raises:
            ValueError: without position ids or a needed `clip_mask`, or when the numbers of placeholders and features differ.
            NotFiniteError: in evaluation mode, for a score that is not finite.
        """
        if position_ids is None:
            raise ValueError(
                "position_ids are missing: prepare the inputs with OmniSentProcessor, which computes them per clip"
            )
        read = language_inputs(
            self.model,
            input_ids,
            audio_embeds=audio_embeds,
            video_embeds=video_embeds,
            input_features=input_features,
            feature_attention_mask=feature_attention_mask,
            video_patches=video_patches,
            video_mean_std=video_mean_std,
            video_grid_thw=video_grid_thw,
        )
        device = read["inputs_embeds"].device
        read |= {"attention_mask": attention_mask.to(device), "position_ids": position_ids.to(device)}
        hidden = self._read(read)  # (B, T, H)
        mask = attention_mask if self.config.pool_over == "all" else clip_mask
        if mask is None:
            raise ValueError(
                "clip_mask is missing: this model reads the tokens of the clip alone; prepare the inputs with its own processor"
            )
        pooled, outputs = self.score(hidden, mask)  # (B, H), (B, K * O)
        objective = self.config.objective
        loss = None if labels is None else objective.loss(outputs, labels, sample_weight)
        logits, scores = objective.logits(outputs), objective.scores(outputs)
        if not self.training:
            scores = check_finite(objective.clip(scores))
        distribution, spread = objective.distribution(outputs), objective.spread(outputs)
        output = OmniSentOutput(loss, logits, scores, distribution, spread, pooled)
        return output if return_dict in (None, True) else output.to_tuple()

    def _read(self, inputs: dict[str, Any]) -> torch.Tensor:
        """The states (B, T, H) of the layers that the head reads."""
        if self.score.reader.reads_last_alone:
            return self.model.language_model(**{"use_cache": False, **inputs}).last_hidden_state
        reader, device = self.score.reader, next(self.score.parameters()).device
        return read_layers(self.model, lambda found, at, states: reader(found, at, states.to(device)), **inputs)

    @classmethod
    def from_thinker(
        cls,
        base_model: str | os.PathLike,
        *,
        revision: str | None = None,
        quantization_config=None,
        dtype: torch.dtype | str | None = None,
        device_map: str | dict | None = None,
        attn_implementation: str | None = None,
        without: Sequence[str] = (),
        **config_fields,
    ) -> "OmniForSentimentRegression":
        """A new head, with random weights, on the Thinker of an official full checkpoint (7B or 3B).

        Args:
            base_model: Hub id or folder.
            revision: branch, tag or commit; the commit of a Hub id is kept in the configuration.
            quantization_config: for the Thinker, e.g. a `BitsAndBytesConfig`; the head stays float32.
            dtype: the Thinker's.
            device_map: the Thinker's.
            attn_implementation: the Thinker's, e.g. `"sdpa"` or `"flash_attention_2"`.
            without: parts of the Thinker that are not loaded, e.g. its towers when their outputs are cached.
            **config_fields: further fields of [`OmniSentConfig`], e.g. `head="linear"`.

        Raises:
            ValueError: when the checkpoint lacks weights of the Thinker.
        """
        if os.path.isdir(base_model):
            base_model = os.path.abspath(base_model)
        of_thinker = thinker_config(base_model, revision=revision)
        revision = pinned_revision(base_model, revision)
        config = OmniSentConfig(
            thinker_config=of_thinker, base_model=str(base_model), base_revision=revision, **config_fields
        )
        options = {
            "quantization_config": quantization_config,
            "dtype": dtype,
            "device_map": device_map,
            "attn_implementation": attn_implementation,
        }
        given = {key: value for key, value in options.items() if value is not None}
        thinker = load_thinker(base_model, revision=revision, config=config.thinker_config, without=without, **given)
        return cls(config, thinker)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *,
        is_main_process: bool = True,
        push_to_hub: bool = False,
        **kwargs,
    ) -> None:
        """Write config.json, the code, and the weights: `adapter/` and `head.safetensors` when there is a base model to
        compose with, else one merged `model.safetensors` (sharded when large). The folder loads by `from_pretrained`.

        Raises:
            ValueError: for `push_to_hub=True`; `model.push_to_hub(repo_id)` uploads what this writes. Also for a weight, or a field
                of the configuration, that is not finite, naming it; nothing is written then.
        """
        if push_to_hub:
            raise ValueError("save_pretrained only writes a folder; call model.push_to_hub(repo_id) to upload it")
        if not is_main_process:
            return
        self.config.check()
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.auto_map = dict(AUTO_MAP)
        self.config.requires, self.config.has_adapter = dict(REQUIRES), self.has_adapter
        self._copy_pipeline(folder)
        if self.config.base_model is None:
            check_weights(folder, self.state_dict())
            super().save_pretrained(folder, **kwargs)
            return
        head = {k: v.detach().cpu().contiguous() for k, v in self.score.state_dict().items()}
        check_weights(folder / HEAD_FILE, head)
        if self.has_adapter:
            self.save_lora(folder, self.config.base_model, self.config.base_revision)
        custom_object_save(self, folder, config=self.config)
        self.config.architectures = [type(self).__name__]
        self.config.save_pretrained(folder)
        save_file(head, folder / HEAD_FILE)

    def _copy_pipeline(self, folder: Path) -> None:
        """Copy the code of pipeline and endpoint, beside this file or in the loaded bundle, and name the pipeline in the
        configuration; an endpoint installs requirements.txt.
        """
        for place in (Path(__file__).parent, self._bundle):
            if place is not None and all((place / name).is_file() for name in PIPELINE_FILES):
                if place.resolve() != folder.resolve():
                    for name in PIPELINE_FILES:
                        shutil.copyfile(place / name, folder / name)
                (folder / REQUIREMENTS_FILE).write_text("\n".join([*requirements(REQUIRES), ""]), encoding="utf-8")
                self.config.custom_pipelines = copy.deepcopy(CUSTOM_PIPELINES)
                return
        self.config.custom_pipelines = {}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, **kwargs):
        """Load a bundle: base + adapter + head, or a merged checkpoint, all from one revision.

        Args:
            pretrained_model_name_or_path: Hub id or folder; a folder in it can be named by `subfolder`.
            *model_args: as in `PreTrainedModel.from_pretrained`; only for a merged checkpoint.
            config: an [`OmniSentConfig`] to use instead of the bundle's.
            **kwargs: `revision` and other Hub keywords; dtype, quantization_config, device_map, attn_implementation go to the base.

        Raises:
            ValueError: when the bundle's weights do not fit its configuration, or a weight is not finite, naming the first one.
            FileNotFoundError: when a file of the bundle is missing.
        """
        for key in AUTO_KEYWORDS:
            kwargs.pop(key, None)
        hub = {key: kwargs.pop(key) for key in BUNDLE_HUB_KEYWORDS if key in kwargs}
        folder = bundle_folder(pretrained_model_name_or_path, **hub) / (kwargs.pop("subfolder", None) or "")
        if config is None:
            config = OmniSentConfig.from_pretrained(folder)
        if config.base_model is None:
            loaded = cls._from_merged(folder, *model_args, config=config, **kwargs)
            (loaded[0] if isinstance(loaded, tuple) else loaded)._bundle = folder
            return loaded
        want_info = kwargs.pop("output_loading_info", False)
        for_base = {key: hub[key] for key in HUB_KEYWORDS if key in hub}
        thinker = load_thinker(
            config.base_model, revision=config.base_revision, config=config.thinker_config, **for_base, **kwargs
        )
        model = cls(config, thinker)
        model._bundle = folder
        model.load_trained(folder)
        model.eval()
        info = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
        return (model, info) if want_info else model

    @classmethod
    def _from_merged(cls, folder: Path, *model_args, config, quantization_config=None, **kwargs):
        want_info = kwargs.pop("output_loading_info", False)
        if quantization_config is not None:
            quantization_config = copy.deepcopy(quantization_config)
            skipped = getattr(quantization_config, "llm_int8_skip_modules", None) or []
            quantization_config.llm_int8_skip_modules = [*skipped, "score"]
            kwargs["quantization_config"] = quantization_config
        if (dtype := kwargs.get("dtype")) not in (None, "auto"):
            set_dtype(config.thinker_config, getattr(torch, dtype) if isinstance(dtype, str) else dtype)
        model, info = super().from_pretrained(folder, *model_args, config=config, output_loading_info=True, **kwargs)
        wrong = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
        if wrong:
            raise ValueError(
                f"{folder}: {len(wrong)} weights do not fit config.json, first {sorted(map(str, wrong))[0]}"
            )
        for file in sorted(folder.glob("*.safetensors")):
            check_weight_file(file)
        fix_nf4_on_cpu(model)
        return (model, info) if want_info else model

    def load_trained(self, folder: str | os.PathLike) -> None:
        """Load `head.safetensors`, and `adapter/` where there is one, from a bundle or a checkpoint folder, strictly.

        Raises:
            FileNotFoundError: when the head's file, or an adapter that the configuration mentions, is missing.
            ValueError: when a weight is missing, unexpected, not finite or of another shape, naming it.
        """
        folder = Path(folder)
        if not (folder / HEAD_FILE).is_file():
            raise FileNotFoundError(
                f"{folder / HEAD_FILE} is missing: {folder} is not an omnisent bundle or checkpoint"
            )
        head = read_weights(folder / HEAD_FILE)
        check_keys(folder / HEAD_FILE, head, self.score.state_dict())
        self.score.load_state_dict(head)
        if self.has_adapter or self.config.has_adapter or (folder / ADAPTER_DIR).is_dir():
            self.load_lora(folder)


def bundle_folder(name: str | os.PathLike, **hub) -> Path:
    """The folder of a bundle: `name` itself, or the cached copy of a Hub id, downloaded if needed.

    Raises:
        FileNotFoundError: for a path that is not a folder.
        OSError: when the Hub has no such repository, or cannot be reached.
    """
    if os.path.isdir(name):
        return Path(name)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)) or str(name).startswith("."):
        raise FileNotFoundError(f"{name}: no such folder; give a bundle's folder or the id of one on the Hub")
    try:
        return Path(snapshot_download(str(name), **hub))
    except OSError as error:
        reason = " ".join(str(error).split())
        raise OSError(f"{name}: no such folder here, and not available from the Hub: {reason}") from error


OmniForSentimentRegression.register_for_auto_class("AutoModel")
