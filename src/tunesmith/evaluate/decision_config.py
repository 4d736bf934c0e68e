"""Deciders as transformers' decision pipeline knows them: `decision.json` and `decision_template.jinja`, written and read.

transformers asks the same three kinds of question (it calls yes_no "noul"). It reads the logits of one-token labels after a
prompt and divides them by a temperature. What has no place there stays in `decider.json` alone, and is named.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.records import Example
from tunesmith.data.prompts import Prompts
from tunesmith.evaluate.decision import Decider, Decision, Kind, Question
from tunesmith.models.load import LM
from tunesmith.models.score import Request, score_requests

_THEIRS: dict[Kind, str] = {"choice": "choice", "score": "score", "yes_no": "noul"}
_OURS: dict[str, Kind] = {theirs: ours for ours, theirs in _THEIRS.items()}
# Stands for a field while a prompt is rendered: a plane of Unicode that is private and empty.
_FIRST_FIELD = 0x10F000


def request_of(question: Question, state: Mapping[str, Any] | str, name: str = "answer") -> dict[str, Any]:
    """Return a question about a row as transformers' decision pipeline takes it."""
    criteria: Any = dict.fromkeys(question.options)
    if question.kind == "score":
        criteria = list(question.options)
    asked = {"type": _THEIRS[question.kind], **({} if question.kind == "yes_no" else {"criteria": criteria})}
    return {"state": state, "questions": {name: asked}}


def write_config(folder: Path, decider: Decider, prompts: Prompts, rows: Sequence[Example], adapter: str | None) -> list[str]:
    """Write `decision.json` and `decision_template.jinja` if transformers can ask what we ask.

    The files are kept only if transformers makes the very same token ids of every row given.

    Args:
        rows: a few examples to compare on. adapter: subfolder of `folder` with an adapter, None without.

    Returns:
        What could not be carried over, in sentences; [] = everything.
    """
    from transformers.decision import DecisionConfig

    problem = _unfit(decider, prompts)
    if problem:
        return [f"transformers' decision pipeline cannot ask this: {problem}"]
    temperature = decider.state["temperature"] if decider.calibration == "temperature" else 1.0
    kind, words = _THEIRS[decider.question.kind], _labels(decider.question, prompts)
    config = DecisionConfig(
        labels={kind: words}, temperature={kind: temperature}, chat_template=_template(prompts, rows[0]), adapter=adapter
    )
    for row in rows:
        ids = _their_prompts(config, request_of(decider.question, dict(row.fields)), prompts.tokenizer)[0][0]
        if ids != prompts.prompt(row)[1]:
            return [f"transformers' decision pipeline cannot ask this: it would read other tokens of {row.where}"]
    config.save_pretrained(folder)
    left = []
    if decider.calibration != "temperature":
        left.append(f"the {decider.calibration} calibration has no place in decision.json, which says temperature 1")
    if decider.abstain_below > 0:
        left.append("the abstention threshold has no place in decision.json")
    return left


def ask_theirs(lm: LM, folder: str | Path | None, request: Mapping[str, Any]) -> dict[str, Decision]:
    """Answer typed questions as transformers' decision pipeline would, on our engine.

    Args:
        folder: holds `decision.json`; None = the defaults, with the model's chat template.
        request: {"state": ..., "questions": {name: {"type": choice | score | noul, "instructions": ..., "criteria": ...}}}.

    Returns:
        Name -> decision. Options of a choice are its criteria, of a score the numbers of its levels from 0.

    Raises:
        UserError: a question that cannot be asked, or labels that are not one token each.
    """
    from transformers.decision import DecisionConfig, label_token_ids

    try:
        config = DecisionConfig.from_pretrained(str(folder) if folder else "")
        prompts = _their_prompts(config, request, lm.tokenizer)
        labels = [tuple(label_token_ids(lm.tokenizer, tuple(question.labels))) for _, question in prompts]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"this question cannot be asked: {error}") from None
    scored = score_requests(lm, [Request(ids, tuple((i,) for i in ls)) for (ids, _), ls in zip(prompts, labels, strict=True)])
    answers = {}
    for (_, asked), one in zip(prompts, scored, strict=True):
        options = tuple({"true": "yes", "false": "no"}[o] if asked.type == "noul" else o for o in asked.options)
        by_option = dict(zip(options, one.logprobs, strict=True))
        # Their configuration may put false first; ours has yes first.
        question = Question(_OURS[asked.type], ("yes", "no") if asked.type == "noul" else options)
        decider = Decider(question, "temperature", {"temperature": float(config.temperature.get(asked.type, 1.0))})
        answers[asked.name] = decider.decide(by_option)
    return answers


def _their_prompts(config: Any, request: Mapping[str, Any], tokenizer: Any) -> list[tuple[tuple[int, ...], Any]]:
    """Return the ids before each mark and the question asked there, as transformers makes them."""
    # Their preparation adds two tokens to the tokenizer, and ours is to stay as it is.
    prepared = config.prepare_inputs(dict(request), copy.deepcopy(tokenizer))
    found = []
    for inputs, questions in prepared:
        ids = inputs["input_ids"][0].tolist()
        found += [(tuple(ids[: int(mark)]), question) for mark, question in zip(inputs["marks"], questions, strict=True)]
    return found


def _unfit(decider: Decider, prompts: Prompts) -> str:
    """Say why transformers cannot ask a task's question; "" if it can."""
    verbalizer = prompts.task.verbalizer
    assert verbalizer is not None
    if any(len(words) > 1 for words in verbalizer.words.values()):
        return "a label has several words, and it reads one"
    if verbalizer.normalise != "none":
        return f"scores are normalised by {verbalizer.normalise}"
    long = [word for word in verbalizer.flat() if len(prompts.answer(word)) > 1]
    return f"it reads one token for each option, and '{long[0]}' has several" if long else ""


def _labels(question: Question, prompts: Prompts) -> list[str]:
    task = prompts.task
    lead = "" if task.file.chat else task.template.lead
    assert task.verbalizer is not None
    return [lead + task.verbalizer.words[option][0] for option in question.options]


def _template(prompts: Prompts, row: Example) -> str:
    """Return a Jinja template of the task's prompt: literals, and the fields of `state`."""
    fields = prompts.task.template.fields
    stand_in = {name: chr(_FIRST_FIELD + i) for i, name in enumerate(fields)}
    text, ids = prompts.prompt(Example(row.id, {**row.fields, **stand_in}, row.where))
    name_of = {mark: name for name, mark in stand_in.items()}
    bos = prompts.tokenizer.bos_token
    parts = ["bos_token"] if bos and ids[0] == prompts.tokenizer.bos_token_id and not text.startswith(bos) else []
    literal = ""
    for letter in text:
        if letter not in name_of:
            literal += letter
            continue
        value = f"state[{json.dumps(name_of[letter])}]"
        whole = f"(state if state is string else {value})" if len(fields) == 1 else value
        parts += [_quoted(literal), whole] if literal else [whole]
        literal = ""
    return "{{ " + " ~ ".join([*parts, *([_quoted(literal)] if literal else [])]) + " }}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
