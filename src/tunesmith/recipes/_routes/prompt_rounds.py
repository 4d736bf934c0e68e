"""The rounds of a search over prompts: think of candidates, let them compete, draw parents, and write everything down."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from tunesmith.core.files import write_json, write_jsonl
from tunesmith.core.progress import say
from tunesmith.core.seeds import derive
from tunesmith.recipes._routes.prompt_bench import Bench
from tunesmith.recipes._routes.prompt_search import Candidate, Parameters, Search

# Rows of the pool that a parent answers so that its mistakes can be shown, and how many of those are.
_LOOKED_AT, _SHOWN_WRONG = 8, 3
_FINAL_SHARE = 0.3
_WAYS = ("reflection", "demonstrations", "merge", "swap")


class Rounds:
    """One search from its first candidates to its winner.

    Args:
        folder: gets `search.jsonl` after every round, and `prompt.json` at the end.
    """

    def __init__(self, bench: Bench, parameters: Parameters, seed: int, folder: Path) -> None:
        self.bench, self.parameters, self.seed, self.folder = bench, parameters, seed, folder
        started = time.monotonic()
        limit = parameters.minutes
        self.search = Search(
            bench.judge, len(bench.held_out), parameters.scored_rows,
            (lambda: time.monotonic() - started > 60 * limit) if limit else lambda: False,
        )  # fmt: skip
        self.rejected: list[dict[str, Any]] = []

    def run(self) -> Candidate:
        """Search until the rounds or the budget are used up, and return the winner."""
        search, how = self.search, self.parameters
        given = search.add(self.bench.task.file.instruction, (), "given")
        assert given is not None
        survivors = [given]
        for number in range(how.rounds):
            pool = [*survivors, *self._children(number, survivors)]
            rest = search.budget * (1 - _FINAL_SHARE) - search.spent
            survivors = search.halve(pool, int(rest / (how.rounds - number)))
            self._write_log(survivors)
            best = survivors[0]
            say(f"  round {number + 1} of {how.rounds}: {search.spent:,} rows scored, best so far is {describe(best)}")
        search.deepen(survivors, search.budget)
        winner = search.ranked(survivors)[0]
        self._write_log(survivors)
        self._write_winner(winner, survivors)
        return winner

    def _children(self, number: int, parents: list[Candidate]) -> list[Candidate]:
        chance = random.Random(derive(self.seed, "round", number))
        found = (
            [self._add(text, (), "task file", (0,), number) for text in self.bench.first_instructions()] if number == 0 else []
        )
        weights = self.search.weights(parents)
        for k in range(self.parameters.candidates - len(found)):
            way = _WAYS[k % (2 if number == 0 else len(_WAYS))]
            parent, other = chance.choices(parents, weights, k=2)
            seed = derive(self.seed, "child", number, k)
            found.append(self._child(way, parent, other, number, seed))
        return [child for child in found if child]

    def _child(self, way: str, parent: Candidate, other: Candidate, number: int, seed: int) -> Candidate | None:
        chance, of = random.Random(seed), (parent.number,)
        if way == "reflection":
            text = self._reflected(parent, chance, seed)
            return self._add(text, parent.shown, way, of, number) if text else None
        if way == "merge" and other.shown != parent.shown:
            return self._add(parent.instruction, other.shown, way, (parent.number, other.number), number)
        if way == "swap" and parent.shown:
            shown = list(parent.shown)
            fresh = [i for i in range(len(self.bench.pool)) if i not in shown]
            shown[chance.randrange(len(shown))] = chance.choice(fresh)
            return self._add(parent.instruction, shown, way, of, number)
        shots = self.parameters.shots if chance.random() < 0.5 else max(self.parameters.shots // 2, 1)
        return self._add(parent.instruction, self.bench.draw(shots, seed), "demonstrations", of, number)

    def _reflected(self, parent: Candidate, chance: random.Random, seed: int) -> str:
        """Return a new instruction, "" where none was usable or the budget has no room to look for mistakes."""
        search = self.search
        if search.budget - search.spent < 2 * _LOOKED_AT or search.out_of_time():
            return ""
        search.spent += min(_LOOKED_AT, len(self.bench.pool) - len(parent.shown))
        wrong = self.bench.mistakes(parent, _LOOKED_AT, chance)[:_SHOWN_WRONG]
        if not wrong:
            return ""
        text = self.bench.write(parent, wrong, 1, seed)[0]
        if not text:
            self.rejected.append({"parent": parent.number, "rejected": "the model wrote nothing usable as an instruction"})
        return text

    def _add(self, instruction: str, shown: Any, origin: str, parents: tuple[int, ...], number: int) -> Candidate | None:
        trial = Candidate(-1, instruction, tuple(shown), origin)
        if not self.bench.fits(trial):
            self.rejected.append({"parent": parents[0], "rejected": f"its prompt ({origin}) would not fit the model"})
            return None
        return self.search.add(instruction, shown, origin, parents, number)

    def _write_log(self, survivors: list[Candidate]) -> None:
        alive = {c.number for c in survivors}
        rows = []
        for c in self.search.candidates:
            scores = self.search.scores[c.number]
            right, logprob = self.search.mean(c, len(scores))
            rows.append({
                "candidate": c.number, "round": c.round, "origin": c.origin, "parents": list(c.parents),
                "instruction": c.instruction, "demonstrations": [self.bench.pool[i].id for i in c.shown],
                "rows": len(scores), "accuracy": right, "mean_logprob": logprob, "right": [int(r) for r, _ in scores],
                "alive": c.number in alive,
            })  # fmt: skip
        write_jsonl(self.folder / "search.jsonl", [*rows, *self.rejected])

    def _write_winner(self, winner: Candidate, survivors: list[Candidate]) -> None:
        search, task = self.search, self.bench.task
        rows = search.common(survivors)
        shown = [
            {"id": row.id, "where": row.where, "prompt": task.template.prompt(row.fields), "answer": task.answer(row)}
            for row in self.bench.demonstrations(winner)
        ]
        write_json(self.folder / "prompt.json", {
            "instruction": winner.instruction, "demonstrations": shown, "template": task.file.template,
            "separator": task.file.separator, "chat": task.file.chat, "origin": winner.origin, "candidate": winner.number,
            "held_out_rows": rows, "held_out_accuracy": search.mean(winner, rows)[0],
            "given_accuracy": search.mean(search.candidates[0], rows)[0], "candidates": len(search.candidates),
            "rows_scored": search.spent, "seed": self.seed,
        })  # fmt: skip


def describe(candidate: Candidate) -> str:
    """Say what a candidate is, in a few words."""
    shown = f" with {len(candidate.shown)} demonstrations" if candidate.shown else ""
    return f"number {candidate.number} ({candidate.origin}){shown}"
