"""A model behind a URL says what the same model here says, and every way a server fails is said in plain words."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from served import Served, served
from tunesmith.core.encode import chat_prompt, token_ids
from tunesmith.core.errors import TunesmithError, UserError, WorkFailed
from tunesmith.core.records import Message
from tunesmith.models import engine
from tunesmith.models._http import KEY_VARIABLE, Patience
from tunesmith.models.generate import Sampling
from tunesmith.models.load import load
from tunesmith.models.remote import RemoteLM, by_text, by_tokens, connect, parse
from tunesmith.models.score import Request
from tunesmith.recipes._models import load_attached, open_engine

QUICK = Patience(seconds=1.0, attempts=3, first_wait=0.01, largest=1 << 19)
GREEDY = Sampling(12, temperature=0.0)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """The toy decoder behind a URL, with weights large enough that it cares what it reads."""
    lm = load("toy-llama")
    with torch.no_grad():
        for weight in lm.model.parameters():
            weight.mul_(4 if weight.dim() == 2 else 1)
    with served(lm) as it:
        yield it


@pytest.fixture(autouse=True)
def clean(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test begins with a server in order and no key."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    server.faults, server.asked, server.scores, server.key = [], [], True, ""


@pytest.fixture
def remote(server: Served) -> RemoteLM:
    """The model behind the URL, asked with little patience."""
    remote = connect(server.url)
    return replace(remote, server=replace(remote.server, patience=QUICK))


def ids_of(remote: RemoteLM, *texts: str) -> list[tuple[int, ...]]:
    return [token_ids(remote.tokenizer, text) for text in texts]


def test_scores_are_those_of_the_model_itself(server: Served, remote: RemoteLM) -> None:
    texts = ["Ein Film:", "A film, naïve and long:", "x"]
    choices = tuple(ids_of(remote, " good", " bad", " schön", "é", "!"))
    requests = [Request(ids, choices) for ids in ids_of(remote, *texts)]
    there, here = engine.score_requests(remote, requests), engine.score_requests(server.lm, requests)
    for a, b in zip(there, here, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
        assert a.free_choice == (b.free_choice if b.free_choice in [c[0] for c in choices] else -1)
    assert engine.score_requests(remote, requests[::-1]) == there[::-1]
    # The control: after another prompt the same words have other scores.
    assert there[0].logprobs != pytest.approx(there[1].logprobs, abs=1e-2)


def test_the_likeliest_token_counts_as_an_answer_only_where_it_begins_one(server: Served, remote: RemoteLM) -> None:
    prompt = ids_of(remote, "Ein Film:")[0]
    said = engine.complete(server.lm, [prompt], Sampling(1, temperature=0.0))[0].text
    answer, other = ids_of(remote, f"{said}x", "§")
    assert remote.score_requests([Request(prompt, (other, answer))])[0].free_choice == answer[0]
    assert remote.score_requests([Request(prompt, (other,))])[0].free_choice == -1


def test_greedy_text_is_that_of_the_model_itself(server: Served, remote: RemoteLM) -> None:
    prompts = ids_of(remote, "Ein Film:", "zwei", "drei\n\nvier ünf")
    turns = [Message("system", "be <|end|> brief"), Message("user", "a?"), Message("assistant", "b"), Message("user", "c?")]
    prompts.append(chat_prompt(remote.tokenizer, turns)[1])
    there, here = engine.complete(remote, prompts, GREEDY), engine.complete(server.lm, prompts, GREEDY)
    assert [c.text for c in there] == [c.text for c in here]
    assert {c.stop_reason for c in there} <= {"length", "stop_token"}
    said = next(body["messages"] for route, _, body in server.asked if route == "/v1/chat/completions")
    assert said == [{"role": t.role, "content": t.content} for t in turns]


def test_sampled_text_follows_from_the_seed(server: Served, remote: RemoteLM) -> None:
    prompts, how = ids_of(remote, "eins", "eins", "zwei"), Sampling(10, temperature=1.0, stop=("e",))
    first = remote.complete(prompts, how, seed=3)
    assert remote.complete(prompts, how, seed=3) == first
    assert remote.complete(prompts, how, seed=4) != first
    assert first[0] != first[1]
    assert not any("e" in c.text for c in first)
    # A prompt's answer does not depend on its neighbours.
    assert remote.complete(prompts[2:], how, seed=3) == first[2:]


def test_tokens_are_counted_as_the_server_counts_them(remote: RemoteLM) -> None:
    assert remote.tokens(40) == 40
    remote._used.update(tokens=25, bytes=100)
    assert remote.tokens(40) == 10


def test_a_server_that_was_busy_is_asked_again(server: Served, remote: RemoteLM) -> None:
    prompt = ids_of(remote, "eins")
    right = remote.complete(prompt, GREEDY)
    for faults in (["500"], ["429", "503"], ["truncated"], ["hang"]):
        server.faults = list(faults)
        assert remote.complete(prompt, GREEDY) == right
        assert server.faults == []


@pytest.mark.parametrize(
    ("faults", "kind", "words"),
    [
        (["500"] * 3, WorkFailed, "failed with status 500: busy"),
        (["429"] * 3, WorkFailed, "failed with status 429: busy"),
        (["hang"] * 3, WorkFailed, "did not answer within 1 s"),
        (["truncated"] * 3, WorkFailed, "broke off in the middle of an answer"),
        (["malformed"], WorkFailed, 'answered what is not JSON: {"choices": \\['),
        (["huge"], WorkFailed, "more than 524,288 bytes in one answer"),
        (["odd"], WorkFailed, "answered without 'choices'"),
        (["400"], UserError, "status 400: busy"),
        (["404"], UserError, "no /completions, or not this model"),
        (["307"], UserError, "sends requests elsewhere"),
    ],
)
def test_a_failure_is_said_in_plain_words(
    server: Served, remote: RemoteLM, faults: list[str], kind: type[TunesmithError], words: str
) -> None:
    server.faults = [*faults, "malformed"]
    with pytest.raises(kind, match=words):
        remote.complete(ids_of(remote, "eins"), GREEDY)
    assert server.faults == ["malformed"], "it was asked as often as it should be and no oftener"


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(WorkFailed, match="cannot be reached: connection refused"):
        connect(f"http://127.0.0.1:{port}/v1#x", QUICK)


def test_the_key_comes_from_the_environment_and_is_said_nowhere(
    server: Served, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    server.key = "sesame-123"
    with pytest.raises(UserError, match="refuses the API key") as missing:
        connect(server.url, QUICK)
    assert KEY_VARIABLE in missing.value.fix
    monkeypatch.setenv(KEY_VARIABLE, "wrong-456")
    with pytest.raises(UserError, match=r"Bearer \*\*\*") as wrong:
        connect(server.url, QUICK)
    assert "wrong-456" not in f"{wrong.value}{wrong.value.__cause__}"
    monkeypatch.setenv(KEY_VARIABLE, server.key)
    remote = connect(server.url, QUICK)
    assert remote.complete(ids_of(remote, "eins"), GREEDY)[0].text
    assert "sesame" not in repr(remote)
    assert "without encryption" not in capfd.readouterr().err


def test_a_server_without_log_probabilities_only_generates(server: Served, remote: RemoteLM) -> None:
    server.scores = False
    prompt, choice = ids_of(remote, "eins", " zwei")
    assert remote.complete([prompt], GREEDY)
    with pytest.raises(UserError, match="this server cannot score, only generate"):
        remote.score_requests([Request(prompt, (choice,))])
    _, talk = chat_prompt(remote.tokenizer, [Message("user", "a?")])
    with pytest.raises(UserError, match="cannot score, only generate a conversation"):
        remote.score_requests([Request(talk, (choice,))])


def test_a_model_that_is_not_there(server: Served) -> None:
    with pytest.raises(UserError, match="has no model 'tyo'") as error:
        connect(server.url.replace("#toy", "#tyo"), QUICK)
    assert "Did you mean 'toy'?" in error.value.fix
    assert connect(server.url.partition("#")[0], QUICK).name == "toy"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://me:secret@host/v1#m", "no user name, key"),
        ("https://host/v1?key=secret#m", "no user name, key"),
        ("http:///v1#m", "no address of a server"),
        ("http://host:port/v1#m", "no address"),
    ],
)
def test_an_address_that_makes_no_sense(url: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        parse(url)
    assert "secret" not in str(error.value)


def test_an_address_cannot_be_opened_as_weights() -> None:
    with pytest.raises(UserError, match="a model behind a URL has no weights here"):
        load_attached("https://host/v1#m", None)
    with pytest.raises(UserError, match="an adapter cannot be put on a model behind a URL"):
        open_engine("https://host/v1#m", adapter="runs/x/adapter")


def test_an_address_is_read() -> None:
    server, name = parse("https://host/v1/#org/model")
    assert (server.address, name) == ("https://host:443/v1", "org/model")
    assert parse("http://127.0.0.1:8000")[0].address == "http://127.0.0.1:8000/v1"


def logprobs(tokens: list[str], values: list[float | None]) -> dict:
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": [None, *({token: -0.1} for token in tokens[1:])]}


def test_only_the_tokens_of_the_choice_are_summed() -> None:
    """ " good" is " " + "go" + "od": -1 - 2 - 4; the generated "." (-8) and the prompt's ":" (-16) are no part of it."""
    plain = logprobs(["Film", ":", " ", "go", "od", "."], [None, -16, -1, -2, -4, -8])
    assert by_text(plain, "Film:", " good") == (-7.0, " ")
    # A beginning-of-sequence token in front changes nothing.
    opened = logprobs(["<s>", "Film", ":", " ", "go", "od", "."], [None, -3, -16, -1, -2, -4, -8])
    assert by_text(opened, "Film:", " good") == (-7.0, " ")
    # A token that joins the prompt's last letter with the choice counts whole, and says what it says after the prompt.
    joined = logprobs(["Film", ": go", "od", "."], [None, -5, -4, -8])
    assert by_text(joined, "Film:", " good") == (-9.0, " go")
    # A server that shows nothing for a model that ended at once.
    assert by_text(logprobs(["Film", ":", " good"], [None, -16, -7]), "Film:", " good") == (-7.0, " good")


