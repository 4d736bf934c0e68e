"""LoRA: h = W0 x + (alpha / r) B A x, with W0 frozen (Hu et al. 2021, equation 3).

A is drawn as in the authors' and PEFT's code (Kaiming uniform, a = sqrt 5) and B starts at zero, so an attached model
equals its base until the first update.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import nn

from tunesmith.core.config import Config, validate
from tunesmith.core.errors import UserError
from tunesmith.core.records import WorkedExample

PEFT_TYPE = "LORA"
SAVES = "adapter"
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "c_attn", "query", "key", "value", "query_key_value", "qkv_proj")


class Parameters(Config):
    """What LoRA can be told."""

    rank: int = Field(16, ge=1)
    """r, the inner dimension of the update"""
    alpha: float | None = Field(None, gt=0, allow_inf_nan=False)
    """scale of the update is alpha / rank; absent = 2 x rank"""
    dropout: float = Field(0.0, ge=0, lt=1)
    """on the input of the LoRA branch only"""
    targets: Literal["all-linear", "attention"] | list[str] = "all-linear"
    """which linear layers: all-linear or all = all but the vocabulary head, those of attention, or names (or ends of names)"""

    @field_validator("targets", mode="before")
    @classmethod
    def _all(cls, value: object) -> object:
        return "all-linear" if value == "all" else value

    @property
    def scaling(self) -> float:
        """alpha / rank."""
        return (self.alpha if self.alpha is not None else 2.0 * self.rank) / self.rank


LEARNING_RATE = 5e-4
# Keys of PEFT's adapter_config.json that change what its tensors mean.
_VARIANTS = (
    "use_rslora", "use_dora", "use_qalora", "lora_bias", "rank_pattern", "alpha_pattern", "modules_to_save",
    "trainable_token_indices", "target_parameters", "layer_replication",
)  # fmt: skip


class LoraLinear(nn.Module):
    """A linear layer [K -> D] and its low-rank update: lora_A [R, K], lora_B [D, R]."""

    def __init__(self, base: nn.Module, parameters: Parameters, generator: torch.Generator) -> None:
        super().__init__()
        self.base, self.scaling, self.enabled = base, parameters.scaling, True
        weight: torch.Tensor = base.weight  # type: ignore[assignment]
        # GPT-2's Conv1D keeps its weight as [K, D]; nn.Linear as [D, K].
        self.transposed = not isinstance(base, nn.Linear)
        d, k = reversed(weight.shape) if self.transposed else weight.shape
        bound = math.sqrt(6.0 / ((1 + 5) * k))
        a = (torch.rand(parameters.rank, k, generator=generator) * 2 - 1) * bound
        self.lora_A = nn.Parameter(a.to(weight.device, weight.dtype))
        self.lora_B = nn.Parameter(torch.zeros(d, parameters.rank, device=weight.device, dtype=weight.dtype))
        self.dropout = nn.Dropout(parameters.dropout) if parameters.dropout else nn.Identity()
        self.train(base.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [..., K] to [..., D]."""
        if not self.enabled:
            return self.base(x)
        inner = nn.functional.linear(self.dropout(x), self.lora_A)
        return torch.add(self.base(x), nn.functional.linear(inner, self.lora_B), alpha=self.scaling)

    def update(self) -> torch.Tensor:
        """Return (alpha / r) B A as float32, in the layout of the base weight."""
        delta = self.scaling * (self.lora_B.float() @ self.lora_A.float())
        return delta.T if self.transposed else delta


def attach(model: nn.Module, parameters: Parameters, seed: int) -> dict[str, nn.Parameter]:
    """Freeze the model and put LoRA on its target layers.

    Returns:
        The trained parameters, by name.

    Raises:
        UserError: no layer matches the targets.
    """
    model.requires_grad_(False)
    names = _target_names(model, parameters)
    if not names:
        linear = sorted({n.split(".")[-1] for n, m in model.named_modules() if _is_linear(m)})
        raise UserError(f"LoRA targets {parameters.targets} match no layer", f"This model has {', '.join(linear)}.")
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        parent_name, _, last = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        setattr(parent, last, LoraLinear(parent.get_submodule(last), parameters, generator))
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _target_names(model: Any, parameters: Parameters) -> list[str]:
    head = model.get_output_embeddings() if callable(getattr(model, "get_output_embeddings", None)) else None
    linear = [name for name, module in model.named_modules() if _is_linear(module) and module is not head]
    wanted = _ATTENTION if parameters.targets == "attention" else parameters.targets
    return linear if wanted == "all-linear" else [n for n in linear if any(n == w or n.endswith(f".{w}") for w in wanted)]


