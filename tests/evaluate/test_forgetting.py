"""What is measured away from the task: perplexity and the sibling tasks, before and after."""

import json
import math
from pathlib import Path

import pytest
import torch

from tunesmith.core import store
from tunesmith.evaluate.forgetting import Guard, choose, compare, measure, passages, questions, text_nats
from tunesmith.evaluate.results import Forgetting
from tunesmith.models.load import LM, load


@pytest.fixture
def toy() -> LM:
    """The toy decoder."""
    return load("toy-llama")


def test_perplexity_is_that_of_all_tokens_but_the_first_of_each_text(toy: LM) -> None:
    texts = ["A text.", "Another one, longer.", "x", ""]
    nll = count = 0.0
    for text in texts[:2]:
        ids = torch.tensor([toy.tokenizer(text).input_ids])
        logprobs = toy.model(ids).logits[0, :-1].detach().log_softmax(-1)
        nll -= float(logprobs.gather(-1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
    assert count == 6 + 19
    nats, tokens = text_nats(toy, texts)
    assert tokens == [6, 19]
    assert sum(nats) == pytest.approx(nll, rel=1e-5)
    # An untrained byte model knows nothing: about one in 262.
    assert 200 < Guard(nats, tokens, [True]).perplexity == pytest.approx(math.exp(nll / count), rel=1e-5)


def test_the_guard_set_is_the_other_embedded_tasks(toy: LM) -> None:
    guard = measure(toy, "movies", rows=4)
    assert guard.rows == {"editorials": 4, "products": 4, "tweets": 4}
    assert guard.accuracies.keys() == guard.rows.keys()
    assert len(guard.nats) == len(passages()) == 32
    assert len(guard.chosen) == len(questions()) == 80
    assert measure(toy, "movies", rows=4) == guard
    assert Guard(**guard.as_dict()) == guard
    assert measure(toy, "my own", rows=0).rows == {}


def test_forgetting_is_the_mean_change_of_accuracy() -> None:
    rows = {"tweets": 10, "products": 10}
    before = Guard([2.0, 4.0], [1, 2], [True, True], {"tweets": 0.9, "products": 0.8}, rows)
    after = Guard([2.6, 4.9], [1, 2], [True, False], {"tweets": 0.6, "products": 0.9}, rows)
    change = compare(before, after)
    assert (change.perplexity_before, change.perplexity_after) == pytest.approx((math.exp(2), math.exp(2.5)))
    assert change.rise == pytest.approx(0.5)  # (7.5 - 6) nats over 3 tokens; a mean over passages would say (.6 + .45) / 2
    assert change.choice_accuracies == (1.0, 0.5)
    assert Forgetting.of_record(json.loads(json.dumps(change.as_record()))) == change
    assert change.accuracy_change == pytest.approx(((0.6 - 0.9) + (0.9 - 0.8)) / 2)
    assert change.tasks["tweets"] == {"before": 0.9, "after": 0.6, "n": 10.0}


def test_without_the_data_forgetting_is_not_measured_and_that_is_said(
    toy: LM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setattr(store, "_WAITS", ())
    guard = measure(toy, "movies", rows=4)
    assert (guard.rows, len(guard.nats)) == ({}, 32)
    assert (
        "forgetting is not measured on sibling tasks: vaderSentiment-3.3.2.tar.gz (3 MB) is neither in the cache nor reachable"
        in (capsys.readouterr().err)
    )


def test_questions_have_four_different_endings_and_passages_are_of_one_length() -> None:
    assert all(len(set(endings)) == 4 for _, endings in questions())
    assert len({stem for stem, _ in questions()}) == 80
    assert all(25 <= len(text.split()) <= 60 for text in passages())


def test_the_first_ending_counts_as_right(toy: LM) -> None:
    stem, endings = questions()[0]
    scores = []
    for ending in endings:
        prompt, answer = (toy.tokenizer(text, add_special_tokens=False).input_ids for text in (stem, f" {ending}"))
        logprobs = toy.model(torch.tensor([[*prompt, *answer]])).logits[0].detach().log_softmax(-1)
        scores.append(sum(float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(answer)))
    assert choose(toy)[0] == (max(scores) == scores[0])
    assert 0.1 < sum(choose(toy)) / 80 < 0.45  # an untrained model guesses
