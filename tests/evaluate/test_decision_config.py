"""transformers' decision pipeline reads our files and gives our probabilities, and we read theirs and give theirs."""

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.core.errors import UserError
from tunesmith.data.prompts import Prompts
from tunesmith.data.task import load_task
from tunesmith.evaluate.answer import Asker
from tunesmith.evaluate.decision import Decider, question_of
from tunesmith.evaluate.decision_config import ask_theirs, request_of, write_config
from tunesmith.models.load import load

TEXT = 'row {i} <|end|> says "good" \\n é 😀'


def asker(folder: Path, choices: Any = ("n", "p"), **keys: Any) -> Asker:
    """Who asks toy-llama a task of 120 rows whose texts have quotes, control tokens and letters of four bytes."""
    rows = [{"text": TEXT.format(i=i), "label": str(list(choices)[i % 2])} for i in range(120)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = {
        "name": "t",
        "data": {"train": "rows.jsonl"},
        "template": 'Say "x" {text}\nLabel:{answer}',
        "choices": choices,
        **keys,
    }
    (folder / "t.yaml").write_text(json.dumps(task))
    lm = load("toy-llama")
    return Asker(lm, Prompts(load_task(str(folder / "t.yaml")), lm.tokenizer))


def decider_of(who: Asker, calibration: str = "temperature", kind: Any = "auto") -> Decider:
    task = who.prompts.task
    assert task.verbalizer
    rows = task.splits.train[:40]
    return Decider.fit(question_of(task.verbalizer.labels, kind), who.scores(rows), [task.gold(r) for r in rows], calibration)


def pipeline(who: Asker, folder: Path | None = None) -> Any:
    from transformers import pipeline

    config = {"decision_config": str(folder)} if folder else {}
    return pipeline("decision", model=who.lm.model, tokenizer=who.lm.tokenizer, **config)


@pytest.mark.parametrize(
    ("choices", "keys"),
    [
        pytest.param(["n", "p"], {}, id="choice"),
        pytest.param(["n", "p"], {"chat": True}, id="chat"),
        pytest.param(["1", "3"], {"instruction": "Rate {it} {{ now }}"}, id="score"),
        pytest.param({"yes": "y", "no": "n"}, {}, id="yes_no"),
    ],
)
def test_their_pipeline_gives_our_probabilities(choices: Any, keys: dict[str, Any], tmp_path: Path) -> None:
    who = asker(tmp_path, choices, **keys)
    decider, items = decider_of(who), who.prompts.task.splits.test[:3]
    tokens = len(who.lm.tokenizer)
    assert write_config(tmp_path, decider, who.prompts, items, None) == []
    assert decider.state["temperature"] != pytest.approx(1.0, abs=0.01)
    for item, scores in zip(items, who.scores(items), strict=True):
        ours = decider.decide(scores)
        theirs = pipeline(who, tmp_path)(request_of(decider.question, dict(item.fields)))["answer"]
        again = ask_theirs(who.lm, tmp_path, request_of(decider.question, dict(item.fields)))["answer"]
        if decider.question.kind == "yes_no":
            assert theirs["noul"] == pytest.approx(ours.value, abs=1e-5)
        else:
            assert list(theirs["probabilities"].values()) == pytest.approx(list(ours.probabilities.values()), abs=1e-5)
        assert list(again.probabilities.values()) == pytest.approx(list(ours.probabilities.values()), abs=1e-5)
    # A text alone stands for the only field, and the tokenizer of the caller has not grown.
    whole = ask_theirs(who.lm, tmp_path, request_of(decider.question, items[0].fields["text"]))["answer"]
    assert list(whole.probabilities.values()) == pytest.approx(
        list(decider.decide(who.scores(items)[0]).probabilities.values()), abs=1e-5
    )
    assert len(load("toy-llama").tokenizer) == tokens


def test_what_has_no_place_in_their_files_is_named(tmp_path: Path) -> None:
    who = asker(tmp_path)
    rows = who.prompts.task.splits.test[:2]
    left = write_config(tmp_path, decider_of(who, "isotonic").abstaining(0.7), who.prompts, rows, None)
    assert len(left) == 2
    assert "the isotonic calibration has no place" in left[0]
    assert "abstention threshold" in left[1]
    assert json.loads((tmp_path / "decision.json").read_text())["temperature"] == {"choice": 1.0}


@pytest.mark.parametrize(
    ("choices", "keys", "reason"),
    [
        (["no", "yes"], {}, "reads one token for each option, and 'no' has several"),
        ({"n": ["n", "m"], "p": ["p"]}, {}, "a label has several words"),
        (["n", "p"], {"normalise": "character"}, "normalised by character"),
    ],
)
def test_what_they_cannot_ask_is_not_written(choices: Any, keys: dict[str, Any], reason: str, tmp_path: Path) -> None:
    who = asker(tmp_path, choices, **keys)
    left = write_config(tmp_path, decider_of(who), who.prompts, who.prompts.task.splits.test[:2], None)
    assert len(left) == 1
    assert reason in left[0]
    assert not (tmp_path / "decision.json").exists()


def test_a_question_of_theirs_is_answered_as_they_answer_it(tmp_path: Path) -> None:
    who = asker(tmp_path)
    request = {
        "state": {"message": "WIN a phone <|end|>"},
        "questions": {
            "tone": {"type": "choice", "instructions": "What tone?", "criteria": {"calm": None, "pushy": "presses"}},
            "urgency": {"type": "score", "instructions": "How urgent?", "criteria": ["can wait", "this week", "today"]},
        },
    }
    theirs, ours = pipeline(who)(request), ask_theirs(who.lm, None, request)
    for name in ("tone", "urgency"):
        assert ours[name].probabilities == pytest.approx(theirs[name]["probabilities"], abs=1e-5)
    assert ours["tone"].answer == theirs["tone"]["choice"]
    assert ours["urgency"].value == pytest.approx(theirs["urgency"]["score"], abs=1e-5)


def test_a_configuration_of_theirs_with_false_first_still_means_yes_by_yes(tmp_path: Path) -> None:
    from transformers.decision import DecisionConfig

    who = asker(tmp_path)
    config = DecisionConfig(labels={"noul": ["n", "y"]}, noul_options=["false", "true"], temperature={"noul": 3.0})
    config.save_pretrained(tmp_path)
    request = {"state": "text", "questions": {"q": {"type": "noul", "instructions": "Is it?"}}}
    assert ask_theirs(who.lm, tmp_path, request)["q"].value == pytest.approx(
        pipeline(who, tmp_path)(request)["q"]["noul"], abs=1e-5
    )


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"type": "essay"}, "`type` must be one of"),
        ({"type": "choice"}, "this question cannot be asked"),
        ({"type": "noul"}, "not distinct single tokens"),  # Yes and No are several bytes
    ],
)
def test_a_question_that_cannot_be_asked_is_an_error(question: dict[str, Any], message: str, tmp_path: Path) -> None:
    who = asker(tmp_path)
    with pytest.raises(UserError, match=message):
        ask_theirs(who.lm, None, {"state": "x", "questions": {"q": question}})
