"""Fetch the embedded models and data into the cache, once; afterwards everything works offline."""

from __future__ import annotations

from typing import Any, Literal

from tunesmith.core.config import Config as BaseConfig
from tunesmith.core.progress import say

POSITIONAL = "what"
EXAMPLES = ("tunesmith fetch", "tunesmith fetch smollm2", "tunesmith fetch bigbench")


class Config(BaseConfig):
    """Settings of `tunesmith fetch`."""

    what: list[Literal["smollm2", "minilm", "hutto", "bigbench"]] = ["smollm2", "minilm", "hutto"]
    """smollm2 (93 MB), minilm (84 MB), hutto (3 MB: movies, tweets, products, editorials); bigbench (358 MB) only if named"""


def run(config: Config) -> dict[str, Any]:
    """Fetch, verify and prepare; what is there already takes no time.

    Raises:
        WorkFailed: something is neither in the cache nor reachable.
    """
    from tunesmith.core.files import verify_manifest
    from tunesmith.data.sources import _bigbench, _hutto
    from tunesmith.models import embedded

    where = {}
    for name in config.what:
        others = {"hutto": _hutto.folder, "bigbench": _bigbench.folder}
        folder = others[name]() if name in others else embedded.folder_of(name)
        problem = verify_manifest(folder)
        where[name] = str(folder)
        say(f"{name}: {problem or 'ready'} ({folder})")
    return {"status": "done", "folders": where}


def render(report: dict[str, Any]) -> str:
    """Return one line; the folders were said as they became ready."""
    return f"{len(report['folders'])} ready; from now on no network is needed"
