"""A training small enough to be done again and again: the toy decoder with LoRA on twelve rows."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tunesmith.core.records import Encoded
from tunesmith.core.runs import Run
from tunesmith.models.lm_loss import summed_loss
from tunesmith.models.load import LM, load
from tunesmith.objectives import causal_lm
from tunesmith.peft import full, lora
from tunesmith.train import training as train
from tunesmith.train.fit import Fitted, Validation, fit
from tunesmith.train.parameters import FitParameters

END = 1


def rows(count: int = 12, seed: int = 0) -> list[Encoded]:
    """Rows of 4 to 20 tokens; the last two count, and the very last ends the answer."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        ids = (*(chance.randrange(6, 262) for _ in range(chance.randrange(3, 20))), END)
        made.append(Encoded(ids, (False,) * (len(ids) - 2) + (True, True), f"rows.jsonl:{number + 1}"))
    return made


SETTINGS: dict[str, Any] = {
    "epochs": 3, "batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 5e-3, "save_steps": 2, "evaluations": 0,
}  # fmt: skip


class Training:
    """A toy model with its trained parameters; `fit` may be called again in the same folder, as another process would."""

    def __init__(self, folder: Path, dropout: float = 0.1, dtype: str = "fp32", method: str = "lora", **changes: Any) -> None:
        self.folder, self.how = folder, FitParameters(**{**SETTINGS, **changes})
        self.lm: LM = load("toy-llama", dtype=dtype)
        self.lm.model.train()
        attach = (lambda m: lora.attach(m, lora.Parameters(rank=4, dropout=dropout), 7)) if method == "lora" else full_attach
        self.parameters: Mapping[str, torch.nn.Parameter] = attach(self.lm.model)
        self.before_loss: Callable[[int], Any] = lambda number: None
        self.losses_made = 0

    def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, float]]:
        """The language-modelling loss; `before_loss` is told its number and may raise or return a factor."""
        self.losses_made += 1
        factor = self.before_loss(self.losses_made)
        nll, stats = summed_loss(self.lm.model, *batch.tensors(self.lm.device), causal_lm.loss)
        return nll * factor if factor is not None else nll, stats

    def fit(self, seed: int = 0, data: list[Encoded] | None = None, evaluate: Callable[[], float] | None = None) -> Fitted:
        """Train, or go on with what the folder holds."""
        run = Run(self.folder, {"test": 1}, {})
        validation = Validation(evaluate, "eval_accuracy", larger_is_better=True) if evaluate else None
        return fit(train.Training(self.loss, self.parameters, data or rows(), self.how, seed), run, validation)

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy of the trained parameters."""
        return {name: p.detach().clone() for name, p in self.parameters.items()}


def full_attach(model: Any) -> dict[str, torch.nn.Parameter]:
    """Train every weight."""
    return full.attach(model, full.Parameters(), 0)


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """Whether two sets of tensors are equal, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
