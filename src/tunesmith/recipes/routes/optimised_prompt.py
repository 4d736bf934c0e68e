"""Optimised prompt: instruction and demonstrations searched for on training rows, within a budget (GEPA, MIPRO)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tunesmith.core.errors import UserError
from tunesmith.recipes._ladder.workload import Sizes, Workload
from tunesmith.recipes._routes.prompt_search import Parameters

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.recipes._ladder.climb import Climbed, Workshop
    from tunesmith.recipes._routes.prompt_bench import Bench

KIND = "prompt"
_FEWEST_ROWS = 16


def label(parameters: Parameters) -> str:
    """Name of the row in the table."""
    return "optimised prompt" + (" (written)" if parameters.writer else "")


def unsuitable(task: Task) -> str:
    """Why this route cannot be climbed on a task; "" if it can."""
    few = len(task.splits.train) < _FEWEST_ROWS
    return f"a search needs at least {_FEWEST_ROWS} training rows" if few else ""


def workload(parameters: Parameters, sizes: Sizes) -> Workload:
    """Tokens read: scored rows and items after shared demonstrations, and what is written."""
    read = (parameters.scored_rows + sizes.items) * sizes.prompt_tokens * 1.5
    written = parameters.rounds * parameters.candidates * (parameters.shots * sizes.prompt_tokens + 400)
    return Workload(forward_tokens=read + written)


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Search on training rows only; the test items are read once, after the winner is written down."""
    from tunesmith.core.seeds import derive
    from tunesmith.recipes._ladder.climb import Climbed
    from tunesmith.recipes._routes.prompt_rounds import Rounds, describe

    start = time.perf_counter()
    bench = _bench(shop, parameters)
    rounds = Rounds(bench, parameters, derive(shop.seed, "prompt"), shop.folder)
    winner = rounds.run()
    seconds = time.perf_counter() - start
    search = rounds.search
    final = search.common([search.candidates[0], winner])
    chosen, given = search.mean(winner, final)[0], search.mean(search.candidates[0], final)[0]
    notes = [
        f"{len(search.candidates)} prompts compared with {search.spent:,} scored training rows; the best is {describe(winner)}: "
        f"{chosen:.3f} on the {final} rows it was chosen by (the prompt as given {given:.3f}), so expect less on new ones",
        f"its instruction: {winner.instruction or '(none)'}",
    ]
    asker, shown = bench.asker(winner), [bench.demonstrations(winner)] * len(shop.items)
    latency = asker.latencies(shop.items, shown)
    answers = asker.ask(shop.items, shown, title=label(parameters))
    return Climbed([answers.predictions], answers.seconds, answers.prompt_tokens, latency, seconds, notes=notes)


def _bench(shop: Workshop, parameters: Parameters) -> Bench:
    from tunesmith.recipes._models import open_engine
    from tunesmith.recipes._routes.prompt_bench import Bench

    if len(shop.train) < _FEWEST_ROWS:
        raise UserError(f"a search for a prompt needs at least {_FEWEST_ROWS} training rows, and there are {len(shop.train)}")
    # Half of the rows at most, so that there are demonstrations to choose from.
    count = min(parameters.held_out, len(shop.train) // 2)
    writer = open_engine(parameters.writer, shop.assignment.dtype) if parameters.writer else shop.lm
    return Bench(shop.task, shop.lm, writer, shop.train[count:], shop.train[:count])
