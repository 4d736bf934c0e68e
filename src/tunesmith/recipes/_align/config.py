"""What `tunesmith align` can be told, apart from its work."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tunesmith.core.registry import ALIGNERS
from tunesmith.recipes._align.health import RULES
from tunesmith.recipes._training_run import TrainingRun
from tunesmith.train.parameters import FitParameters

# What means something only where answers are sampled and scored, and only where judgements are read.
_OF_SCORES = frozenset({
    "scorer", "steps", "rollouts", "samples", "prompt_tokens", "beta", "kl_target", "optimisation_epochs", "no_end",
    "evaluations", "held_out", "scorer_timeout", "fixed_length", "end_at", "end_after", "max_kl", "stop_on", "ptx", "ptx_weight",
    "allow_attackable", "rollout_workers", "rollout_url", "address",
})  # fmt: skip
_OF_JUDGEMENTS = frozenset({"map", "test_share", "max_length", "over_long"})
_OF_REWARDS = frozenset({"beta", "kl_target", "ptx", "ptx_weight"})
_OF_ROUNDS = frozenset({
    "held_out", "fixed_length", "end_at", "end_after", "max_kl", "stop_on", "rollout_workers", "rollout_url",
    "address",
})  # fmt: skip
_OF_TRAINING = frozenset(FitParameters.model_fields) | {"peft", "steps", "rollouts", "optimisation_epochs"}


def _named_in(method: str | dict[str, Any]) -> str:
    return (method if isinstance(method, str) else str(method.get("name"))).partition(":")[0]


class Config(TrainingRun):
    """Settings of `tunesmith align`, beside those of training itself."""

    data: str
    """prompts: a task (its training rows), or a file with a column prompt, text or messages; for methods that learn from
    judgements (dpo, ipo, kto, orpo) a file of preferences"""
    method: str | dict[str, Any] = "ppo"
    """ppo, rloo, grpo, expert-iteration, best-of-n; dpo, ipo, kto, orpo; with its own parameters (--method.clip 0.1), which
    --method NAME --help lists"""
    scorer: str | dict[str, Any] | None = None
    """who judges answers: FILE.py:FUNCTION, lexicon, reward-model:path=DIR, metric:metric=NAME, url or mix; needed where answers
    are sampled"""
    map: dict[str, str] = {}
    """columns of a file of preferences by the names of its convention (--map.prompt question)"""
    test_share: float = Field(0.1, ge=0, lt=1)
    """of a file of preferences, the share of prompts that is held out to measure on"""
    max_length: int = Field(1024, ge=2)
    """longest prompt with a completion of a file of preferences, in tokens; longer ones are never cut"""
    over_long: Literal["stop", "drop"] = "stop"
    """what to do with longer ones"""
    model: str = "smollm2"
    """the policy to begin with, which is also the reference: embedded name, local directory or hub id"""
    peft: str | dict[str, Any] = "lora"
    """what is trained; it must be an adapter, for the reference is the model with the adapter off; --peft NAME --help lists
    its own parameters"""
    steps: int = Field(50, ge=1)
    """rounds of sampling and learning"""
    rollouts: int = Field(32, ge=1)
    """answers a round"""
    samples: int | None = Field(None, ge=1)
    """answers to each prompt of a round; absent = the method's own: 1 for ppo, 4 for rloo, 8 for grpo and
    expert-iteration, 16 for best-of-n"""
    max_new_tokens: int = Field(32, ge=1)
    """longest answer in tokens"""
    prompt_tokens: int | None = Field(None, ge=1)
    """use only the first tokens of each text, as an opening to go on from; absent = all of it"""
    train_rows: int | None = Field(None, ge=1)
    """at most this many prompts"""
    beta: float = Field(0.05, ge=0, allow_inf_nan=False)
    """price of a nat of divergence from the reference"""
    kl_target: float | None = Field(None, gt=0, allow_inf_nan=False)
    """let beta follow so that an answer diverges by this many nats; absent = beta stays"""
    optimisation_epochs: int | None = Field(None, ge=1)
    """how often each round is learned from; absent = the method's own: 2 for ppo and grpo, which clip, 1 for others"""
    held_out: str | dict[str, Any] | None = None
    """another scorer that is only watched: what the policy never learns from shows whether it learns what was meant"""
    scorer_timeout: float = Field(600.0, gt=0, allow_inf_nan=False)
    """seconds a scorer may take for a round; one that fails or takes longer is asked again twice"""
    no_end: float | None = None
    """score of an answer that does not end by itself, in the place of the scorer's; absent = the scorer's counts"""
    fixed_length: bool = False
    """sample max_new_tokens whatever comes: a token that ends a text is one like any other, and what follows it is not judged"""
    end_at: str = ""
    """judge an answer up to the first token with this text ("."), counted from token end_after on; without one it has no end"""
    end_after: int = Field(0, ge=0)
    """tokens an answer has at least before end_at ends it"""
    max_kl: float | None = Field(None, gt=0, allow_inf_nan=False)
    """stop once answers diverge by more than so many nats; absent = never"""
    stop_on: list[str] = []
    """stop once one of these health rules is broken: length, held_out, kl, entropy, repetition, ties, clipping, value"""
    rollout_workers: int = Field(0, ge=0)
    """Ray workers that sample the rounds, each with the base model and the adapter of the moment; 0 = this process samples"""
    rollout_url: str | None = None
    """a server that samples the rounds, for example http://localhost:8000/v1; it loads LoRA adapters while it runs, gives token
    ids with log-probabilities (vLLM); it must see the run's folder under the same path"""
    address: str | None = None
    """a running Ray cluster, for example auto or ray-head:6379; absent = start one here; needs --rollout_workers"""
    ptx: str | None = None
    """file of texts whose likelihood is learned beside the scores, so that what the model could is kept (PPO-ptx)"""
    ptx_weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """weight of a token of these texts beside one of an answer; InstructGPT has 27.8"""
    allow_attackable: bool = False
    """go on with a scorer that prefers an attack (nothing, repetition, random characters, ...) to real answers; lexicon
    does, for it likes words of praise wherever they stand"""

    @field_validator("method", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return {"name": "ppo", **value} if isinstance(value, dict) else value

    @field_validator("peft", mode="before")
    @classmethod
    def _peft_named(cls, value: object) -> object:
        return {"name": "lora", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _rounds(self) -> Self:
        learns = ALIGNERS.parameters(self.method)[0].LEARNS_FROM
        if learns in ("pairs", "texts"):
            if given := _OF_SCORES & self.model_fields_set:
                raise ValueError(
                    f"{', '.join(sorted(given))}: {_named_in(self.method)} learns from judgements and samples nothing"
                )
            return self
        if self.scorer is None:
            raise ValueError(f"{_named_in(self.method)} needs somebody who judges answers: --scorer FILE.py:FUNCTION")
        unused = {"answers": _OF_REWARDS, "nothing": _OF_REWARDS | _OF_TRAINING | _OF_ROUNDS}.get(learns, frozenset())
        if given := unused & self.model_fields_set:
            why = "trains nothing" if learns == "nothing" else "learns the best answers, whatever else they cost"
            raise ValueError(f"{', '.join(sorted(given))}: {_named_in(self.method)} {why}")
        if given := _OF_JUDGEMENTS & self.model_fields_set:
            raise ValueError(f"{', '.join(sorted(given))}: {_named_in(self.method)} learns from scores and reads no judgements")
        if unknown := set(self.stop_on) - set(RULES):
            raise ValueError(f"stop_on: there is no rule {', '.join(sorted(unknown))}; there are {', '.join(RULES)}")
        if self.end_after and not self.end_at:
            raise ValueError("end_after says from where on end_at is looked for: give --end_at too")
        if "ptx_weight" in self.model_fields_set and self.ptx is None:
            raise ValueError("ptx_weight is the weight of the texts that --ptx names")
        if self.rollout_url and self.rollout_workers:
            raise ValueError("rollout_url and rollout_workers exclude each other: rounds are sampled in one place")
        if self.address and not self.rollout_workers:
            raise ValueError("address needs --rollout_workers")
        given = {"epochs", "max_steps", "gradient_accumulation_steps", "evaluations"} & self.model_fields_set
        if given:
            raise ValueError(f"{', '.join(sorted(given))}: align counts rounds; say --steps, --rollouts, --optimisation_epochs")
        return self
