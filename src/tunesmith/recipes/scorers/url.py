"""A service of your own: POST {"prompts": [...], "answers": [...]} -> {"scores": [...]}, bounded in time, size and attempts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tunesmith.core.config import Config

if TYPE_CHECKING:
    from tunesmith.train.rollouts import Answer, Scorer

_LARGEST = 1 << 20


class Parameters(Config):
    """Where the service is and how long it is given."""

    url: str
    """https://host/path, or http:// on this machine; a key goes into the environment variable TUNESMITH_API_KEY"""
    timeout: float = Field(60.0, gt=0, allow_inf_nan=False)
    """seconds for one request"""
    attempts: int = Field(4, ge=1, le=20)
    """how often a busy or broken service is asked, after waits that double, before the run stops"""
    answers_at_once: int = Field(64, ge=1, le=1024)
    """answers in one request"""


def open(parameters: Parameters) -> Scorer:
    """Return the scorer; nothing is asked yet.

    Raises:
        UserError: no address, or one that would send prompts over a network without encryption.
    """
    from dataclasses import replace
    from urllib.parse import urlsplit

    from tunesmith.core.errors import UserError, WorkFailed
    from tunesmith.models._http import Patience
    from tunesmith.models.remote import parse

    server, fragment = parse(parameters.url, Patience(parameters.timeout, parameters.attempts, largest=_LARGEST))
    server = replace(server, path=urlsplit(parameters.url).path or "/")
    if fragment:
        raise UserError(f"the address of a scorer has no '#', and {parameters.url} has", "Leave out what follows it.")
    if not server.secure and not server.local:
        raise UserError(f"{server.address} is another machine, and http sends prompts there in the open", "Use https.")

    def asked(answers: Sequence[Answer]) -> list[float]:
        said: Any = server.call("", {"prompts": [a.prompt for a in answers], "answers": [a.text for a in answers]})
        scores = said.get("scores") if isinstance(said, dict) else None
        if not isinstance(scores, list) or len(scores) != len(answers):
            what = f"{len(scores)} scores" if isinstance(scores, list) else "no list of scores"
            raise WorkFailed(f"{server.address} gave {what} for {len(answers)} answers", 'It is to answer {"scores": [...]}.')
        wrong = next((i for i, s in enumerate(scores) if not isinstance(s, int | float) or isinstance(s, bool)), None)
        if wrong is not None:
            raise WorkFailed(
                f"{server.address} gave {scores[wrong]!r:.40} to the answer {answers[wrong].text[:80]!r}", "Scores are numbers."
            )
        return [float(s) for s in scores]

    def score(answers: Sequence[Answer]) -> Sequence[float]:
        size = parameters.answers_at_once
        return [s for start in range(0, len(answers), size) for s in asked(answers[start : start + size])]

    return score
