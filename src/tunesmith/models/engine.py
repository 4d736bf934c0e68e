"""Who answers: the engine on this machine, or a server behind a URL. Callers need not know which."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.core.records import Completion
from tunesmith.models import generate, score
from tunesmith.models.generate import Sampling
from tunesmith.models.load import LM
from tunesmith.models.remote import RemoteLM
from tunesmith.models.score import Request, Scored

Engine = LM | RemoteLM


def score_requests(lm: Engine, requests: Sequence[Request], title: str = "") -> list[Scored]:
    """Score continuations, in request order; see `models.score.score_requests` and `RemoteLM.score_requests`.

    Raises:
        UserError: a request cannot be scored, or the server only generates.
        WorkFailed: the server does not answer.
    """
    return lm.score_requests(requests, title) if isinstance(lm, RemoteLM) else score.score_requests(lm, requests, title)


def complete(lm: Engine, prompts: Sequence[tuple[int, ...]], how: Sampling, seed: int = 0, title: str = "") -> list[Completion]:
    """Continue prompts, in request order; see `models.generate.complete` and `RemoteLM.complete`.

    Raises:
        UserError: a prompt cannot be continued.
        WorkFailed: the server does not answer.
    """
    remote = isinstance(lm, RemoteLM)
    return lm.complete(prompts, how, seed, title) if remote else generate.complete(lm, prompts, how, seed, title)