def layers(model: nn.Module) -> dict[str, LoraLinear]:
    """Return the attached layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Switch the update off inside a with-block: the model is bitwise its base."""
    attached = list(layers(model).values())
    for layer in attached:
        layer.enabled = False
    try:
        yield
    finally:
        for layer in attached:
            layer.enabled = True


def merge(model: nn.Module) -> None:
    """Add every update into its base weight (in float32, rounded once) and take the LoRA layers out."""
    with torch.no_grad():
        for name, layer in layers(model).items():
            weight: torch.Tensor = layer.base.weight  # type: ignore[assignment]
            weight.copy_(weight.float() + layer.update())
            parent_name, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent_name), last, layer.base)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the adapter's tensors under the names Hugging Face PEFT gives them."""
    tensors = {}
    for name, layer in layers(model).items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = layer.lora_A.detach().cpu().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = layer.lora_B.detach().cpu().contiguous()
    return tensors


def load_state(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Copy tensors named as `state` names them into the attached layers.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape; names it.
    """
    expected = {}
    for name, layer in layers(model).items():
        expected[f"base_model.model.{name}.lora_A.weight"] = layer.lora_A
        expected[f"base_model.model.{name}.lora_B.weight"] = layer.lora_B
    for name in sorted(set(expected) ^ set(tensors)):
        raise UserError(
            f"the adapter does not fit this model: tensor {name} is {'missing' if name in expected else 'unexpected'}"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            if tensor.shape != expected[name].shape:
                shapes = f"{list(tensor.shape)}, the model needs {list(expected[name].shape)}"
                raise UserError(f"the adapter does not fit this model: {name} is {shapes}")
            expected[name].copy_(tensor)


def to_peft_config(model: nn.Module, parameters: Parameters) -> dict[str, Any]:
    """Return the method's part of PEFT's `adapter_config.json`."""
    attached = layers(model)
    last = {name.rpartition(".")[2] for name in attached}
    # PEFT matches the ends of names; where that would catch more layers than these, whole names are written.
    others = [n for n, m in model.named_modules() if _is_linear(m) and not n.endswith(".base")]
    ambiguous = any(n.rpartition(".")[2] in last for n in others)
    return {
        "r": parameters.rank,
        "lora_alpha": parameters.scaling * parameters.rank,
        "lora_dropout": parameters.dropout,
        "target_modules": sorted(attached) if ambiguous else sorted(last),
        "fan_in_fan_out": any(layer.transposed for layer in attached.values()),
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
    }


def from_peft_config(config: dict[str, Any]) -> Parameters:
    """Read the method's part of PEFT's `adapter_config.json`.

    Raises:
        UserError: the file asks for a variant that is not implemented.
    """
    for key in _VARIANTS:
        if config.get(key):
            raise UserError(f"the adapter uses '{key}', which this version does not read")
    if config.get("bias", "none") != "none":
        raise UserError(f"the adapter trains biases ('{config['bias']}'), which this version does not read")
    targets = config.get("target_modules")
    values = {
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "dropout": config.get("lora_dropout", 0.0),
        "targets": sorted(targets) if isinstance(targets, list) else targets,
    }
    return validate(Parameters, values, "adapter_config.json")


def evaluate(weight: Any, a: Any, b: Any, alpha: float, x: Any) -> list[float]:
    """Compute W x + (alpha / r) B A x with a real attached layer, for the worked example."""
    base = nn.Linear(len(weight[0]), len(weight), bias=False)
    base.weight.data = torch.tensor(weight)
    layer = LoraLinear(base, Parameters(rank=len(a), alpha=alpha, dropout=0.0), torch.Generator().manual_seed(0))
    layer.lora_A.data, layer.lora_B.data = torch.tensor(a), torch.tensor(b)
    return layer(torch.tensor(x)).tolist()


def worked_example() -> WorkedExample:
    """W = I, A = [1 2], B = [3 4]^T, alpha = 2, r = 1, x = (1, 1)."""
    inputs = {"weight": [[1.0, 0.0], [0.0, 1.0]], "a": [[1.0, 2.0]], "b": [[3.0], [4.0]], "alpha": 2.0, "x": [1.0, 1.0]}
    how = "A x = 3; B A x = (9, 12); times alpha / r = 2: (18, 24); plus W x = (1, 1)"
    return WorkedExample(inputs, [19.0, 25.0], how, wrong={**inputs, "alpha": 1.0})
