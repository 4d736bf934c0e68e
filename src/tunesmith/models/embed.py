"""Sentence embeddings with MiniLM: mean of the last hidden states over real tokens, scaled to length one."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from tunesmith.core.progress import Progress
from tunesmith.models import embedded
from tunesmith.models.bert import hidden_states

_BATCH = 64
_LONGEST = 256


def embed_texts(texts: Sequence[str], title: str = "") -> Any:
    """Return unit vectors [N, 384] as a float32 numpy array (Reimers & Gurevych 2019, mean pooling).

    Texts longer than 256 tokens are embedded by their first 256, the length the model was trained with.
    """
    import numpy as np

    tokenizer, model = _open()
    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    with torch.inference_mode(), Progress(title, total=len(texts), unit="texts") as progress:
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            batch = tokenizer([texts[i] for i in chosen], padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt")
            real, lengths = batch["attention_mask"].bool(), batch["attention_mask"].sum(1)
            hidden = hidden_states(model, batch["input_ids"], lengths, real)
            rows = torch.arange(len(chosen)).repeat_interleave(lengths)
            mean = hidden.new_zeros(len(chosen), hidden.shape[1]).index_add_(0, rows, hidden) / lengths[:, None]
            vectors[chosen] = torch.nn.functional.normalize(mean, dim=-1).numpy()
            progress.advance(len(chosen))
    return vectors


def count_cut(texts: Sequence[str]) -> int:
    """Return how many texts are longer than the 256 tokens they are embedded by."""
    tokenizer, _ = _open()
    # A token stands for at least one character, and two tokens open and close a text.
    long = [text for text in texts if len(text) > _LONGEST - 2]
    return sum(len(ids) > _LONGEST for ids in tokenizer(long).input_ids) if long else 0


@functools.cache
def _open() -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    folder = embedded.folder_of("minilm")
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
    return AutoTokenizer.from_pretrained(folder), model
