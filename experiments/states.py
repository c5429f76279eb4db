"""Hidden states of clips from a model that is not trained further, as they come or of the last token as arrays, for studies.

Nothing is trained or scored here.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..adapter_omnisent import AdaptedThinker
from ..data.clip import Clip
from ..heads_omnisent import pool_last_token
from ..processing_omnisent import OmniSentProcessor
from ..readouts.discriminative import DiscriminativeReadout
from ..thinker_omnisent import language_inputs
from ..training.arguments import OmniSentTrainingArguments
from ..training.collator import ClipCollator, ClipDataset

Batch = tuple[Sequence[torch.Tensor], torch.Tensor, torch.Tensor]


def layer_states(
    model: AdaptedThinker,
    clips: Sequence[Clip],
    processor: OmniSentProcessor,
    args: OmniSentTrainingArguments,
    *,
    every_layer: bool = True,
) -> Iterator[Batch]:
    """States of labelled clips, batch by batch in their order: the token embeddings, then each of the L layers.

    The last one is after the final norm: it is what the regression head and the lm_head read.

    Args:
        model: of any readout; its adapter, if it has one, is active.
        clips: with labels.
        processor: with the run's prompt, modalities and frame budget.
        args: batch size and workers.
        every_layer: `False` for the last layer only, which keeps no other layer's states in memory.

    Yields:
        Layers (B, T, H) each, the mask (B, T), and that of the clips' own tokens (B, T), which is the mask itself unless the
        processor marks them.
    """
    readout = DiscriminativeReadout((-np.inf, np.inf))
    loader = DataLoader(
        ClipDataset(clips, processor, [readout]),
        batch_size=args.per_device_eval_batch_size,
        num_workers=args.dataloader_num_workers,
        collate_fn=ClipCollator(processor, readout),
    )
    model.eval()
    device = model.get_input_embeddings().weight.device
    for batch in tqdm(loader, desc="hidden states", unit="batch", disable=args.disable_tqdm):
        inputs = {key: value.to(device) for key, value in batch.items() if key not in ("labels", "clip_index")}
        mask, positions = inputs.pop("attention_mask"), inputs.pop("position_ids")
        own = inputs.pop("clip_mask", mask)
        with torch.no_grad():
            output = model.model.language_model(
                **language_inputs(model.model, **inputs),
                attention_mask=mask,
                position_ids=positions,
                use_cache=False,
                output_hidden_states=every_layer,
            )
        yield output.hidden_states if every_layer else (output.last_hidden_state,), mask, own


def last_token_states(
    model: AdaptedThinker,
    clips: Sequence[Clip],
    processor: OmniSentProcessor,
    args: OmniSentTrainingArguments,
    *,
    every_layer: bool = True,
) -> np.ndarray:
    """States (L + 1, n, H) of the last non-padding token of n labelled clips, float32; see `layer_states`.

    With `every_layer=False` of the last layer only, (1, n, H).
    """
    parts = [
        torch.stack([pool_last_token(layer, mask).float().cpu() for layer in layers])
        for layers, mask, _ in layer_states(model, clips, processor, args, every_layer=every_layer)
    ]
    return torch.cat(parts, dim=1).numpy()
