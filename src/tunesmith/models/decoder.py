"""Hidden states of a decoder over a padded batch, at the positions that are wanted: the forward pass of training.

On a CPU, models of the Llama family run through the operations of `models.operations`; all others, and every model on a
GPU, run through their own code, whose blocks are compiled on a GPU. Linear layers are called as modules, so whatever a peft
method put in their place works.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from tunesmith.core.errors import UserError
from tunesmith.core.levers import on
from tunesmith.models.beginnings import Branched, branched
from tunesmith.models.layout import Layout
from tunesmith.models.operations import CausalAttention, RMSNorm, Rotate, SwiGLU, TakeRows
from tunesmith.models.soft_prefix import SoftPrefix, cache_of, soft_prefix_of
from tunesmith.models.trunk import BEHIND, head_width, is_llama_like, trunk_of


def hidden_states(
    model: Any,
    ids: torch.Tensor,
    lengths: torch.Tensor,
    wanted: torch.Tensor,
    activation_checkpointing: bool = False,
    of_prompt: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the last hidden states [M, D] at the M wanted positions, in row order.

    A soft prefix on the model is read before every row, with gradients; positions are those of the row itself.

    Args:
        ids: [B, T], padded on the right, which a causal model needs no mask for. lengths: [B] real tokens.
        wanted: [B, T] booleans.
        activation_checkpointing: keep only the input of every block and compute it again in the backward pass.
        of_prompt: [B], equal where rows go on from the same prompt, which may be read once for all of them.

    Raises:
        UserError: activation checkpointing with a prefix of keys and values.
    """
    soft = soft_prefix_of(model)
    if soft and soft.cache_shape:
        return _behind_cache(model, soft, ids, wanted, activation_checkpointing)
    virtual = soft.length if soft else 0
    if virtual:  # places for the virtual tokens, which these ids do not stand for
        ids, wanted = (torch.nn.functional.pad(t, (virtual, 0)) for t in (ids, wanted))
        lengths = lengths + virtual
    if not is_llama_like(model, ids.device, ids.shape[1]):
        if activation_checkpointing and not model.is_activation_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        _compile_blocks(model, _backend(ids.device))
        read = {"inputs_embeds": _embedded(model, soft, ids)} if soft else {"input_ids": ids}
        return model.base_model(**read, use_cache=False).last_hidden_state[wanted]
    trunk = model.base_model
    tree = branched(ids, lengths, wanted, of_prompt, trunk.config.hidden_size) if of_prompt is not None and not soft else None
    layout = Layout.at(tree.real) if tree else Layout.of(lengths, ids.shape[1])
    ids = tree.ids if tree else ids
    chosen = tree.wanted if tree else layout.real(wanted).nonzero()[:, 0]
    if not soft and not torch.is_grad_enabled():
        return _without_gradients(model, ids, layout, tree).index_select(0, chosen)
    x = layout.packed(_embedded(model, soft, ids)) if soft else trunk.embed_tokens(layout.real(ids))
    places = _Places.of(trunk, x, ids.shape[1], tree)
    for block in trunk.layers:
        if activation_checkpointing and torch.is_grad_enabled():
            x = checkpoint(_block, block, x, places, layout, use_reentrant=False)
        else:
            x = _block(block, x, places, layout)
    x = TakeRows.apply(x, chosen)
    return RMSNorm.apply(x, trunk.norm.weight, trunk.norm.variance_epsilon)


def _without_gradients(model: Any, ids: torch.Tensor, layout: Layout, tree: Branched | None) -> torch.Tensor:
    """Return the hidden states [N, D] of all tokens, with weights as they are laid out for answering if they are."""
    trunk = trunk_of(model)
    positions = tree.positions if tree else torch.arange(layout.length, device=ids.device).expand(layout.batch, -1)
    blocked = tree.blocked.to(trunk.dtype) if tree else None

    def attend(layer: int, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            layout.padded(x.flatten(1)).view(layout.batch, layout.length, -1, trunk.width).transpose(1, 2)
            for x in (q * trunk.width**-0.5, *kv.chunk(2, 1))
        )
        return layout.packed(_attended(q, k, v, blocked))

    return trunk(layout.real(ids), layout.real(positions), attend)


def before(counted: torch.Tensor) -> torch.Tensor:
    """Return [B, T], True at the token before each one that is counted: its hidden state predicts that one."""
    return torch.cat([counted[:, 1:], torch.zeros_like(counted[:, :1])], 1)


def _backend(device: torch.device) -> Any:
    """What compiles blocks; None = nothing does."""
    return "inductor" if device.type == "cuda" and on("compile") else None


