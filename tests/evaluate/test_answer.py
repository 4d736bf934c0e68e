"""Asking: what is said follows from the scores, and calibration is that of the paper."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.core.errors import UserError
from tunesmith.core.records import Example
from tunesmith.data.prompts import Prompts
from tunesmith.data.task import Task, load_task
from tunesmith.evaluate.answer import Asker, accuracy_on, calibration_prior, content_free_logprobs, recalibrated
from tunesmith.evaluate.results import Prediction
from tunesmith.models.load import LM, load
from tunesmith.models.score import score


@pytest.fixture(scope="module")
def smollm2() -> LM:
    """The embedded model."""
    return load("smollm2", "fp32")


@pytest.fixture
def toy() -> LM:
    """The toy decoder, with weights large enough that it cares what it reads."""
    lm = load("toy-llama")
    with torch.no_grad():
        for weight in lm.model.parameters():
            weight.mul_(6 if weight.dim() == 2 else 1)
    return lm


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Task]:
    """Write a task and load it."""

    def make(yaml: str, train: list[dict[str, Any]], test: list[dict[str, Any]]) -> Task:
        for name, rows in (("train", train), ("test", test)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        (tmp_path / "mine.yaml").write_text("name: mine\ndata: {train: train.jsonl, test: test.jsonl}\n" + yaml)
        return load_task(str(tmp_path / "mine.yaml"))

    return make


CHOICES = 'template: "{text}:{answer}"\nchoices: {good: [good, fine], bad: [bad]}\n'


def labelled(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows with two labels in turn."""
    return [{"text": f"film {start + i}", "label": ("good", "bad")[i % 2]} for i in range(count)]


def log(probabilities: tuple[float, float]) -> dict[str, float]:
    """Label probabilities as scores."""
    return {label: math.log(p) for label, p in zip("ab", probabilities, strict=True)}


def exp(scores: dict[str, float]) -> list[float]:
    """Scores as probabilities."""
    return [math.exp(value) for value in scores.values()]


def test_content_free_probabilities_are_averaged_and_then_normalised() -> None:
    # methods.md, section 6.
    raw = [log((0.06, 0.02)), log((0.3, 0.3)), log((0.5, 0.1))]
    assert exp(content_free_logprobs(raw)) == pytest.approx([0.671875, 0.328125])
    # The control: normalising before averaging gives 0.694444 and 0.305556.
    shares = [exp(content_free_logprobs([one])) for one in raw]
    assert [sum(column) / 3 for column in zip(*shares, strict=True)] == pytest.approx([0.694444, 0.305556], abs=1e-6)


def test_probabilities_too_small_for_a_float_still_calibrate() -> None:
    raw = [{"a": -2000.0, "b": -2000.0 + math.log(3)}, {"a": -2000.0, "b": -2000.0 + math.log(3)}]
    assert exp(content_free_logprobs(raw)) == pytest.approx([0.25, 0.75])


def prediction(probabilities: tuple[float, float]) -> Prediction:
    """What an uncalibrated model says."""
    scores = log(probabilities)
    return Prediction("1", "x:1", "t", "p", "h", scores, max(scores, key=lambda k: scores[k]), "b", True, 2)


def test_calibration_divides_by_what_is_said_without_content() -> None:
    # methods.md, section 6: p [.65, .35] and p_cf [.8, .2] give [.8125, 1.75], and the answer flips.
    before = prediction((0.65, 0.35))
    after = recalibrated(before, log((0.8, 0.2)))
    assert exp(after.scores) == pytest.approx([0.8125, 1.75])
    assert [v / sum(exp(after.scores)) for v in exp(after.scores)] == pytest.approx([0.317073, 0.682927], abs=1e-6)
    assert (before.predicted, after.predicted) == ("a", "b")
    assert (after.id, after.draw, after.valid, after.prompt_hash) == ("1", 2, True, "h")


def test_a_prior_that_prefers_nothing_changes_no_answer() -> None:
    for p in (0.1, 0.49, 0.51, 0.9):
        assert recalibrated(prediction((p, 1 - p)), log((0.5, 0.5))).predicted == prediction((p, 1 - p)).predicted


def test_an_answer_is_the_label_with_the_best_word(make: Callable[..., Task], toy: LM) -> None:
    task = make(CHOICES, labelled(20), labelled(8, 50))
    asker = Asker(toy, Prompts(task, toy.tokenizer))
    answers = asker.ask(task.splits.test, draw=4)
    for item, said in zip(task.splits.test, answers.predictions, strict=True):
        words = score(toy, [(f"{item.fields['text']}:", word) for word in ("good", "fine", "bad")])
        assert said.scores == pytest.approx({"good": max(words[:2]), "bad": words[2]}, abs=1e-4)
        assert said.predicted == ("good" if max(words[:2]) > words[2] else "bad")
        assert (said.id, said.where, said.gold, said.text) == (item.id, item.where, item.fields["label"], item.fields["text"])
        assert (said.prompt, said.draw) == (f"{item.fields['text']}:", 4)
        ids = asker.prompts.prompt(item)[1]
        assert said.prompt_hash == hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()
        first = int(toy.model(torch.tensor([ids])).logits[0, -1].argmax())
        assert said.valid == (first in {toy.tokenizer(letter).input_ids[0] for letter in "gfb"})
    lengths = [len(f"{item.fields['text']}:") for item in task.splits.test]
    assert answers.prompt_tokens == pytest.approx(sum(lengths) / len(lengths))
    assert accuracy_on(asker, task.splits.test) == sum(p.correct for p in answers.predictions) / 8


