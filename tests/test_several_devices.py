"""A model whose parts are on several devices: masks and labels follow the states. GPUs are stood for by torch's fake tensors."""

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module
from torch._subclasses.fake_tensor import FakeTensorMode

from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.thinker_omnisent import _fill

EVERYWHERE = {
    "audio_tower": "disk",
    "visual": "cpu",
    "language_model.embed_tokens": "disk",
    "language_model.rotary_emb": "cpu",
    "language_model.layers": "disk",
    "language_model.norm": "disk",
}


def test_a_model_whose_weights_are_on_disk_gives_the_same_scores(model, tiny_backbone, processor, whole_clips):
    batch = processor([clip.to_dict() for clip in whole_clips[:2]] + [{"text": "no media"}])
    torch.manual_seed(0)  # of the head, as for `model`
    offloaded = OmniForSentimentRegression.from_thinker(tiny_backbone, device_map=EVERYWHERE).eval()
    assert offloaded.model.language_model.norm.weight.device.type == "meta"
    with torch.no_grad():
        # its patches are embedded by the convolution, to which the weights on disk are brought
        assert torch.allclose(offloaded(**batch).scores, model(**batch).scores, atol=1e-6)


def place(module: torch.nn.Module, device: str) -> None:
    """Put a module on a device, with the hooks of a device map."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, value in tensors.items():
                moved = None if value is None else torch.empty(value.shape, dtype=value.dtype, device=device)
                tensors[name] = torch.nn.Parameter(moved) if isinstance(value, torch.nn.Parameter) else moved
    add_hook_to_module(module, AlignDevicesHook(device))


@pytest.mark.parametrize(
    "reads",
    [
        {},
        {"pool_over": "clip", "pooling": "mean"},
        {"layers": "mix", "loss": "hl_gauss"},
        {"layers": 1, "pooling": "attention"},
    ],
    ids=str,
)
def test_masks_positions_labels_and_weights_follow_the_states(tiny_backbone, processor, reads):
    model = OmniForSentimentRegression.from_thinker(tiny_backbone, **reads).train()  # the finite check needs values
    batch = dict(processor([{"text": "short"}, {"text": "it is longer"}]).items())
    if "pool_over" in reads:
        batch["clip_mask"] = batch["attention_mask"]
    batch |= {"labels": torch.tensor([1.0, 2.0]), "sample_weight": torch.tensor([1.0, 2.0])}
    language_model = model.model.language_model
    first, *others = language_model.layers
    with FakeTensorMode():
        for module in (language_model.embed_tokens, language_model.rotary_emb, first):
            place(module, "cuda:0")
        for module in (*others, language_model.norm):
            place(module, "cuda:1")
        place(model.score, "cuda:1")
        remove_hook_from_module(model.score)  # no map has the head
        out = model(**{name: torch.empty(v.shape, dtype=v.dtype, device="cuda:2") for name, v in batch.items()})
        assert out.loss.device == out.scores.device == torch.device("cuda:1")


def test_placeholders_follow_the_embeddings():
    with FakeTensorMode():
        embeds, features = torch.empty(1, 1, 4, device="cuda:1"), torch.empty(1, 4, device="cuda:0")
        assert _fill(embeds, torch.tensor([[7]]) == 7, features).device == torch.device("cuda:1")
