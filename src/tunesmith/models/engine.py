"""Who answers: the engine on this machine, or a server behind a URL. Callers need not know which."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.core.errors import UserError
from tunesmith.core.records import Completion
from tunesmith.models import generate as local
from tunesmith.models import score
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
    if not isinstance(lm, RemoteLM):
        return score.score_requests(lm, requests, title)
    _check_no_adapters([request.adapter for request in requests])
    return lm.score_requests(requests, title)


def complete(
    lm: Engine, prompts: Sequence[tuple[int, ...]], how: Sampling, seed: int = 0, title: str = "",
    adapters: Sequence[str | None] | None = None,
) -> list[Completion]:  # fmt: skip
    """Continue prompts, in request order; see `models.generate.complete` and `RemoteLM.complete`.

    Raises:
        UserError: a prompt cannot be continued.
        WorkFailed: the server does not answer.
    """
    if not isinstance(lm, RemoteLM):
        return local.complete(lm, prompts, how, seed, title, adapters)
    _check_no_adapters(adapters or [])
    return lm.complete(prompts, how, seed, title)


def generate(
    lm: Engine, prompts: Sequence[str], how: Sampling, seed: int = 0, n: int = 1, adapters: Sequence[str | None] | None = None
) -> list[list[Completion]]:
    """Continue each text `n` times.

    Args:
        adapters: for each text the resident adapter that continues it; None = the active one.

    Returns:
        Per prompt, its `n` completions.

    Raises:
        UserError: a prompt is empty or too long.
        WorkFailed: the server does not answer.
    """
    each = [adapter for adapter in adapters or [None] * len(prompts) for _ in range(n)]
    return local.n_times(lm.tokenizer, prompts, n, lambda ids: complete(lm, ids, how, seed, adapters=each))


def _check_no_adapters(names: Sequence[str | None]) -> None:
    if any(name is not None for name in names):
        raise UserError("an adapter cannot be put on a model behind a URL", "Load it where the server runs.")
