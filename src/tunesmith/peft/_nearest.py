"""Which words of the vocabulary trained embeddings are closest to (Lester et al. 2021, section 7)."""

from __future__ import annotations

import torch


def nearest_tokens(embeddings: torch.Tensor, table: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the nearest tokens by cosine; by dot product, long embeddings would be near to everything.

    Args:
        embeddings: [p, D]. table: the vocabulary's embeddings [V, D]; a row of zeros is near to nothing.

    Returns:
        Token ids and cosine similarities, both [p, min(count, V)], nearest first.
    """
    directions = torch.nn.functional.normalize(table.float(), dim=1)
    similarities = torch.nn.functional.normalize(embeddings.float(), dim=1) @ directions.T
    top = similarities.topk(min(count, len(table)), dim=1)
    return top.indices, top.values
