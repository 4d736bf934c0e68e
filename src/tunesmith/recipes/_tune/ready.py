"""Everything a training needs, loaded and attached but not begun: what `tune` does and `plan tune` looks at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.files import text_hash
from tunesmith.core.registry import PEFT, TUNINGS
from tunesmith.data.encoded_rows import EncodedRows
from tunesmith.models.load import LM
from tunesmith.recipes._adapt import attach, with_answers
from tunesmith.recipes._models import quiet_libraries, use_threads
from tunesmith.recipes._tune.config import Config
from tunesmith.recipes._tune.remedies import anchor_of, pool_of, with_replay
from tunesmith.recipes._tune.rows import Rows
from tunesmith.recipes._tune.supervised import Supervised
from tunesmith.recipes._tune.wise_ft import check_mixable
from tunesmith.recipes.tunings import causal_lm
from tunesmith.train.fit import Validation
from tunesmith.train.layers import rates_by_layer
from tunesmith.train.training import Training


@dataclass(frozen=True)
class Ready:
    """A training about to begin.

    Attributes:
        config: the settings, those of the objective filled in.
        method: peft entry and its parameters.
        pool: rows that are replayed, or that EWC measures weights on; None without either.
    """

    config: Config
    supervised: Supervised
    method: tuple[ModuleType, Any]
    training: Training
    pool: EncodedRows | None = None

    @property
    def lm(self) -> LM:
        """The model, with what is trained on it."""
        return self.supervised.lm

    @property
    def rows(self) -> Rows:
        """What is learned from."""
        return self.supervised.rows

    @property
    def validation(self) -> Validation | None:
        """What is measured on validation rows; None without rows."""
        return self.supervised.validation

    @property
    def generative(self) -> bool:
        """Whether a decoder learns to go on with text."""
        return TUNINGS.parameters(self.config.objective)[0] is causal_lm

    @property
    def keeps_best(self) -> bool:
        """Whether a copy of the best weights is kept."""
        return self.validation is not None and self.training.how.evaluations > 0

    @property
    def asked(self) -> dict[str, Any] | None:
        """What is kept so that what was trained can be asked again as it was in its test; None where it goes on with text."""
        name = TUNINGS.parameters(self.config.objective)[0].__name__.rpartition(".")[2].replace("_", "-")
        about = {"objective": name, "dtype": str(self.lm.dtype).removeprefix("torch.")}
        return {**about, **self.supervised.asked} if self.supervised.asked else None

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
    config = filled_in(config)
    objective, parameters = TUNINGS.parameters(config.objective)
    method = PEFT.parameters(config.peft or {})
    it: Supervised = objective.supervise(config, parameters)
    it, pool = _with_replay(config, it, generative=objective is causal_lm)
    if it.adapter:
        method = it.adapter.entry, it.adapter.parameters
    usual = objective.LEARNING_RATES.get(method[0].__name__.rpartition(".")[2].replace("_", "-"))
    how = config.model_copy(update={"learning_rate": config.learning_rate or usual})
    attached = it.adapter.trained if it.adapter else None
    training = attach(
        it.lm, with_answers(method, it.rows.answers), it.rows.train, how, config.seed, it.loss_of, attached, it.heads
    )
    layers = rates_by_layer(training.parameters, config.layer_decay)
    rates = {name: training.rates.get(name, 1.0) * layers.get(name, 1.0) for name in {**training.rates, **layers}}
    training = replace(training, rates=rates, anchor=anchor_of(config, training.parameters, it.heads))
    if config.wise_ft:
        check_mixable(method, training.parameters, it.validation is not None)
    return Ready(config, it, method, training, pool)


def _with_replay(config: Config, it: Supervised, generative: bool) -> tuple[Supervised, EncodedRows | None]:
    """Return the rows with those that are replayed, and what they are drawn from."""
    asked = [key for key in ("replay", "ewc", "wise_ft") if getattr(config, key)]
    if asked and not generative:
        raise UserError(f"{', '.join(asked)}: only a decoder's general text can be kept", "Use it with --objective causal-lm.")
    pool = pool_of(config, it.lm, min(config.max_length, it.lm.context_length), config.seed)
    if pool is None:
        return it, None
    assert isinstance(it.rows.train, EncodedRows)
    train, said = with_replay(config, it.rows.train, pool, config.seed)
    fingerprint = text_hash(it.rows.fingerprint, train.fingerprint(), pool.fingerprint())
    return replace(it, rows=replace(it.rows, train=train, fingerprint=fingerprint, warnings=[*it.rows.warnings, *said])), pool


def filled_in(config: Config) -> Config:
    """Return the settings with the objective's own in the place of those that were not given.

    Raises:
        UserError: an unknown objective.
    """
    defaults = TUNINGS.parameters(config.objective)[0].DEFAULTS
    return config.model_copy(update={key: value for key, value in defaults.items() if key not in config.model_fields_set})
