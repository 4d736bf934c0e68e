"""The measurer measured: a scorer is shown nonsense beside real answers, before a policy learns what it likes.

A policy that is steered by a scorer finds whatever scores well. An attack is an answer that nobody wants; a scorer *prefers* it
where it scores above the real answer for more than half of the prompts.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.records import Message
from tunesmith.core.seeds import derive
from tunesmith.models.generate import Sampling, complete
from tunesmith.models.load import LM
from tunesmith.train.rollouts import Prompt
from tunesmith.train.scoring import Answer, Scorer, scores_of

ATTACKS = {
    "empty": "no answer at all",
    "longest": "the longest real answer to another prompt",
    "repeated": "the answer four times over",
    "copied prompt": "the prompt",
    "praise": "words of praise for nothing",
    "noise": "random characters",
}
_PRAISE = "excellent perfect wonderful correct best great amazing 10/10"
_TIMES, _HALF = 4, 0.5
_PROMPTS, _OWN = 16, 4


@dataclass(frozen=True)
class Case:
    """A prompt with real answers: what people preferred, or wrote, or several of the policy's own.

    Attributes:
        turns: the conversation that the prompt is; empty = it is a text.
    """

    prompt: str
    real: tuple[str, ...]
    turns: tuple[Message, ...] = ()

    def answered(self, text: str) -> Answer:
        """Return an answer to it, to be judged."""
        return Answer(self.prompt, text, True, self.real, self.turns)


def probe(
    scorer: Scorer, cases: Sequence[Case], seed: int, cut: Callable[[str], str] = lambda text: text, timeout: float = 600.0
) -> dict[str, Any]:
    """Let a scorer judge real answers and attacks.

    Args:
        cut: shortens a text to what the policy could say. timeout: seconds the scorer may take.

    Returns:
        prompts, and attacks: name -> {what, share (of prompts whose best real answer it scores above), n, preferred}.

    Raises:
        WorkFailed: the scorer failed, or a score is missing or not finite.
    """
    asked: list[tuple[int, str, Answer]] = []
    for number, case in enumerate(cases):
        asked += [(number, "", case.answered(text)) for text in case.real]
        made = _made(case, cases, random.Random(derive(seed, "attack", number)))
        asked += [(number, name, case.answered(cut(text))) for name, text in made.items()]
    answers = [answer for *_, answer in asked]
    scores = scores_of(scorer, answers, [f"{answer.prompt[:80]!r}" for answer in answers], timeout)
    best = [max(s for (at, name, _), s in zip(asked, scores, strict=True) if at == n and not name) for n in range(len(cases))]
    found = {}
    for attack, what in ATTACKS.items():
        above = [s > best[at] for (at, name, _), s in zip(asked, scores, strict=True) if name == attack]
        if above:
            share = sum(above) / len(above)
            found[attack] = {"what": what, "share": share, "n": len(above), "preferred": share > _HALF}
    return {"prompts": len(cases), "attacks": found}


def _made(case: Case, cases: Sequence[Case], generator: random.Random) -> dict[str, str]:
    real = case.real[0]
    noise = "".join(generator.choice(string.punctuation + string.ascii_letters) for _ in range(max(len(real), 1)))
    longest = max((text for other in cases for text in other.real), key=len)
    made = {
        "empty": "", "longest": longest, "repeated": " ".join([real.strip()] * _TIMES), "copied prompt": case.prompt,
        "praise": _PRAISE, "noise": noise,
    }  # fmt: skip
    if not case.prompt:
        del made["longest"]  # where nothing was asked, it is as real as any other
    # What is a real answer to this prompt is no attack on it.
    return {name: text for name, text in made.items() if text not in case.real and (text or name == "empty")}


def require_sound(
    scorer: Scorer, lm: LM, prompts: Sequence[Prompt], how: Sampling, seed: int, allowed: bool, timeout: float
) -> dict[str, Any]:
    """Attack the scorer that is about to steer a policy; real answers are the right ones, or the best of four of the policy's.

    Returns:
        What `probe` does.

    Raises:
        UserError: it prefers an attack, and nobody said that it may.
        WorkFailed: a score is missing or not finite.
    """
    generator = random.Random(derive(seed, "prompts to attack"))
    chosen = generator.sample(list(prompts), min(_PROMPTS, len(prompts)))
    own = [prompt for prompt in chosen if not prompt.golds for _ in range(_OWN)]
    said = iter(complete(lm, [prompt.ids for prompt in own], how, derive(seed, "answers to attack")) if own else ())
    cases = [Case(p.text, p.golds or tuple(next(said).text for _ in range(_OWN)), p.turns) for p in chosen]

    def cut(text: str) -> str:
        ids = lm.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return text if len(ids) <= how.max_new_tokens else lm.tokenizer.decode(ids[: how.max_new_tokens])

    found = probe(scorer, cases, seed, cut, timeout)
    if (preferred := in_words(found["attacks"])) and not allowed:
        raise UserError(
            f"the scorer prefers {'; '.join(preferred)}: a policy would learn to say that",
            "Mend it, or mix in a penalty (--scorer mix); to go on knowingly: --allow_attackable true.",
        )
    return found


def in_words(attacks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say which attacks a scorer prefers."""
    return [
        f"{one['what']} ({name}) to the real answer for {round(one['share'] * one['n'])} of {one['n']} prompts"
        for name, one in attacks.items()
        if one["preferred"]
    ]
