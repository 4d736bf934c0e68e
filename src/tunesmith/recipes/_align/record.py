"""The run directory of an alignment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.core.registry import ALIGNERS
from tunesmith.core.runs import Run
from tunesmith.models.load import LM
from tunesmith.recipes._align.config import Config
from tunesmith.recipes._command import command_of
from tunesmith.recipes._reward import files
from tunesmith.recipes._reward.scoring import identity_of
from tunesmith.train.parameters import HARMLESS

# Where rounds are sampled; what is learned from are our own model's numbers, wherever that was.
_WHERE = ("rollout_workers", "rollout_url", "address")


def run_of(config: Config, folder: Path, lm: LM, fingerprint: str, about: Mapping[str, Any] | None = None) -> Run:
    """Make or take up a run's directory.

    Args:
        fingerprint: hash of what is learned from. about: what else `run.json` should hold.

    Raises:
        UserError: the folder holds something else, or a run with other settings.
        WorkFailed: it cannot be written.
    """
    value_from = getattr(ALIGNERS.parameters(config.method)[1], "value_from", None)
    inputs = {
        **config.model_dump(exclude={*HARMLESS, *_WHERE, "allow_attackable"}),
        "model_identity": lm.identity,
        "rows": fingerprint,
        # A path alone would let another reward model take the place of the one that a run began with.
        "scorer_identity": identity_of(config.scorer) if config.scorer else None,
        "held_out_identity": identity_of(config.held_out) if config.held_out else None,
        "value_from_identity": files.identity_of(value_from) if value_from else None,
    }
    record = {"command": command_of("align", config.data, config), "parents": [], **(about or {})}
    return Run(folder, inputs, record, config.overwrite or not config.resume)
