"""The run directory of an alignment."""

from __future__ import annotations

from pathlib import Path

from tunesmith.core.runs import Run
from tunesmith.models.load import LM
from tunesmith.recipes._align.config import Config
from tunesmith.recipes._command import command_of
from tunesmith.train.parameters import HARMLESS


def run_of(config: Config, folder: Path, lm: LM, fingerprint: str) -> Run:
    """Make or take up a run's directory.

    Args:
        fingerprint: hash of what is learned from.

    Raises:
        UserError: the folder holds something else, or a run with other settings.
        WorkFailed: it cannot be written.
    """
    inputs = {**config.model_dump(exclude={*HARMLESS, "allow_attackable"}), "model_identity": lm.identity, "rows": fingerprint}
    about = {"command": command_of("align", config.data, config), "parents": []}
    return Run(folder, inputs, about, config.overwrite or not config.resume)