def _compile_blocks(model: Any, backend: Any) -> None:
    """Let blocks be compiled when they are next called, or be called as they are written.

    One block is compiled and not the whole model, for all blocks are alike: that takes a thirtieth of the time. Lengths stay
    open, so batches of other shapes need nothing new. A model without such a list of blocks stays as it is.
    """
    for block in getattr(model.base_model, "layers", ()):
        if backend and block._compiled_call_impl is None:
            block.compile(dynamic=True, backend=backend)
        elif not backend:
            block._compiled_call_impl = None


def _embedded(model: Any, soft: SoftPrefix, ids: torch.Tensor) -> torch.Tensor:
    """Return the embeddings [B, p + T, D] of rows that begin with p places for virtual tokens."""
    real = model.get_input_embeddings()(ids[:, soft.length :])
    # Rounded row by row, so that the gradients of all rows are added up in float32.
    return torch.cat([soft.embeddings().expand(len(ids), -1, -1).to(real.dtype), real], 1)


def _behind_cache(
    model: Any, soft: SoftPrefix, ids: torch.Tensor, wanted: torch.Tensor, activation_checkpointing: bool
) -> torch.Tensor:
    """Hidden states behind trained keys and values, through the model's own code for a cache."""
    if activation_checkpointing:
        raise UserError(
            "prefix tuning trains a cache, which activation_checkpointing would compute without",
            "Leave it out, and lower tokens_per_micro_batch if memory is short.",
        )
    cache = cache_of(soft.key_values(model.dtype), len(ids))
    return model.base_model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state[wanted]


@dataclass(frozen=True)
class _Places:
    """Where tokens stand and whom they may see.

    Attributes:
        cos, sin: of their positions, for keys, [T, D / 2], or [B, 1, T, D / 2] where rows branch.
        scaled_cos, scaled_sin: the same for queries, which carry attention's 1 / sqrt(D) with them.
        blocked: [B, T, T] what is added to attention's scores where rows branch; None = they do not.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    scaled_cos: torch.Tensor
    scaled_sin: torch.Tensor
    blocked: torch.Tensor | None

    @classmethod
    def of(cls, trunk: Any, like: torch.Tensor, length: int, tree: Branched | None) -> _Places:
        positions = tree.positions if tree else torch.arange(length, device=like.device)[None]
        width = head_width(trunk.config)
        # The second half of what a rotary embedding returns repeats the first.
        cos, sin = (turn[..., : width // 2].contiguous() for turn in trunk.rotary_emb(like, positions))
        cos, sin = (cos[:, None], sin[:, None]) if tree else (cos[0], sin[0])
        blocked = tree.blocked.to(like.dtype) if tree else None
        return cls(cos, sin, cos * width**-0.5, sin * width**-0.5, blocked)


def _block(block: Any, x: torch.Tensor, places: _Places, layout: Layout) -> torch.Tensor:
    """One decoder block: x [N, D] -> [N, D]."""
    normed = RMSNorm.apply(x, block.input_layernorm.weight, block.input_layernorm.variance_epsilon)
    x = x + _attention(block.self_attn, normed, places, layout)
    normed = RMSNorm.apply(x, block.post_attention_layernorm.weight, block.post_attention_layernorm.variance_epsilon)
    mlp = block.mlp
    x = x + mlp.down_proj(SwiGLU.apply(mlp.gate_proj(normed), mlp.up_proj(normed)))
    behind = getattr(block, BEHIND, None)
    return behind(x) if behind else x


def _attention(attention: Any, x: torch.Tensor, places: _Places, layout: Layout) -> torch.Tensor:
    batch, length, config = layout.batch, layout.length, attention.config
    heads, shared, width = config.num_attention_heads, config.num_key_value_heads, head_width(config)
    q = Rotate.apply(layout.padded(attention.q_proj(x)), places.scaled_cos, places.scaled_sin, heads)
    k = Rotate.apply(layout.padded(attention.k_proj(x)), places.cos, places.sin, shared)
    v = layout.padded(attention.v_proj(x)).view(batch, length, shared, width).transpose(1, 2)
    return attention.o_proj(layout.packed(_attended(q, k, v, places.blocked)))


def _attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, blocked: torch.Tensor | None) -> torch.Tensor:
    """Scaled q [B, H, T, head] and k, v [B, H_kv, T, head] -> [B, T, H, head]."""
    batch, heads, length, width = q.shape
    shared = k.shape[1]
    # Query heads that share keys stand side by side: one product for the whole group, and nothing is repeated.
    out = CausalAttention.apply(
        q.reshape(batch * shared, heads // shared, length, width),
        k.reshape(batch * shared, length, width),
        v.reshape(batch * shared, length, width),
        blocked,
    )
    return out.view(batch, heads, length, width).transpose(1, 2)
