"""The Thinker with its lm_head: the loss of its answers, greedy text, and the probabilities of given answers."""

import os
from typing import Any

import torch
import torch.nn.functional as F
from transformers import DynamicCache
from transformers.utils import ModelOutput

from ..adapter_omnisent import AdaptedThinker
from ..configuration_omnisent import OmniSentConfig
from ..family_omnisent import ThinkerWithLMHead
from ..heads_omnisent import check_finite
from ..thinker_omnisent import copy_loading_info, followed_by, language_inputs, load_thinker, pinned_revision
from .answer_tree import AnswerTree
from .generative_losses import IGNORED, CrossEntropy, GenerativeLoss


class OmniForSentimentGeneration(AdaptedThinker):
    """The Thinker with its lm_head; its inputs are those of [`OmniSentProcessor`].

    `model` and `lm_head` are those of the family's Thinker with its lm_head, under the same names. Prompts are padded on
    the left, so that each is directly followed by its answer.

    Args:
        thinker: the loaded Thinker.
        base_name: Hub id or folder that it was loaded from.
        base_revision: branch, tag or commit of a Hub id.

    Attributes:
        objective: the loss of each clip in `forward`.
    """

    config_class = OmniSentConfig

    def __init__(
        self,
        thinker: ThinkerWithLMHead,
        base_name: str | os.PathLike,
        base_revision: str | None = None,
    ):
        super().__init__(OmniSentConfig(thinker_config=thinker.config))
        self.model, self.lm_head = thinker.model, thinker.lm_head
        self.base_name, self.base_revision = str(base_name), base_revision
        self.objective: GenerativeLoss = CrossEntropy()
        self.post_init()
        copy_loading_info(self, thinker)

    @classmethod
    def from_base(
        cls, base_model: str | os.PathLike, *, revision: str | None = None, **options: Any
    ) -> "OmniForSentimentGeneration":
        """The Thinker and lm_head of an official full checkpoint.

        Args:
            base_model: Hub id or folder.
            revision: branch, tag or commit.
            **options: dtype, quantization_config, device_map, attn_implementation.

        Raises:
            ValueError: when the checkpoint lacks weights of the Thinker.
        """
        thinker = load_thinker(base_model, revision=revision, lm_head=True, **options)
        return cls(thinker, base_model, pinned_revision(base_model, revision)).eval()

    def save_pretrained(self, save_directory: str | os.PathLike, *, is_main_process: bool = True, **kwargs) -> None:
        """Write the adapter to `adapter/`; the base weights are not saved."""
        if is_main_process:
            self.save_lora(save_directory, self.base_name, self.base_revision)

    def load_trained(self, folder: str | os.PathLike) -> None:
        """Load what `save_pretrained` wrote, strictly; see `load_lora` for what it raises."""
        self.load_lora(folder)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        answer_ids: torch.Tensor,
        labels: torch.Tensor,
        sample_weight: torch.Tensor | None = None,
        **media: torch.Tensor,
    ) -> ModelOutput:
        """The loss of B answers after their prompts: the mean of `objective`.

        Args:
            input_ids: (B, T) prompts, padded on the left.
            attention_mask: (B, T).
            position_ids: (3, B, T).
            answer_ids: (B, A), padded with -100 on the right.
            labels: (B,), label units.
            sample_weight: (B,) of the clips in the loss; 1 by default.
            **media: inputs of the towers, as for `language_inputs`.
        """
        prompts = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids, **media}
        losses = self.objective(self, answer_ids, labels, **prompts)  # (B,)
        return ModelOutput(loss=(losses if sample_weight is None else losses * sample_weight).mean())

    def answer_logits(
        self,
        answer_ids: torch.Tensor,
        *,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        **media: torch.Tensor,
    ) -> torch.Tensor:
        """Logits (B, A, vocabulary), float32, of each token of B answers (B, A) from the prompt and the tokens before it."""
        given = answer_ids != IGNORED  # (B, A)
        answers = answer_ids.clamp(min=0)
        prompts = language_inputs(self.model, input_ids, **media)
        steps = answers.shape[1]
        hidden = self.model.language_model(
            **followed_by(prompts, self.get_input_embeddings()(answers[:, :-1])),
            attention_mask=torch.cat([attention_mask, given[:, :-1].long()], dim=1),
            position_ids=torch.cat([position_ids, next_positions(position_ids, steps - 1)], dim=2),
            use_cache=False,
        ).last_hidden_state  # (B, T + A - 1, H)
        return self.lm_head(hidden[:, -steps:]).float()

    def read_prompt(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, **media: torch.Tensor
    ) -> tuple[torch.Tensor, DynamicCache]:
        """One pass over B prompts: logits (B, vocabulary) of the first answer token, and the cache to continue from."""
        _check_padding(attention_mask)
        cache = DynamicCache(config=self.model.config.text_config)
        hidden = self.model.language_model(
            **language_inputs(self.model, input_ids, **media),
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state  # (B, T, H)
        return self.lm_head(hidden[:, -1]).float(), cache

    def write_greedily(
        self,
        max_new_tokens: int,
        eos_token_id: int,
        *,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        **inputs: torch.Tensor,
    ) -> torch.Tensor:
        """Greedy decoding: token ids (B, max_new_tokens), filled up with `eos_token_id` after the end.

        Raises:
            NotFiniteError: when a clip's logits are not finite.
        """
        logits, cache = self.read_prompt(attention_mask=attention_mask, position_ids=position_ids, **inputs)
        positions = next_positions(position_ids, max_new_tokens)  # (3, B, max_new_tokens)
        generated = torch.full((logits.shape[0], max_new_tokens), eos_token_id, device=logits.device)
        ended = torch.zeros(logits.shape[0], dtype=torch.bool, device=logits.device)
        for step in range(max_new_tokens):
            generated[:, step] = torch.where(ended, eos_token_id, check_finite(logits).argmax(-1))
            ended |= generated[:, step] == eos_token_id
            if step + 1 == max_new_tokens or bool(ended.all()):
                break
            attention_mask = F.pad(attention_mask, (0, 1), value=1)
            hidden = self.model.language_model(
                inputs_embeds=self.get_input_embeddings()(generated[:, step : step + 1]),
                attention_mask=attention_mask,
                position_ids=positions[:, :, step : step + 1],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state  # (B, 1, H)
            logits = self.lm_head(hidden[:, -1]).float()
        return generated

    def answer_log_probabilities(
        self,
        tree: AnswerTree,
        *,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        **media: torch.Tensor,
    ) -> torch.Tensor:
        """Exact log-probabilities (B, A) that the generated text starts with each of the A answers of a tree, in one pass.

        Raises:
            ValueError: under an attention implementation that takes no mask of its own.
            NotFiniteError: in evaluation mode, when a clip's log-probabilities are not finite.
        """
        _check_padding(attention_mask)
        if "flash" in (self.model.config._attn_implementation or ""):
            raise ValueError("the probabilities of answers need attn_implementation sdpa or eager, not flash attention")
        tree = tree.to(attention_mask.device)
        prompts = language_inputs(self.model, input_ids, **media)
        rows, length, _ = prompts["inputs_embeds"].shape
        nodes = self.get_input_embeddings()(tree.tokens).expand(rows, -1, -1)  # (B, N, H)
        hidden = self.model.language_model(
            **followed_by(prompts, nodes),
            attention_mask=tree.mask(attention_mask, nodes.dtype),
            position_ids=torch.cat([position_ids, last_position(position_ids) + tree.depths], dim=2),
            use_cache=False,
        ).last_hidden_state  # (B, T + N, H)
        logits = self.lm_head(hidden[:, length - 1 :]).float()  # (B, 1 + N, vocabulary)
        found = tree.log_probabilities(logits)
        return found if self.training else check_finite(found)


def next_positions(position_ids: torch.Tensor, count: int) -> torch.Tensor:
    """Positions (3, B, count) of text that follows prompts with positions (3, B, T), padded on the left."""
    return last_position(position_ids) + torch.arange(1, count + 1, device=position_ids.device)


def last_position(position_ids: torch.Tensor) -> torch.Tensor:
    """The largest position (3, B, 1) of the last token of prompts with positions (3, B, T), padded on the left."""
    return position_ids[:, :, -1:].amax(0, keepdim=True).expand(3, -1, -1)


def _check_padding(attention_mask: torch.Tensor) -> None:
    if not bool(attention_mask[:, -1].all()):
        raise ValueError("prompts must be padded on the left, so that each is directly followed by its answer")
