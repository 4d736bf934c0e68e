"""LoRA: h = W0 x + (alpha / r) B A x, with W0 frozen (Hu et al. 2021, equation 3); rsLoRA, DoRA, PiSSA and LoRA+ by switch.

A is drawn as in the authors' and PEFT's code (Kaiming uniform, a = sqrt 5) and B starts at zero, so an attached model
equals its base until the first update. rsLoRA (Kalajdzievski 2023) divides by sqrt r, DoRA (Liu et al. 2024, equation 5) learns
the magnitude of each output apart, PiSSA (Meng et al. 2024) starts from the largest singular values of W0, and LoRA+ (Hayou et
al. 2024) lets B learn faster than A.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from tunesmith.core.config import Config, validate
from tunesmith.core.errors import UserError
from tunesmith.core.records import WorkedExample
from tunesmith.peft._layers import (
    ATTENTION,
    PREFIX,
    attached,
    block_of,
    copy_in,
    is_end,
    linear_layers,
    listed_targets,
    match,
    place,
    require_roles,
    saved,
    short_names,
    switched_off,
    trainable,
    widths,
)
from tunesmith.peft._lora_linear import LoraLinear

PEFT_TYPE = "LORA"
SAVES = "adapter"
TITLE = "LoRA r={rank}"
IDENTITY_AT_START = True
LEARNING_RATE = 5e-4
# Keys of PEFT's adapter_config.json that change what its tensors mean, and are not read.
_VARIANTS = (
    "use_qalora", "lora_bias", "trainable_token_indices", "target_parameters", "layer_replication", "alora_invocation_tokens",
)  # fmt: skip


class Parameters(Config):
    """What LoRA can be told."""

    rank: int = Field(16, ge=1)
    """r, the inner dimension of the update"""
    alpha: float | None = Field(None, gt=0, allow_inf_nan=False)
    """scale of the update is alpha / rank; absent = 2 x rank, or 8 with rslora, which is the same at rank 16"""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """on the input of the LoRA branch only"""
    targets: Literal["all-linear", "attention"] | list[str] = "all-linear"
    """which linear layers, never a head: all-linear or all (of the blocks), those of attention, or names (or ends of names)"""
    rslora: bool = False
    """scale is alpha / sqrt(rank), so that large ranks do not learn more slowly"""
    dora: bool = False
    """learn the length of every output's weights apart from their direction"""
    init: Literal["lora", "pissa"] = "lora"
    """how the update starts: at zero, or pissa = A and B are the largest singular values, of which only the change is saved"""
    loraplus_lr_ratio: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """learning rate of B over that of A; LoRA+ recommends 16"""
    rank_pattern: dict[str, int] = {}
    """other ranks for some layers, by name or end of name; the first that fits counts"""
    alpha_pattern: dict[str, float] = {}
    """other alphas for some layers, likewise"""

    @field_validator("targets", mode="before")
    @classmethod
    def _all(cls, value: object) -> object:
        return "all-linear" if value == "all" else value

    @property
    def scaling(self) -> float:
        """alpha / rank, or alpha / sqrt(rank)."""
        return self._alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def _alpha(self) -> float:
        return self.alpha if self.alpha is not None else 8.0 if self.rslora else 2.0 * self.rank

    @model_validator(mode="after")
    def _one_variant(self) -> Self:
        if self.dora and self.init == "pissa":
            raise ValueError("dora and init pissa exclude each other: what pissa saves is a plain LoRA")
        if bad := [key for key, value in {**self.rank_pattern, **self.alpha_pattern}.items() if value <= 0]:
            raise ValueError(f"rank_pattern and alpha_pattern must be positive, and {bad[0]} is not")
        return self

    def of_layer(self, name: str) -> Parameters:
        """Return the parameters of one layer, with its own rank and alpha."""
        rank = next((r for end, r in self.rank_pattern.items() if is_end(name, end)), self.rank)
        alpha = next((a for end, a in self.alpha_pattern.items() if is_end(name, end)), self.alpha)
        return self.model_copy(update={"rank": rank, "alpha": alpha})


def attach(model: nn.Module, parameters: Parameters, seed: int) -> dict[str, nn.Parameter]:
    """Freeze the model and put LoRA on its target layers.

    Returns:
        The trained parameters, by name.

    Raises:
        UserError: no layer matches the targets or a pattern, or a rank is larger than its matrix.
    """
    names = _target_names(model, parameters)
    for pattern in {**parameters.rank_pattern, **parameters.alpha_pattern}:
        if not any(is_end(name, pattern) for name in names):
            last = sorted({name.rpartition(".")[2] for name in names})
            raise UserError(f"lora: the pattern {pattern} fits no target layer", f"Targets end in {', '.join(last)}.")
    chosen = {name: parameters.of_layer(name) for name in names}
    _check_ranks(model, chosen)
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, own in chosen.items():
        place(model, name, LoraLinear(model.get_submodule(name), own, generator))
    return trainable(model)


def _target_names(model: Any, parameters: Parameters) -> list[str]:
    if parameters.targets == "attention":
        return require_roles(model, "lora", *ATTENTION)
    if parameters.targets == "all-linear":
        # A model without blocks is taken as one.
        return [n for n in linear_layers(model) if block_of(n)] or linear_layers(model)
    return match(model, parameters.targets, "LoRA")


