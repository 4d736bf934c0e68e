"""The forward pass of answering: a decoder of the Llama family over packed tokens, on a CPU. Attention is the caller's.

Tokens of all rows stand one after the other, so nothing is computed for padding. Weights that are not being trained are
laid out once for the processor's matrix units, and what follows a product (an activation, a gate, the residual) is done in
the same pass.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from tunesmith.core.levers import on
from tunesmith.models.operations import RMSNorm

FAMILY = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")

Attend = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]
_FEW = 64
# A block's attribute: a module that maps its output [N, D] before the next block reads it (Pfeiffer adapters).
BEHIND = "behind"


def is_llama_like(model: Any, device: torch.device, length: int) -> bool:
    """Whether our own forward pass computes what the model's does for rows of at most `length` tokens."""
    config = model.config
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return (
        on("decoder")
        and device.type == "cpu"
        and type(model).__name__ in FAMILY
        and config.hidden_act == "silu"
        and not (model.training and config.attention_dropout)
        and (window is None or length <= window)
        # A block whose weights are divided among workers gathers them when it is called itself.
        and not (dist.is_available() and dist.is_initialized())
    )


def head_width(config: Any) -> int:
    """Return the size of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


@dataclass(frozen=True)
class _Block:
    """What a decoder block computes, in the order it is needed; D is the model's width, F that of its gated layer.

    Attributes:
        qkv: [N, D] -> queries, keys and values side by side. output: ([N, H * head], residual [N, D]) -> [N, D].
        gated: [N, D] -> [N, F]. down: ([N, F], residual [N, D]) -> [N, D].
        behind: what a peft method put behind the block, [N, D] -> [N, D]; None = nothing.
    """

    attention_norm: nn.Module
    qkv: Callable[[torch.Tensor], torch.Tensor]
    output: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    mlp_norm: nn.Module
    gated: Callable[[torch.Tensor], torch.Tensor]
    down: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    behind: Callable[[torch.Tensor], torch.Tensor] | None


class Trunk:
    """A decoder without its head, for answering; made by `trunk_of`."""

    def __init__(self, model: Any, packed: bool) -> None:
        self.packed = packed
        trunk, config = model.base_model, model.config
        self.width = head_width(config)
        self.heads, self.shared = config.num_attention_heads, config.num_key_value_heads
        self._embed, self._rotary, self._norm = trunk.embed_tokens, trunk.rotary_emb, trunk.norm
        self._blocks = [_block(layer, packed) for layer in trunk.layers]
        self.head = _product(model.get_output_embeddings(), packed)

    @property
    def layers(self) -> int:
        """Number of decoder blocks."""
        return len(self._blocks)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the hidden states."""
        return self._embed.weight.dtype

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Return the last hidden states [N, D], normalised.

        Args:
            ids, positions: [N], of all rows one after the other.
            attend: (layer, q [N, H, head], keys and values [N, 2 H_kv, head]), with rotated q and keys, to what was
                attended to [N, H * head]; q is not scaled yet.
        """
        x = self._embed(ids)
        cos, sin = (turn[0, :, None, : self.width // 2].contiguous() for turn in self._rotary(x[None], positions[None]))
        rotated = self.heads + self.shared
        for number, block in enumerate(self._blocks):
            mixed = block.qkv(_normed(block.attention_norm, x)).view(len(x), rotated + self.shared, self.width)
            _rotate(mixed[:, :rotated], cos, sin)
            x = block.output(attend(number, mixed[:, : self.heads], mixed[:, self.heads :]), x)
            x = block.down(block.gated(_normed(block.mlp_norm, x)), x)
            x = block.behind(x) if block.behind else x
        return _normed(self._norm, x)


_known: weakref.WeakKeyDictionary[Any, tuple[Any, Trunk]] = weakref.WeakKeyDictionary()


def trunk_of(model: Any, pack: bool = False) -> Trunk:
    """Return the trunk of a model, made anew if a weight has changed or another module taken its place.

    Args:
        pack: lay weights out for the processor, which takes a fraction of a second; False = only if they are already.
    """
    state = tuple((id(p), p.data_ptr(), p._version, p.requires_grad) for p in model.parameters()), on("packed")
    known = _known.get(model)
    if known is None or known[0] != state or (pack and not known[1].packed):
        known = _known[model] = (state, Trunk(model, pack))
    return known[1]


def head_of(model: Any) -> Any:
    """Return what turns hidden states [N, D] into logits [N, V]."""
    return trunk_of(model).head if is_llama_like(model, model.device, 1) else model.get_output_embeddings()


def _normed(norm: Any, x: torch.Tensor) -> torch.Tensor:
    # torch's own has less to set up, ours is faster on many rows.
    if len(x) <= _FEW:
        return torch.nn.functional.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)
    return RMSNorm.apply(x, norm.weight, norm.variance_epsilon)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Turn x [N, heads, head] to its positions by cos, sin [N, 1, head / 2], in place (see `operations.Rotate`)."""
    a, b = x.chunk(2, -1)
    old = a.clone()
    a.mul_(cos).addcmul_(b, sin, value=-1)
    b.mul_(cos).addcmul_(old, sin)


def _block(layer: Any, packed: bool) -> _Block:
    attention, mlp = layer.self_attn, layer.mlp
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    output, down = _product(attention.o_proj, packed), _product(mlp.down_proj, packed)
    if packed and all(map(_packable, parts)):
        qkv = _side_by_side(parts)
    else:
        qkv = lambda x: torch.cat([part(x) for part in parts], -1)  # noqa: E731
    if packed and _packable(mlp.gate_proj) and _packable(mlp.up_proj):
        both = _side_by_side([mlp.gate_proj, mlp.up_proj])
        gated = lambda x: _gated(*both(x).chunk(2, -1))  # noqa: E731
    else:
        gated = lambda x: _gated(mlp.gate_proj(x), mlp.up_proj(x))  # noqa: E731
    behind = getattr(layer, BEHIND, None)
    return _Block(layer.input_layernorm, qkv, _added(output), layer.post_attention_layernorm, gated, _added(down), behind)


def _side_by_side(modules: Sequence[Any]) -> _Packed:
    """One product in place of several of the same input."""
    weight = torch.cat([m.weight for m in modules])
    if all(m.bias is None for m in modules):
        return _Packed(weight, None)
    return _Packed(weight, torch.cat([m.weight.new_zeros(len(m.weight)) if m.bias is None else m.bias for m in modules]))


def _gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.silu(gate).mul_(up)


def _added(product: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    if isinstance(product, _Packed):
        return product
    return lambda x, residual: residual + product(x)


def _product(module: Any, packed: bool) -> Any:
    return _Packed(module.weight, module.bias) if packed and _packable(module) else module


def _packable(module: Any) -> bool:
    """Whether a module is a plain product in bfloat16 whose weight nobody is training, on a processor with such units."""
    return (
        on("packed")
        and type(module) is nn.Linear
        and module.weight.dtype == torch.bfloat16
        and not module.weight.requires_grad
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


class _Packed:
    """x W^T + b, with W laid out for the processor; optionally with the residual added in the same pass."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        self.bias = None if bias is None else bias.detach()

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Multiply x [N, K] -> [N, M], and add residual [N, M]."""
        if residual is None:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.weight, self.bias, "add")
