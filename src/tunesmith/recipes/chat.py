"""Talk to a model, with or without an adapter, in the terminal."""

from __future__ import annotations

import sys
from typing import Any

from tunesmith.core.config import Config as BaseConfig
from tunesmith.core.records import Message

POSITIONAL = "say"
EXAMPLES = (
    "tunesmith chat",
    "tunesmith chat --adapter runs/tune-rows/adapter",
    "tunesmith chat --model runs/tune-movies/model",
    'tunesmith chat "What is the capital of France?"',
)


class Config(BaseConfig):
    """Settings of `tunesmith chat`."""

    say: str | None = None
    """one question to answer; absent = a conversation, one line a turn"""
    model: str = "smollm2"
    """embedded name, local directory (also an adapter's or a run's), hub id, or an OpenAI-compatible URL such as
    https://host/v1#name"""
    adapter: str | None = None
    """adapter directory; without a model, on the base that it names"""
    system: str = ""
    """instruction said before the conversation"""
    temperature: float = 0.0
    """0 = always the likeliest words"""
    top_p: float = 1.0
    max_new_tokens: int = 256
    dtype: str = "auto"
    threads: int | None = None
    seed: int = 0


def run(config: Config) -> dict[str, Any]:
    """Answer one question, or hold a conversation until the input ends; a model that was tuned otherwise answers each line.

    Returns:
        status and the turns said; of a tuned model the answers.

    Raises:
        UserError: no such model or adapter, one that has nothing to say to a text, or a model without a chat template.
        WorkFailed: the adapter does not behave as it did when it was saved.
    """
    from tunesmith.core.encode import chat_prompt
    from tunesmith.models.engine import complete
    from tunesmith.models.generate import Sampling
    from tunesmith.recipes._models import open_engine, quiet_libraries, use_threads
    from tunesmith.recipes._open.asking import answer_lines, tuned_of
    from tunesmith.recipes._open.kinds import named

    quiet_libraries()
    use_threads(config.threads)
    model, adapter = named(config)
    tuned = tuned_of(model, adapter, config.dtype, config.say)
    if tuned:
        return answer_lines(tuned, config.model_dump(include=config.model_fields_set), _lines())
    lm = open_engine(model, config.dtype, adapter)
    how = Sampling(config.max_new_tokens, config.temperature, config.top_p)
    turns = [Message("system", config.system)] if config.system else []
    for question in [config.say] if config.say else _lines():
        turns.append(Message("user", question))
        _, ids = chat_prompt(lm.tokenizer, turns)
        answer = complete(lm, [ids], how, config.seed + len(turns))[0]
        turns.append(Message("assistant", answer.text))
        if not config.say:
            sys.stdout.write(f"{answer.text}\n")
            sys.stdout.flush()
    return {"status": "done", "turns": [{"role": t.role, "content": t.content} for t in turns], "single": bool(config.say)}


def render(report: dict[str, Any]) -> str:
    """Return the answer to a single question; a conversation was printed as it went."""
    if not report["single"]:
        return ""
    return report["turns"][-1]["content"] if "turns" in report else report["answers"][-1]["shown"]


def _lines() -> Any:
    prompt = "you> " if sys.stdin.isatty() else ""
    while True:
        sys.stderr.write(prompt)
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line or line.strip() in ("/quit", "/exit"):
            return
        if line.strip():
            yield line.strip()
