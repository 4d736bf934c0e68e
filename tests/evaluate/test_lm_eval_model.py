"""Our engine under lm-eval gives the numbers of lm-eval's own HFLM, in float32."""

import random
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from tunesmith.core.errors import UserError
from tunesmith.evaluate.lm_eval_model import TunesmithLM
from tunesmith.models.load import LM, load

WORDS = ("the", "cat", "sat", "on", "mat", "while", "rain", "fell", "over", "old", "hills", "and", "rivers", "ran", "to", "sea")


def text(seed: int, words: int) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words))


def requests(kind: Any, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]


def with_bos(lm: LM) -> LM:
    """The same model with a tokenizer that opens every text, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    opening = lm.tokenizer.convert_tokens_to_ids("<|system|>")
    lm.tokenizer.bos_token = "<|system|>"
    post = TemplateProcessing(single="<|system|> $A", pair="<|system|> $A $B", special_tokens=[("<|system|>", opening)])
    lm.tokenizer.backend_tokenizer.post_processor = post
    return lm


@pytest.fixture(params=["plain", "bos"])
def lm(request: pytest.FixtureRequest) -> LM:
    """toy-llama in float32, once with a tokenizer that adds a beginning of sequence and once without."""
    plain = load("toy-llama", dtype="fp32", device="cpu")
    return plain if request.param == "plain" else with_bos(plain)


def theirs(lm: LM, **options: Any) -> HFLM:
    return HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=3, device="cpu", **options)


def same_loglikelihoods(lm: LM, pairs: list[tuple[str, str]], max_length: int | None = None) -> list[tuple[float, bool]]:
    """Assert that both agree on pairs; returns ours."""
    asked = requests("loglikelihood", pairs)
    ours = TunesmithLM(lm, max_length=max_length).loglikelihood(asked, disable_tqdm=True)
    expected = theirs(lm, max_length=max_length).loglikelihood(asked, disable_tqdm=True)
    assert [o[0] for o in ours] == pytest.approx([e[0] for e in expected], abs=1e-4)
    assert [o[1] for o in ours] == [e[1] for e in expected]
    return ours


def test_loglikelihoods_are_theirs(lm: LM) -> None:
    context = text(1, 9)
    pairs = [
        *((context, f" {text(i, 1 + i % 3)}") for i in range(5)),  # many continuations of one context
        (context, f" {text(0, 1)}"),  # the same again
        ("ends with spaces  ", "word"),
        ("", text(3, 2)),  # nothing before it
        ("<|system|>has its opening", " already"),
        ("control <|end|> token", " x"),
        (text(5, 30), " a"),
        ("é", " 😀 ü"),
    ]
    ours = same_loglikelihoods(lm, pairs)
    assert ours[0] == ours[5]
    assert len({round(value, 3) for value, _ in ours}) == len(pairs) - 1


def test_greedy_means_every_token(lm: LM) -> None:
    context = text(7, 6)
    said = theirs(lm).generate_until(
        requests("generate_until", [(context, {"until": [], "max_gen_toks": 4})]), disable_tqdm=True
    )[0]
    ids = lm.tokenizer.encode(said, add_special_tokens=False)
    half = lm.tokenizer.decode(ids[:-1]) + ("a" if not said.endswith("a") else "b")
    if lm.tokenizer.encode(context + said)[len(lm.tokenizer.encode(context)) :] != ids:
        pytest.fail("the toy model says something that does not come back from its text; choose another context")
    ours = same_loglikelihoods(lm, [(context, said), (context, half)])
    assert [greedy for _, greedy in ours] == [True, False]


def test_what_is_too_long_loses_its_beginning(lm: LM) -> None:
    long = [(text(1, 20), " mat"), (text(2, 3), f" {text(3, 5)}"), ("a", text(4, 8)[:40]), (text(5, 12)[:40], "b")]
    short = same_loglikelihoods(lm, long, max_length=40)
    assert short[0][0] != pytest.approx(same_loglikelihoods(lm, long)[0][0], abs=1e-3)
    with pytest.raises(UserError, match="continuation of 41 tokens"):
        TunesmithLM(lm, max_length=40).loglikelihood(requests("loglikelihood", [("x", "y" * 41)]), disable_tqdm=True)


def test_rolling_windows_are_theirs(lm: LM) -> None:
    asked = requests("loglikelihood_rolling", [(text(1, 5),), (text(2, 40),), ("a",), (text(3, 8)[:32],)])
    for max_length in (None, 32):
        ours = TunesmithLM(lm, max_length=max_length).loglikelihood_rolling(asked)
        assert ours == pytest.approx(theirs(lm, max_length=max_length).loglikelihood_rolling(asked, disable_tqdm=True), abs=2e-4)


def test_generated_texts_are_theirs(lm: LM) -> None:
    greedy = {"do_sample": False, "max_gen_toks": 10}
    free = TunesmithLM(lm).generate_until(requests("generate_until", [(text(2, 4), {"until": [], **greedy})]))[0]
    asked = requests(
        "generate_until",
        [
            *((text(i, 2 + i), {"until": ["\n"], **greedy}) for i in range(4)),
            (text(2, 4), {"until": free[3:5], **greedy}),  # stops in the middle
            (text(9, 30), {"until": ["zz"], "max_gen_toks": 6, "temperature": 0.0}),
        ],
    )
    ours = TunesmithLM(lm, max_length=60).generate_until(asked)
    assert ours == theirs(lm, max_length=60).generate_until(asked, disable_tqdm=True)
    assert ours[4] == free[: free.index(free[3:5])]
    assert ours[0] != ours[1]


def test_sampled_answers_follow_the_seed(lm: LM) -> None:
    asked = requests("generate_until", [("x", {"until": [], "do_sample": True, "temperature": 1.0, "max_gen_toks": 8})] * 2)
    first, again = TunesmithLM(lm, seed=1).generate_until(asked), TunesmithLM(lm, seed=1).generate_until(asked)
    assert first == again
    assert first[0] != first[1]  # a repeat is another draw
    assert first != TunesmithLM(lm, seed=2).generate_until(asked)


def test_chats_are_rendered_as_theirs(lm: LM) -> None:
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    assert TunesmithLM(lm).apply_chat_template(turns) == theirs(lm).apply_chat_template(turns)
    begun = [*turns, {"role": "assistant", "content": "well"}]
    assert TunesmithLM(lm).apply_chat_template(begun, add_generation_prompt=False) == theirs(lm).apply_chat_template(
        begun, add_generation_prompt=False
    )
    assert TunesmithLM(lm).chat_template(True) == lm.tokenizer.chat_template


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 4}, "'num_beams', which this engine does not have"),
        ({"max_gen_toks": 5000}, "5000 new tokens leave no room in the 2048"),
    ],
)
def test_generation_that_this_engine_lacks_is_refused(settings: dict[str, Any], message: str) -> None:
    lm = load("toy-llama", dtype="fp32", device="cpu")
    with pytest.raises(UserError, match=message):
        TunesmithLM(lm).generate_until(requests("generate_until", [("x", {"until": [], **settings})]))
