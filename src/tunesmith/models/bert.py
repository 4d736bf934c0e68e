"""Hidden states of an encoder of the BERT family over a padded batch: the forward pass of training and of answering.

On a CPU, work token by token is done for real tokens only, and in the last block only for those whose hidden states are
wanted: one a text for a classifier, one in seven for masked language modelling. Linear layers, norms and whatever a peft
method put in their place are called as modules; where it is in the place of something this pass does not call, and on a
GPU, the model's own code runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from tunesmith.core.levers import on
from tunesmith.models.encoder_operations import Attention, Dropout, LookUp
from tunesmith.models.layout import Layout
from tunesmith.models.operations import TakeRows
from tunesmith.models.soft_prefix import soft_prefix_of

# Names of transformers' classes begin with one of these; their blocks are the same, only positions count differently.
_FAMILIES = ("Bert", "Roberta", "XLMRoberta", "Camembert")


def hidden_states(model: Any, ids: torch.Tensor, lengths: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the last hidden states [M, D] at the M wanted positions, in row order.

    Args:
        model: an encoder of transformers, with or without a head. ids: [B, T], padded on the right.
        lengths: [B] real tokens. wanted: [B, T] booleans, of real tokens only.
    """
    trunk = model.base_model
    if not _is_known(model, ids.device):
        return trunk(input_ids=ids, attention_mask=real_tokens(ids, lengths).long()).last_hidden_state[wanted]
    layout = Layout.of(lengths, ids.shape[1])
    padding = None
    if int(lengths.min()) < ids.shape[1]:
        padding = torch.zeros(ids.shape, dtype=trunk.dtype).masked_fill_(~real_tokens(ids, lengths), -torch.inf)
    x = _embedded(trunk.embeddings, layout.real(ids), layout.real(_positions(ids, trunk.embeddings)))
    chosen = _Chosen.of(layout, wanted)
    *blocks, last = trunk.encoder.layer
    for block in blocks:
        x = _kept_or_made_again(block, x, layout, padding, None)
    return _kept_or_made_again(last, x, layout, padding, chosen)


def class_logits(model: Any, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the logits [B, L] of a classifier over whole texts.

    Args:
        model: an encoder of transformers for sequence classification. ids, lengths: as in `hidden_states`.
    """
    if not _is_known(model, ids.device) or not type(model).__name__.endswith("ForSequenceClassification"):
        return model(input_ids=ids, attention_mask=real_tokens(ids, lengths).long()).logits
    first = torch.zeros_like(ids, dtype=torch.bool)
    first[:, 0] = True
    hidden = hidden_states(model, ids, lengths, first)[:, None]
    if not hasattr(model, "bert"):  # the head of the others does all the rest
        return model.classifier(hidden)
    return model.classifier(model.dropout(model.bert.pooler(hidden)))


def real_tokens(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the [B, T] booleans of real tokens, for rows padded on the right."""
    return torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]


def _is_known(model: Any, device: torch.device) -> bool:
    """Whether this pass computes what the model's own code would."""
    trunk, config = model.base_model, model.config
    family = type(trunk).__name__.removesuffix("Model")
    return (
        on("encoder")
        and device.type == "cpu"
        and family in _FAMILIES
        and not config.is_decoder
        and not config.add_cross_attention
        and soft_prefix_of(model) is None
        and all(map(_untouched, _bypassed(trunk)))
        # A block whose weights are divided among workers gathers them when it is called itself.
        and not (dist.is_available() and dist.is_initialized())
    )


def _bypassed(trunk: Any) -> Iterator[Any]:
    """The modules whose parts are called, but not they themselves."""
    yield trunk.embeddings
    for layer in trunk.encoder.layer:
        yield layer
        if _untouched(layer):
            yield layer.attention
            if _untouched(layer.attention):
                yield layer.attention.self


def _untouched(module: nn.Module) -> bool:
    """Whether a module is the library's own, with nothing hooked on."""
    return type(module).__module__.startswith("transformers.models.") and not _hooked(module)


def _plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    return type(module) is kind and not _hooked(module)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


