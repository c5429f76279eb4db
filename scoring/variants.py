"""Scores variants of one clip that share its media, such as the clip without a word: the towers run once.

The language model reads only what comes after the first difference from the whole clip: up to there, its keys and values are those
of the whole clip. The scores are those of scoring each variant anew, to float rounding.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from ..errors_omnisent import OmniSentError
from ..feeding_omnisent import MOST_TOKENS, Batching
from ..heads_omnisent import check_finite
from ..modeling_omnisent import OmniForSentimentRegression
from ..pipeline_omnisent import MultimodalSentimentPipeline
from ..thinker_inputs_omnisent import TOWER_INPUTS
from ..thinker_omnisent import language_inputs
from ..towers_omnisent import tower_features

PACKED_TOKENS = 512  # of the variants that are read at once, each after the same beginning
VARIANTS_AT_ONCE = 8
# What an encoded clip has of its media.
MEDIA = {
    "audio": ("input_features", "audio_embeds"),
    "video": ("video_patches", "video_grid_thw", "pair_seconds", "video_embeds"),
}
Encoded = dict[str, Any]


def with_features(pipeline: MultimodalSentimentPipeline, encoded: Encoded) -> Encoded:
    """An encoded clip with `audio_embeds` and `video_embeds`, the towers' outputs, beside their inputs."""
    batch = pipeline.processor.pad([encoded])
    inputs = {name: batch[name].to(pipeline.device) for name in TOWER_INPUTS if name in batch}
    with torch.no_grad():
        features = tower_features(_thinker(pipeline.model), **inputs)
    return {**encoded, **{name: values.cpu() for name, values in features.items()}}


def as_variant(laid_out: Encoded) -> Encoded:
    """A variant as the model takes it: with the towers' outputs of `with_features`, and without their inputs."""
    unread = (*TOWER_INPUTS, "pair_seconds")
    return {name: value for name, value in laid_out.items() if name not in unread}


def without_media(encoded: Encoded, left_out: Sequence[str]) -> Encoded:
    """The inputs of an encoded clip's media, and their features, but those of some modalities."""
    kept = [name for modality, names in MEDIA.items() if modality not in left_out for name in names]
    return {name: encoded[name] for name in kept if name in encoded}


def score_variants(
    pipeline: MultimodalSentimentPipeline, variants: Sequence[Encoded], **options: Any
) -> list[dict[str, Any]]:
    """The pipeline's results of variants, the first of which is the whole clip; the others' have scores alone.

    Args:
        pipeline: computes the scores.
        variants: as `as_variant` gives them.
        **options: of the pipeline, such as `interval`, for the whole clip.

    Raises:
        OmniSentError: for a score that is not finite.
    """
    model = pipeline.model
    if not _can_share(model):
        return _scored_apart(pipeline, variants[:1], **options) + _scored_apart(pipeline, variants[1:])
    whole, others = variants[0], variants[1:]
    shared = {place: _common(whole, one) for place, one in enumerate(others)}
    packable = [place for place in shared if not _has_media(pipeline, others[place]["input_ids"][shared[place] :])]
    apart = [place for place in shared if place not in packable]
    with torch.no_grad():
        result, scores = _read_together(pipeline, whole, [(others[at], shared[at]) for at in packable], **options)
    found = dict(zip(packable, scores, strict=True))
    found |= dict(zip(apart, _scored_apart(pipeline, [others[at] for at in apart]), strict=True))
    return [result, *(found[place] for place in range(len(others)))]


def _thinker(model: Any) -> Any:
    """The headless Thinker of a bundle, or of a base model that is scored zero-shot."""
    return model.model if isinstance(model, OmniForSentimentRegression) else model.generator.model


def _can_share(model: Any) -> bool:
    """Whether the model's keys and values can be read again, under a mask of our own."""
    if not isinstance(model, OmniForSentimentRegression):
        return False
    text = model.config.thinker_config.text_config
    kinds = set(getattr(text, "layer_types", None) or ("full_attention",))
    attention = model.model.language_model.config._attn_implementation
    return kinds == {"full_attention"} and attention in ("sdpa", "eager")


def _scored_apart(
    pipeline: MultimodalSentimentPipeline, variants: Sequence[Encoded], **options: Any
) -> list[dict[str, Any]]:
    batching = Batching(VARIANTS_AT_ONCE, MOST_TOKENS)
    return pipeline.score_encoded(list(variants), batching=batching, **options)


def _common(whole: Encoded, other: Encoded) -> int:
    """How many tokens two clips start with alike, at the same positions; at least one token of the other is not among them."""
    length = min(len(whole["input_ids"]), len(other["input_ids"]) - 1)
    alike = whole["input_ids"][:length] == other["input_ids"][:length]
    alike &= (whole["position_ids"][:, :length] == other["position_ids"][:, :length]).all(0)
    return int(alike.long().cumprod(0).sum())


