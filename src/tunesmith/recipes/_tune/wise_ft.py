"""WiSE-FT: mix the weights from before a training with those after it (Wortsman et al. 2022).

    w(alpha) = (1 - alpha) w0 + alpha w1

A new LoRA adapter begins at B = 0, so its mix is W0 + alpha B A: B times alpha. Of the alphas tried the one is kept that
forgets least among those with at least 90 % of the largest gain on validation rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tunesmith.core.errors import UserError
from tunesmith.core.files import write_json
from tunesmith.core.progress import Progress, say
from tunesmith.evaluate import forgetting
from tunesmith.models.load import LM
from tunesmith.peft import full, lora
from tunesmith.recipes._models import load
from tunesmith.train.fit import Validation

KEPT_GAIN = 0.9


@dataclass(frozen=True)
class Point:
    """A mix of weights: value on validation rows (larger is better), and mean nats per token of the guard set's text."""

    alpha: float
    value: float
    nats: float


@dataclass(frozen=True)
class Curve:
    """All mixes tried, and the alpha of the one that was kept."""

    points: list[Point]
    alpha: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def check_mixable(method: tuple[ModuleType, Any], parameters: Mapping[str, torch.Tensor], validation: bool) -> None:
    """Refuse what WiSE-FT cannot mix, before anything is trained.

    Raises:
        UserError: no validation rows, or neither full fine-tuning nor a new, plain LoRA adapter.
    """
    if not validation:
        raise UserError("wise_ft chooses a mix by validation rows, and there are none", "Set --validation_rows above 0.")
    if method[0] is full:
        return
    factors = {name: p for name, p in parameters.items() if "lora_B" in name}
    plain = method[0] is lora and all("lora_A" in name or "lora_B" in name for name in parameters)
    if not plain or any(bool(p.detach().any()) for p in factors.values()):
        raise UserError(
            "wise_ft mixes all weights or a new, plain LoRA adapter, and this is neither",
            "Use it with --peft full or --peft lora, and without --adapter.",
        )


def choose(points: list[Point]) -> float:
    """Return the alpha that forgets least of those with 90 % of the largest gain; of equal ones the smallest.

    The gain is the value beyond that of alpha = 0. Where nothing gains, alpha is 0: the old weights are no worse.
    """
    start = next(p.value for p in points if p.alpha == 0)
    most = max(p.value for p in points) - start
    if most <= 0:
        return 0.0
    good = [p for p in points if p.value - start >= KEPT_GAIN * most - 1e-12]
    return min(good, key=lambda p: (p.nats, p.alpha)).alpha


def mix_weights(
    lm: LM, model: str, method: tuple[ModuleType, Any], parameters: Mapping[str, torch.nn.Parameter],
    validation: Validation, steps: int, folder: Path,
) -> Curve:  # fmt: skip
    """Try mixes of old and new weights, leave the best in the model, and write `wise_ft.json` into a run's folder.

    Args:
        model: name that loads the old weights. parameters: what was trained. steps: alphas tried beyond 0.
    """
    put = _mixer(lm, model, method, parameters)
    record = folder / "wise_ft.json"
    if record.is_file():
        known = json.loads(record.read_text(encoding="utf-8"))
        curve = Curve([Point(**point) for point in known["points"]], known["alpha"])
    else:
        points = []
        with Progress("WiSE-FT", total=steps + 1, unit="mixes") as progress:
            for number in range(steps + 1):
                put(number / steps)
                points.append(_measured(lm, validation, number / steps))
                progress.advance(1)
        curve = Curve(points, choose(points))
        write_json(record, curve.as_dict())
    put(curve.alpha)
    say(f"WiSE-FT keeps alpha = {curve.alpha:g}")
    return curve


def _measured(lm: LM, validation: Validation, alpha: float) -> Point:
    value = validation.measure()
    nats, tokens = forgetting.text_nats(lm, forgetting.passages())
    return Point(alpha, value if validation.larger_is_better else -value, sum(nats) / sum(tokens))


def _mixer(
    lm: LM, model: str, method: tuple[ModuleType, Any], parameters: Mapping[str, torch.nn.Parameter]
) -> Callable[[float], None]:
    """Return what puts w(alpha) into the model."""
    ends = {name: p.detach().clone() for name, p in parameters.items() if method[0] is full or "lora_B" in name}
    starts = dict(load(model, dtype=str(lm.dtype).removeprefix("torch.")).model.named_parameters()) if method[0] is full else {}

    @torch.no_grad()
    def put(alpha: float) -> None:
        for name, end in ends.items():
            if alpha == 1:  # to the bit what was trained
                parameters[name].copy_(end)
            elif starts:
                start = starts[name].to(end.device)
                parameters[name].copy_(torch.lerp(start.float(), end.float(), alpha))
            else:
                parameters[name].copy_(end.float() * alpha)

    return put
