"""The JSON tasks of BIG-bench (Srivastava et al. 2022), unpacked from a pinned archive; its code is never imported or run."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tunesmith.core import store

_LARGEST_TASK = 256 << 20


def folder() -> Path:
    """Return the folder with one `TASK.json` or `TASK/SUBTASK.json` a task, fetched (358 MB) on first use."""
    return store.prepared("bigbench", store.BIGBENCH, _build)


def _build(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts
            if not (member.isfile() and parts[-1] == "task.json" and "benchmark_tasks" in parts and member.size < _LARGEST_TASK):
                continue
            names = parts[parts.index("benchmark_tasks") + 1 : -1]
            content = tar.extractfile(member)
            if content is None or not 1 <= len(names) <= 2 or any(n.startswith(".") for n in names):
                continue
            # The file name is built from checked parts; nothing is extracted by the path an archive claims.
            path = target.joinpath(*names).with_suffix(".json")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())
