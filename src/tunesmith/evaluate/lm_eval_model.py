"""lm-eval's view of our engine: any task of the lm-evaluation-harness runs on it, with the numbers of its own `HFLM`.

Needs the package lm-eval. Text is tokenised here as lm-eval does it and not as the rest of this package does (context and
continuation as one text, special tokens read), because a published number stands for that reading.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from tunesmith.core.errors import UserError
from tunesmith.models.generate import Sampling, complete
from tunesmith.models.load import LM
from tunesmith.models.score import Request, score_requests

Tokens = tuple[int, ...]
_NEW_TOKENS = 256
_CONTEXTS = 64
_HEEDED = ("do_sample", "temperature", "top_p")


class TunesmithLM(TemplateLM):
    """A loaded model as lm-eval asks it.

    Args:
        lm: with or without an adapter on it.
        max_length: most tokens read at once, None = as many as the model was built for.
        seed: of sampled answers.
    """

    def __init__(self, lm: LM, max_length: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self.lm, self.tokenizer = lm, lm.tokenizer
        self.max_length = max_length or lm.context_length
        self._seed = seed
        # lm-eval asks for a context again with each of its continuations.
        self._known = functools.lru_cache(maxsize=_CONTEXTS)(self._encode)

    @property
    def eot_token_id(self) -> int:
        """Id of the token that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """Id that stands before a text without context: beginning of sequence, else its end."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """Name under which lm-eval keeps prepared requests."""
        return self.lm.name.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the ids of a text; with the tokenizer's own special tokens unless they are there or not wanted."""
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        return list(self._known(string, add_special_tokens))

    def _encode(self, string: str, add_special_tokens: bool | None) -> list[int]:
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **options))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a conversation; without its system message if the template refuses one."""
        options = {"tokenize": False, "add_generation_prompt": add_generation_prompt}
        options["continue_final_message"] = not add_generation_prompt
        try:
            return str(self.tokenizer.apply_chat_template(chat_history, **options))
        except TemplateError:
            spoken = [message for message in chat_history if message["role"] != "system"]
            return str(self.tokenizer.apply_chat_template(spoken, **options))

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, Sequence[int], Sequence[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [self._fitted(tuple(context), tuple(continuation)) for _, context, continuation in requests]
        answers = self._scored(pairs, "scoring")
        for (asked, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", asked, answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood (nats) of whole texts, in windows of `max_length` where they are longer."""
        texts = [request.args[0] for request in requests]
        windows: list[list[tuple[Tokens, Tokens]]] = []
        for text in texts:
            rolling = get_rolling_token_windows(
                token_list=self.tok_encode(text), prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            windows.append([(tuple(context), tuple(said)) for context, said in map(make_disjoint_window, rolling)])
        scored = iter(self._scored([pair for pairs in windows for pair in pairs], "scoring texts"))
        sums = [sum(next(scored)[0] for _ in pairs) for pairs in windows]
        for text, total in zip(texts, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return sums

    def _fitted(self, context: Tokens, continuation: Tokens) -> tuple[Tokens, Tokens]:
        """Drop tokens of the context from the left until both fit.

        Raises:
            UserError: the continuation has no tokens, or more than the model reads.
        """
        if not 0 < len(continuation) <= self.max_length:
            raise UserError(f"a continuation of {len(continuation)} tokens cannot be scored by {self.lm.name}")
        # The last token is only predicted, never read.
        whole = (*context, *continuation)[-(self.max_length + 1) :]
        return whole[: -len(continuation)], continuation

    def _scored(self, pairs: Sequence[tuple[Tokens, Tokens]], title: str) -> list[tuple[float, bool]]:
        """Return (summed log-probability, whether greedy decoding says it) of each pair."""
        requests = [Request(context, (continuation,)) for context, continuation in pairs]
        return [(scored.logprobs[0], scored.greedy[0]) for scored in score_requests(self.lm, requests, title)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continue each context up to a stop string, the end of the text or `max_gen_toks`.

        Raises:
            UserError: a generation setting that this engine does not have, or no room for a context.
        """
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(number)
        texts = [""] * len(requests)
        for members in groups.values():
            how = self._sampling(requests[members[0]].args[1])
            room = self.max_length - how.max_new_tokens
            if room < 1:
                raise UserError(
                    f"{how.max_new_tokens} new tokens leave no room in the {self.max_length} that {self.lm.name} reads",
                    "Lower max_gen_toks in the task's generation_kwargs.",
                )
            prompts = [tuple(self.tok_encode(requests[number].args[0])[-room:]) for number in members]
            for number, answer in zip(members, complete(self.lm, prompts, how, self._seed, "generating"), strict=True):
                texts[number] = answer.text
                self.cache_hook.add_partial("generate_until", requests[number].args, answer.text)
        return texts

    def _sampling(self, settings: Mapping[str, Any]) -> Sampling:
        how: dict[str, Any] = dict(normalize_gen_kwargs(dict(settings), _NEW_TOKENS))
        end = self.tokenizer.decode(self.eot_token_id, skip_special_tokens=False)
        stop = handle_stop_sequences(how.pop("until", None), eos=end)
        new_tokens = how.pop("max_gen_toks")
        if unknown := sorted(key for key, value in how.items() if key not in _HEEDED and value is not None):
            raise UserError(
                f"the task asks for generation with '{unknown[0]}', which this engine does not have",
                f"It has until, max_gen_toks, {', '.join(_HEEDED)}.",
            )
        temperature = float(how.get("temperature", 0.0)) if how.get("do_sample") else 0.0
        return Sampling(new_tokens, temperature, float(how.get("top_p", 1.0)), tuple(s for s in stop if s))
