"""Judgements of completions: from the rows of every usual convention into one form.

`preference` keeps {"prompt", "chosen", "rejected"}; with "ratings", two numbers, where both were scored. The others become

    {"prompt", "completions": [texts], "ranks": [1 = best]}        also "ratings", "only_best"; no ranks = nobody judged
    {"prompt", "completion", "rating"}                             1.0 = wanted, 0.0 = not; or any number (rated_row)
    {"prompt", "completion", "rank", "group"}                      one of several rows that are one ranking
    {"messages"}, whose judged turns have "rating"                 1.0 = wanted, 0.0 = not

and each has "judge" where the row says who judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tunesmith.data._convention_row import PLACED, SAID, SCORED, Row, alike, rating_in, text_in, turns_in
from tunesmith.data._readers import RowProblem

# What was preferred, in the words of every convention: of B against A, or of the better side.
_VERDICTS = {
    **dict.fromkeys(("better", "b", "model_b", "response_b", "b_is_better", "right"), "b"),
    **dict.fromkeys(("worse", "a", "model_a", "response_a", "a_is_better", "left"), "a"),
    **dict.fromkeys(("same", "tie", "both_bad", "bothbad", "tie_(bothbad)", "both_good", "equal"), "tie"),
    **dict.fromkeys(("skip", "skipped"), "skip"),
}
_THUMBS = {
    **dict.fromkeys(("true", "1", "1.0", "yes", "good", "up", "like", "thumbs_up", "desirable"), 1.0),
    **dict.fromkeys(("false", "0", "0.0", "-1", "-1.0", "no", "bad", "down", "dislike", "thumbs_down", "undesirable"), 0.0),
}


def _preference(row: Row) -> dict[str, Any]:
    chosen, rejected, prompt = row.need("chosen"), row.need("rejected"), row.get("prompt")
    prompt = prompt.get("messages") if isinstance(prompt, dict) else prompt
    if "prompt" in row.columns:
        if prompt is None:
            raise RowProblem(f"'{row.columns['prompt']}' is missing or null")
        prompt, chosen, rejected = alike(row, {"prompt": prompt, "chosen": chosen, "rejected": rejected})
        if isinstance(prompt, list) and chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    else:
        chosen, rejected = alike(row, {"chosen": chosen, "rejected": rejected})
        shared = _shared_beginning(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if chosen == rejected:
        raise RowProblem("chosen and rejected are the same")
    if not prompt:
        raise RowProblem("there is no prompt, and chosen and rejected do not begin alike")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer or (isinstance(answer, str) and not answer.strip()):
            raise RowProblem(f"nothing is left of '{name}' after the prompt")
        if isinstance(answer, list) and answer[-1]["role"] != "assistant":
            raise RowProblem(f"the last turn of '{name}' must be the assistant's")
        if _said(answer) == _asked(prompt):
            raise RowProblem(f"'{name}' repeats the prompt")
    scores = [row.get(part) for part in ("score_chosen", "score_rejected")]
    given = all(score is not None and score != "" for score in scores)
    ratings = {"ratings": [_number(score, "a score") for score in scores]} if given else {}
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **ratings, **_judge(row)}


def _shared_beginning(chosen: Any, rejected: Any) -> int:
    """Return how many turns or characters are the implicit prompt: the longest common beginning, cut at a word."""
    differ = (at for at, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other)
    shared = chosen[: next(differ, min(len(chosen), len(rejected)))]
    if isinstance(shared, list):
        return len(shared)
    turn = shared.rfind("\n\nAssistant:")
    if turn >= 0:
        return turn + len("\n\nAssistant:")
    return max((at for at, letter in enumerate(shared) if letter.isspace()), default=0)


def _arena(row: Row) -> dict[str, Any]:
    both = [turns_in(row.need(side), row.columns[side]) for side in ("a", "b")]
    return _compared(row, [], *both)


def _verdict(row: Row) -> dict[str, Any]:
    return _compared(row, *alike(row, {part: row.need(part) for part in ("prompt", "a", "b")}))


def _compared(row: Row, prompt: Any, a: Any, b: Any) -> dict[str, Any]:
    said = row.text("verdict")
    verdict = _VERDICTS.get(said.strip().lower().replace(" ", "_"))
    if verdict is None:
        raise RowProblem(
            f"'{row.columns['verdict']}' is {said[:40]!r}; expected better, same, worse, both_bad or skip of b against a"
        )
    prompt, answers = single_answers(prompt, {row.columns["a"]: a, row.columns["b"]: b})
    ranks = {"a": [1, 2], "b": [2, 1], "tie": [1, 1], "skip": []}[verdict]
    return _completions(row, prompt, answers, ranks)


def _ranking(row: Row) -> dict[str, Any]:
    answers, ranks = _texts(row), [_number(rank, "a rank") for rank in row.need("ranks")]
    _same_number(answers, ranks, "ranks")
    return _completions(row, _prompt(row), answers, dense(ranks))


def _scores(row: Row) -> dict[str, Any]:
    answers, scores = _texts(row), [_number(score, "a score") for score in row.need("scores")]
    _same_number(answers, scores, "scores")
    return _completions(row, _prompt(row), answers, dense([-s for s in scores]), ratings=scores)


def _best_of(row: Row) -> dict[str, Any]:
    return _with_best(row, _texts(row))


def _best_of_four(row: Row) -> dict[str, Any]:
    return _with_best(row, [row.text(f"sample{number}") for number in range(4)])


def _with_best(row: Row, answers: list[str]) -> dict[str, Any]:
    best = _number(row.need("best"), f"'{row.columns['best']}'")
    if best not in range(len(answers)):
        raise RowProblem(f"'{row.columns['best']}' is {best:g}; expected the place of the best from 0 to {len(answers) - 1}")
    ranks = [1 if number == best else 2 for number in range(len(answers))]
    return _completions(row, _prompt(row), answers, ranks, only_best=True)


def _judged(row: Row) -> dict[str, Any]:
    listed = row.need("completions")
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise RowProblem(f"'{row.columns['completions']}' must be a list of texts with a rank or score each")
    answers = [text_in(_first(one, SAID), f"the text of completion {n}") for n, one in enumerate(listed, 1)]
    by_rank = all(_first(one, PLACED) is not None for one in listed)
    numbers = [
        _number(_first(one, PLACED if by_rank else SCORED), f"the judgement of completion {n}") for n, one in enumerate(listed, 1)
    ]
    if by_rank:
        return _completions(row, _prompt(row), answers, dense(numbers))
    return _completions(row, _prompt(row), answers, dense([-n for n in numbers]), ratings=numbers)


def _named_ranking(row: Row) -> dict[str, Any]:
    listed = row.need("ranks")
    if not isinstance(listed, list) or not all(isinstance(one, dict) and isinstance(one.get("value"), str) for one in listed):
        raise RowProblem(f"'{row.columns['ranks']}' must be a list of columns with a rank each")
    answers = [text_in(row.fields.get(one["value"]), one["value"]) for one in listed]
    ranks = [_number(one.get("rank"), f"the rank of '{one['value']}'") for one in listed]
    return _completions(row, _prompt(row), answers, dense(ranks))


def _unpaired(row: Row) -> dict[str, Any]:
    more = row.optional_text("input")
    prompt, answer = _asked_and_answered(row)
    if more.strip():
        prompt = prompt + "\n" + more if isinstance(prompt, str) else prompt
    return {"prompt": prompt, "completion": answer, "rating": _thumb(row.get("label"), row.columns["label"]), **_judge(row)}


def _rated_chat(row: Row) -> dict[str, Any]:
    turns = _chat(row)
    if turns[-1]["role"] != "assistant":
        raise RowProblem("the last turn must be the assistant's, for it is what was judged")
    turns[-1]["rating"] = _thumb(row.get("label"), row.columns["label"])
    return {"messages": turns, **_judge(row)}


def _rated_turns(row: Row) -> dict[str, Any]:
    given = row.need("messages")
    turns = turns_in(given, row.columns["messages"])
    for number, (raw, turn) in enumerate(zip(given, turns, strict=True), 1):
        if turn["role"] == "assistant" and (rating := rating_in(raw)) is not None:
            turn["rating"] = _thumb(rating, f"the rating of turn {number}")
    return {"messages": _with_system(row, turns), **_judge(row)}


def _chat(row: Row) -> list[dict[str, Any]]:
    return _with_system(row, turns_in(row.need("messages"), row.columns["messages"]))


def _with_system(row: Row, turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    system = row.optional_text("system")
    return [{"role": "system", "content": system}, *turns] if system.strip() and turns[0]["role"] != "system" else turns


def _ranked_row(row: Row) -> dict[str, Any]:
    prompt, answer = _asked_and_answered(row)
    rank = _number(row.need("rank"), f"'{row.columns['rank']}'")
    return {"prompt": prompt, "completion": answer, "rank": rank, "group": str(row.need("group")), **_judge(row)}


def _rated_row(row: Row) -> dict[str, Any]:
    prompt, answer = _asked_and_answered(row)
    group = {"group": str(row.need("group"))} if "group" in row.columns else {}
    return {
        "prompt": prompt, "completion": answer, "rating": _number(row.need("rating"), f"'{row.columns['rating']}'"), **group,
        **_judge(row),
    }  # fmt: skip


def _asked_and_answered(row: Row) -> tuple[Any, str]:
    prompt, completion = alike(row, {part: row.need(part) for part in ("prompt", "completion")})
    prompt, (answer,) = single_answers(prompt, {row.columns["completion"]: completion})
    if answer.strip() == _asked(prompt):
        raise RowProblem(f"'{row.columns['completion']}' repeats the prompt")
    return prompt, answer


def single_answers(prompt: Any, answers: dict[str, Any]) -> tuple[Any, list[str]]:
    """Return the prompt with all turns that the answers begin with in common, and the one text that is left of each.

    Args:
        prompt: text or turns. answers: of each its name for messages, and a text, or turns (those of the prompt perhaps too).

    Raises:
        RowProblem: more than one answer of the assistant is left, or none.
    """
    if not isinstance(prompt, list):
        return prompt, list(answers.values())
    rest = {name: turns[len(prompt) :] if turns[: len(prompt)] == prompt else turns for name, turns in answers.items()}
    while (
        len(rest) > 1 and all(len(turns) > 1 for turns in rest.values()) and len({str(turns[0]) for turns in rest.values()}) == 1
    ):
        prompt = [*prompt, next(iter(rest.values()))[0]]
        rest = {name: turns[1:] for name, turns in rest.items()}
    for name, turns in rest.items():
        if len(turns) != 1 or turns[0]["role"] != "assistant":
            raise RowProblem(
                f"'{name}' goes on for {len(turns)} turns after what was asked; a judgement is of one answer of the assistant's"
            )
    if not prompt:
        raise RowProblem("there is no prompt: the conversations do not begin alike")
    return prompt, [turns[0]["content"] for turns in rest.values()]


def _completions(row: Row, prompt: Any, answers: Sequence[str], ranks: Sequence[int], **more: Any) -> dict[str, Any]:
    check_completions(prompt, answers)
    return {"prompt": prompt, "completions": list(answers), "ranks": list(ranks), **more, **_judge(row)}


def check_completions(prompt: Any, answers: Sequence[str]) -> None:
    """Check that there is something to compare.

    Raises:
        RowProblem: fewer than two completions, two equal ones, or one that repeats the prompt.
    """
    if len(answers) < 2:
        raise RowProblem("a ranking of one completion compares nothing")
    for number, answer in enumerate(answers):
        if answer in answers[:number]:
            raise RowProblem(f"completions {answers.index(answer) + 1} and {number + 1} are the same text")
        if answer.strip() == _asked(prompt):
            raise RowProblem(f"completion {number + 1} repeats the prompt")


def dense(numbers: Sequence[float]) -> list[int]:
    """Return the rank of each number, 1 for the least; equal ones share it and the next has the next whole number."""
    order = sorted(set(numbers))
    return [order.index(number) + 1 for number in numbers]


def _prompt(row: Row) -> Any:
    prompt = row.need("prompt")
    return turns_in(prompt, row.columns["prompt"]) if isinstance(prompt, list) else text_in(prompt, row.columns["prompt"])


def _texts(row: Row) -> list[str]:
    listed = row.need("completions")
    if not isinstance(listed, list):
        raise RowProblem(f"'{row.columns['completions']}' must be a list of texts")
    return [text_in(one, f"completion {number}") for number, one in enumerate(listed, 1)]


def _same_number(answers: Sequence[str], numbers: Sequence[float], what: str) -> None:
    if len(answers) != len(numbers):
        raise RowProblem(f"there are {len(answers)} completions and {len(numbers)} {what}")


def _first(one: dict[str, Any], keys: Sequence[str]) -> Any:
    return next((one[key] for key in keys if one.get(key) is not None), None)


def _number(value: Any, what: str) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError):
        raise RowProblem(f"{what} must be a number, and is {str(value)[:40]!r}") from None
    if not math.isfinite(number):
        raise RowProblem(f"{what} must be a finite number, and is {number}")
    return number


def _thumb(value: Any, what: str) -> float:
    thumb = _THUMBS.get(str(value).strip().lower().replace(" ", "_"))
    if thumb is None:
        raise RowProblem(f"'{what}' is {str(value)[:40]!r}; expected true or false (wanted or not)")
    return thumb


def _judge(row: Row) -> dict[str, str]:
    who = row.get("judge")
    return {} if who is None or who == "" else {"judge": str(who)}


def _said(answer: Any) -> str:
    return (answer if isinstance(answer, str) else answer[-1]["content"]).strip()


def _asked(prompt: Any) -> str:
    return (prompt if isinstance(prompt, str) else prompt[-1]["content"]).strip()


BUILDERS: dict[str, Callable[[Row], dict[str, Any]]] = {
    "preference": _preference,
    "arena": _arena,
    "verdict": _verdict,
    "ranking": _ranking,
    "scores": _scores,
    "best_of": _best_of,
    "best_of_four": _best_of_four,
    "judged": _judged,
    "named_ranking": _named_ranking,
    "unpaired": _unpaired,
    "rated_chat": _rated_chat,
    "rated_turns": _rated_turns,
    "ranked_row": _ranked_row,
    "rated_row": _rated_row,
}
