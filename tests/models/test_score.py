"""Scoring all continuations of a prompt in one row gives what reading each sequence by itself gives."""

import functools
import random
from itertools import pairwise

import pytest
import torch

from tunesmith.core import levers, memory
from tunesmith.core.encode import token_ids
from tunesmith.core.errors import UserError
from tunesmith.models import branches
from tunesmith.models import score as engine
from tunesmith.models.load import LM, load
from tunesmith.models.score import Request, score, score_requests
from tunesmith.models.trunk import Trunk, trunk_of

CLOSE = 1e-4
INSTRUCTION = "Say whether a film is liked. Review: I loved every minute of it.\nSentiment: positive\n\nReview: "
ITEMS = ["A dull and endless film.", "Great!", "Neither good nor bad, though the cat in the second act is a joy to watch."]
ANSWERS = [" positive", " negative", " negative, and that is putting it kindly", " not", " not what one hopes for"]


def requests_for(lm: LM, shared: bool) -> list[Request]:
    """Real prompts of unequal lengths; continuations of one and of several tokens, some with equal beginnings."""
    answers = tuple(token_ids(lm.tokenizer, a) for a in ANSWERS)
    extra = [answers, answers[:1], answers[::-1]]
    head = INSTRUCTION if shared else ""
    return [Request(token_ids(lm.tokenizer, f"{head}{item}\nSentiment:"), some) for item, some in zip(ITEMS, extra, strict=True)]


@functools.cache
def plain(lm: LM, request: Request) -> tuple[list[float], int]:
    """Read one sequence at a time with the model's own forward: summed log-probabilities, and the first choice."""
    sums = []
    with torch.inference_mode():
        for continuation in request.continuations:
            logprobs = lm.model(torch.tensor([request.prompt + continuation])).logits[0].log_softmax(-1)
            places = range(len(request.prompt) - 1, len(request.prompt) + len(continuation) - 1)
            sums.append(float(sum(logprobs[p, t] for p, t in zip(places, continuation, strict=True))))
        free = int(lm.model(torch.tensor([request.prompt])).logits[0, -1].argmax())
    return sums, free


def largest_difference(lm: LM, requests: list[Request], left_out: str = "") -> float:
    """Return how far the engine is from the plain way, over all continuations."""
    with levers.without(*filter(None, [left_out])):
        scored = score_requests(lm, requests)
    pairs = zip(scored, requests, strict=True)
    return max(abs(a - b) for s, r in pairs for a, b in zip(s.logprobs, plain(lm, r)[0], strict=True))


@pytest.mark.parametrize("left_out", ["", "prefixes", "decoder", "all"])
@pytest.mark.parametrize("shared", [True, False])
def test_scores_are_those_of_one_sequence_at_a_time(lm: LM, shared: bool, left_out: str) -> None:
    requests = requests_for(lm, shared)
    assert largest_difference(lm, requests, left_out) <= CLOSE
    assert [s.free_choice for s in score_requests(lm, requests)] == [plain(lm, r)[1] for r in requests]


def test_equal_prompts_and_prompts_that_begin_others_are_scored_too(toy: LM) -> None:
    prompts = [tuple(range(70, 100)), tuple(range(70, 100)), tuple(range(70, 110))]
    requests = [Request(prompt, ((80, 81), (90,))) for prompt in prompts]
    assert largest_difference(toy, requests) <= CLOSE
    assert largest_difference(toy, requests[:2]) <= CLOSE


