"""The forward pass of answering: a decoder of the Llama family over packed tokens, on a CPU. Attention is the caller's.

Tokens of all rows stand one after the other, so nothing is computed for padding. Weights that are not being trained are
laid out once for the processor's matrix units. Every sum is rounded where the forward pass of training (`models.decoder`) rounds
it: in bfloat16 too, a sampled token has the log-probability that training computes for it.
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
from tunesmith.models.operations import rms_normed
from tunesmith.models.packed import Packed, can_pack
from tunesmith.models.residents import residents_of
from tunesmith.models.updated import UpdatedLinear

FAMILY = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")

Attend = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]
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
        qkv: [N, D] -> queries, keys and values side by side. output: [N, H * head] -> [N, D].
        both: [N, D] -> gate and what it is put on, [N, F] each. down: [N, F] -> [N, D].
        behind: what a peft method put behind the block, [N, D] -> [N, D]; None = nothing.
    """

    attention_norm: nn.Module
    qkv: _Products
    output: _Products
    mlp_norm: nn.Module
    both: _Products
    down: _Products
    behind: Callable[[torch.Tensor], torch.Tensor] | None

    def updates(self) -> _BlockUpdates:
        return _BlockUpdates(self.qkv.update(), self.output.update(), self.both.update(), self.down.update())


