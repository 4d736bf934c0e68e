"""A server that samples from adapters it is told to load: token ids go in, token ids and their log-probabilities come out.

The API is vLLM's beside OpenAI's: `/load_lora_adapter` and `/unload_lora_adapter` with a name and a path that the server sees,
and `/completions` with `return_tokens_as_token_ids`. Tokens as text would be of no use: ids cannot be told from it for certain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.core.records import Completion
from tunesmith.core.seeds import derive
from tunesmith.models._http import Patience, Server
from tunesmith.models.generate import Sampling, as_completion, turns_of
from tunesmith.models.load import LM
from tunesmith.models.remote import note_open_key, parse

# Requests under way: a server that batches wants many. Seconds for one of them, the others before it included.
_AT_ONCE, _SECONDS = 32, 600.0
_LOADS = (
    "The server must load adapters while it runs, from a path that it and this process see "
    "(vLLM: --enable-lora, --max-lora-rank, VLLM_ALLOW_RUNTIME_LORA_UPDATING=True)."
)
_IDS = "Sample with a server that knows return_tokens_as_token_ids (vLLM); what is learned from must be what was sampled."


@dataclass(frozen=True)
class AdapterServer:
    """A server that samples from adapters. It holds the base model; nobody here can see its weights.

    Attributes:
        server: where it is.
    """

    server: Server

    @classmethod
    def at(cls, url: str) -> AdapterServer:
        """Return the server at an address; it is not asked yet.

        Raises:
            UserError: no address of a server, or one that names a model.
        """
        server, name = parse(url, Patience(seconds=_SECONDS))
        if name:
            raise UserError(
                f"'{url}' names a model, and answers are sampled from adapters with names of their own", "Leave out #."
            )
        note_open_key(server)
        return cls(server)

    def load(self, name: str, folder: Path) -> None:
        """Let the server read the adapter in a folder, which it must see, under a name.

        Raises:
            UserError: the server does not load adapters, or not this one.
            WorkFailed: it cannot be reached.
        """
        try:
            self.server.tell("/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        except UserError as error:
            raise UserError(error.message, _LOADS) from error

    def unload(self, begin: str) -> None:
        """Let the server forget every adapter whose name begins so."""
        listed = self.server.call("/models")
        models = listed.get("data") if isinstance(listed, dict) else None
        for model in models if isinstance(models, list) else ():
            name = model.get("id") if isinstance(model, dict) else None
            if isinstance(name, str) and name.startswith(begin):
                self.server.tell("/unload_lora_adapter", {"lora_name": name})

    def complete(self, name: str, lm: LM, prompts: Sequence[tuple[int, ...]], how: Sampling, seed: int) -> list[Completion]:
        """Continue prompts by an adapter, many at a time, in request order; each request carries a seed of its own.

        Args:
            lm: the same model here, whose tokens these are.

        Raises:
            UserError: the server refuses a request, or gives no token ids.
            WorkFailed: it does not answer, or answers what cannot be.
        """
        fixed: dict[str, Any] = {
            "model": name, "max_tokens": how.max_new_tokens, "temperature": how.temperature, "top_p": how.top_p,
            "logprobs": 1, "return_tokens_as_token_ids": True,
            # What a model's own generation_config.json may say otherwise; log-probabilities would not be those of what was drawn.
            "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0,
            **({"ignore_eos": True} if how.ignore_end else {"stop_token_ids": sorted(lm.stop_ids)}),
        }  # fmt: skip
        asked = [
            {**fixed, "prompt": list(ids), "seed": derive(seed, "sample", turn, *ids) % (1 << 31)}
            for ids, turn in zip(prompts, turns_of(prompts), strict=True)
        ]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            # `map` gives answers in order, and cancels what has not begun when one of them fails.
            return list(pool.map(lambda body: self._said(self.server.call("/completions", body), lm, how), asked))

    def _said(self, answer: Any, lm: LM, how: Sampling) -> Completion:
        choices = answer.get("choices") if isinstance(answer, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        said = choice.get("logprobs") if isinstance(choice, dict) else None
        tokens, logprobs = (said.get(key) if isinstance(said, dict) else None for key in ("tokens", "token_logprobs"))
        if not isinstance(tokens, list) or not isinstance(logprobs, list) or not tokens or len(tokens) != len(logprobs):
            raise UserError(f"{self.server.address} gives no log-probabilities of the tokens it samples", _IDS)
        known = lm.model.get_input_embeddings().weight.shape[0]
        ids = [_id(token) for token in tokens]
        if None in ids:
            raise UserError(f"{self.server.address} gives tokens as text ({str(tokens[0])[:20]!r}), not as ids", _IDS)
        numbers = [float(p) for p in logprobs if isinstance(p, int | float) and math.isfinite(p)]
        found = as_completion(lm, [i for i in ids if i is not None and i < known], numbers, how)
        if len(found.ids) < len(ids) or len(numbers) < len(ids) or not found.stop_reason or len(ids) > how.max_new_tokens:
            why = "a token it does not have, a log-probability that is no number, or an end that is none"
            raise WorkFailed(
                f"{self.server.address} gave an answer of {len(ids)} tokens that this model cannot have said: {why}",
                "Look whether it serves the model that --model names, with room for --max_new_tokens (vLLM: --max-model-len).",
            )
        return found


def _id(token: Any) -> int | None:
    kind, _, number = str(token).partition(":")
    return int(number) if kind == "token_id" and number.isascii() and number.isdigit() and len(number) < 10 else None