@pytest.mark.parametrize("left_out", ["", "decoder"])
def test_without_the_tree_mask_scores_are_wrong(lm: LM, left_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    causal = lambda group, length: torch.ones(1, length, length, dtype=torch.bool).tril()  # noqa: E731
    monkeypatch.setattr(branches.Group, "visible", causal)
    assert largest_difference(lm, requests_for(lm, shared=True), left_out) > 0.01


def tokens_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that fills with the number of tokens of every forward pass."""
    read: list[int] = []
    forward = Trunk.__call__
    monkeypatch.setattr(Trunk, "__call__", lambda self, ids, *more: read.append(len(ids)) or forward(self, ids, *more))
    return read


def test_what_prompts_share_is_read_once(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    requests, read = requests_for(lm, shared=True), tokens_read(monkeypatch)
    score_requests(lm, requests)
    shared = next(i for i, tokens in enumerate(zip(*(r.prompt for r in requests), strict=False)) if len(set(tokens)) > 1)
    assert lm.tokenizer.decode(requests[0].prompt[:shared]).rstrip() == INSTRUCTION.rstrip()
    own = sum(len(r.prompt) - shared + sum(len(c) - 1 for c in r.continuations) for r in requests)
    assert read == [shared, own]


def test_a_tree_of_shared_beginnings_is_read_once_whatever_the_cache_allows(toy: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(1)
    text = lambda n: tuple(chance.randrange(6, 262) for _ in range(n))  # noqa: E731
    root, passages = text(40), [text(50) for _ in range(3)]
    prompts = [root + passage + text(5 + i) for passage in passages for i in range(4)]
    requests = [Request(prompt, (text(1), text(3))) for prompt in prompts]
    read = tokens_read(monkeypatch)
    assert largest_difference(toy, requests) <= CLOSE
    assert sum(read[:3]) == 40 + 3 * 50 + sum(5 + i + 2 for i in range(4)) * 3
    assert read[:2] == [40, 150]
    read.clear()
    monkeypatch.setattr(memory, "_cache", [1e-9])
    assert largest_difference(toy, requests) <= CLOSE
    # Without room for more, one passage is read and done with before the next.
    assert read[:3] == [40, 50, sum(5 + i + 2 for i in range(4))]


def test_requests_that_repeat_a_prompt_are_one_row(toy: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt, answers, read = tuple(range(70, 100)), [(80, 81), (90,), (80, 82)], tokens_read(monkeypatch)
    apart = [Request(prompt, (answer,)) for answer in [*answers, answers[0]]]
    assert largest_difference(toy, apart) <= CLOSE
    assert read[0] == 30 + 1 + 1


def test_greedy_is_when_every_token_is_the_models_own(toy: LM) -> None:
    ids = [70, 80, 90]
    with torch.inference_mode():
        for _ in range(4):
            ids.append(int(toy.model(torch.tensor([ids])).logits[0, -1].argmax()))
    own = tuple(ids[3:])
    [scored] = score_requests(toy, [Request((70, 80, 90), (own, (*own[:3], own[3] ^ 1), own[:1]))])
    assert scored.greedy == (True, False, True)
    assert [len(t) for t in scored.token_logprobs] == [4, 4, 1]
    assert scored.logprobs[0] == pytest.approx(sum(scored.token_logprobs[0]))


def test_packed_weights_round_no_worse_than_the_library_and_follow_changes(smollm2: LM) -> None:
    lm = load("smollm2", "bf16")
    requests = requests_for(lm, shared=True)
    exact = [x for s in score_requests(smollm2, requests) for x in s.logprobs]

    def mean_error() -> float:
        found = [x for s in score_requests(lm, requests) for x in s.logprobs]
        return sum(abs(a - b) for a, b in zip(found, exact, strict=True)) / len(exact)

    # Both round to 8 bits, each at other places; neither is nearer to float32 than the other in principle.
    assert trunk_of(lm.model, pack=True).packed
    packed = score_requests(lm, requests)
    error = mean_error()
    assert trunk_of(lm.model).packed
    with levers.without("all"):
        assert error < 2 * mean_error() < 1
    # Changing a weight is noticed, and a weight in training is not packed.
    with torch.no_grad():
        lm.model.base_model.layers[3].mlp.up_proj.weight.mul_(1.5)
    trunk_of(lm.model, pack=True)
    assert score_requests(lm, requests)[0].logprobs != packed[0].logprobs


def test_neither_order_nor_neighbours_nor_batches_matter(toy: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(0)
    requests = [
        Request(
            tuple(chance.randrange(6, 262) for _ in range(chance.randrange(1, 40))),
            tuple(tuple(chance.randrange(262) for _ in range(chance.randrange(1, 6))) for _ in range(chance.randrange(1, 5))),
        )
        for _ in range(25)
    ]
    alone = [score_requests(toy, [r])[0] for r in requests]
    order = chance.sample(range(25), 25)
    together = score_requests(toy, [requests[i] for i in order])
    monkeypatch.setattr(engine, "_TOKENS_PER_BATCH", 64)
    monkeypatch.setattr(engine, "_ROWS_OF_LOGITS", 3)
    in_pieces = score_requests(toy, requests)
    for place, i in enumerate(order):
        for one in (together[place], in_pieces[i]):
            assert one.logprobs == pytest.approx(alone[i].logprobs, abs=1e-5)
            assert one.free_choice == alone[i].free_choice


def test_probabilities_of_all_next_tokens_sum_to_one(toy: LM) -> None:
    every = tuple((i,) for i in range(len(toy.tokenizer)))
    [scored] = score_requests(toy, [Request((70, 80, 90), every)])
    assert sum(torch.tensor(scored.logprobs).double().exp()) == pytest.approx(1, abs=1e-5)


def test_texts_obey_the_chain_rule(toy: LM) -> None:
    whole, first, second = score(toy, [("Once", " upon a time"), ("Once", " upon"), ("Once upon", " a time")])
    assert whole == pytest.approx(first + second, abs=1e-5)
    assert first != pytest.approx(second, abs=1)


def test_a_text_without_context_is_scored_from_the_models_opening_token(smollm2: LM) -> None:
    [alone] = score(smollm2, [("", "The film")])
    # This tokenizer's opening token is <|im_start|>, id 1.
    expected = plain(smollm2, Request((1,), (token_ids(smollm2.tokenizer, "The film"),)))[0][0]
    assert alone == pytest.approx(expected, abs=CLOSE)


def test_the_embedded_model_knows_its_capitals(smollm2: LM) -> None:
    right, wrong = score(smollm2, [("The capital of France is", " Paris"), ("The capital of France is", " Madrid")])
    assert right > wrong + 1


def test_nothing_to_score_is_no_work(toy: LM) -> None:
    assert score_requests(toy, []) == []


@pytest.mark.parametrize("request_", [Request((), ((1,),)), Request((1,), ()), Request((1,), ((2,), ()))])
def test_requests_without_tokens_are_refused(toy: LM, request_: Request) -> None:
    with pytest.raises(UserError, match="request 2 has a prompt or a continuation without tokens"):
        score_requests(toy, [Request((1,), ((2,),)), request_])


def test_what_does_not_fit_the_context_is_refused_and_not_cut(toy: LM) -> None:
    assert len(score_requests(toy, [Request((70,) * toy.context_length, ((80,),))])) == 1
    with pytest.raises(UserError, match="2049 tokens, and the model was built for 2048"):
        score_requests(toy, [Request((70,) * toy.context_length, ((80,), (80, 81)))])


def test_the_log_probability_of_every_token_is_kept(toy: LM) -> None:
    requests = requests_for(toy, shared=True)
    for request, scored in zip(requests, score_requests(toy, requests), strict=True):
        assert [len(each) for each in scored.token_logprobs] == [len(c) for c in request.continuations]
        assert [sum(each) for each in scored.token_logprobs] == pytest.approx(scored.logprobs, abs=1e-4)
        # The sums of the beginnings, read one by one, differ by the tokens.
        longest = request.continuations[0]
        beginnings = tuple(longest[: i + 1] for i in range(len(longest)))
        sums = [0.0, *plain(toy, Request(request.prompt, beginnings))[0]]
        assert scored.token_logprobs[0] == pytest.approx([b - a for a, b in pairwise(sums)], abs=CLOSE)