class _Update:
    """s B A of several products of the same input as two thin products: all A below each other, all B block by block."""

    def __init__(self, factors: Sequence[tuple[torch.Tensor, torch.Tensor]], scaling: float) -> None:
        self._a = Packed(torch.cat([a for a, _ in factors]), None)
        self._b = Packed(torch.block_diag(*(b for _, b in factors)), None)
        self._scaling = scaling

    def add_(self, out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Add the updates for x [N, K] to out [N, D] in place, rounded where the modules themselves round, and return it."""
        return out.add_(self._b(self._a(x)), alpha=self._scaling)


@dataclass(frozen=True)
class _BlockUpdates:
    """Of each product of a block its updates; None = it has none that could be laid out, and makes them itself."""

    qkv: _Update | None = None
    output: _Update | None = None
    both: _Update | None = None
    down: _Update | None = None


_NONE = _BlockUpdates()


class _Products:
    """What several modules make of the same input, side by side; one product where their weights can be laid out."""

    def __init__(self, modules: Sequence[Any], packed: bool) -> None:
        self._modules = modules
        own: list[Any] = [module.base if isinstance(module, UpdatedLinear) and module.apart else module for module in modules]
        self._product = _side_by_side(own) if packed and all(map(_packable, own)) else None
        self._widths = [len(module.weight) for module in own] if self._product else []
        self._updated = any(isinstance(module, UpdatedLinear) for module in modules)

    def __call__(self, x: torch.Tensor, update: _Update | None = None) -> torch.Tensor:
        """Map x [N, K] to [N, D], D of all modules together."""
        if self._product is None:
            made = [module(x) for module in self._modules]
            return made[0] if len(made) == 1 else torch.cat(made, -1)
        out = self._product(x)
        if update:
            return update.add_(out, x)
        if self._updated:
            for module, piece in zip(self._modules, out.split(self._widths, -1), strict=True):
                if isinstance(module, UpdatedLinear):
                    module.add_updates_(piece, x)
        return out

    def each(self, x: torch.Tensor, update: _Update | None = None) -> list[torch.Tensor]:
        """Map x [N, K] to what each module makes of it."""
        if self._product is None:
            return [module(x) for module in self._modules]
        return list(self(x, update).split(self._widths, -1))

    def update(self) -> _Update | None:
        """Lay out the updates that the modules make now; None where there are none, or none of one scaling."""
        if self._product is None or not self._updated:
            return None
        found, scalings = [], set()
        for module, width in zip(self._modules, self._widths, strict=True):
            if not isinstance(module, UpdatedLinear):
                found.append(_nothing(module.weight, width))
            elif now := module.factors_now():
                found.append(now[:2])
                scalings.add(now[2])
            else:
                return None
        return _Update(found, scalings.pop()) if len(scalings) == 1 else None


def _nothing(weight: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    return weight.new_zeros(0, weight.shape[1]), weight.new_zeros(width, 0)


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

    def updates(self) -> list[_BlockUpdates]:
        """Lay out the updates that adapters make now, for passes of few tokens; they are not those of a later training step."""
        return [block.updates() for block in self._blocks]

    def __call__(
        self, ids: torch.Tensor, positions: torch.Tensor, attend: Attend, updates: Sequence[_BlockUpdates] | None = None
    ) -> torch.Tensor:
        """Return the last hidden states [N, D], normalised.

        Args:
            ids, positions: [N], of all rows one after the other. updates: of each block, laid out before.
            attend: (layer, q [N, H, head], keys and values [N, 2 H_kv, head]), with rotated q and keys, to what was
                attended to [N, H * head]; q is not scaled yet.
        """
        tokens = len(ids)
        if tokens == 1 and self.dtype == torch.bfloat16:
            # The product of a single row is another kernel, which adds up in another order.
            ids, positions = ids.expand(2), positions.expand(2)
        x = self._embed(ids)
        cos, sin = (turn[0, :, None, : self.width // 2].contiguous() for turn in self._rotary(x[None], positions[None]))
        rotated = self.heads + self.shared
        for number, block in enumerate(self._blocks):
            own = updates[number] if updates else _NONE
            mixed = block.qkv(_normed(block.attention_norm, x), own.qkv).view(len(x), rotated + self.shared, self.width)
            _rotate(mixed[:, :rotated], cos, sin)
            attended = attend(number, mixed[:tokens, : self.heads], mixed[:tokens, self.heads :])
            x = x + block.output(attended.expand(len(x), -1), own.output)
            gate, up = block.both.each(_normed(block.mlp_norm, x), own.both)
            x = x + block.down(torch.nn.functional.silu(gate).mul_(up), own.down)
            x = block.behind(x) if block.behind else x
        return _normed(self._norm, x[:tokens])


_known: weakref.WeakKeyDictionary[Any, tuple[Any, Trunk]] = weakref.WeakKeyDictionary()


def trunk_of(model: Any, pack: bool = False) -> Trunk:
    """Return the trunk of a model, made anew if a weight has changed or another module taken its place.

    Args:
        pack: lay weights out for the processor, which takes a fraction of a second; False = only if they are already.
    """
    residents = residents_of(model)
    # Weights that are trained are never laid out, so that they may change.
    weights = tuple((id(p), p.data_ptr(), None if p.requires_grad else p._version) for p in model.parameters())
    state = weights, on("packed"), residents.mounted if residents else 0
    known = _known.get(model)
    if known is None or known[0] != state or (pack and not known[1].packed):
        known = _known[model] = (state, Trunk(model, pack))
    return known[1]


def head_of(model: Any) -> Any:
    """Return what turns hidden states [N, D] into logits [N, V]."""
    return trunk_of(model).head if is_llama_like(model, model.device, 1) else model.get_output_embeddings()


def _normed(norm: Any, x: torch.Tensor) -> torch.Tensor:
    return rms_normed(x, norm.weight, norm.variance_epsilon)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Turn x [N, heads, head] to its positions by cos, sin [N, 1, head / 2], in place (see `operations.Rotate`)."""
    a, b = x.chunk(2, -1)
    old = a.clone()
    a.mul_(cos).addcmul_(b, sin, value=-1)
    b.mul_(cos).addcmul_(old, sin)


def _block(layer: Any, packed: bool) -> _Block:
    attention, mlp = layer.self_attn, layer.mlp
    qkv = _Products((attention.q_proj, attention.k_proj, attention.v_proj), packed)
    both = _Products((mlp.gate_proj, mlp.up_proj), packed)
    output, down = _Products((attention.o_proj,), packed), _Products((mlp.down_proj,), packed)
    return _Block(layer.input_layernorm, qkv, output, layer.post_attention_layernorm, both, down, getattr(layer, BEHIND, None))


def _side_by_side(modules: Sequence[Any]) -> Packed:
    """One product in place of several of the same input."""
    weight = modules[0].weight if len(modules) == 1 else torch.cat([m.weight for m in modules])
    if all(m.bias is None for m in modules):
        return Packed(weight, None)
    return Packed(weight, torch.cat([m.weight.new_zeros(len(m.weight)) if m.bias is None else m.bias for m in modules]))


def _product(module: Any, packed: bool) -> Any:
    return Packed(module.weight, module.bias) if packed and _packable(module) else module


def _packable(module: Any) -> bool:
    """Whether a module is a plain product whose weight nobody is training, and which can be laid out."""
    return type(module) is nn.Linear and not module.weight.requires_grad and can_pack(module.weight)
