"""BitFit: only the bias vectors are trained, b_q, b_k, b_v, b_m1..b_m3 and those of the norms (Ben Zaken et al. 2022, section 3).

A model without a single bias (Llama, T5) is given biases of zero in its linear layers, as T-Few does to T5; it starts as its
base. The weights of norms are not biases and stay as they are.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from tunesmith.core.config import Config, validate
from tunesmith.core.errors import UserError
from tunesmith.core.records import WorkedExample
from tunesmith.peft import _selected
from tunesmith.peft._layers import block_of, linear_layers, plain_rates, roles_of

PEFT_TYPE = "BITFIT"
SAVES = "adapter"
TITLE = "BitFit"
IDENTITY_AT_START = True
# The authors' examples; full fine-tuning of the same models is at 1e-5.
LEARNING_RATE = 1e-3
disabled, merge, state, load_state = _selected.disabled, _selected.merge, _selected.state, _selected.load_state
rates = plain_rates


class Parameters(Config):
    """What BitFit can be told."""

    biases: Literal["all", "query+intermediate"] = "all"
    """which: all, or those of queries and of the first layer of each feed-forward part (nearly as good, section 4)"""
    add: bool = True
    """where a model has no bias at all, give its linear layers biases of zero and train these; false = refuse such a model"""


def attach(model: Any, parameters: Parameters, seed: int) -> dict[str, torch.nn.Parameter]:
    """Freeze the model, its head too, and train its biases.

    Returns:
        The trained parameters, by name.

    Raises:
        UserError: the model has no biases and none may be added.
    """
    model.requires_grad_(False)
    body = {id(p) for p in model.base_model.parameters()}
    biases = [n for n, p in model.named_parameters() if n.rpartition(".")[2] == "bias" and id(p) in body]
    layers = [] if biases else [name for name in linear_layers(model) if block_of(name)]
    if layers and not parameters.add:
        raise UserError(f"a {type(model).__name__} has no biases to train", "Let BitFit add some: add=true.")
    if parameters.biases == "query+intermediate":
        wanted = {"query", "intermediate"}
        biases = [n for n in biases if roles_of(n.removesuffix(".bias")) & wanted]
        layers = [n for n in layers if roles_of(n) & wanted]
    return _selected.attach_selected(model, biases, layers)


def to_peft_config(model: Any, parameters: Parameters) -> dict[str, Any]:
    """Return the method's part of `adapter_config.json`; PEFT has no such method, so the keys are our own."""
    return parameters.model_dump()


def from_peft_config(config: dict[str, Any]) -> Parameters:
    """Read the method's part of `adapter_config.json`.

    Raises:
        UserError: a value that is not read.
    """
    return validate(Parameters, {key: config[key] for key in Parameters.model_fields if key in config}, "adapter_config.json")


def evaluate(layers: int, width: int, inner: int, biases: str) -> int:
    """Count what is trained in a BERT of so many layers, for the worked example."""
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        heads = width // 64
        bert = BertModel(BertConfig(
            num_hidden_layers=layers, hidden_size=width, intermediate_size=inner, num_attention_heads=heads
        ))  # fmt: skip
    trained = attach(bert, validate(Parameters, {"biases": biases}, "bitfit"), 0)
    return sum(p.numel() for p in trained.values())


def worked_example() -> WorkedExample:
    """BERT-base (Devlin et al. 2019): 102,912 of its 109,482,240 parameters."""
    inputs = {"layers": 12, "width": 768, "inner": 3072, "biases": "all"}
    how = "12 x (4 x 768 of attention + 3072 + 768 of feed-forward + 2 x 768 of norms) + 768 of embeddings' norm + 768 of pooler"
    return WorkedExample(inputs, 102_912, how, wrong={**inputs, "biases": "query+intermediate"})
