"""Answers after passages are the papers' mixtures of plain scores, and cite exactly what was read."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tunesmith.core.errors import UserError
from tunesmith.data.prompts import Prompts
from tunesmith.data.task import Task, load_task
from tunesmith.evaluate.answer import Asker
from tunesmith.evaluate.grounded import Combine, Evidence, GroundedAsker
from tunesmith.models.generate import generate
from tunesmith.models.load import LM, load
from tunesmith.models.score import score
from tunesmith.retrieval.chunk import Passage

PRIOR = (math.log(0.7), math.log(0.3))
MIXED: list[Combine] = ["sequence", "token"]


@pytest.fixture(scope="module")
def toy() -> LM:
    """The toy decoder, with weights large enough that it cares what it reads."""
    lm = load("toy-llama")
    with torch.no_grad():
        for weight in lm.model.parameters():
            weight.mul_(6 if weight.dim() == 2 else 1)
    return lm


def task(folder: Path, yaml: str, answers: tuple[str, ...]) -> Task:
    """A task with a dozen rows."""
    rows = [{"text": f"film {i}", "label": answers[i % len(answers)]} for i in range(12)]
    for name, chosen in (("train", rows[:8]), ("test", rows[8:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    (folder / "mine.yaml").write_text(f"name: mine\ndata: {{train: train.jsonl, test: test.jsonl}}\n{yaml}")
    return load_task(str(folder / "mine.yaml"))


@pytest.fixture
def films(tmp_path: Path) -> Task:
    """A task with choices of many tokens."""
    return task(
        tmp_path, 'template: "{text}:{answer}"\nchoices: {good: [good, fine], bad: [bad]}\nseparator: "|"\n', ("good", "bad")
    )


@pytest.fixture
def free(tmp_path: Path) -> Task:
    """A task with free answers."""
    return task(tmp_path, 'template: "{text}:{answer}"\nanswer: label\nseparator: "|"\n', ("good", "bad"))


def passage(text: str, document: str = "d") -> Passage:
    """A passage without a title."""
    return Passage(document, 0, len(text), "", text)


PAIR = (passage("all good here", "a"), passage("x y z", "b"))


def tokens(lm: LM, context: str, word: str) -> list[float]:
    """The log-probability of every byte of a word, from scores of its beginnings."""
    sums = [0.0, *(score(lm, [(context, word[: i + 1])])[0] for i in range(len(word)))]
    return [later - sooner for sooner, later in pairwise(sums)]


def plain(combine: Combine, rows: list[list[float]]) -> float:
    """The papers' sums of probabilities, one after another; rows of token log-probabilities, one a passage."""
    weights = [math.exp(prior) for prior in PRIOR]
    if combine == "sequence":
        return math.log(sum(w * math.exp(sum(row)) for w, row in zip(weights, rows, strict=True)))
    columns = zip(*rows, strict=True)
    return sum(math.log(sum(w * math.exp(t) for w, t in zip(weights, column, strict=True))) for column in columns)


def test_stuffed_passages_stand_before_the_item_the_best_next_to_it(toy: LM, films: Task) -> None:
    asker, items = Asker(toy, Prompts(films, toy.tokenizer)), films.splits.test
    answers, dropped = GroundedAsker(asker, "stuff").ask(items, [Evidence(PAIR, PRIOR)] * len(items))
    assert dropped == 0
    for item, p in zip(items, answers.predictions, strict=True):
        assert p.prompt == f"x y z|all good here|{item.fields['text']}:"
        assert p.sources == ("a#0-13", "b#0-5")
        assert p.scores["bad"] == pytest.approx(score(toy, [(p.prompt, "bad")])[0], abs=1e-4)


@pytest.mark.parametrize("combine", MIXED)
def test_choices_are_scored_by_the_papers_sums(toy: LM, films: Task, combine: Combine) -> None:
    asker, item = Asker(toy, Prompts(films, toy.tokenizer)), films.splits.test[0]
    answers, dropped = GroundedAsker(asker, combine).ask([item], [Evidence(PAIR, PRIOR)])
    said = answers.predictions[0]
    expected = {}
    for word in ("good", "fine", "bad"):
        expected[word] = plain(combine, [tokens(toy, f"{p.text}|{item.fields['text']}:", word) for p in PAIR])
    assert said.scores == pytest.approx({"good": max(expected["good"], expected["fine"]), "bad": expected["bad"]}, abs=1e-3)
    assert said.predicted == max(said.scores, key=lambda label: said.scores[label])
    assert (said.sources, dropped) == (("a#0-13", "b#0-5"), 0)
    assert said.prompt == f"all good here|{item.fields['text']}:"
    assert answers.prompt_tokens == sum(len(f"{p.text}|{item.fields['text']}:") for p in PAIR)
    other, _ = GroundedAsker(asker, combine).ask([item], [Evidence(PAIR, PRIOR[::-1])])
    assert other.predictions[0].scores != pytest.approx(said.scores, abs=1e-3)


