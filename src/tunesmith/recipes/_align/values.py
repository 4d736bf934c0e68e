"""Where PPO's values come from: a head on the policy's hidden states, or an adapter of its own on the same base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tunesmith.core.errors import UserError
from tunesmith.core.seeds import derive
from tunesmith.models.load import LM
from tunesmith.models.value_head import ValueHead, Values
from tunesmith.peft import lora
from tunesmith.peft._layers import in_place
from tunesmith.recipes._align.config import Config
from tunesmith.recipes._reward.files import open_reward, trunk_of


def value_function(lm: LM, method: tuple[ModuleType, Any], parameters: Any, config: Config) -> Values:
    """Make the value function that PPO's `value` and `value_from` ask for; the model must be bare, and is left bare.

    Args:
        method: peft entry and parameters of the policy; a value function of its own has the same. parameters: those of PPO.

    Raises:
        UserError: the policy is no LoRA, activations are to be computed again, or `value_from` names no LoRA reward model of the
            policy's base.
    """
    head = ValueHead(lm.model.get_input_embeddings().weight.shape[1], lm.device)
    if parameters.value == "shared":
        return Values(head, _named("value_head", head))
    if method[0] is not lora:
        raise UserError(
            "a value function of its own is a LoRA on the policy's base", "Use --peft lora, or --method.value shared."
        )
    if config.activation_checkpointing:
        raise UserError(
            "--activation_checkpointing does not go with --method.value separate: it would compute with other layers",
            "Leave it out and lower --tokens_per_micro_batch if memory is short, or use --method.value shared.",
        )
    begins_as = parameters.value_from
    layers = _of_reward_model(begins_as, lm, method, head) if begins_as else _new(lm, method[1], config.seed)
    for layer in layers.values():
        layer.requires_grad_(True)
        layer.base.requires_grad_(False)

    @contextmanager
    def inside() -> Iterator[None]:
        for layer in layers.values():
            layer.train(lm.model.training)
        with in_place(lm.model, layers):
            yield

    trained = {key: p for name, layer in layers.items() for key, p in _named(f"value.{name}", layer).items() if p.requires_grad}
    return Values(head, {**trained, **_named("value_head", head)}, inside)


def _named(prefix: str, module: nn.Module) -> dict[str, nn.Parameter]:
    return {f"{prefix}.{name}": parameter for name, parameter in module.named_parameters()}


def _new(lm: LM, parameters: Any, seed: int) -> Mapping[str, Any]:
    """New layers, which change nothing until they are trained."""
    lora.attach(lm.model, parameters, derive(seed, "attach values"))
    return lora.take_off(lm.model)


def _of_reward_model(path: str, lm: LM, method: tuple[ModuleType, Any], head: ValueHead) -> Mapping[str, Any]:
    """The layers of a reward model, whose reward is what the head then expects (Ouyang et al. 2022, 3.5)."""
    try:
        it, *others = open_reward(path, trunk=trunk_of(method, lm))
    except UserError as error:
        raise UserError(f"--method.value_from: {error.message}", error.fix) from None
    if others:
        raise UserError(
            f"--method.value_from: a value function begins as one reward model, and {path} is several",
            f"Give one of them: {path}/seed-0.",
        )
    if not it.layers:
        raise UserError(
            f"--method.value_from: the reward model in {path} is no LoRA on the weights that the policy begins with",
            f"Train one: tunesmith reward DATA --model {lm.name} --peft lora.",
        )
    with torch.no_grad():
        head.weight.copy_(it.gain * it.head.weight)
        head.bias.fill_(it.bias)
    return it.layers
