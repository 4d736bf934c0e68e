"""A model behind an OpenAI-compatible URL (vLLM, llama.cpp, ...) in place of the engine on this machine.

`https://host/v1#model-name`. A server tokenises by itself, so on the way to it text travels as its bytes: `RemoteLM` has a
tokenizer with one token a byte, and prompts, templates and choices work on it as on any other. Conversations keep their
roles, for the tokenizer's role tokens cannot occur in text.

- Plain prompts go to `/completions`, conversations to `/chat/completions`.
- Choices are scored through `/completions` with `echo` and `logprobs`, where the server returns the log-probabilities of
  the prompt (vLLM does; llama.cpp and most chat services do not, and then only generate).
"""

from __future__ import annotations

import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from tunesmith.core.encode import token_ids
from tunesmith.core.errors import UserError, WorkFailed, near_miss
from tunesmith.core.files import text_hash
from tunesmith.core.progress import Progress, say
from tunesmith.core.records import Completion
from tunesmith.core.seeds import derive
from tunesmith.models._http import KEY_VARIABLE, Patience, Server

if TYPE_CHECKING:
    from tunesmith.models.generate import Sampling
    from tunesmith.models.score import Request, Scored

_AT_ONCE = 8
_NO_SCORES = "this server cannot score, only generate"
_SCORES_FIX = "Use a server that returns log-probabilities of the prompt (vLLM), or a task with free-text answers."
_NOT_THE_API = "It does not speak the OpenAI API."
T = TypeVar("T")
R = TypeVar("R")


def is_url(model: str) -> bool:
    """Whether a model's name is the address of a server."""
    return model.startswith(("http://", "https://"))