def test_tokens_that_are_no_text_are_compared_with_the_prompts_own() -> None:
    """The choice is the two halves of a letter: -2 - 4; its first token differs from what was generated after the prompt."""
    whole = logprobs(["Film", ":", "\ufffd", "\ufffd", "."], [None, -16, -2, -4, -8])
    assert by_text(whole, "Film:", "é") is None
    assert by_tokens(whole, logprobs(["Film", ":", "?"], [None, -16, -1])) == (-6.0, "\ufffd")
    # The prompt's last token was joined with the choice: it counts whole.
    assert by_tokens(
        logprobs(["Film", ":\ufffd", "\ufffd", "."], [None, -5, -4, -8]), logprobs(["Film", ":", "?"], [None, -16, -1])
    ) == (-9.0, "")


@pytest.mark.parametrize(
    "broken", [None, {}, [], {"tokens": ["a"], "token_logprobs": [-1.0]}, {"tokens": [1, 2], "token_logprobs": [0, 0]}]
)
def test_an_answer_without_the_prompts_log_probabilities_is_refused(broken: object) -> None:
    with pytest.raises(UserError, match="cannot score, only generate"):
        by_text(broken, "Film:", " good")
    with pytest.raises(UserError, match="cannot score, only generate"):
        by_tokens(logprobs([".", "x"], [-1.0, -2.0]), logprobs([".", "x"], [-1.0, -2.0]))


def test_a_log_probability_that_is_none_is_an_error() -> None:
    with pytest.raises(WorkFailed, match="no number"):
        by_text(logprobs(["Film", ":", " good", "."], [None, -1, float("nan"), -1]), "Film:", " good")
