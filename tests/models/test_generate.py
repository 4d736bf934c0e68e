"""Generation: the tokens are the model's own, chance is each request's own, and it ends where it should."""

import json
import re
from collections import Counter
from typing import Any

import pytest
import torch
from scipy import stats

from tunesmith.core import levers
from tunesmith.core.encode import token_ids
from tunesmith.core.errors import UserError
from tunesmith.core.records import Completion
from tunesmith.models import slots
from tunesmith.models.constraint import Constraint
from tunesmith.models.generate import Sampling, complete, generate
from tunesmith.models.load import LM
from tunesmith.models.trunk import Trunk

PROMPTS = ["The capital of France is", "Once upon a time there was a tailor who", "A"]


def ids_of(lm: LM) -> list[tuple[int, ...]]:
    """Token ids of the prompts, of unequal lengths."""
    return [token_ids(lm.tokenizer, prompt) for prompt in PROMPTS]


def next_logprobs(lm: LM, ids: tuple[int, ...], temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities of the token after each of `ids`, by the model's own forward: [T, V]."""
    with torch.inference_mode():
        return (lm.model(torch.tensor([ids])).logits[0] / temperature).log_softmax(-1)


@pytest.mark.parametrize("left_out", ["", "decoder", "all"])
def test_greedy_answers_are_those_of_the_library(lm: LM, left_out: str) -> None:
    with levers.without(*filter(None, [left_out])):
        answers = complete(lm, ids_of(lm), Sampling(12, temperature=0))
    for ids, answer in zip(ids_of(lm), answers, strict=True):
        given = torch.tensor([ids])
        expected = lm.model.generate(
            given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=12, pad_token_id=0
        )
        assert list(answer.ids) == expected[0, len(ids) :].tolist()


def test_without_its_mask_padding_would_change_the_answers(toy: LM) -> None:
    # The control of the test above: prompts of equal length need no padding, these need 38 tokens of it.
    padded = torch.tensor([[0] * 38 + [*token_ids(toy.tokenizer, "A")]])
    bare = padded[:, 38:]
    kept = [toy.model.generate(x, attention_mask=torch.ones_like(x), do_sample=False, max_new_tokens=20) for x in (padded, bare)]
    assert kept[0][0, 39:].tolist() != kept[1][0, 1:].tolist()


@pytest.mark.parametrize("how", [Sampling(24), Sampling(24, temperature=0.7, top_p=0.9)])
@pytest.mark.parametrize("left_out", ["", "decoder"])
def test_a_sampled_answer_is_the_same_alone_in_a_batch_and_in_any_order(toy: LM, how: Sampling, left_out: str) -> None:
    prompts = [(70 + i,) * (1 + 3 * i) for i in range(40)]
    with levers.without(*filter(None, [left_out])):
        together = complete(toy, prompts, how, seed=3)
        backwards = complete(toy, prompts[::-1], how, seed=3)[::-1]
    alone = [complete(toy, [ids], how, seed=3)[0] for ids in prompts[::8]]
    for one, other in [*zip(together[::8], alone, strict=True), *zip(together, backwards, strict=True)]:
        assert one.ids == other.ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert [a.ids for a in complete(toy, prompts, how, seed=4)] != [a.ids for a in together]


def test_equal_prompts_get_answers_of_their_own(toy: LM) -> None:
    [answers] = generate(toy, ["Once"], max_new_tokens=8, n=5)
    assert len({a.ids for a in answers}) == 5
    assert [a.ids for a in generate(toy, ["Once"] * 5, max_new_tokens=8)[3]] == [answers[3].ids]


@pytest.mark.parametrize("how", [Sampling(8, temperature=0), Sampling(8, temperature=0.7, top_p=0.8)])
def test_log_probabilities_are_those_of_the_model_after_temperature(lm: LM, how: Sampling) -> None:
    for ids, answer in zip(ids_of(lm), complete(lm, ids_of(lm), how, seed=1), strict=True):
        expected = next_logprobs(lm, ids + answer.ids, how.temperature or 1.0)
        places = range(len(ids) - 1, len(ids) + len(answer.ids) - 1)
        again = [float(expected[p, t]) for p, t in zip(places, answer.ids, strict=True)]
        assert answer.logprobs == pytest.approx(again, abs=1e-3)


@pytest.mark.parametrize("left_out", ["", "decoder"])
def test_a_beginning_that_all_prompts_share_is_read_once_and_changes_nothing(
    toy: LM, left_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = tuple(range(70, 130))
    prompts = [*[(*head, 200 + i, 201) for i in range(5)], (*head, 200, 201), (*head, 250)]
    with levers.without("prefixes", *filter(None, [left_out])):
        apart = complete(toy, prompts, Sampling(16), seed=1)
    read = tokens_read(monkeypatch)
    with levers.without(*filter(None, [left_out])):
        together = complete(toy, prompts, Sampling(16), seed=1)
        copies = complete(toy, [prompts[0]] * 3, Sampling(16), seed=1)
    assert [a.ids for a in together] == [a.ids for a in apart]
    assert [list(a.logprobs) for a in together] == [pytest.approx(a.logprobs, abs=1e-4) for a in apart]
    assert [copies[0].ids, copies[1].ids] == [apart[0].ids, apart[5].ids]
    if not left_out:
        # The head; the six different ends; then token by token. Three copies: all but the last token, then that token.
        assert read[:3] == [60, 2 * 5 + 1, 7]
        assert [61, 1, 3] in [read[i : i + 3] for i in range(len(read))]


def tokens_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that fills with the number of tokens of every forward pass of ours."""
    read: list[int] = []
    forward = Trunk.__call__
    monkeypatch.setattr(Trunk, "__call__", lambda self, ids, *more: read.append(len(ids)) or forward(self, ids, *more))
    return read


def test_a_place_is_taken_again_as_soon_as_its_answer_ends(toy: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "_PLACES", 4)
    # Prompts whose greedy answers end at different times, by a stop token of their own.
    prompts = [(70 + i, 90 + i) for i in range(12)]
    free = complete(toy, prompts, Sampling(20, temperature=0))
    common = Counter(t for a in free for t in a.ids[1:-1]).most_common(6)
    toy.model.generation_config.eos_token_id = [token for token, _ in common]
    read = tokens_read(monkeypatch)
    answers = complete(toy, prompts, Sampling(20, temperature=0))
    lengths = [len(a.ids) for a in answers]
    assert len(set(lengths)) > 1
    assert [a.ids for a in answers] == [f.ids[:n] for f, n in zip(free, lengths, strict=True)]
    # In three batches of four, each would wait for its longest answer. Prompts have two tokens, steps one a place.
    assert sum(read) == 12 * 2 + sum(lengths) - 12
    assert len(read) < 3 + sum(max(lengths[i : i + 4]) - 1 for i in (0, 4, 8))


def test_answers_obey_their_constraint(smollm2: LM) -> None:
    schema = '{"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "additionalProperties": false}'
    for constraint, fits in (
        (Constraint.choices([" positive", " positively", " no"]), lambda text: text in (" positive", " positively", " no")),
        (Constraint(r"[0-9]{2}:[0-9]{2}"), lambda text: re.fullmatch(r"[0-9]{2}:[0-9]{2}", text)),
        (Constraint.json_schema(schema), lambda text: isinstance(json.loads(text)["age"], int)),
    ):
        [answers] = generate(smollm2, ["The film was"], temperature=1, n=6, constraint=constraint)
        assert all(fits(a.text) and a.stop_reason == "stop_token" for a in answers)
        # Their log-probabilities are the model's own, and not those among what was allowed.
        ids = token_ids(smollm2.tokenizer, "The film was")
        expected = next_logprobs(smollm2, ids + answers[0].ids)[len(ids) - 1 : -1]
        again = [float(row[token]) for row, token in zip(expected, answers[0].ids, strict=True)]
        assert answers[0].logprobs == pytest.approx(again, abs=1e-3)
    assert not re.fullmatch(r"[0-9]{2}:[0-9]{2}", generate(smollm2, ["The film was"])[0][0].text)


def test_constrained_choices_come_as_often_as_their_probabilities_say(toy: LM) -> None:
    [answers] = generate(toy, ["Once"], n=1000, constraint=Constraint.choices(["a", "b", "c"]), max_new_tokens=1)
    logprobs = next_logprobs(toy, token_ids(toy.tokenizer, "Once"))[-1]
    ids = [token_ids(toy.tokenizer, word)[0] for word in "abc"]
    expected = logprobs[ids].double().softmax(-1) * 1000
    counts = Counter(a.ids[0] for a in answers)
    assert stats.chisquare([counts[i] for i in ids], expected.tolist()).pvalue > 0.001


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constraint(""), "needs between 1 and 20,000 characters"),
        (lambda: Constraint.choices(["a", ""]), "choices to generate from must be words"),
        (lambda: Constraint.json_schema("{"), "the JSON schema cannot be followed"),
        (lambda: Constraint("("), "no answer can match"),
    ],
)
def test_a_constraint_that_cannot_be_met_is_refused(toy: LM, make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        generate(toy, ["a"], constraint=make())


def p_value(counts: Counter[int], probabilities: torch.Tensor, n: int) -> float:
    """Chi-square test that tokens were drawn with these probabilities; those expected less than five times are put together."""
    often = [i for i, p in enumerate(probabilities.tolist()) if p * n >= 5]
    observed = [counts[i] for i in often]
    expected = [float(probabilities[i]) * n for i in often]
    return stats.chisquare([*observed, n - sum(observed)], [*expected, n - sum(expected)]).pvalue


def first_tokens(lm: LM, n: int, **options: float) -> Counter[int]:
    """Draw the first token after one prompt `n` times."""
    return Counter(a.ids[0] for a in generate(lm, ["Once"], max_new_tokens=1, n=n, **options)[0])


def test_tokens_come_as_often_as_their_probabilities_say(toy: LM) -> None:
    counts, prompt = first_tokens(toy, 3000, temperature=0.8), token_ids(toy.tokenizer, "Once")
    assert p_value(counts, next_logprobs(toy, prompt, 0.8)[-1].double().exp(), 3000) > 0.001
    # The control: a little warmer is told apart.
    assert p_value(counts, next_logprobs(toy, prompt, 1.0)[-1].double().exp(), 3000) < 1e-6


def test_top_p_keeps_the_smallest_set_with_that_much_probability(toy: LM) -> None:
    probabilities = next_logprobs(toy, token_ids(toy.tokenizer, "Once"))[-1].double().exp()
    ordered, index = probabilities.sort(descending=True)
    size = int((ordered.cumsum(0) < 0.5).sum()) + 1
    counts = first_tokens(toy, 2000, top_p=0.5)
    assert size >= 3
    assert counts.keys() <= set(index[:size].tolist())
    renormalised = torch.zeros_like(probabilities).index_copy_(0, index[:size], ordered[:size] / ordered[:size].sum())
    kept = [i for i in index[:size].tolist() if renormalised[i] * 2000 >= 5]
    assert (
        stats.chisquare([counts[i] for i in kept], [float(renormalised[i]) * 2000 for i in kept], sum_check=False).pvalue > 0.001
    )
    assert first_tokens(toy, 50, top_p=1e-9).keys() == {int(index[0])}


def greedy(lm: LM, **options: object) -> Completion:
    """Continue one prompt greedily."""
    return generate(lm, ["Once upon a time there was a tailor who"], temperature=0, **options)[0][0]  # type: ignore[arg-type]


def test_an_answer_ends_before_its_stop_string(smollm2: LM) -> None:
    free = greedy(smollm2, max_new_tokens=32)
    assert (free.stop_reason, len(free.ids)) == ("length", 32)
    # One letter, a part of a word and the next, and more letters than a tokenizer puts into twenty tokens.
    for stop in (free.text[20], free.text[20:30], free.text[3:100]):
        answer = greedy(smollm2, max_new_tokens=32, stop=["never said", stop])
        assert answer.text == free.text[: free.text.index(stop)]
        assert answer.stop_reason == "stop_string"
        assert answer.ids == free.ids[: len(answer.ids)]
        assert len(answer.ids) < len(free.ids)


def test_a_single_stop_string_is_not_taken_for_its_letters(toy: LM) -> None:
    free = greedy(toy, max_new_tokens=12)
    assert greedy(toy, max_new_tokens=12, stop=free.text[:3] + "never said") == free


def test_an_answer_ends_with_any_of_the_models_stop_tokens(toy: LM) -> None:
    free = greedy(toy, max_new_tokens=20)
    third = free.ids[2]
    toy.model.generation_config.eos_token_id = [third, 260]
    assert toy.stop_ids == {third, 260, toy.tokenizer.eos_token_id}
    answer = greedy(toy, max_new_tokens=20)
    end = free.ids.index(third) + 1
    assert (answer.ids, answer.stop_reason) == (free.ids[:end], "stop_token")
    assert answer.text == toy.tokenizer.decode(free.ids[: end - 1])


def test_what_makes_no_sense_is_refused(toy: LM) -> None:
    for settings in ({"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}):
        with pytest.raises(UserError, match="generation needs"):
            generate(toy, ["a"], **settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="an empty stop string"):
        generate(toy, ["a"], stop=["\n", ""])
    with pytest.raises(UserError, match="empty prompt"):
        generate(toy, [""])
    with pytest.raises(UserError, match="2041 tokens and 8 new ones exceed the context of 2048"):
        generate(toy, ["a" * 2041], max_new_tokens=8)
