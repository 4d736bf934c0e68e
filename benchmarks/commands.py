"""What benchmarks share that run commands one after the other: reading what a command says last, and naming the machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from typing import Any


def run_json(words: Sequence[str], **environment: str) -> Any:
    """Run a command and return what the last line it prints holds."""
    about = {**os.environ, **environment}
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True, env=about)
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> dict[str, Any]:
    """Return what a result must be read beside."""
    return {"cores": len(os.sched_getaffinity(0)), "machine": platform.machine(), "python": platform.python_version()}
