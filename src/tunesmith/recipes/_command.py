"""The command line that makes, or goes on with, a run."""

from __future__ import annotations

import json
import shlex

from tunesmith.core.config import Config


def command_of(verb: str, data: str, config: Config) -> str:
    """Return the command that makes, or goes on with, a run of a verb about `data` with this configuration."""
    given = config.model_dump(exclude_defaults=True, exclude={"data", "overwrite", "resume"})
    words = [w for k, v in given.items() for w in ("--set", f"{k}={v if isinstance(v, str) else json.dumps(v)}")]
    return shlex.join(["tunesmith", verb, data, *words])
