"""What saved adapters change in their base, as float32 tensors, and a base with these changes made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunesmith.core.errors import UserError
from tunesmith.peft import _files, lora
from tunesmith.peft._combine import combine
from tunesmith.peft._files import load_adapter

# Read where an adapter brings no probe: any text does to compare two models.
_TEXTS = ("The film was", "Question: what is 2 + 2?\nAnswer:", "Once upon a time there")


@dataclass(frozen=True)
class Change:
    """What one adapter changes in its base.

    Attributes:
        deltas: weight -> what is added to it, float32, in its shape; weights that stay are not there.
        factors: for plain LoRA, layer -> (A [R, K], (alpha / r) B [D, R]); None for any other method.
        prompts: token ids of the probe. logits: after each of them [P, V], with the adapter attached.
        effect: largest difference between these and the base's own.
    """

    folder: Path
    deltas: dict[str, torch.Tensor]
    factors: dict[str, tuple[torch.Tensor, torch.Tensor]] | None
    prompts: list[tuple[int, ...]]
    logits: torch.Tensor
    effect: float


def base_of(folders: Sequence[Path], model: str | None = None) -> str:
    """Return the name of the base that all adapters were made for.

    Args:
        model: the base as the user names it; None = as the adapters do.

    Raises:
        UserError: no adapter directory, one that does not say its base, or adapters of different bases.
    """
    names, identities = dict[Path, str](), {}
    for folder in folders:
        _files.read_config(folder)
        names[folder] = model or _files.base_of(folder)
        identities[folder] = _probe(folder).get("base_identity")
    for found in (names, {f: i for f, i in identities.items() if i}):
        for folder, name in found.items():
            if name != (first := next(iter(found.items())))[1]:
                raise UserError(
                    f"{first[0]} was made for {first[1]} and {folder} for {name}; changes of different bases do not add up",
                    "Combine adapters that were trained on the same model.",
                )
    return next(iter(names.values()))


def _probe(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "probe.json").read_text(encoding="utf-8")))
    except FileNotFoundError:  # an adapter of another library has none
        return {}
    except (OSError, ValueError, TypeError) as problem:
        raise UserError(f"{folder / 'probe.json'} cannot be read: {problem}", "Use another copy of the adapter.") from None


def change_of(lm: Any, folder: Path) -> Change:
    """Attach an adapter to its base, which replays its probe, see what merging it changes, and leave the base as it was.

    Args:
        lm: the base in float32.

    Raises:
        UserError: a damaged adapter, one of another shape, or one that cannot be merged.
        WorkFailed: the probe's logits do not come back.
    """
    base = {name: p.detach().clone() for name, p in lm.model.named_parameters()}
    prompts = [tuple(p["prompt_ids"]) for p in _probe(folder).get("prompts", [])]
    prompts = prompts or [tuple(lm.tokenizer(text)["input_ids"]) for text in _TEXTS]
    before = last_logits(lm, prompts)
    attached = load_adapter(lm, folder)
    logits, factors = last_logits(lm, prompts), _factors(lm.model)
    try:
        attached.entry.merge(lm.model)
    except UserError as error:
        raise UserError(f"{folder}: {error.message}", error.fix) from None
    deltas = {}
    with torch.no_grad():
        for name, p in lm.model.named_parameters():
            if name not in base or p.shape != base[name].shape:
                raise UserError(
                    f"{folder} brings {name}, which its base does not have in this shape", "Use it as it is, with --adapter."
                )
            delta = p - base[name]
            if bool(delta.any()):
                deltas[name] = delta
            p.copy_(base[name])
    return Change(folder, deltas, factors, prompts, logits, largest_difference(before, logits))


def _factors(model: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]] | None:
    layers = lora.layers(model)
    if set(lora.state(model)) != {f"base_model.model.{n}.lora_{x}.weight" for n in layers for x in "AB"} or not layers:
        return None
    return {name: (layer.lora_A.detach().clone(), layer.scaling * layer.lora_B.detach()) for name, layer in layers.items()}


def last_logits(lm: Any, prompts: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """Return the logits [P, V] after each prompt, float32."""
    with torch.inference_mode():
        return torch.stack([lm.model(input_ids=torch.tensor([ids], device=lm.device)).logits[0, -1].float() for ids in prompts])


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest absolute difference; infinite where one of them is not a number."""
    found = float((a - b).abs().max())
    return found if found == found else float("inf")


def apply(lm: Any, changes: Sequence[Change], method: str, weights: Sequence[float], density: float, seed: int) -> None:
    """Add the combined changes to the base's weights, in float32, each rounded once.

    A weight that only some of the adapters change takes part with zeros from the others.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in lm.model.named_parameters():
            if any(name in change.deltas for change in changes):
                zero = torch.zeros_like(p)
                p.add_(combine(method, [c.deltas.get(name, zero) for c in changes], weights, density, generator))


def as_one_lora(lm: Any, changes: Sequence[Change], weights: Sequence[float]) -> lora.Parameters:
    """Attach the weighted sum of LoRAs to their base as one LoRA, which is exact: [w1 B1, w2 B2, ...] [A1; A2; ...].

    Its rank is the sum of the ranks, its scale 1.

    Raises:
        UserError: one of them is no plain LoRA.
    """
    pairs: list[Mapping[str, tuple[torch.Tensor, torch.Tensor]]] = []
    for change in changes:
        if change.factors is None:
            raise UserError(f"{change.folder} is no plain LoRA, so the sum is none either", "Write a model: --into model.")
        pairs.append(change.factors)
    ranks = [max(len(a) for a, _ in factors.values()) for factors in pairs]
    names = sorted({name for factors in pairs for name in factors})
    parameters = lora.Parameters(rank=sum(ranks), alpha=float(sum(ranks)), dropout=0.0, targets=names)
    lora.attach(lm.model, parameters, 0)
    with torch.no_grad():
        for name, layer in lora.layers(lm.model).items():
            layer.lora_A.zero_()
            start = 0
            for factors, rank, weight in zip(pairs, ranks, weights, strict=True):
                if name in factors:
                    a, b = factors[name]
                    layer.lora_A[start : start + len(a)] = a
                    layer.lora_B[:, start : start + len(a)] = weight * b
                start += rank
    return parameters
