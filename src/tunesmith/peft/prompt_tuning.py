"""Prompt tuning: p trained embeddings in front of the input, the model frozen (Lester et al. 2021, section 2).

[P; X] is read in the place of X, with P [p, D]. Nothing else changes, so one model serves many prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field

from tunesmith.core.config import Config, validate
from tunesmith.core.errors import UserError
from tunesmith.core.records import WorkedExample
from tunesmith.models.soft_prefix import SoftPrefix
from tunesmith.peft import _prefix
from tunesmith.peft._layers import plain_rates

PEFT_TYPE = "PROMPT_TUNING"
SAVES = "adapter"
TITLE = "prompt {tokens}"
IDENTITY_AT_START = False
disabled, merge, state, load_state = _prefix.disabled, _prefix.merge, _prefix.state, _prefix.load_state
rates = plain_rates
# For AdamW on smollm2, between 1e-2 and 1e-1 which were tried (benchmarks/prompting); the paper's 0.3 belongs to Adafactor.
LEARNING_RATE = 3e-2
# Lester et al. sample from the most common tokens, which stand first in a vocabulary.
_COMMON = 5000


class Parameters(Config):
    """What prompt tuning can be told."""

    tokens: int = Field(20, ge=1, le=150)
    """p, virtual tokens"""
    init: Literal["labels", "vocabulary", "random"] = "labels"
    """what they start as: a task's answer words and then sampled tokens, sampled tokens, or uniform noise in -0.5..0.5"""
    label_ids: list[list[int]] = []
    """token ids of the words that init = labels begins with; absent = the answer words of the task, if it has choices"""


def attach(model: Any, parameters: Parameters, seed: int) -> dict[str, torch.nn.Parameter]:
    """Freeze the model and put p virtual tokens in front of whatever it reads.

    Returns:
        The trained parameters, by name.
    """
    table = model.get_input_embeddings().weight.detach()
    values = initial(table, parameters, torch.Generator().manual_seed(seed))
    return _prefix.attach_prefix(model, SoftPrefix(_prefix.Values(values), parameters.tokens))


def initial(table: torch.Tensor, parameters: Parameters, generator: torch.Generator) -> torch.Tensor:
    """Return the first values [p, D], float32.

    Args:
        table: the vocabulary's embeddings [V, D]; sampled tokens are among its first 5,000, each at most once.

    Raises:
        UserError: fewer tokens in the vocabulary than are to be sampled.
    """
    p = parameters.tokens
    if parameters.init == "random":
        return torch.rand(p, table.shape[1], generator=generator) - 0.5
    words = [table[ids].float().mean(0) for ids in parameters.label_ids[:p]] if parameters.init == "labels" else []
    sampled = torch.randperm(min(_COMMON, len(table)), generator=generator)[: p - len(words)]
    if len(sampled) + len(words) < p:
        raise UserError(f"{p} virtual tokens cannot be sampled from a vocabulary of {len(table)}", "Set init to random.")
    return torch.cat([*(word[None].cpu() for word in words), table[sampled.to(table.device)].float().cpu()])


def to_peft_config(model: Any, parameters: Parameters) -> dict[str, Any]:
    """Return the method's part of PEFT's `adapter_config.json`."""
    width = model.get_input_embeddings().weight.shape[1]
    start = "RANDOM" if parameters.init == "random" else "SAMPLE_VOCAB"
    return {**_prefix.sizes_for_peft(model, width, model.config.num_attention_heads), "prompt_tuning_init": start}


def from_peft_config(config: dict[str, Any]) -> Parameters:
    """Read the method's part of PEFT's `adapter_config.json`; how the tokens were started does not matter any more.

    Raises:
        UserError: a number of tokens that is not read, or a prompt for an encoder too.
    """
    _prefix.check_decoder_only(config)
    start = "random" if config.get("prompt_tuning_init") == "RANDOM" else "vocabulary"
    return validate(Parameters, {"tokens": config.get("num_virtual_tokens"), "init": start}, "adapter_config.json")


def evaluate(table: Sequence[Sequence[float]], label_ids: list[list[int]]) -> list[list[float]]:
    """Return the first values of a prompt with as many tokens as there are labels, for the worked example."""
    parameters = Parameters(tokens=len(label_ids), init="labels", label_ids=label_ids)
    return initial(torch.tensor(table), parameters, torch.Generator().manual_seed(0)).tolist()


def worked_example() -> WorkedExample:
    """Class-label initialisation: a label of two sub-tokens starts as the mean of their embeddings."""
    table = [[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]]
    how = "label 0 is tokens 0 and 1: ((1 + 3) / 2, (0 + 2) / 2) = (2, 1); label 1 is token 2: (5, 5)"
    inputs = {"table": table, "label_ids": [[0, 1], [2]]}
    return WorkedExample(inputs, [[2.0, 1.0], [5.0, 5.0]], how, wrong={"table": table, "label_ids": [[0], [2]]})