def test_a_prior_is_found_without_content_and_subtracted(make: Callable[..., Task], toy: LM) -> None:
    task = make(CHOICES, labelled(20), labelled(8, 50))
    asker, shown = Asker(toy, Prompts(task, toy.tokenizer)), task.splits.train[:2]
    prior = calibration_prior(asker, shown)
    context = "\n\n".join(f"{d.fields['text']}:{task.answer(d)}" for d in shown) + "\n\n"
    by_hand = {"good": 0.0, "bad": 0.0}
    for text in ("N/A", "", "[MASK]"):
        words = score(toy, [(f"{context}{text}:", word) for word in ("good", "fine", "bad")])
        by_hand = {"good": by_hand["good"] + math.exp(max(words[:2])), "bad": by_hand["bad"] + math.exp(words[2])}
    assert math.exp(prior["good"]) == pytest.approx(by_hand["good"] / sum(by_hand.values()), abs=1e-4)
    assert sum(exp(prior)) == pytest.approx(1)
    plain = asker.ask(task.splits.test, [shown] * 8).predictions
    calibrated = asker.ask(task.splits.test, [shown] * 8, prior=prior).predictions
    for before, after in zip(plain, calibrated, strict=True):
        assert after.scores == pytest.approx({label: before.scores[label] - prior[label] for label in prior}, abs=1e-5)
        assert after.predicted == recalibrated(before, prior).predicted


def refund_rows(count: int) -> list[dict[str, Any]]:
    """Rows of two labels, one of which begins the other."""
    kinds = (("I want my money back, order", "refund request"), ("Did my money come back yet, order", "refund"))
    return [{"text": f"{kinds[i % 2][0]} {100 + i}", "label": kinds[i % 2][1]} for i in range(count)]


def test_a_label_that_begins_another_can_lose_to_it(make: Callable[..., Task], smollm2: LM) -> None:
    yaml = 'template: "Customer: {text}\\nIntent: {answer}"\nchoices: labels\n'
    task = make(yaml, refund_rows(20), [{"text": "I want my money back, order 7", "label": "refund request"}])
    asker = Asker(smollm2, Prompts(task, smollm2.tokenizer))
    asked = [e for e in task.splits.train if e.fields["label"] == "refund request"][:4]
    [said] = asker.ask(task.splits.test, [asked]).predictions
    assert said.predicted == "refund request"
    # The control: as bare words the longer one is never more likely, whatever is shown.
    bare = score(smollm2, [(said.prompt, " refund"), (said.prompt, " refund request")])
    assert bare[0] > bare[1]
    trained = Asker(smollm2, Prompts(task, smollm2.tokenizer), trained=True)
    assert {choice[-1] for choice in trained.choices()} == {smollm2.tokenizer.eos_token_id}


CAPITALS = {"France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Russia": "Moscow"}


@pytest.mark.parametrize("lead", [" ", "\\n"])
def test_a_free_answer_is_the_first_line_that_is_said(make: Callable[..., Task], smollm2: LM, lead: str) -> None:
    rows = [{"country": c, "capital": k, "n": i} for i, (c, k) in enumerate(CAPITALS.items())]
    yaml = f'template: "Country: {{country}}\\nCapital:{lead}{{answer}}"\nanswer: capital\n'
    task = make(yaml, rows[1:] * 2, rows[:1])
    shown = [e for e in task.splits.train if e.fields["country"] in ("Italy", "Spain", "Japan")][:3]
    [said] = Asker(smollm2, Prompts(task, smollm2.tokenizer)).ask(task.splits.test, [shown]).predictions
    assert said.predicted in CAPITALS.values()
    assert (said.gold, said.correct, said.valid, said.scores) == ("Paris", said.predicted == "Paris", True, {})
    # Whether it knows the right one depends on the template; this one it does.
    assert said.correct or lead != " "
    assert "Country: France\nCapital:" in said.prompt


def test_single_queries_are_timed(make: Callable[..., Task], toy: LM) -> None:
    task = make(CHOICES, labelled(20), labelled(8, 50))
    middle, slow = Asker(toy, Prompts(task, toy.tokenizer)).latencies(task.splits.test)
    assert 0 < middle <= slow < 10_000


def test_a_row_that_does_not_fit_the_model_is_named(make: Callable[..., Task], toy: LM) -> None:
    task = make(CHOICES, labelled(20), [*labelled(3, 50), {"text": "x" * 3000, "label": "bad"}])
    with pytest.raises(UserError, match=r"test.jsonl:4: its prompt has 3,001 tokens; toy-llama reads at most 2,048"):
        Asker(toy, Prompts(task, toy.tokenizer)).ask(task.splits.test)


def test_demonstrations_of_each_item_are_its_own(make: Callable[..., Task], toy: LM) -> None:
    task = make(CHOICES, labelled(20), labelled(4, 50))
    shown: list[list[Example]] = [[], task.splits.train[:1], task.splits.train[1:3], []]
    said = Asker(toy, Prompts(task, toy.tokenizer)).ask(task.splits.test, shown).predictions
    assert [p.prompt.count("film") for p in said] == [1, 2, 3, 1]