def parse(url: str, patience: Patience | None = None) -> tuple[Server, str]:
    """Split "https://host/v1#model-name" into the server and the model's name ("" = the only one it has).

    Raises:
        UserError: no host, a port that is none, or a user name or key in the address.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UserError(f"'{url}' is no address: {error}", "Write it as https://host:port/v1#model-name.") from None
    if parts.username or parts.password or parts.query:
        raise UserError(
            "the address of a model must hold no user name, key or '?'",
            f"A key goes into the environment variable {KEY_VARIABLE}.",
        )
    if not is_url(url) or not parts.hostname:
        raise UserError(f"'{url}' is no address of a server", "Write it as https://host:port/v1#model-name.")
    secure = parts.scheme == "https"
    path = parts.path.rstrip("/") or "/v1"
    return Server(secure, parts.hostname, port or (443 if secure else 80), path, patience or Patience()), parts.fragment


def connect(url: str, patience: Patience | None = None) -> RemoteLM:
    """Ask a server which models it has and return the one that the address names.

    Raises:
        UserError: a wrong address, key or model.
        WorkFailed: the server cannot be reached.
    """
    server, wanted = parse(url, patience)
    note_open_key(server)
    listed = server.call("/models", attempts=1)
    known = [str(m["id"]) for m in _list(listed, "data") if isinstance(m, dict) and "id" in m]
    if not wanted and len(known) != 1:
        raise UserError(f"{server.address} has {len(known)} models", f"Name one: {url}#{known[0] if known else 'model-name'}.")
    # Some servers list nothing or an alias; only a list that names others proves a name wrong.
    if wanted and known and wanted not in known:
        raise UserError(f"{server.address} has no model '{wanted}'", near_miss(wanted, known))
    return RemoteLM(server, wanted or known[0])


def note_open_key(server: Server) -> None:
    """Say so where an API key will be sent to another machine in the open."""
    if os.environ.get(KEY_VARIABLE) and not server.secure and not server.local:
        say(f"note: {KEY_VARIABLE} travels to {server.host} without encryption; https would protect it")


@dataclass(frozen=True)
class RemoteLM:
    """A model behind a URL. It generates, and scores where the server can; it has no weights here and cannot be trained.

    Attributes:
        server: where it is. name: what it is called there.
        context_length: of token ids as used here, which are bytes; the server's own limit is the server's to report.
    """

    server: Server
    name: str
    context_length: int = 10_000_000
    _used: Counter[str] = field(default_factory=Counter, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False)

    @property
    def identity(self) -> str:
        """Hash of where it is and what it is called; nobody here can see its weights."""
        return text_hash("remote", self.server.address, self.name)

    @cached_property
    def tokenizer(self) -> Any:
        """One token a byte, and tokens for the roles of a conversation."""
        from tunesmith.models.toy import byte_tokenizer

        return byte_tokenizer()

    def tokens(self, sent: float) -> float:
        """Return about how many of the server's tokens so many bytes are, by what it has counted so far."""
        return sent * self._used["tokens"] / self._used["bytes"] if self._used["bytes"] else sent

    def complete(self, prompts: Sequence[tuple[int, ...]], how: Sampling, seed: int = 0, title: str = "") -> list[Completion]:
        """Continue prompts, several at a time, in request order.

        Each request carries a seed of its own, which vLLM and llama.cpp honour. Log-probabilities are left empty, for
        they would be of the server's tokens.

        Raises:
            UserError: an empty prompt, a constraint, or the server refuses the request.
            WorkFailed: the server does not answer, or not in the form of the API.
        """
        if how.constraint:
            raise UserError("answers of a model behind a URL cannot be constrained", "Use a model on this machine.")
        asked, seen = [], Counter[tuple[int, ...]]()
        for ids in prompts:
            if not ids:
                raise UserError("cannot continue an empty prompt")
            body = self._body(ids, how)
            if how.temperature:
                body["seed"] = derive(seed, "sample", seen[ids], *ids) % (1 << 31)
            asked.append((body, len(ids)))
            seen[ids] += 1
        said = self._all(lambda one: self._continue(one[0], one[1], how.stop), asked, title, "answers")
        return [Completion(text, token_ids(self.tokenizer, text), (), reason) for text, reason in said]

    def score_requests(self, requests: Sequence[Request], title: str = "") -> list[Scored]:
        """Score continuations by the log-probabilities the server gives to prompt and continuation read together.

        `free_choice` is the first id of a continuation if the server's likeliest next token begins one or is begun by
        one, and -1 otherwise. Tokens are the server's: `token_logprobs` has one number for a whole continuation, and
        `greedy` is never known.

        Raises:
            UserError: the prompt is a conversation, or the server returns no log-probabilities of a prompt.
            WorkFailed: the server does not answer, or not in the form of the API.
        """
        from tunesmith.models.score import Scored

        if any(self._messages(r.prompt) for r in requests):
            raise UserError(f"{_NO_SCORES} a conversation", "Set chat: false in the task.")
        pairs = [(self._text(r.prompt), self._text(c)) for r in requests for c in r.continuations]
        scored = iter(self._all(lambda pair: self._score(*pair), pairs, title, "choices"))
        answers = []
        for request in requests:
            of_request = [next(scored) for _ in request.continuations]
            said = of_request[0][1]
            begun = [c[0] for c in request.continuations if said and _begins(said, self._text(c))]
            unknown = tuple(False for _ in of_request)
            answers.append(Scored(tuple((value,) for value, _ in of_request), unknown, begun[0] if begun else -1))
        return answers

    def _all(self, work: Callable[[T], R], asked: Sequence[T], title: str, unit: str) -> list[R]:
        answers = []
        with Progress(title, total=len(asked), unit=unit) as progress, ThreadPoolExecutor(_AT_ONCE) as pool:
            # `map` gives answers in order, and cancels what has not begun when one of them fails.
            for answer in pool.map(work, asked):
                answers.append(answer)
                progress.advance(1)
        return answers

    def _body(self, ids: tuple[int, ...], how: Sampling) -> dict[str, Any]:
        turns = self._messages(ids)
        body: dict[str, Any] = {"messages": turns} if turns else {"prompt": self._text(ids)}
        body |= {"max_tokens": how.max_new_tokens, "temperature": how.temperature, "top_p": how.top_p}
        return {**body, "stop": list(how.stop)} if how.stop else body

    def _continue(self, body: Mapping[str, Any], sent: int, stop: Sequence[str]) -> tuple[str, str]:
        """Return what the server says, and why it stopped."""
        if "messages" in body:
            choice = self._ask("/chat/completions", body, sent)
            text = _at(choice, "message", "content")
        else:
            choice = self._ask("/completions", body, sent)
            text = choice.get("text")
        text = "" if text is None else text
        if not isinstance(text, str):
            raise WorkFailed(f"{self.server.address} answered without text", _NOT_THE_API)
        # Not every server leaves the stop string out.
        if found := [at for one in stop if (at := text.find(one)) >= 0]:
            return text[: min(found)], "stop_string"
        return text, "length" if choice.get("finish_reason") == "length" else "stop_token"

    def _score(self, prompt: str, continuation: str) -> tuple[float, str]:
        """Return log p(continuation | prompt), nats, and the likeliest token after the prompt."""
        whole = self._echo(prompt + continuation)
        # Where letters are cut into bytes, tokens do not add up to the text; the prompt's own tokens then show where it ends.
        return by_text(whole, prompt, continuation) or by_tokens(whole, self._echo(prompt))

    def _echo(self, text: str) -> Any:
        # One token more is asked for because many servers refuse to make none; it is not counted.
        body = {"prompt": text, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0.0}
        return self._ask("/completions", body, len(text.encode())).get("logprobs")

    def _ask(self, route: str, body: Mapping[str, Any], sent: int) -> dict[str, Any]:
        answer = self.server.call(route, {"model": self.name, **body})
        choices = _list(answer, "choices")
        if not choices or not isinstance(choices[0], dict):
            raise WorkFailed(f"{self.server.address}{route} answered without 'choices'", _NOT_THE_API)
        used = _at(answer, "usage", "prompt_tokens")
        if isinstance(used, int) and used > 0:
            with self._lock:
                self._used.update(tokens=used, bytes=sent)
        return choices[0]

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _messages(self, ids: Sequence[int]) -> list[dict[str, str]]:
        """Return the turns of a conversation up to where the assistant speaks; none for plain text."""
        roles = {self.tokenizer.convert_tokens_to_ids(f"<|{role}|>"): role for role in ("system", "user", "assistant")}
        turns: list[tuple[str, list[int]]] = []
        for i in ids:
            if i in roles:
                turns.append((roles[i], []))
            elif turns:
                turns[-1][1].append(i)
        # The last turn is the assistant's, and is still to be said.
        return [{"role": role, "content": self._text(content)} for role, content in turns[:-1]]