def _check_ranks(model: nn.Module, chosen: Mapping[str, Parameters]) -> None:
    for name, own in chosen.items():
        smaller = min(widths(model.get_submodule(name)))
        most = smaller // 2 if own.init == "pissa" else smaller
        if own.rank > most:
            why = " PiSSA is saved with twice its rank." if own.init == "pissa" else ""
            k, d = widths(model.get_submodule(name))
            raise UserError(
                f"lora: rank {own.rank} is larger than the matrix {name} ({d} x {k}) has use for",
                f"Give a rank of at most {most}, or fewer targets.{why}",
            )


def layers(model: nn.Module) -> dict[str, LoraLinear]:
    """Return the attached layers by name."""
    return attached(model, LoraLinear)


def take_off(model: nn.Module) -> dict[str, LoraLinear]:
    """Take the attached layers off a model, which is bare then, and return them by name."""
    taken = layers(model)
    for name, layer in taken.items():
        place(model, name, layer.base)
    return taken


def rates(model: nn.Module, parameters: Parameters) -> dict[str, float]:
    """Return factors of the learning rate by the names of parameters; those of every B, for LoRA+."""
    ratio = parameters.loraplus_lr_ratio
    return {f"{name}.lora_B": ratio for name in layers(model)} if ratio != 1 else {}


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Switch the update off inside a with-block: the model is bitwise its base."""
    with switched_off(layers(model).values()):
        yield


def merge(model: nn.Module) -> None:
    """Add every update into its base weight (in float32, rounded once) and take the LoRA layers out."""
    with torch.no_grad():
        for name, layer in layers(model).items():
            layer.weight.copy_(layer.weight.float() + layer.update())
            place(model, name, layer.base)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the adapter's tensors under the names Hugging Face PEFT gives them."""
    tensors = {}
    with torch.no_grad():
        for name, layer in layers(model).items():
            a, b = layer.factors()
            tensors[f"{PREFIX}{name}.lora_A.weight"] = saved(a)
            tensors[f"{PREFIX}{name}.lora_B.weight"] = saved(b)
            if layer.lora_m is not None:
                tensors[f"{PREFIX}{name}.lora_magnitude_vector"] = saved(layer.lora_m)
    return tensors


def load_state(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Copy tensors named as `state` names them into the attached layers.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape; names it.
    """
    expected: dict[str, torch.Tensor] = {}
    for name, layer in layers(model).items():
        expected[f"{PREFIX}{name}.lora_A.weight"] = layer.lora_A
        expected[f"{PREFIX}{name}.lora_B.weight"] = layer.lora_B
        if layer.lora_m is not None:
            expected[f"{PREFIX}{name}.lora_magnitude_vector"] = layer.lora_m
    copy_in(expected, tensors)


def to_peft_config(model: nn.Module, parameters: Parameters) -> dict[str, Any]:
    """Return the method's part of PEFT's `adapter_config.json`. PiSSA is written as the plain LoRA that `state` makes of it."""
    attached_layers = layers(model)
    rank, alpha = _in_file(parameters)
    own = {name: _in_file(parameters.of_layer(name)) for name in attached_layers}
    return {
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": parameters.dropout,
        "target_modules": short_names(model, list(attached_layers)),
        # Whole names, because PEFT reads patterns as regular expressions on the end of a name.
        "rank_pattern": {name: r for name, (r, _) in own.items() if r != rank},
        "alpha_pattern": {name: a for name, (_, a) in own.items() if a != alpha},
        "fan_in_fan_out": any(layer.transposed for layer in attached_layers.values()),
        "bias": "none",
        "use_rslora": parameters.rslora,
        "use_dora": parameters.dora,
    }


def _in_file(parameters: Parameters) -> tuple[int, float]:
    """Rank and alpha that scale the saved tensors as the layer scales its own."""
    rank = parameters.rank * (2 if parameters.init == "pissa" else 1)
    return rank, parameters.scaling * (math.sqrt(rank) if parameters.rslora else rank)


def from_peft_config(config: dict[str, Any]) -> Parameters:
    """Read the method's part of PEFT's `adapter_config.json`.

    Raises:
        UserError: the file asks for a variant that cannot be read.
    """
    for key in _VARIANTS:
        if config.get(key):
            raise UserError(f"the adapter uses '{key}', which this version does not read")
    if config.get("bias", "none") != "none":
        raise UserError(f"the adapter trains biases ('{config['bias']}'), which this version does not read")
    values = {
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "dropout": config.get("lora_dropout", 0.0),
        "targets": listed_targets(config),
        "rslora": bool(config.get("use_rslora")),
        "dora": bool(config.get("use_dora")),
        "rank_pattern": _plain_names(config, "rank_pattern"),
        "alpha_pattern": _plain_names(config, "alpha_pattern"),
    }
    return validate(Parameters, values, "adapter_config.json")


def _plain_names(config: dict[str, Any], key: str) -> Any:
    """Patterns as ends of names; PEFT allows regular expressions, with ^ for a whole name."""
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict):
        return patterns
    for pattern in patterns:
        if not re.fullmatch(r"\^?[\w.]+", pattern):
            raise UserError(f"adapter_config.json: {key} has the regular expression {pattern!r:.60}", "Names are read here.")
    return {pattern.removeprefix("^"): value for pattern, value in patterns.items()}


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