@dataclass(frozen=True)
class _Chosen:
    """The tokens whose last hidden states are wanted: places [M] among those of the layout, and their own layout."""

    places: torch.Tensor
    layout: Layout

    @classmethod
    def of(cls, layout: Layout, wanted: torch.Tensor) -> _Chosen | None:
        """Return None where all tokens are wanted."""
        places = layout.real(wanted).nonzero()[:, 0]
        if len(places) == (layout.batch * layout.length if layout.index is None else len(layout.index)):
            return None
        each = wanted.sum(1)
        return cls(places, Layout.exactly(each, max(int(each.max()), 1)))


def _positions(ids: torch.Tensor, embeddings: Any) -> torch.Tensor:
    """Return the position [B, T] of every token; all but BERT count tokens that are not padding, from behind its number."""
    if type(embeddings).__name__ == "BertEmbeddings":
        return torch.arange(ids.shape[1]).expand_as(ids)
    counted = (ids != embeddings.padding_idx).long()
    return counted.cumsum(1) * counted + embeddings.padding_idx


def _embedded(embeddings: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the embeddings [N, D] of tokens, all of the first type."""
    types = torch.zeros_like(ids)
    parts = (
        (embeddings.word_embeddings, ids),
        (embeddings.position_embeddings, positions),
        (embeddings.token_type_embeddings, types),
    )
    word, position, kind = (
        LookUp.apply(part.weight, where, part.padding_idx) if _plain(part, nn.Embedding) else part(where) for part, where in parts
    )
    return _dropped(embeddings.dropout, embeddings.LayerNorm(word + kind + position))


def _kept_or_made_again(block: Any, x: torch.Tensor, layout: Layout, padding: torch.Tensor | None, chosen: Any) -> torch.Tensor:
    if block.gradient_checkpointing and block.training and torch.is_grad_enabled():
        made: Any = checkpoint(_block, block, x, layout, padding, chosen, use_reentrant=False)
        return made
    return _block(block, x, layout, padding, chosen)


def _block(block: Any, x: torch.Tensor, layout: Layout, padding: torch.Tensor | None, chosen: _Chosen | None) -> torch.Tensor:
    """One block: x [N, D] -> [N, D], or [M, D] of those chosen."""
    attention = block.attention.self
    if chosen is None:
        queries, asked = x, layout
        q, k, v = _side_by_side(x, attention.query, attention.key, attention.value)
    else:
        queries, asked = TakeRows.apply(x, chosen.places), chosen.layout
        q = attention.query(queries)
        k, v = _side_by_side(x, attention.key, attention.value)
    p = attention.dropout.p if block.training else 0.0
    heads = attention.num_attention_heads
    mixed = Attention.apply(asked.padded(q), layout.padded(k), layout.padded(v), padding, heads, p)
    x = _after(block.attention.output, asked.packed(mixed), queries)
    return _after(block.output, block.intermediate(x), x)


def _side_by_side(x: torch.Tensor, *modules: Any) -> tuple[torch.Tensor, ...]:
    """Apply several linear layers to the same input [N, K]: one product where none is more than that."""
    if (
        not all(_plain(m, nn.Linear) and m.bias is not None for m in modules)
        or len({m.weight.requires_grad for m in modules}) > 1
    ):
        return tuple(module(x) for module in modules)
    weight, bias = torch.cat([m.weight for m in modules]), torch.cat([m.bias for m in modules])
    return nn.functional.linear(x, weight, bias).split([m.out_features for m in modules], -1)


def _after(output: Any, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """Return norm(residual + dropout(W x + b)) [N, D], for x [N, K]."""
    if not _untouched(output):
        return output(x, residual)
    return output.LayerNorm(_dropped(output.dropout, output.dense(x)) + residual)


def _dropped(dropout: nn.Module, x: torch.Tensor) -> torch.Tensor:
    if not _plain(dropout, nn.Dropout):
        return dropout(x)
    assert isinstance(dropout, nn.Dropout)
    return Dropout.apply(x, dropout.p) if dropout.training and dropout.p else x
