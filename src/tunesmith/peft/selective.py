"""Selective fine-tuning of some of the model's own weights: norms, the last blocks, the head, biases, or by name.

Howard & Ruder (2018, section 3.3) unfreeze the last layers; norms alone go far too (Frankle et al. 2021; Zhao et al. 2024).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from tunesmith.core.config import Config, validate
from tunesmith.core.errors import UserError
from tunesmith.core.records import WorkedExample
from tunesmith.peft import _selected
from tunesmith.peft._layers import block_of, plain_rates

PEFT_TYPE = "SELECTIVE"
SAVES = "adapter"
TITLE = "selective"
IDENTITY_AT_START = True
LEARNING_RATE = 5e-4
disabled, merge, state, load_state = _selected.disabled, _selected.merge, _selected.state, _selected.load_state
rates = plain_rates
Part = Literal["norms", "biases", "head", "embeddings", "all"]


class Parameters(Config):
    """What selective fine-tuning can be told; of several limits, all hold."""

    parts: Part | list[Part] = "norms"
    """kinds of weights: norms, biases, head (what stands on the model, or its output layer), embeddings, or all"""
    first_layer: int | None = None
    """first block that is trained; -2 = the last but one. Absent = from the first on, and what stands outside the blocks"""
    last_layer: int | None = None
    """last block that is trained; absent = up to the last"""
    names: list[str] = []
    """whole words of a weight's name, for example self_attn or layers.3.mlp; absent = any"""


def attach(model: Any, parameters: Parameters, seed: int) -> dict[str, nn.Parameter]:
    """Freeze the model but for the selected weights.

    Returns:
        The trained parameters, by name; a tied one (embedding and head) counts once.

    Raises:
        UserError: nothing is selected.
    """
    model.requires_grad_(False)
    names = selected_names(model, parameters)
    if not names:
        raise UserError(
            f"selective: no weight of this {type(model).__name__} is {_described(parameters)}",
            f"It has {_blocks(model)} blocks, counted from 0; names are whole words of a weight's name, for example self_attn.",
        )
    return _selected.attach_selected(model, names)


def selected_names(model: Any, parameters: Parameters) -> list[str]:
    """Return the names of the parameters that are selected."""
    parts = {parameters.parts} if isinstance(parameters.parts, str) else set(parameters.parts)
    kinds = _kinds(model)
    count = _blocks(model)
    limited = parameters.first_layer is not None or parameters.last_layer is not None
    first, last = (_counted(n, count) for n in (parameters.first_layer or 0, parameters.last_layer))
    names = []
    for name in kinds:
        number = block_of(name).rpartition(".")[2]
        inside = not limited or (number != "" and first <= int(number) <= last)
        named = not parameters.names or any(f".{part}." in f".{name}." for part in parameters.names)
        if inside and named and (parts & kinds[name] or "all" in parts):
            names.append(name)
    return names


def _counted(number: int | None, count: int) -> int:
    """A block counted from the end as one counted from the start."""
    return count - 1 if number is None else number if number >= 0 else count + number


def _blocks(model: Any) -> int:
    numbers = [block_of(name).rpartition(".")[2] for name, _ in model.named_parameters()]
    return max((int(n) + 1 for n in numbers if n), default=0)


def _kinds(model: Any) -> dict[str, set[str]]:
    """What every parameter of a model is, by name."""
    body = {id(p) for p in model.base_model.parameters()}
    output = model.get_output_embeddings() if callable(getattr(model, "get_output_embeddings", None)) else None
    head = {id(p) for p in output.parameters()} if output is not None else set()
    kinds: dict[str, set[str]] = {}
    for name, parameter in model.named_parameters():
        module = model.get_submodule(name.rpartition(".")[0])
        found = {
            "norms": "norm" in type(module).__name__.lower(),
            "biases": name.rpartition(".")[2] == "bias",
            "head": id(parameter) in head or id(parameter) not in body,
            "embeddings": isinstance(module, nn.Embedding),
        }
        kinds[name] = {kind for kind, holds in found.items() if holds}
    return kinds


def _described(parameters: Parameters) -> str:
    given = {key: value for key, value in parameters.model_dump().items() if value not in (None, [])}
    return ", ".join(f"{key} {value}" for key, value in given.items())


def to_peft_config(model: Any, parameters: Parameters) -> dict[str, Any]:
    """Return the method's part of `adapter_config.json`; PEFT has no such method, so the keys are our own."""
    return parameters.model_dump()


def from_peft_config(config: dict[str, Any]) -> Parameters:
    """Read the method's part of `adapter_config.json`.

    Raises:
        UserError: a value that is not read.
    """
    return validate(Parameters, {key: config[key] for key in Parameters.model_fields if key in config}, "adapter_config.json")


def evaluate(layers: int, width: int, parts: str) -> int:
    """Count what is trained in a BERT of so many layers, for the worked example."""
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        bert = BertModel(
            BertConfig(num_hidden_layers=layers, hidden_size=width, intermediate_size=4 * width, num_attention_heads=16)
        )
    return sum(p.numel() for p in attach(bert, validate(Parameters, {"parts": parts}, "selective"), 0).values())


def worked_example() -> WorkedExample:
    """The norms of BERT-large (Devlin et al. 2019)."""
    inputs = {"layers": 24, "width": 1024, "parts": "norms"}
    how = "2 norms in each of 24 layers and one of the embeddings are 49, each with 1024 weights and 1024 biases: 49 x 2048"
    return WorkedExample(inputs, 100_352, how, wrong={**inputs, "parts": "biases"})
