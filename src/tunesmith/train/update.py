"""One optimizer step: clip, schedule, AdamW on float32 master copies, and a guard against anything that is not finite."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping

import torch

from tunesmith.core.errors import UserError
from tunesmith.train.anchor import Anchor, Held
from tunesmith.train.engines.local import current
from tunesmith.train.parameters import Schedule
from tunesmith.train.training import Training

# How many random numbers are kept for rounding; a prime, so that no row of a matrix is a multiple of it.
_DITHER = 65_521


def schedule_factor(schedule: Schedule, step: int, total: int, warmup: int) -> float:
    """Return what the learning rate is multiplied with at `step` (0-based) of `total`.

    It rises linearly over `warmup` steps and then stays, falls linearly, or falls along a cosine, to zero at `total`.
    Warm-up counts from 1, so the first update moves something; from its end on the values are those of Hugging Face.
    "gpt" is what the authors of GPT-1 used: at x = (step + 1) / total it is min(x total / warmup, 1) (1 - x), so the rate falls
    while it rises, never reaches its peak, and the last update moves nothing.
    """
    if schedule == "gpt":
        return min((step + 1) / max(warmup, 1), 1.0) * (1 - (step + 1) / total)
    if step < warmup:
        return (step + 1) / warmup
    left = (total - step) / max(total - warmup, 1)
    return {"linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left)), "constant": 1.0}[schedule]


class Updater:
    """AdamW (Loshchilov & Hutter 2019) over named parameters.

    bfloat16 has 8 bits of precision: an update smaller than 1/256 of a weight would be lost. So parameters in reduced
    precision have float32 masters, which gather their gradients, which the optimizer moves, and which the parameters
    are rounded from: bfloat16 up or down at random, so that on average the model has moved as far as its masters, however
    little that is (`round_at_random`).

    Args:
        parameters: what is trained, by name.
        weight_decay: decoupled; matrices only, never biases, norms or other vectors.
        clip_norm: largest norm of the gradient of a network; 0 = no clipping.
        rates: parameter name -> factor of the learning rate, where it is not 1.
        anchor: what holds the parameters near where they are now; None = nothing.
        apart: names of those that are a network of its own, whose gradient is clipped by itself.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        weight_decay: float,
        clip_norm: float,
        rates: Mapping[str, float] | None = None,
        anchor: Anchor | None = None,
        apart: Collection[str] = (),
    ) -> None:
        self.parameters = dict(parameters)
        self.masters = {
            name: p if p.dtype == torch.float32 else p.detach().float().requires_grad_() for name, p in self.parameters.items()
        }
        self.clip_norm, self.apart, self.engine = clip_norm, frozenset(apart), current()
        self.rates = dict(rates or {})
        self.held = Held(anchor, self.parameters, self.masters) if anchor else None
        # L2-SP takes the place of decay to zero where there is a start to go back to.
        pulled = self.held.masters.keys() if anchor and self.held and anchor.l2_sp else ()
        groups: dict[tuple[float, float], list[torch.Tensor]] = {}
        for name, master in self.masters.items():
            key = self.rates.get(name, 1.0), weight_decay if master.ndim >= 2 and name not in pulled else 0.0
            groups.setdefault(key, []).append(master)
        self.optimizer = torch.optim.AdamW(
            [{"params": held, "rate": rate, "weight_decay": decay} for (rate, decay), held in groups.items()],
            lr=0.0, betas=(0.9, 0.999), eps=1e-8, fused=True,
        )  # fmt: skip

    @classmethod
    def of(cls, training: Training) -> Updater:
        """Return the updater that a training asks for."""
        how = training.how
        return cls(training.parameters, how.weight_decay, how.clip_norm, training.rates, training.anchor, training.apart)

    def gather(self) -> None:
        """Add the gradients of one backward pass to those of the update, in float32; call it after every pass."""
        for name, p in self.parameters.items():
            master = self.masters[name]
            if p.grad is not None and master is not p:
                master.grad = p.grad.float() if master.grad is None else master.grad.add_(p.grad)
                p.grad = None

    def step(self, learning_rate: float) -> float:
        """Apply the gathered gradients.

        Returns:
            The norm of the whole gradient before clipping. If it is not finite, nothing was changed.
        """
        if self.held:
            self.held.add_gradients()
        networks: tuple[list[torch.Tensor], ...] = ([], [])
        for name, master in self.masters.items():
            if master.grad is not None:
                networks[name in self.apart].append(master.grad)
        norms = [self.engine.number(torch.nn.utils.get_total_norm(own)) if own else 0.0 for own in networks]
        norm = math.hypot(*norms)
        if math.isfinite(norm):
            for gradients, own in zip(networks, norms, strict=True):
                if self.clip_norm and own > self.clip_norm:
                    torch._foreach_mul_(gradients, self.clip_norm / own)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate * group["rate"]
            if self.held:
                for name in self.masters:
                    self.held.pull(name, learning_rate * self.rates.get(name, 1.0))
            self.optimizer.step()
            self._round()
        self.clear()
        return norm

    def clear(self) -> None:
        """Drop all gradients."""
        for name, p in self.parameters.items():
            p.grad = self.masters[name].grad = None

    def not_finite(self) -> str:
        """Return what holds NaN or infinity ("the weights of a.b", "exp_avg_sq of a.b"), or ""."""
        held = {f"the weights of {name}": p for name, p in self.parameters.items()}
        # Infinite moments leave weights finite and dead: every later update is 0.
        held |= {key.replace("/", " of ", 1): tensor for key, tensor in self.state().items()}
        bad = [i for i, tensor in enumerate(held.values(), 1) if not _finite(self.engine.mine(tensor.detach()))]
        found = int(max(self.engine.gather(bad[0] if bad else 0)))
        return list(held)[found - 1] if found else ""

    def _round(self) -> None:
        with torch.no_grad():
            for i, (name, p) in enumerate(self.parameters.items()):
                master = self.masters[name]
                if p.dtype == torch.bfloat16:
                    # Drawn anew every step, and the same again where a checkpoint of that step is loaded.
                    step = int(self.optimizer.state.get(master, {}).get("step", 0))
                    round_at_random(self.engine.mine(master), self.engine.mine(p), 1_000_003 * step + i)
                elif master is not p:
                    p.copy_(master)

    def state(self) -> dict[str, torch.Tensor]:
        """Return everything needed to continue: masters and both moments, float32, and their step counts."""
        tensors: dict[str, torch.Tensor] = {}
        for name, master in self.masters.items():
            tensors[f"weight/{name}"] = master.detach()
            for key, value in self.optimizer.state.get(master, {}).items():
                tensors[f"{key}/{name}"] = value
        return tensors

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Continue from what `state` returned.

        Raises:
            UserError: what is trained was not the same when that was saved.
        """
        with torch.no_grad():
            for name, master in self.masters.items():
                saved = tensors.get(f"weight/{name}")
                if saved is None or saved.shape != master.shape:
                    found = "no" if saved is None else f"{tuple(saved.shape)} for"
                    raise UserError(
                        f"the checkpoint has {found} '{name}', and this training {tuple(master.shape)}: it was made by another "
                        "version or with other switches (TUNESMITH_WITHOUT)",
                        "Go on with those, or begin again with --overwrite.",
                    )
                master.copy_(self.engine.part(saved, master))
                keys = ("step", "exp_avg", "exp_avg_sq")
                if f"exp_avg/{name}" in tensors:
                    moments = {key: tensors[f"{key}/{name}"].clone().to(master.device) for key in keys}
                    self.optimizer.state[master] = {
                        key: self.engine.part(t, master) if t.shape == master.shape else t for key, t in moments.items()
                    }
        self._round()


@functools.cache
def _dither(device: torch.device) -> torch.Tensor:
    drawn = torch.Generator().manual_seed(0)
    return torch.randint(1 << 16, (2 * _DITHER,), dtype=torch.int32, generator=drawn).to(device)


def round_at_random(source: torch.Tensor, target: torch.Tensor, seed: int) -> None:
    """Round float32 to bfloat16 upwards with the probability that makes the mean exact; what bfloat16 holds exactly stays.

    The upper half of a float32's bits is a bfloat16; adding a drawn number below 2^16 to the whole carries into it as often
    as the lower half is large (stochastic rounding: Gupta et al. 2015, equation 1, here on floating-point bits).

    Args:
        source: float32, finite. target: bfloat16 of the same shape, contiguous; written.
        seed: the same seed rounds the same numbers alike.
    """
    bits, out = source.detach().view(torch.int32).flatten(), target.detach().view(torch.int16).view(-1)
    # Numbers are drawn once and read from another place each time: drawing 1e8 of them takes longer than an AdamW step.
    start = seed * 7919 % _DITHER
    noise = _dither(bits.device)[start : start + _DITHER]
    # In pieces that stay in the cache.
    for here, piece in zip(out.split(_DITHER), bits.split(_DITHER), strict=True):
        here.copy_((piece + noise[: len(piece)]).bitwise_right_shift_(16))


def _finite(tensor: torch.Tensor) -> bool:
    low, high = torch.aminmax(tensor.detach()) if tensor.numel() else (0.0, 0.0)
    return math.isfinite(float(low)) and math.isfinite(float(high))


def weights(parameters: Mapping[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """Copy trained parameters, for instance to keep the best so far."""
    return {name: p.detach().clone() for name, p in parameters.items()}


def restore(parameters: Mapping[str, torch.nn.Parameter], kept: Mapping[str, torch.Tensor]) -> None:
    """Put copies made by `weights` back."""
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(kept[name])
