"""Writes a checkpoint in the file layout of a published one, around any language model; its towers are random."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from ..families_omnisent import family_of
from ..family_omnisent import ThinkerConfig, ThinkerFamily

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% for part in message['content'] -%}
{%- if part['type'] == 'audio' -%}AUDIO
{%- elif part['type'] == 'video' -%}VIDEO
{%- else -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""


def chat_template(family: ThinkerFamily) -> str:
    """ChatML turns, with a family's placeholder for each video and audio."""
    tokens = family.media_tokens
    return CHAT_TEMPLATE.replace(
        "AUDIO", f"{tokens['audio_bos_token']}{tokens['audio_token']}{tokens['audio_eos_token']}"
    ).replace("VIDEO", f"{tokens['vision_bos_token']}{tokens['video_token']}{tokens['vision_eos_token']}")


def write_backbone(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    config: ThinkerConfig,
    weights: Mapping[str, torch.Tensor],
    **facts: Any,
) -> None:
    """Write config.json, model.safetensors, tokenizer and processor files; the folder appears when all of them are there.

    Args:
        folder: is created.
        tokenizer: with the family's media tokens.
        config: of the Thinker.
        weights: the state dict of the Thinker with its lm_head.
        **facts: more entries of config.json.
    """
    family = family_of(config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.part-", dir=folder.parent) as parent:
        draft = Path(parent) / folder.name
        draft.mkdir()
        processor: Any = family.new_processor(tokenizer, chat_template(family))
        processor.save_pretrained(draft)
        every = family.official_weights(weights) | {name: torch.zeros(8, 8) for name in family.unread_weights}
        save_file(every, draft / "model.safetensors", metadata={"format": "pt"})
        config_json = json.dumps({**family.official_config(config), **facts}, indent=2, default=str)
        (draft / "config.json").write_text(f"{config_json}\n", encoding="utf-8")
        try:
            draft.replace(folder)
        except OSError:
            if not (folder / "config.json").is_file():  # else another process has written it in the meantime
                raise
