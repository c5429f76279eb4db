"""Runs the Thinker's audio and vision towers fast: windows of one length in one attention call, patches as a matrix product.

Results equal those of transformers' own forward. Knows no head and no score.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .families_omnisent import family_of
from .family_omnisent import ThinkerFamily
from .thinker_inputs_omnisent import pixel_values

# The towers hand the bounds of their windows only to an attention whose name contains "flash".
WINDOW_ATTENTION = "omnisent_flash_windows"
MOST_PATCHES = 32_768  # of one forward pass of a frozen vision tower: four clips of 16 frames at 336 x 588

# By the bounds of windows, which all blocks of a forward pass share: see `_groups`.
_GROUPS: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_CLASSES: dict[tuple[type, type], type] = {}


def tower_features(
    thinker: Any,
    input_features: torch.Tensor | None = None,
    feature_attention_mask: torch.Tensor | None = None,
    video_patches: torch.Tensor | None = None,
    video_mean_std: torch.Tensor | None = None,
    video_grid_thw: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """The towers' outputs for audio and video; a frozen tower runs without autograd, and on MOST_PATCHES patches at once.

    Args:
        thinker: the headless Thinker.
        input_features: (A, mel bins, M) log-mel of the A clips that have audio, padded to M.
        feature_attention_mask: (A, M), 0 for padding.
        video_patches: (P, patch values) uint8, the patches of all videos one after another.
        video_mean_std: (2, channels), with which they are normalised, levels of 0 to 255.
        video_grid_thw: (V, 3), patches in time, height and width of each of the V videos.

    Returns:
        `audio_embeds` (audio tokens, H) and `video_embeds` (video tokens, H, or more: see `ThinkerFamily.video_features`), clip
        after clip; each only if there is any.
    """
    features, family = {}, family_of(thinker.config)
    if input_features is not None:
        speed_up(thinker.audio_tower, family)
        with _frozen(thinker.audio_tower):
            features["audio_embeds"] = family.audio_features(thinker, input_features, feature_attention_mask)
    if video_patches is not None and video_mean_std is not None and video_grid_thw is not None:
        speed_up(thinker.visual, family)
        most = None if _is_trained(thinker.visual) else MOST_PATCHES
        outputs: list[torch.Tensor] = []
        with _frozen(thinker.visual):
            for videos, patches in _parts(video_grid_thw, most):
                values = pixel_values(video_patches[patches], video_mean_std)
                outputs.append(family.video_features(thinker, values, video_grid_thw[videos]))
        features["video_embeds"] = torch.cat(outputs)
    return features


def speed_up(tower: nn.Module, family: ThinkerFamily) -> None:
    """Let a tower that attends by sdpa attend to windows of one length at once, and embed patches by a matrix product."""
    config: Any = tower.config
    if config._attn_implementation == "sdpa":
        own = copy.copy(config)  # the Thinker's configuration stays as it is: models are built from it
        own._attn_implementation = WINDOW_ATTENTION
        modules: Iterator[Any] = tower.modules()
        for module in modules:
            if getattr(module, "config", None) is config:
                module.config = own
    patch_embed: Any = getattr(tower, "patch_embed", None)
    if type(patch_embed) is family.patch_embed_class and type(patch_embed.proj) is nn.Conv3d:  # without an adapter
        patch_embed.__class__ = with_mixin(PatchProduct, type(patch_embed))  # the same weights under the same names


class PatchProduct:
    """A patch embedding as one matrix product; its convolution's kernel is as large as a patch."""

    def forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        """Embeddings (P, hidden size) of patches (P, patch values)."""
        weight = self.proj.weight.flatten(1)  # (hidden size, patch values)
        return functional.linear(hidden_states.to(weight.dtype), weight, self.proj.bias)


def attend_in_windows(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    scaling: float,
    dropout: float,
    cu_seq_lens_q: torch.Tensor,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of each token to the tokens of its window, with one call of sdpa for each distinct length of a window.

    Args:
        module: unused, like the other keywords; transformers passes them to every attention.
        query, key, value: (1, heads, T, D).
        attention_mask: none.
        scaling: of the products of queries and keys.
        dropout: of the weights.
        cu_seq_lens_q: (windows + 1,), where windows start and end.

    Returns:
        The outputs (1, T, heads, D).
    """
    groups, restore = _groups(cu_seq_lens_q)
    outputs = []
    for length, tokens in groups:
        own = [states[0] if tokens is None else states[0].index_select(1, tokens) for states in (query, key, value)]
        q, k, v = (states.unflatten(1, (-1, length)).transpose(0, 1) for states in own)  # (windows, heads, length, D)
        output = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        outputs.append(output.transpose(1, 2).flatten(0, 1))  # (tokens, heads, D)
    output = outputs[0] if restore is None else torch.cat(outputs).index_select(0, restore)
    return output[None], None


ALL_ATTENTION_FUNCTIONS.register(WINDOW_ATTENTION, attend_in_windows)


def _groups(bounds: torch.Tensor) -> tuple[list[tuple[int, torch.Tensor | None]], torch.Tensor | None]:
    """The windows by length: each length with the tokens of its windows, and where each token's output is.

    With a single length, both are `None`. They are kept as long as the bounds, which are read from the device once.
    """
    if bounds not in _GROUPS:
        ends = bounds.tolist()
        by_length: dict[int, list[torch.Tensor]] = {}
        for start, end in pairwise(ends):
            if end > start:
                by_length.setdefault(end - start, []).append(torch.arange(start, end))
        if len(by_length) == 1:
            _GROUPS[bounds] = [(next(iter(by_length)), None)], None
        else:
            tokens = {length: torch.cat(windows) for length, windows in by_length.items()}
            restore = torch.argsort(torch.cat(list(tokens.values())))
            groups = [(length, own.to(bounds.device)) for length, own in tokens.items()]
            _GROUPS[bounds] = groups, restore.to(bounds.device)
    return _GROUPS[bounds]


def _parts(grid: torch.Tensor, most: int | None) -> Iterator[tuple[slice, slice]]:
    """Consecutive videos, and their patches, of at most so many patches each; a longer video is a part of its own.

    Args:
        grid: (V, 3).
        most: `None` for all at once.
    """
    sizes: Sequence[int] = grid.prod(-1).tolist()
    first = start = end = 0
    for video, size in enumerate(sizes):
        if most is not None and video > first and end + size - start > most:
            yield slice(first, video), slice(start, end)
            first, start = video, end
        end += size
    yield slice(first, len(sizes)), slice(start, end)


def _is_trained(tower: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in tower.parameters())


def _frozen(tower: nn.Module) -> AbstractContextManager[None]:
    """Without autograd, unless one of the tower's parameters is trained."""
    return nullcontext() if _is_trained(tower) else torch.no_grad()


def with_mixin(mixin: type, base: type) -> type:
    """A class in front of another one, under its name; the same for all modules of a class."""
    if issubclass(base, mixin):
        return base
    if (mixin, base) not in _CLASSES:
        _CLASSES[mixin, base] = type(base.__name__, (mixin, base), {"__module__": base.__module__})
    return _CLASSES[mixin, base]
