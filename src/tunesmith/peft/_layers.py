"""What peft methods share: finding a model's layers by what they do, putting modules in their place, and reading tensors back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from tunesmith.core.errors import UserError

# Hugging Face PEFT begins the name of every tensor with this.
PREFIX = "base_model.model."
Role = Literal["query", "key", "value", "attention_output", "intermediate", "output"]
_FUSED = ("c_attn", "qkv_proj", "query_key_value")
# Ends of the names of linear layers in Llama (and its kind), BERT, GPT-2, T5 and DistilBERT.
_ROLES: dict[Role, tuple[str, ...]] = {
    "query": ("q_proj", "query", "SelfAttention.q", "EncDecAttention.q", "q_lin", *_FUSED),
    "key": ("k_proj", "key", "SelfAttention.k", "EncDecAttention.k", "k_lin", *_FUSED),
    "value": ("v_proj", "value", "SelfAttention.v", "EncDecAttention.v", "v_lin", *_FUSED),
    "attention_output": (
        "o_proj", "attention.output.dense", "crossattention.output.dense", "attn.c_proj", "crossattention.c_proj",
        "SelfAttention.o", "EncDecAttention.o", "out_lin",
    ),
    "intermediate": ("up_proj", "gate_proj", "gate_up_proj", "intermediate.dense", "mlp.c_fc", "wi", "wi_0", "wi_1", "lin1"),
    "output": ("down_proj", "output.dense", "mlp.c_proj", "wo", "lin2"),
}  # fmt: skip
ATTENTION: tuple[Role, ...] = ("query", "key", "value", "attention_output")

M = TypeVar("M", bound=nn.Module)


def is_linear(module: nn.Module) -> bool:
    """Whether a module is x W^T + b, kept as [D, K] (nn.Linear) or as [K, D] (GPT-2's Conv1D)."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def widths(module: Any) -> tuple[int, int]:
    """Return how many numbers K a linear layer takes and how many D it gives."""
    rows, columns = module.weight.shape
    return (columns, rows) if isinstance(module, nn.Linear) else (rows, columns)


def linear_layers(model: Any) -> list[str]:
    """Return the names of the linear layers that are no head: those of the model below its head, output layer left out."""
    body = {id(module) for module in getattr(model, "base_model", model).modules()}
    head = model.get_output_embeddings() if callable(getattr(model, "get_output_embeddings", None)) else None
    return [n for n, m in model.named_modules() if is_linear(m) and id(m) in body and m is not head]


def block_of(name: str) -> str:
    """Return the block that a module stands in ("model.layers.3" of "model.layers.3.mlp"); "" for one outside of all blocks."""
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return "" if number is None else ".".join(parts[: number + 1])


def with_role(model: Any, *roles: Role) -> list[str]:
    """Return the linear layers of the blocks that do one of these things; fused projections do all that they hold."""
    return [name for name in linear_layers(model) if block_of(name) and roles_of(name) & set(roles)]


def roles_of(name: str) -> set[Role]:
    """Return what a layer of this name does, by the longest end of it that is known."""
    found: list[tuple[int, Role]] = [(len(end), role) for role, ends in _ROLES.items() for end in ends if is_end(name, end)]
    longest = max((length for length, _ in found), default=0)
    return {role for length, role in found if length == longest}


def require_roles(model: Any, method: str, *roles: Role) -> list[str]:
    """Return the layers with these roles.

    Raises:
        UserError: this kind of model has none that is known.
    """
    if not (names := with_role(model, *roles)):
        raise UserError(
            f"{method} does not know where to stand in a {type(model).__name__}",
            "It knows models of the Llama, BERT, GPT-2, T5 and DistilBERT kinds.",
        )
    return names


def is_end(name: str, end: str) -> bool:
    """Whether a module's name is `end` or ends in it, whole words only."""
    return name == end or name.endswith(f".{end}")


def place(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module where the one of this name is."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def attached(model: nn.Module, kind: type[M]) -> dict[str, M]:
    """Return the modules of one kind by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@contextmanager
def switched_off(layers: Iterable[Any]) -> Iterator[None]:
    """Set `enabled` of layers to False inside a with-block."""
    layers = list(layers)
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.enabled = True


@contextmanager
def in_place(model: nn.Module, others: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put modules where those of their names are, inside a with-block."""
    own = {name: model.get_submodule(name) for name in others}
    for name, module in others.items():
        place(model, name, module)
    try:
        yield
    finally:
        for name, module in own.items():
            place(model, name, module)


def plain_rates(model: nn.Module, parameters: Any) -> dict[str, float]:
    """Return no factors: a method whose tensors all learn at the learning rate itself."""
    return {}


def saved(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor as it goes into a file."""
    return tensor.detach().cpu().contiguous().clone()


def copy_in(expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy a file's tensors into those of the same names.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape; names it.
    """
    for name in sorted(set(expected) ^ set(tensors)):
        problem = "missing" if name in expected else "unexpected"
        raise UserError(
            f"the adapter does not fit this model: tensor {name} is {problem}", "Load it on the base it was made for."
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            if tensor.shape != expected[name].shape:
                shapes = f"{list(tensor.shape)}, the model needs {list(expected[name].shape)}"
                raise UserError(
                    f"the adapter does not fit this model: {name} is {shapes}", "Load it on the base it was made for."
                )
            expected[name].copy_(tensor)


def short_names(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Return layers as PEFT's files name them: by the ends of their names, whole where these would catch other layers too."""
    last = {name.rpartition(".")[2] for name in names}
    others = [n for n, m in model.named_modules() if is_linear(m) and n not in names and not n.endswith(".base")]
    ambiguous = any(n.rpartition(".")[2] in last for n in others)
    return sorted(names) if ambiguous else sorted(last)


def listed_targets(config: Mapping[str, Any], key: str = "target_modules") -> Any:
    """Return a list of names out of PEFT's `adapter_config.json`, sorted; what is no list as it is."""
    value = config.get(key)
    return sorted(value) if isinstance(value, list) and all(isinstance(v, str) for v in value) else value


def match(model: Any, targets: Sequence[str], method: str) -> list[str]:
    """Return the linear layers that are named, or whose names end so.

    Raises:
        UserError: there is none.
    """
    linear = linear_layers(model)
    names = [n for n in linear if any(is_end(n, end) for end in targets)]
    if not names:
        known = sorted({n.rpartition(".")[2] for n in linear})
        raise UserError(f"{method} targets {list(targets)} match no layer", f"This model has {', '.join(known)}.")
    return names