def _has_media(pipeline: MultimodalSentimentPipeline, input_ids: torch.Tensor) -> bool:
    tokenizer = pipeline.processor.tokenizer
    placeholders = torch.tensor([tokenizer.audio_token_id, tokenizer.video_token_id])
    return bool(torch.isin(input_ids, placeholders).any())


def _read_together(
    pipeline: MultimodalSentimentPipeline, whole: Encoded, others: Sequence[tuple[Encoded, int]], **options: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result of the whole clip, and those of variants that share a beginning of so many tokens with it."""
    model: OmniForSentimentRegression = pipeline.model
    cache = DynamicCache(config=model.config.thinker_config.text_config)
    batch = pipeline.processor.pad([whole]).to(pipeline.device)
    features = {name: batch[name] for name in ("audio_embeds", "video_embeds") if name in batch}
    read = language_inputs(model.model, batch["input_ids"], **features)
    read |= {name: batch[name] for name in ("attention_mask", "position_ids")}
    states = model._read({**read, "past_key_values": cache, "use_cache": True})  # (1, T, H)
    result = _result(pipeline, whole, states, **options)
    length, scores = states.shape[1], []
    for pack in _packs(others):
        packed = _read_packed(pipeline, cache, pack)  # (1, Q, H)
        cache.crop(length - cache.get_seq_length())
        start = 0
        for other, shared in pack:
            end = start + len(other["input_ids"]) - shared
            scores.append(_result(pipeline, other, torch.cat([states[:, :shared], packed[:, start:end]], dim=1)))
            start = end
    return result, scores


def _packs(others: Sequence[tuple[Encoded, int]]) -> Iterator[list[tuple[Encoded, int]]]:
    """Variants in their order, whose ends are of PACKED_TOKENS tokens together."""
    pack: list[tuple[Encoded, int]] = []
    tokens = 0
    for other, shared in others:
        own = len(other["input_ids"]) - shared
        if pack and tokens + own > PACKED_TOKENS:
            yield pack
            pack, tokens = [], 0
        pack.append((other, shared))
        tokens += own
    if pack:
        yield pack


def _read_packed(
    pipeline: MultimodalSentimentPipeline, cache: DynamicCache, pack: Sequence[tuple[Encoded, int]]
) -> torch.Tensor:
    """The states (1, Q, H) of the ends of several variants, one after another; each reads its own beginning and itself."""
    model, device = pipeline.model, pipeline.device
    ends = [len(other["input_ids"]) - shared for other, shared in pack]
    past = cache.get_seq_length()
    allowed = torch.zeros(sum(ends), past + sum(ends), dtype=torch.bool)  # (Q, P + Q)
    start = 0
    for (_, shared), end in zip(pack, ends, strict=True):
        rows = slice(start, start + end)
        allowed[rows, :shared] = True
        allowed[rows, past + start : past + start + end] = torch.ones(end, end, dtype=torch.bool).tril()
        start += end
    embed = model.model.get_input_embeddings()
    embeds = embed(torch.cat([other["input_ids"][shared:] for other, shared in pack])[None].to(device))  # (1, Q, H)
    mask = torch.zeros(allowed.shape, dtype=embeds.dtype).masked_fill_(~allowed, torch.finfo(embeds.dtype).min)
    positions = torch.cat([other["position_ids"][:, shared:] for other, shared in pack], dim=1)[:, None]  # (3, 1, Q)
    return model._read(
        {
            "inputs_embeds": embeds,
            "attention_mask": mask[None, None].to(device),
            "position_ids": positions.to(device),
            "past_key_values": cache,
            "use_cache": True,
        }
    )


def _result(
    pipeline: MultimodalSentimentPipeline, encoded: Mapping[str, Any], states: torch.Tensor, **options: Any
) -> dict[str, Any]:
    """The pipeline's result of a clip, from the states (1, T, H) that the head reads."""
    model = pipeline.model
    mask = encoded.get("clip_mask") if model.config.pool_over == "clip" else None
    mask = torch.ones(states.shape[1], dtype=torch.long) if mask is None else mask
    _, outputs = model.score(states, mask[None].to(states.device))
    objective = model.config.objective
    try:
        scores = check_finite(objective.clip(objective.scores(outputs)))
    except OmniSentError as error:
        raise OmniSentError(f"clip {encoded['clip_id']}: {error}") from error
    rows = objective.distribution(outputs)
    scored = {"scores": scores.reshape(-1).tolist(), "distribution": None if rows is None else rows[0].float()}
    if encoded.get("warning"):
        scored["warning"] = encoded["warning"]
    return pipeline.postprocess(
        scored, **{**pipeline._postprocess_params, **pipeline._sanitize_parameters(**options)[2]}
    )
