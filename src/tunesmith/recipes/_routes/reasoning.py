"""What both reasoning routes do: choose exemplars, let the model reason about every item, and count what could not be read."""

from __future__ import annotations

from tunesmith.core.errors import UserError
from tunesmith.core.files import write_jsonl
from tunesmith.core.records import Example
from tunesmith.core.registry import DEMONSTRATIONS
from tunesmith.core.seeds import derive
from tunesmith.data.extraction import extraction_for
from tunesmith.data.reasoning import ReasoningPrompts, with_rationale
from tunesmith.evaluate.answer import single_query_ms
from tunesmith.evaluate.reason import Reasoner
from tunesmith.models.generate import Sampling
from tunesmith.recipes._ladder.climb import Climbed, Workshop

# Reasons take seconds, not milliseconds; a few single queries say enough.
_TIMED = 4


def climb_reasoning(
    shop: Workshop, title: str, exemplars: int | None, max_new_tokens: int, paths: int = 1, temperature: float = 0.0
) -> Climbed:
    """Ask for reasons and answers, and write `paths.jsonl` where an item has several.

    Args:
        exemplars: how many rows with a rationale to show; None = eight where the task has such rows, else none.
        max_new_tokens: of reasons. paths: how many chains of thought an item. temperature: 0 = greedy.

    Raises:
        UserError: exemplars were asked for and no training row has a rationale, or a prompt does not fit.
    """
    shown = _exemplars(shop, exemplars)
    prompts = ReasoningPrompts(shop.prompts, extraction_for(shop.task, shop.train))
    how = Sampling(max_new_tokens, temperature, stop=prompts.stop)
    reasoner = Reasoner(shop.lm, prompts, shown, how, paths)
    seed = derive(shop.seed, "paths")
    latency = single_query_ms(lambda item: reasoner.ask([item], seed), shop.items[:_TIMED])
    answers, walked = reasoner.ask(shop.items, seed, title)
    rows = zip(answers.predictions, walked, strict=True)
    if paths > 1:
        write_jsonl(
            shop.folder / "paths.jsonl",
            [{"id": p.id, "path": n, "answer": path.answer, "text": path.text} for p, of in rows for n, path in enumerate(of)],
        )
    unread = sum(not path.answer for of in walked for path in of)
    total = paths * len(walked)
    how_asked = f"{len(shown)} exemplars with a rationale" if shown else "zero-shot, step by step"
    notes = [
        f"{how_asked}; answers are read from generated text as {prompts.extraction.kind}s; {unread:,} of {total:,} paths "
        f"({unread / total:.1%}) state no answer that can be read and have no vote"
    ]
    return Climbed([answers.predictions], answers.seconds, answers.prompt_tokens, latency, notes=notes)


def _exemplars(shop: Workshop, wanted: int | None) -> list[Example]:
    pool = with_rationale(shop.train)
    if wanted and not pool:
        raise UserError(
            f"{wanted} exemplars were asked for, and no training row has a field 'rationale'",
            "Add the reasons to some rows, or leave 'exemplars' out to ask step by step without any.",
        )
    count = min(8 if wanted is None else wanted, len(pool))
    if not count:
        return []
    choose = DEMONSTRATIONS.get("balanced" if shop.task.verbalizer else "random").choose
    return choose(pool, shop.items[:1], count, shop.draw_seed(0), label_of=shop.task.gold)[0]
