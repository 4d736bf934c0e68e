"""What a training brought here and cost elsewhere: its rows and the guard set, measured before and after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith.core.files import write_json
from tunesmith.evaluate import forgetting
from tunesmith.models.load import LM
from tunesmith.recipes._tune.ready import Ready
from tunesmith.recipes._tune.wise_ft import mix_weights
from tunesmith.train.fit import Validation


def guarding_of(it: Ready, folder: Path) -> Guarding | None:
    """Measure a decoder before its training, if that is wanted."""
    if not it.config.guard or not it.generative:
        return None
    return Guarding(it.lm, it.config.data, it.config.guard_rows, it.validation, folder)


def mixes_of(it: Ready, folder: Path) -> dict[str, Any] | None:
    """Mix old and new weights of a training that is done, if that is wanted."""
    if not it.config.wise_ft or it.validation is None:
        return None
    model, parameters = it.config.model_name, it.training.parameters
    return mix_weights(it.lm, model, it.method, parameters, it.validation, it.config.wise_ft, folder).as_dict()


class Guarding:
    """Measures a model before its training, or takes what an interrupted run in the same folder had measured.

    Args:
        task: what is trained, so that it is no sibling.
        rows: items of each sibling task.
    """

    def __init__(self, lm: LM, task: str, rows: int, validation: Validation | None, folder: Path) -> None:
        self._lm, self._task, self._rows, self._validation = lm, task, rows, validation
        record = folder / f"guard-{rows}.json"
        if record.is_file():
            known = json.loads(record.read_text(encoding="utf-8"))
            self._before, self._value = forgetting.Guard(**known["guard"]), known["value"]
            return
        lm.model.eval()
        self._value = validation.measure() if validation else None
        self._before = forgetting.measure(lm, task, rows)
        lm.model.train()
        write_json(record, {"guard": self._before.as_dict(), "value": self._value})

    def finish(self) -> dict[str, Any]:
        """Measure again and return `gain` (None without validation rows) and `forgetting`, as report.json has them."""
        change = forgetting.compare(self._before, forgetting.measure(self._lm, self._task, self._rows))
        gain = None
        if self._validation:
            gain = {"measure": self._validation.name, "before": self._value, "after": self._validation.measure()}
        return {"gain": gain, "forgetting": change.as_record()}
