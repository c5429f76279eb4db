"""What autograd keeps of a forward pass."""

from collections.abc import Mapping

import torch
from torch import nn


def kept_bytes(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> int:
    """Bytes of the distinct storages that are kept for backward, without parameters and buffers."""
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(**batch)
    del outputs
    return sum(kept.values())
