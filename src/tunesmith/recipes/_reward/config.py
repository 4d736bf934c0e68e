"""What `tunesmith reward` can be told, apart from its work."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tunesmith.recipes._training_run import TrainingRun


class Config(TrainingRun):
    """Settings of `tunesmith reward`, beside those of training itself."""

    data: str
    """a file of preferences, a task with every rater's score (movies, tweets, products, editorials), or bigbench:hhh_alignment"""
    map: dict[str, str] = {}
    """columns of a file of preferences by the names of its convention (--map.prompt question)"""
    model: str = "smollm2"
    """what gets a head for one number: a decoder or an encoder (minilm); embedded name, directory or hub id"""
    peft: str | dict[str, Any] | None = None
    """what is trained beside the head (--peft lora --peft.rank 8); absent = lora on a decoder, full on an encoder"""
    objective: Literal["auto", "kwise", "best-of-k", "regression", "ordinal"] = "auto"
    """what is learned: kwise = all pairs of a prompt (two completions: one pair), best-of-k = which one was chosen, regression
    or ordinal = the ratings; auto = best-of-k where only the best was named, else kwise"""
    ties: Literal["drop", "davidson", "rao-kupper"] = "drop"
    """what pairs of equal rank are: nothing (InstructGPT), or an outcome of their own"""
    margin: float = Field(0.0, ge=0, allow_inf_nan=False)
    """what a preferred completion must be ahead by"""
    rating_margin: float = Field(0.0, ge=0, allow_inf_nan=False)
    """so much more of a margin for each point of difference in the ratings"""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """share of judgements taken to be the wrong way round"""
    centring: float = Field(0.0, ge=0, allow_inf_nan=False)
    """weight of (r_w + r_l)^2, which keeps rewards around zero"""
    normalise: Literal["preferred", "samples", "none"] = "preferred"
    """what has mean 0: preferred = the preferred completions; samples = answers of the policy, which have deviation 1 too, before
    and after training (Ziegler et al.); none = nothing"""
    policy: str | None = None
    """who answers for --normalise samples; absent = the model itself, before it is trained"""
    policy_samples: int = Field(256, ge=2)
    """answers for --normalise samples"""
    prompt_tokens: int = Field(8, ge=1)
    """where completions have no prompt, an answer of the policy begins with so many tokens of one"""
    max_new_tokens: int = Field(32, ge=1)
    """longest answer of the policy in tokens"""
    comparisons: int = Field(5000, ge=1)
    """judgements drawn from a task's ratings to train on"""
    completions: int = Field(2, ge=2, le=16)
    """texts in each of these judgements"""
    test_share: float = Field(0.2, gt=0, lt=1)
    """of the prompts of a file, for the report; where a task has test rows, those are it"""
    train_rows: int | None = Field(None, ge=1)
    """at most this many judgements"""
    validation_rows: int = Field(300, ge=0)
    """at most this many judgements for choosing the best weights; 0 = none"""
    test_rows: int = Field(2000, ge=1)
    """at most this many judgements for the report"""
    max_length: int = Field(1024, ge=2)
    """longest prompt with a completion in tokens; longer ones stop the run or are dropped, never cut"""
    over_long: Literal["stop", "drop"] = "stop"
    seeds: list[int] = []
    """train one model for each of these seeds, to be asked together: mean and spread (--seeds 0,1,2)"""

    @field_validator("peft", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return {"name": "lora", **value} if isinstance(value, dict) else value

    @field_validator("seeds", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return [value] if isinstance(value, int) else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        pairs = {"margin", "rating_margin", "label_smoothing", "centring"} & self.model_fields_set
        if pairs and (self.ties != "drop" or self.objective not in ("auto", "kwise")):
            raise ValueError(f"{', '.join(sorted(pairs))} belong to pairs (--objective kwise) without ties (--ties drop)")
        if self.ties != "drop" and self.objective not in ("auto", "kwise"):
            raise ValueError(f"ties belong to pairs (--objective kwise), and {self.objective} has none")
        asked = {"policy", "policy_samples", "prompt_tokens", "max_new_tokens"} & self.model_fields_set
        if asked and self.normalise != "samples":
            raise ValueError(f"{', '.join(sorted(asked))} need --normalise samples")
        if len(set(self.seeds)) < len(self.seeds) or len(self.seeds) == 1:
            raise ValueError("seeds are two or more different ones: --seeds 0,1,2, or a single --seed 0")
        return self
