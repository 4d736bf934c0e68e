"""Several reward models that differ in seed alone, asked together: where they agree it is safer to steer (Coste et al. 2023)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.core.errors import WorkFailed
from tunesmith.core.files import write_json, write_manifest
from tunesmith.recipes._reward.config import Config
from tunesmith.recipes._reward.files import ENSEMBLE, FILE
from tunesmith.recipes._reward.measures import measure
from tunesmith.recipes._reward.training import Trained


def together(config: Config, folder: Path, trained: Sequence[Trained]) -> dict[str, Any]:
    """Measure the mean of several models' rewards, and write a directory that names them.

    Returns:
        What of the report is the ensemble's and not its first member's.

    Raises:
        WorkFailed: the disk could not take it.
    """
    rows = trained[0].rows  # the same of all
    mean = [np.mean([one.rewards[i] for one in trained], axis=0).tolist() for i in range(len(rows.test))]
    texts = np.mean([one.of_texts for one in trained], axis=0).tolist() if rows.rated else []
    scale = float(np.mean([one.it.trained_gain / one.it.gain for one in trained]))
    rated = (rows.rated, texts) if rows.rated else None
    measured = measure(rows.test, mean, scale, trained[0].fitted, config.seed, rated)
    flat = np.array([[r for row in one.rewards for r in row] for one in trained])
    target = folder / "ensemble"
    members = [os.path.relpath(one.artefact, target) for one in trained]
    try:
        target.mkdir(parents=True, exist_ok=True)
        write_json(target / FILE, {"kind": ENSEMBLE, "members": members})
        write_manifest(target)
    except OSError as error:
        raise WorkFailed(f"cannot write {target}: {error}", "Free some space; the same command then only saves.") from error
    return {
        **measured, "artefact": str(target), "spread": float(flat.std(axis=0).mean()),
        "members": [
            {"artefact": str(one.artefact), "accuracy": one.measured["accuracy"], "people": one.measured["people"]}
            for one in trained
        ],
    }  # fmt: skip
