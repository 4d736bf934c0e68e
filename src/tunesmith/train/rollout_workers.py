"""Rounds sampled by Ray workers: each holds the base model, gets the adapter of the moment, and answers its share of prompts.

A request's random numbers are its own (`models.generate`), so an answer does not depend on who samples it. What a worker needs
comes with every call, so one that is lost takes nothing with it: another is begun and answers the same share again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType, TracebackType
from typing import Any

from safetensors.torch import load, save

from tunesmith.core.errors import TunesmithError, UserError, WorkFailed
from tunesmith.core.progress import say
from tunesmith.core.records import Completion
from tunesmith.core.registry import PEFT
from tunesmith.models.generate import Sampling, complete, turns_of
from tunesmith.models.load import LM
from tunesmith.train.engines.ray import LOOK, PLACE, Lost, answered, begun, cluster, enter, in_words, reserved

# How many workers may be lost while a round is sampled.
_LOSSES = 3


@dataclass(frozen=True)
class _Policy:
    """What a worker samples from, but for the tensors of its adapter: base, peft method, and what PEFT's files say of it."""

    open_base: Callable[[int], LM]
    threads: int
    identity: str
    method: str
    about: dict[str, Any]


class Workers:
    """Workers that sample rounds; they live as long as the with-block.

    Args:
        open_base: a function of a module, which the workers import: threads -> the model without an adapter.
        method: peft entry and its parameters. count: of workers. threads: of each; None = the cluster's divided among them.
        address: of a running cluster; None = start one on this machine.
    """

    def __init__(
        self, open_base: Callable[[int], LM], method: tuple[ModuleType, Any], count: int, threads: int | None, address: str | None
    ) -> None:
        self._open_base, self._method, self._count = open_base, method, count
        self._threads, self._address = threads, address
        self._stack = ExitStack()
        self._ray: Any = None
        self._place: Any = None
        self._workers: list[Any] = []

    def __enter__(self) -> Workers:
        with ExitStack() as stack:
            self._ray = stack.enter_context(cluster(self._address, self._count * (self._threads or 1)))
            self._place = stack.enter_context(reserved(self._ray, self._count, self._threads))
            self._workers = [begun(self._ray, _Worker, self._place, rank) for rank in range(self._count)]
            stack.callback(self._end)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def _end(self) -> None:
        for worker in self._workers:
            self._ray.kill(worker)

    def complete(self, lm: LM, prompts: Sequence[tuple[int, ...]], how: Sampling, seed: int) -> list[Completion]:
        """Continue prompts by the policy as it is now: the answers of `models.generate.complete`, without values.

        Raises:
            WorkFailed: workers were lost again and again, or the policy's numbers are not finite.
            UserError: a worker sees another model than this process, or not the folder where the command was given.
        """
        entry, parameters = self._method
        adapter = self._ray.put(save(entry.state(lm.model)))
        policy = _Policy(
            self._open_base, int(self._place[1]["CPU"]), lm.identity, entry.__name__.rpartition(".")[2],
            entry.to_peft_config(lm.model, parameters),
        )  # fmt: skip
        turns = turns_of(prompts)
        edges = [round(len(prompts) * n / self._count) for n in range(self._count + 1)]
        shares = [(prompts[a:b], turns[a:b]) for a, b in pairwise(edges)]

        def ask(rank: int) -> Any:
            return self._workers[rank].complete.remote(policy, adapter, *shares[rank], how, seed)

        pending = {ask(rank): rank for rank, (some, _) in enumerate(shares) if some}
        found: list[list[Completion]] = [[] for _ in shares]
        lost: list[str] = []
        while pending:
            for answer in self._ray.wait(list(pending), timeout=LOOK)[0]:
                rank = pending.pop(answer)
                try:
                    found[rank] = answered(self._ray, answer, rank)
                except Lost as loss:
                    lost.append(str(loss))
                    self._begin_again(rank, lost)
                    pending[ask(rank)] = rank
        return [completion for some in found for completion in some]

    def _begin_again(self, rank: int, lost: Sequence[str]) -> None:
        again = "The same command goes on from the newest checkpoint."
        if len(lost) > _LOSSES:
            raise WorkFailed(
                f"while a round was sampled, workers were lost {len(lost)} times: {'; '.join(lost)}",
                f"Look into Ray's logs for the reason. {again}",
            )
        say(f"{lost[-1]}; another one samples its share of the round ({len(lost)} of {_LOSSES})")
        self._ray.kill(self._workers[rank])
        self._workers[rank] = begun(self._ray, _Worker, self._place, rank)
        try:
            self._ray.get(self._workers[rank].begun.remote(), timeout=PLACE)
        except self._ray.exceptions.GetTimeoutError:
            raise WorkFailed(f"{lost[-1]}, and the cluster had no room for another one within {PLACE:g} s", again) from None
        except self._ray.exceptions.RayActorError:
            pass  # it is lost as well, which asking it will tell


class _Worker:
    """One process with the base model; an actor of Ray."""

    def __init__(self, rank: int, folder: str) -> None:
        self._rank, self._folder = rank, folder
        self._lm: LM | None = None

    def begun(self) -> None:
        """Answer."""

    def complete(
        self, policy: _Policy, adapter: bytes, prompts: Sequence[tuple[int, ...]], turns: Sequence[int], how: Sampling, seed: int
    ) -> list[Completion] | dict[str, Any]:
        """Put the adapter on and continue prompts; what a person can understand of a failure comes back as a dictionary."""
        try:
            self._lm = self._lm or self._opened(policy)
            PEFT.get(policy.method).load_state(self._lm.model, load(adapter))
            return complete(self._lm, prompts, how, seed, turns=turns)
        except TunesmithError as error:
            return in_words(error)

    def _opened(self, policy: _Policy) -> LM:
        enter(self._rank, self._folder)
        lm, entry = policy.open_base(policy.threads), PEFT.get(policy.method)
        if lm.identity != policy.identity:
            raise UserError(
                f"worker {self._rank} finds other weights under the name '{lm.name}'", "All machines need the same files."
            )
        entry.attach(lm.model, entry.from_peft_config(policy.about), 0)
        lm.model.eval()
        return lm