def by_text(logprobs: Any, prompt: str, continuation: str) -> tuple[float, str] | None:
    """Sum the log-probabilities (nats) of the tokens that reach beyond the prompt in an echoed answer.

    A token that joins the prompt's end with the continuation's beginning counts whole: choices of one prompt then still
    compare as the texts they make. What stands before the prompt (a beginning-of-sequence token) or after the
    continuation (what was generated) is left out.

    Args:
        logprobs: the API's object with `tokens`, `token_logprobs` and `top_logprobs` of T tokens.

    Returns:
        The sum, and the likeliest token where the continuation begins ("" where the server does not say); None where the
        tokens do not add up to the text.

    Raises:
        UserError: the object has no log-probabilities of the prompt.
        WorkFailed: a log-probability is not a number.
    """
    tokens = _tokens(logprobs)
    at = "".join(tokens).find(prompt + continuation)
    if at < 0:
        return None
    begin, end = at + len(prompt), at + len(prompt + continuation)
    ends = list(accumulate(map(len, tokens)))
    counted = [i for i, token in enumerate(tokens) if ends[i] > begin and ends[i] - len(token) < end]
    said = _likeliest(logprobs, counted[0])
    return _sum(logprobs, counted), said[max(begin - ends[counted[0]] + len(tokens[counted[0]]), 0) :]


def by_tokens(whole: Any, bare: Any) -> tuple[float, str]:
    """Return what `by_text` does, from the echo of prompt and continuation and that of the prompt alone.

    The continuation begins at the first token in which they differ; each echo ends with one generated token.

    Raises:
        UserError: the objects have no log-probabilities of the prompt.
        WorkFailed: a log-probability is not a number.
    """
    tokens, of_prompt = _tokens(whole)[:-1], _tokens(bare)[:-1]
    pairs = enumerate(zip(tokens, of_prompt, strict=False))
    begin = next((i for i, (a, b) in pairs if a != b), min(len(tokens), len(of_prompt)))
    if begin == len(tokens):
        raise UserError(_NO_SCORES, _SCORES_FIX)
    said = _likeliest(whole, begin) if begin == len(of_prompt) else ""
    return _sum(whole, range(begin, len(tokens))), said


def _tokens(logprobs: Any) -> list[str]:
    tokens, values = _list(logprobs, "tokens"), _list(logprobs, "token_logprobs")
    # A server that does not echo has the one generated token at most.
    if len(tokens) < 2 or len(tokens) != len(values) or not all(isinstance(token, str) for token in tokens):
        raise UserError(_NO_SCORES, _SCORES_FIX)
    return tokens


def _sum(logprobs: Any, counted: Iterable[int]) -> float:
    values = [logprobs["token_logprobs"][i] for i in counted]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise WorkFailed("the server gave a log-probability that is no number", "Look at the server's log.")
    return float(sum(values))


def _likeliest(logprobs: Any, at: int) -> str:
    top = _list(logprobs, "top_logprobs")
    known = top[at] if len(top) > at and isinstance(top[at], dict) else {}
    numbers = {str(token): value for token, value in known.items() if isinstance(value, int | float)}
    return max(numbers, key=lambda token: numbers[token], default="")


def _begins(said: str, continuation: str) -> bool:
    return bool(said.strip()) and (continuation.startswith(said) or said.startswith(continuation))


def _list(value: Any, key: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
