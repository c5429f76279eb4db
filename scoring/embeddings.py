"""The states that the head reads of each clip, as a file: one row of H numbers a clip, with its id, and what they come from."""

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..configuration_omnisent import OmniSentConfig
from ..data.draft import draft_of
from ..family_omnisent import ThinkerConfig

POOLED = "pooled"  # the cell of a row
METADATA = b"omnisent"  # the key in a Parquet file's schema


def as_cell(pooled: torch.Tensor) -> str:
    """States (H,) as the text of a cell: base64 of float32, the lowest byte first."""
    return base64.b64encode(pooled.cpu().numpy().astype("<f4").tobytes()).decode()


def description(model: str, config: OmniSentConfig) -> dict[str, Any]:
    """What the states come from: model, layers, pooling and the tokens that it is over, and what the model says of itself."""
    thinker: ThinkerConfig = config.thinker_config
    return {
        "model": model,
        **{name: getattr(config, name) for name in ("layers", "pooling", "pool_over", "about")},
        "hidden_size": thinker.text_config.hidden_size,
    }


def write_embeddings(path: Path, rows: Iterable[Mapping[str, Any]], about: Mapping[str, Any]) -> int:
    """Write the states of the rows that have some, atomically.

    A Parquet file has the columns `id` and `embedding`, a list of H float32, and `about` as JSON under `omnisent` in the metadata
    of its schema. An .npz has the arrays `ids` (n,), `embeddings` (n, H) float32 and `about`, JSON.

    Returns:
        n, the number of clips.
    """
    found = [(row["id"], row[POOLED]) for row in rows if row.get(POOLED)]
    ids, width = [one for one, _ in found], about["hidden_size"]
    states = np.frombuffer(b"".join(base64.b64decode(cell) for _, cell in found), "<f4").reshape(len(ids), width)
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft_of(path) as draft, open(draft, "wb") as file:
        if path.suffix.lower() == ".npz":
            np.savez(file, ids=np.array(ids, str), embeddings=states, about=np.array(json.dumps(about)))
        else:
            column = pa.FixedSizeListArray.from_arrays(pa.array(states.reshape(-1)), width)
            schema = pa.schema(
                [("id", pa.string()), ("embedding", column.type)], metadata={METADATA: json.dumps(about).encode()}
            )
            pq.write_table(pa.Table.from_arrays([pa.array(ids, pa.string()), column], schema=schema), file)
    return len(ids)
