"""Search for the words that say each label best, on a few training rows (Schick et al. 2020; Gao et al. 2021)."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tunesmith.core.config import Config
from tunesmith.core.errors import UserError
from tunesmith.core.files import write_json
from tunesmith.core.registry import DEMONSTRATIONS
from tunesmith.core.seeds import derive
from tunesmith.data.verbalizer import Verbalizer
from tunesmith.recipes._ladder.workload import Sizes, Workload
from tunesmith.recipes._routes.prompting import ask_draws

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.recipes._ladder.climb import Climbed, Workshop

KIND = "prompt"
_WORD = re.compile(r"[^\W\d_]{3,}")
_WORDS_OF_SEVERAL_TOKENS = 100
_LOGGED = 200
# Of hundreds of words tried some are lucky: those found must be better than the task's own by this many standard errors.
_BEYOND_LUCK = 2.0


class Parameters(Config):
    """What the search for words can be told."""

    rows: int = Field(32, ge=2)
    """training rows the words are judged on, labels as equal as they can be"""
    words: int = Field(1, ge=1)
    """words a label; further ones follow by likelihood ratio"""
    candidates: int = Field(1000, ge=2)
    """at most this many words, the most frequent of the training texts that are one token"""
    shortlist: int = Field(20, ge=1)
    """words a label that the likelihood ratio leaves to choose from"""
    refine: bool = True
    """choose from the shortlist by accuracy on the rows (LM-BFF); no = the likelihood ratio alone (PETAL)"""


def label(parameters: Parameters) -> str:
    """Name of the row in the table."""
    words = "" if parameters.words == 1 else f" x{parameters.words}"
    rows = "" if parameters.rows == Parameters.model_fields["rows"].default else f" rows={parameters.rows}"
    return f"found words{words}{rows}"


def unsuitable(task: Task) -> str:
    """Why this route cannot be climbed on a task; "" if it can."""
    return "" if task.verbalizer else "the answers are free text, which has no words for labels"


def workload(parameters: Parameters, sizes: Sizes) -> Workload:
    """Tokens read: the rows once with every candidate, and each item once."""
    return Workload(forward_tokens=(sizes.items + parameters.rows) * sizes.prompt_tokens, seconds=3.0)


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Find the words on training rows, save them with all that was tried, and ask every item with them."""
    shop.asker()  # loading the model is no part of the search
    start = time.perf_counter()
    found, log = search(shop, parameters)
    write_json(shop.folder / "verbalizer.json", {"choices": found, **log})
    verbalizer = shop.task.verbalizer
    assert verbalizer is not None
    with_words = shop.with_task(replace(shop.task, verbalizer=replace(verbalizer, words=found)))
    climbed = ask_draws(with_words, label(parameters), [None], time.perf_counter() - start)
    said = "; ".join(f"{name} = {', '.join(words)}" for name, words in found.items())
    return replace(climbed, notes=[f"words found on {log['rows']} training rows: {said}", *log["notes"], *climbed.notes])


def search(shop: Workshop, parameters: Parameters) -> tuple[dict[str, tuple[str, ...]], dict[str, Any]]:
    """Return label -> words, best first, and the log of the search.

    Raises:
        UserError: the training rows do not show every label.
    """
    from tunesmith.evaluate.word_search import choose_words, likelihood_ratios, named, top

    verbalizer = shop.task.verbalizer
    assert verbalizer is not None
    seed = derive(shop.seed, "verbalizer search")
    rows = DEMONSTRATIONS.get("balanced").choose(shop.train, [shop.train[0]], parameters.rows, seed, label_of=shop.task.gold)[0]
    gold = [shop.task.gold(row) for row in rows]
    if missing := [name for name in verbalizer.labels if name not in gold]:
        raise UserError(
            f"none of the {len(rows)} training rows of the search has the label '{missing[0]}'", "Search on more rows."
        )
    words, notes = _candidates(shop, parameters.candidates)
    given = {name: of[0] for name, of in verbalizer.words.items()}
    words = list(dict.fromkeys([*words, *given.values()]))
    raw, scores = _scores(shop, rows, words)
    ratios = likelihood_ratios(raw, gold)
    ratios = {name: ratios[name] for name in verbalizer.labels}
    shortlist = top(ratios, max(parameters.shortlist, parameters.words))
    by_ratio = {name: columns[0] for name, columns in shortlist.items()}
    own = {name: words.index(word) for name, word in given.items()}
    # The task's own words are a start too, so on these rows the words found are never worse than they are.
    starts = [own, by_ratio] if parameters.refine else [by_ratio]
    narrow = shortlist if parameters.refine else {name: columns[:1] for name, columns in shortlist.items()}
    best, tried = choose_words(scores, gold, narrow, starts)
    if parameters.refine and not _better_than_luck(scores, gold, best, own):
        best, notes = own, [*notes, f"the task's own words were kept: none were better by {_BEYOND_LUCK:g} standard errors"]
    found = {}
    for name in verbalizer.labels:
        more = [w for w in shortlist[name] if w not in best.values()][: parameters.words - 1]
        found[name] = tuple(words[w] for w in (best[name], *more))
    log = {
        "rows": len(rows), "row_ids": [row.id for row in rows], "candidates": len(words), "notes": notes,
        "shortlist": {name: [{"word": words[w], "ratio": float(ratios[name][w])} for w in shortlist[name]] for name in shortlist},
        "tried": [asdict(one) for one in named(tried, words)[:_LOGGED]], "tried_in_all": len(tried),
    }  # fmt: skip
    return found, log


def _better_than_luck(scores: Any, gold: list[str], found: dict[str, int], own: dict[str, int]) -> bool:
    """Whether the words found answer more of the rows than the task's own, by more than chance may give them."""
    import numpy as np

    def right(words: dict[str, int]) -> Any:
        names = list(words)
        said = scores[:, list(words.values())].argmax(1)
        return np.array([names[i] == label for i, label in zip(said, gold, strict=True)], dtype=float)

    apart = right(found) - right(own)
    return bool(apart.mean() > _BEYOND_LUCK * apart.std() / len(apart) ** 0.5)


def _candidates(shop: Workshop, most: int) -> tuple[list[str], list[str]]:
    """Return the most frequent words of the training texts that are one token as an answer, and what is odd about them."""
    counts: Counter[str] = Counter()
    for row in shop.train:
        texts = [str(row.fields[name]) for name in shop.task.template.fields]
        counts.update({word for text in texts for word in _WORD.findall(text.casefold())})
    frequent = sorted(counts, key=lambda word: (-counts[word], word))
    single = [word for word in frequent if len(shop.prompts.answer(word)) == 1]
    if len(single) >= 2:
        return single[:most], []
    note = "no word of the training texts is one token of this model, so words of several tokens were compared"
    return frequent[: min(most, _WORDS_OF_SEVERAL_TOKENS)], [note]


def _scores(shop: Workshop, rows: Any, words: list[str]) -> tuple[Any, Any]:
    """Return log p(w|x) and the scores as the task normalises them, both [rows, words]."""
    import numpy as np

    verbalizer = shop.task.verbalizer
    assert verbalizer is not None
    wide = Verbalizer({word: (word,) for word in words}, "max", verbalizer.normalise)
    asker = shop.with_task(replace(shop.task, verbalizer=wide)).asker()
    labels, raw = asker.label_logprobs([asker.prompts.prompt(row)[1] for row in rows], "words")
    return np.array([one.logprobs for one in raw]), np.array([[one[word] for word in words] for one in labels])
