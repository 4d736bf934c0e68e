"""What a model can do away from its task, measured before and after it was changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tunesmith.core.encode import token_ids
from tunesmith.core.errors import TunesmithError
from tunesmith.core.progress import say
from tunesmith.data.prompts import Prompts
from tunesmith.data.task import Task, load_task
from tunesmith.evaluate.answer import Asker, accuracy_on
from tunesmith.evaluate.results import Forgetting
from tunesmith.metrics import perplexity
from tunesmith.models.load import LM
from tunesmith.models.score import Request, score_requests

SIBLINGS = ("editorials", "movies", "products", "tweets")
GENERAL_TEXT = "editorials"


@dataclass(frozen=True)
class Guard:
    """State of a model on the guard set: perplexity per token of general text, accuracy on each sibling task."""

    perplexity: float
    accuracies: dict[str, float]
    rows: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def measure(lm: LM, task: Task, rows: int) -> Guard | None:
    """Measure the guard set: `rows` test items of each embedded task other than `task`, and the text of editorials.

    Returns:
        None, with a word to the user, where the guard set cannot be had (no network and no cache).
    """
    try:
        siblings = [load_task(name) for name in SIBLINGS if name != task.name]
        texts = [str(e.fields["text"]) for e in load_task(GENERAL_TEXT).splits.test[:rows]]
    except TunesmithError as error:
        say(f"forgetting is not measured: {error.message}")
        return None
    accuracies, counts = {}, {}
    for sibling in siblings:
        items = sibling.splits.test[:rows]
        accuracies[sibling.name] = accuracy_on(Asker(lm, Prompts(sibling, lm.tokenizer)), items)
        counts[sibling.name] = len(items)
    return Guard(text_perplexity(lm, texts), accuracies, counts)


def text_perplexity(lm: LM, texts: list[str]) -> float:
    """Return the perplexity per token of texts, each read by itself; a text's first token has no context and is not scored."""
    encoded = [ids for text in texts if len(ids := token_ids(lm.tokenizer, text)) > 1]
    scored = score_requests(lm, [Request(ids[:1], (ids[1:],)) for ids in encoded])
    return float(perplexity.evaluate([-s.logprobs[0] for s in scored], [len(ids) - 1 for ids in encoded]))


def compare(before: Guard, after: Guard) -> Forgetting:
    """Put two measurements of the same guard set side by side."""
    tasks = {
        name: {"before": value, "after": after.accuracies[name], "n": float(before.rows[name])}
        for name, value in before.accuracies.items()
    }
    return Forgetting(GENERAL_TEXT, before.perplexity, after.perplexity, tasks)
