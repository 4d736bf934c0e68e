"""What a head makes of an encoder's states: logits of texts, of tokens, or of the two ends of a span."""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.models.load import LM


def separator_of(tokenizer: Any) -> int:
    """Return the token that parts the two texts of a pair: [SEP] of BERT; without one, the end-of-sequence token."""
    return int(tokenizer.eos_token_id if tokenizer.sep_token_id is None else tokenizer.sep_token_id)


def attention(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the [B, T] mask of real tokens, 1 = real, for rows padded on the right."""
    return (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()


def second_text(ids: torch.Tensor, lengths: torch.Tensor, separator: int) -> torch.Tensor:
    """Return the [B, T] mask of the real tokens behind a row's first separator: the second text of a pair and what ends it.

    No text holds the separator, because none is tokenised to a control token.
    """
    marks = ids == separator
    return ((marks.cumsum(1) - marks.long()) > 0) & attention(ids, lengths).bool()


def answer_places(ids: torch.Tensor, lengths: torch.Tensor, separator: int) -> torch.Tensor:
    """Return the [B, T] mask of where an answer can begin or end: the second text, and the first token for "no answer"."""
    places = second_text(ids, lengths, separator) & (ids != separator)
    places[:, 0] = True
    return places


def head_logits(lm: LM, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the logits of a model with a head, for rows padded on the right.

    Args:
        ids: [B, T]; of pairs, with the separator between the texts: the second has segment number 1 where the model knows
            segments (Devlin et al. 2019, figure 2).

    Returns:
        [B, L] for texts, [B, T, L] for tokens, [B, T, 2] for spans.
    """
    inputs = {"input_ids": ids, "attention_mask": attention(ids, lengths)}
    second = second_text(ids, lengths, separator_of(lm.tokenizer))
    if getattr(lm.model.config, "type_vocab_size", 0) > 1 and bool(second.any()):
        inputs["token_type_ids"] = second.long()
    if getattr(lm.model.config, "pooling", "pooler") == "mean":
        return lm.model.classifier(lm.model.dropout(_mean(lm.model.base_model(**inputs).last_hidden_state, lengths)))
    made = lm.model(**inputs)
    return torch.stack([made.start_logits, made.end_logits], -1) if "start_logits" in made else made.logits


def _mean(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    real = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
    return (states * real[..., None]).sum(1) / lengths[:, None].to(states.dtype)
