"""An OpenAI-compatible server on this machine with the toy decoder behind it, and the ways in which servers fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from tunesmith.core.encode import chat_prompt, token_ids
from tunesmith.core.records import Message
from tunesmith.models.generate import Sampling, complete
from tunesmith.models.load import LM, load

MODEL = "toy"


@dataclass
class Served:
    """A running server.

    Attributes:
        faults: what the next posts meet instead of an answer, in order. asked: (route, headers, body) of every request.
        scores: whether log-probabilities of the prompt are returned. key: the API key it wants ("" = none).
        rule: what says the text instead of the decoder, from the prompt (of a conversation: its last turn) and the seed.
    """

    lm: LM
    port: int = 0
    faults: list[str] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    scores: bool = True
    key: str = ""
    rule: Callable[[str, int], str] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        """Address of its one model."""
        return f"http://127.0.0.1:{self.port}/v1#{MODEL}"


@contextmanager
def served(lm: LM | None = None) -> Iterator[Served]:
    """Serve the toy decoder on a free port."""
    state = Served(lm or load("toy-llama"))

    class Handler(_Handler):
        served = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Served

    def log_message(self, *_: Any) -> None:
        """Keep stderr for the tests."""

    def do_GET(self) -> None:
        self._serve({})

    def do_POST(self) -> None:
        self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _serve(self, body: Any) -> None:
        it = self.served
        with it.lock:
            it.asked.append((self.path, dict(self.headers), body))
            fault = it.faults.pop(0) if it.faults and body else ""
        if it.key and self.headers.get("Authorization") != f"Bearer {it.key}":
            return self._error(401, f"Incorrect API key: {self.headers.get('Authorization')}")
        if fault:
            return self._fail(fault)
        if self.path == "/v1/models":
            return self._say({"object": "list", "data": [{"id": MODEL}]})
        if body["model"] != MODEL:
            return self._error(404, f"The model `{body['model']}` does not exist.")
        with it.lock, torch.inference_mode():
            answers = {"/v1/completions": self._completion, "/v1/chat/completions": self._chat}
            return self._say(answers[self.path](body))

    def _fail(self, fault: str) -> None:
        if fault.isdigit():
            return self._error(int(fault), "busy")
        if fault == "hang":
            time.sleep(1.3)
            return self._say({})
        content = {"malformed": b'{"choices": [', "huge": b" " * (1 << 20), "odd": b'{"object": "nothing"}'}.get(fault, b"{}")
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) + (100 if fault == "truncated" else 0)))
        self.end_headers()
        self.wfile.write(content)
        return None

    def _error(self, status: int, message: str) -> None:
        self._say({"error": {"message": message, "type": "error"}}, status)

    def _say(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        try:
            self.wfile.write(content)
        except BrokenPipeError:  # whoever asked did not wait
            return

    def _completion(self, body: Any) -> Any:
        if self.served.rule:
            return {"choices": [{"text": self.served.rule(body["prompt"], body.get("seed", 0)), "finish_reason": "stop"}]}
        ids = token_ids(self.served.lm.tokenizer, body["prompt"])
        answer = self._continue(ids, body)
        choice = {"text": answer.text, "finish_reason": _reason(answer.stop_reason), "logprobs": None}
        if body.get("echo") and self.served.scores:
            choice |= {"text": body["prompt"] + answer.text, "logprobs": self._logprobs((*ids, *answer.ids))}
        return {"choices": [choice], "usage": {"prompt_tokens": len(ids)}}

    def _chat(self, body: Any) -> Any:
        if self.served.rule:
            said = self.served.rule(body["messages"][-1]["content"], body.get("seed", 0))
            return {"choices": [{"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}]}
        _, ids = chat_prompt(self.served.lm.tokenizer, [Message(m["role"], m["content"]) for m in body["messages"]])
        answer = self._continue(ids, body)
        message = {"role": "assistant", "content": answer.text}
        return {
            "choices": [{"message": message, "finish_reason": _reason(answer.stop_reason)}],
            "usage": {"prompt_tokens": len(ids)},
        }

    def _continue(self, ids: tuple[int, ...], body: Any) -> Any:
        how = Sampling(body["max_tokens"], body["temperature"], body.get("top_p", 1.0), tuple(body.get("stop", ())))
        return complete(self.served.lm, [ids], how, body.get("seed", 0))[0]

    def _logprobs(self, ids: tuple[int, ...]) -> Any:
        """The API's log-probabilities, from one plain forward pass."""
        tokenizer = self.served.lm.tokenizer
        logprobs = self.served.lm.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
        tokens = [tokenizer.decode([i]) for i in ids]
        best = logprobs.argmax(-1).tolist()
        return {
            "tokens": tokens,
            "token_logprobs": [None, *(float(logprobs[n, i]) for n, i in enumerate(ids[1:]))],
            "top_logprobs": [None, *({tokenizer.decode([i]): float(logprobs[n, i])} for n, i in enumerate(best[:-1]))],
        }


def _reason(reason: str) -> str:
    return "length" if reason == "length" else "stop"
