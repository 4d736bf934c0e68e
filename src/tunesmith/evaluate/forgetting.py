"""What a model can do away from its task, measured on a fixed guard set before and after it was changed.

The guard set is general text (the passages of `guard/passages.txt`), a small choice benchmark (`guard/choices.txt`, chance
1/4) and the embedded tasks that were not trained. Passages and questions were written for this purpose; no remedy ever
trains on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from tunesmith.core.encode import token_ids, with_bos
from tunesmith.core.errors import TunesmithError
from tunesmith.core.progress import say
from tunesmith.data.prompts import Prompts
from tunesmith.data.task import load_task
from tunesmith.evaluate.answer import Asker, accuracy_on
from tunesmith.evaluate.results import Forgetting
from tunesmith.metrics import perplexity
from tunesmith.models.load import LM
from tunesmith.models.score import Request, score_requests

SIBLINGS = ("editorials", "movies", "products", "tweets")
GENERAL_TEXT = "general text"


@dataclass(frozen=True)
class Guard:
    """State of a model on the guard set.

    Attributes:
        nats: minus the log-probability of each passage. tokens: scored tokens of each.
        chosen: for each question, whether the right ending was the likeliest.
        accuracies: sibling task -> accuracy. rows: sibling task -> items asked.
    """

    nats: list[float]
    tokens: list[int]
    chosen: list[bool]
    accuracies: dict[str, float] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def perplexity(self) -> float:
        """Perplexity per token of the passages."""
        return float(perplexity.evaluate(self.nats, self.tokens))

    @property
    def choice_accuracy(self) -> float:
        """Share of questions of the choice benchmark answered right."""
        return sum(self.chosen) / len(self.chosen)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def measure(lm: LM, task: str, rows: int) -> Guard:
    """Measure the guard set: passages, choices, and `rows` test items of each embedded task not called `task`.

    Where the embedded tasks cannot be had (no network and no cache), the user is told, and the rest is measured.
    """
    nats, tokens = text_nats(lm, passages())
    accuracies, counts = {}, {}
    try:
        siblings = [load_task(name) for name in SIBLINGS if rows and name != task]
    except TunesmithError as error:
        say(f"forgetting is not measured on sibling tasks: {error.message}")
        siblings = []
    for sibling in siblings:
        items = sibling.splits.test[:rows]
        accuracies[sibling.name] = accuracy_on(Asker(lm, Prompts(sibling, lm.tokenizer)), items)
        counts[sibling.name] = len(items)
    return Guard(nats, tokens, choose(lm), accuracies, counts)


@cache
def passages() -> tuple[str, ...]:
    """Return the general texts of the guard set."""
    return tuple(" ".join(block.split()) for block in _guard_file("passages.txt").split("\n\n") if block.strip())


@cache
def questions() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the choice benchmark: beginnings of sentences, each with its endings, of which the first is right."""
    lines = [[piece.strip() for piece in line.split("|")] for line in _guard_file("choices.txt").splitlines()]
    return tuple((stem, tuple(endings)) for stem, *endings in lines)


def choose(lm: LM) -> list[bool]:
    """Return for each question whether its right ending has the highest log-probability."""
    asked = [
        Request(with_bos(lm.tokenizer, token_ids(lm.tokenizer, stem)), tuple(token_ids(lm.tokenizer, f" {e}") for e in endings))
        for stem, endings in questions()
    ]
    return [max(range(len(s.logprobs)), key=s.logprobs.__getitem__) == 0 for s in score_requests(lm, asked)]


def text_nats(lm: LM, texts: Sequence[str]) -> tuple[list[float], list[int]]:
    """Return minus the log-probability of each text, nats, and how many tokens that is of.

    Each is read by itself, up to the model's context; its first token has no context and is not scored. Texts of one token
    are left out.
    """
    encoded = [ids for text in texts if len(ids := token_ids(lm.tokenizer, text)[: lm.context_length]) > 1]
    scored = score_requests(lm, [Request(ids[:1], (ids[1:],)) for ids in encoded])
    return [-s.logprobs[0] for s in scored], [len(ids) - 1 for ids in encoded]


def compare(before: Guard, after: Guard) -> Forgetting:
    """Put two measurements of the same guard set side by side."""
    tasks = {
        name: {"before": value, "after": after.accuracies[name], "n": float(before.rows[name])}
        for name, value in before.accuracies.items()
    }
    return Forgetting(
        GENERAL_TEXT, before.perplexity, after.perplexity, tasks,
        passages={"tokens": [float(n) for n in before.tokens], "before": before.nats, "after": after.nats},
        choices={"before": [float(c) for c in before.chosen], "after": [float(c) for c in after.chosen]},
    )  # fmt: skip


def _guard_file(name: str) -> str:
    return (resources.files("tunesmith.evaluate") / "guard" / name).read_text(encoding="utf-8")
