"""What a head makes of an encoder's hidden states: logits of whole texts, of words, or of the two ends of a span."""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.models import bert
from tunesmith.models.load import LM


def separator_of(tokenizer: Any) -> int:
    """Return the token that parts the two texts of a pair: [SEP] of BERT; without one, the end-of-sequence token."""
    return int(tokenizer.eos_token_id if tokenizer.sep_token_id is None else tokenizer.sep_token_id)


def answer_places(lm: LM, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the [B, T] mask of where an answer can begin or end: the second text, and the first token for "no answer"."""
    separator = separator_of(lm.tokenizer)
    places = _second_text(ids, lengths, separator) & (ids != separator)
    places[:, 0] = True
    return places


def text_logits(lm: LM, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return [B, L] logits of texts or pairs, ids [B, T] padded on the right: from the first token, or the mean of all."""
    model, kinds = lm.model, _segments(lm, ids, lengths)
    if getattr(model.config, "pooling", "pooler") != "mean":
        return bert.class_logits(model, ids, lengths, kinds)
    real = bert.real_tokens(ids, lengths)
    states = bert.hidden_states(model, ids, lengths, real, kinds)
    row = torch.arange(len(ids), device=ids.device).repeat_interleave(lengths)
    summed = states.new_zeros(len(ids), states.shape[1]).index_add(0, row, states)
    return model.classifier(model.dropout(summed / lengths[:, None].to(states.dtype)))


def word_logits(lm: LM, ids: torch.Tensor, lengths: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return [N, L] logits at the N places of words' first sub-tokens, places [B, T], row by row."""
    if not bert.is_known(lm.model, ids.device):
        return lm.model(**bert.inputs_of(ids, lengths, None)).logits[places]
    return lm.model.classifier(lm.model.dropout(bert.hidden_states(lm.model, ids, lengths, places)))


def span_logits(lm: LM, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return [B, T, 2] logits of being the start and the end of the answer; nothing but `answer_places` means anything."""
    kinds = _segments(lm, ids, lengths)
    if not bert.is_known(lm.model, ids.device):
        made = lm.model(**bert.inputs_of(ids, lengths, kinds))
        return torch.stack([made.start_logits, made.end_logits], -1)
    places = answer_places(lm, ids, lengths)
    found = lm.model.qa_outputs(bert.hidden_states(lm.model, ids, lengths, places, kinds))
    return found.new_zeros(*ids.shape, 2).index_put(tuple(places.nonzero().T), found)


def _segments(lm: LM, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor | None:
    """Return segment numbers [B, T] (Devlin et al. 2019, figure 2); None where all texts stand alone or the model knows none."""
    second = _second_text(ids, lengths, separator_of(lm.tokenizer))
    known = getattr(lm.model.config, "type_vocab_size", 0) > 1
    return second.long() if known and bool(second.any()) else None


def _second_text(ids: torch.Tensor, lengths: torch.Tensor, separator: int) -> torch.Tensor:
    """Return the [B, T] mask of the real tokens behind a row's first separator: the second text of a pair and what ends it.

    No text holds the separator, because none is tokenised to a control token.
    """
    marks = ids == separator
    return ((marks.cumsum(1) - marks.long()) > 0) & bert.real_tokens(ids, lengths)