def test_the_two_mixtures_differ_where_answers_are_long(toy: LM, films: Task) -> None:
    asker, items = Asker(toy, Prompts(films, toy.tokenizer)), films.splits.test[:1]
    one, other = (GroundedAsker(asker, how).ask(items, [Evidence(PAIR, PRIOR)])[0].predictions[0].scores for how in MIXED)
    assert one != pytest.approx(other, abs=1e-3)


@pytest.mark.parametrize("combine", ["stuff", *MIXED])
def test_without_passages_an_item_is_asked_by_itself(toy: LM, films: Task, combine: Combine) -> None:
    asker, items = Asker(toy, Prompts(films, toy.tokenizer)), films.splits.test
    answers, dropped = GroundedAsker(asker, combine).ask(items, [Evidence((), ())] * len(items))
    bare = asker.ask(items).predictions
    assert [(p.prompt, p.predicted, p.sources) for p in answers.predictions] == [(b.prompt, b.predicted, ()) for b in bare]
    assert [p.scores for p in answers.predictions] == [pytest.approx(b.scores, abs=1e-5) for b in bare]
    assert dropped == 0


@pytest.mark.parametrize(("combine", "kept"), [("stuff", ("a#0-13",)), *((how, ("a#0-13", "c#0-3")) for how in MIXED)])
def test_passages_that_do_not_fit_are_left_out_and_counted(toy: LM, films: Task, combine: Combine, kept: tuple[str, ...]) -> None:
    asker, item = Asker(toy, Prompts(films, toy.tokenizer)), films.splits.test[0]
    three = (PAIR[0], passage("w " * 1500, "b"), passage("end", "c"))
    prior = tuple(math.log(p) for p in (0.5, 0.25, 0.25))
    answers, dropped = GroundedAsker(asker, combine).ask([item], [Evidence(three, prior)])
    assert answers.predictions[0].sources == kept
    assert dropped == 3 - len(kept)
    # What is left shares the whole probability.
    whole = [math.log(p) for p in ((1.0,) if len(kept) == 1 else (2 / 3, 1 / 3))]
    alone, _ = GroundedAsker(asker, combine).ask([item], [Evidence(tuple(p for p in three if p.id in kept), tuple(whole))])
    assert answers.predictions[0].scores == pytest.approx(alone.predictions[0].scores, abs=1e-5)


@pytest.mark.parametrize("combine", ["stuff", *MIXED])
def test_an_item_that_does_not_fit_by_itself_is_named(toy: LM, tmp_path: Path, combine: Combine) -> None:
    long = task(
        tmp_path, 'template: "{text}:{answer}"\nchoices: [good, bad]\ninstruction: "' + "w " * 1100 + '"\n', ("good", "bad")
    )
    asker = GroundedAsker(Asker(toy, Prompts(long, toy.tokenizer)), combine)
    with pytest.raises(UserError, match=r"test\.jsonl:\d: its prompt has 2,2\d\d tokens; toy-llama reads at most 2,048"):
        asker.ask(long.splits.test[:1], [Evidence(PAIR, PRIOR)])


@pytest.mark.parametrize("combine", MIXED)
def test_free_answers_are_the_candidate_that_all_passages_together_find_likeliest(toy: LM, free: Task, combine: Combine) -> None:
    asker, items = Asker(toy, Prompts(free, toy.tokenizer)), free.splits.test
    pairs = [(passage(f"all good {i}", "a"), passage("no " * i + "never", "b")) for i in range(len(items))]
    answers, _ = GroundedAsker(asker, combine).ask(items, [Evidence(pair, PRIOR) for pair in pairs])
    for item, pair, said in zip(items, pairs, answers.predictions, strict=True):
        prompts = [f"{p.text}|{item.fields['text']}:" for p in pair]
        own = [completions[0] for completions in generate(toy, prompts, temperature=0.0, stop="\n")]
        values = {}
        for candidate in own:
            mixed = plain(combine, [_token_scores(toy, prompt, candidate.ids) for prompt in prompts])
            values[candidate.text.strip().split("\n")[0].strip()] = mixed
        assert values[said.predicted] == pytest.approx(max(values.values()), abs=1e-3)
        assert said.scores == {}


def _token_scores(lm: LM, prompt: str, ids: tuple[int, ...]) -> list[float]:
    """Log-probabilities of ids after a prompt, from the model's own logits in one plain pass."""
    before = lm.tokenizer(prompt, add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = lm.model(torch.tensor([[*before, *ids]])).logits[0].float().log_softmax(-1)
    return [float(logits[len(before) - 1 + i, token]) for i, token in enumerate(ids)]
