"""Everything a training needs, loaded and attached but not begun: what `tune` does and `plan tune` looks at."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from tunesmith.core.registry import PEFT
from tunesmith.models.load import LM
from tunesmith.recipes._adapt import attach, with_answers
from tunesmith.recipes._models import load_attached, quiet_libraries, use_threads
from tunesmith.recipes._rows import Rows, read_rows
from tunesmith.recipes._tune_config import Config
from tunesmith.train.fit import Validation
from tunesmith.train.rehearsal import Training


@dataclass(frozen=True)
class Ready:
    """A training about to begin.

    Attributes:
        method: peft entry and its parameters.
        validation: a task's accuracy, or the loss, on validation rows; None without rows.
    """

    lm: LM
    method: tuple[ModuleType, Any]
    rows: Rows
    training: Training
    validation: Validation | None

    @property
    def keeps_best(self) -> bool:
        """Whether a copy of the best weights is kept."""
        return self.validation is not None and self.training.how.evaluations > 0

    @property
    def method_name(self) -> str:
        """The peft method's name ("lora")."""
        return self.method[0].__name__.rpartition(".")[2]


def ready(config: Config) -> Ready:
    """Load the model, read the rows and attach the method.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
    """
    quiet_libraries()
    use_threads(config.threads)
    method = PEFT.parameters(config.peft)
    lm, adapter = load_attached(config.model, config.adapter, config.dtype)
    if adapter:
        method = adapter.entry, adapter.parameters
    rows = read_rows(config, lm)
    training = attach(
        lm, with_answers(method, rows.answers), rows.train, config, config.seed, adapter.trained if adapter else None
    )
    return Ready(lm, method, rows, training, _validation(lm, rows))


def _validation(lm: LM, rows: Rows) -> Validation | None:
    """Measure the task's accuracy, or the loss on held-out rows; nothing without such rows."""
    from tunesmith.evaluate.loss import mean_loss

    if rows.validate:
        return Validation(rows.validate, "eval_accuracy", larger_is_better=True)
    return Validation(lambda: mean_loss(lm, rows.validation), "eval_loss", larger_is_better=False) if rows.validation else None
