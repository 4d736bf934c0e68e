"""What `tunesmith tune` can be told, apart from its work so that reading rows can know it too."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tunesmith.core.errors import UserError, unknown
from tunesmith.core.registry import ENGINES
from tunesmith.recipes._tune.remedies_config import Remedies


class Config(Remedies):
    """Settings of `tunesmith tune`, beside those of training itself."""

    data: str
    """a task (name or YAML), or a file of messages, prompt/completion, Alpaca, ShareGPT or text/label rows; for text-to-text
    also several tasks, separated by commas"""
    model: str | None = None
    """embedded name, local directory or hub id; absent = the objective's own: smollm2, or minilm for encoders"""
    adapter: str | None = None
    """adapter directory to go on from; its method and shape are kept"""
    peft: str | dict[str, Any] | None = None
    """what is trained, with its own parameters (--peft lora --peft.rank 8); absent = the objective's own: lora, or full for
    encoders"""
    objective: str | dict[str, Any] = "causal-lm"
    """what is learned, with its own parameters: causal-lm, gpt-classification (decoders); classification, regression,
    multi-label, token-classification, span (encoders); text-to-text (encoder-decoders)"""
    max_length: int = Field(1024, ge=2)
    """longest row in tokens; longer ones stop the run or are dropped, never cut"""
    over_long: Literal["stop", "drop"] = "stop"
    train_rows: int | None = Field(None, ge=1)
    """at most this many rows"""
    validation_rows: int = Field(200, ge=0)
    """at most this many rows for choosing the best weights; 0 = none"""
    test_rows: int = Field(1000, ge=0)
    """at most this many test rows of a task to answer at the end; 0 = none"""
    guard: bool = True
    """measure a decoder on general text, choices and sibling tasks before and after"""
    guard_rows: int = Field(50, ge=0)
    """items of each sibling task for that; 0 = no sibling tasks"""
    find_batch_size: bool = False
    """try micro-batches of several sizes first and take the fastest that fits for tokens_per_micro_batch"""
    find_lr: bool = False
    """find the learning rate by a range test first; learning_rate.html in run_dir shows it"""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """factor of the learning rate from each layer to the one below it, the head having the whole (ULMFiT, ELECTRA); 1 = none"""
    sweep: list[str] = []
    """settings to try, each key=value,value,...; every combination is a run of its own (peft.rank=1,4 peft.targets=attention)"""
    seeds: int = Field(1, ge=1, le=100)
    """repeats of each combination of a sweep, with the seeds seed, seed + 1, ..."""

    engine: str = "local"
    """where to train: local (this process), or ray (several workers, here or on a cluster)"""
    workers: int = Field(1, ge=1)
    """processes that train together, each with a share of a step's rows and of the weights; needs --engine ray"""
    address: str | None = None
    """a running Ray cluster, for example auto or ray-head:6379; absent = start one here"""
    restarts: int = Field(3, ge=0)
    """how often to start again from the newest checkpoint when a worker of --engine ray is lost"""
    shard: Literal["all", "trained"] = "all"
    """weights divided among workers: all, or only the trained ones, where each can hold a frozen base (far less traffic)"""

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, value: str) -> str:
        if value not in ENGINES.names():
            raise ValueError(str(unknown("engine", value, ENGINES.names())))
        return value

    @field_validator("sweep", mode="before")
    @classmethod
    def _axes(cls, value: object) -> object:
        # "a=1,2" comes from a command line as a=1 and 2; a file may hold {a: [1, 2]}.
        if isinstance(value, dict):
            return [f"{key}={','.join(map(str, of if isinstance(of, list) else [of]))}" for key, of in value.items()]
        axes: list[str] = []
        for piece in value if isinstance(value, list) else [value]:
            if "=" in str(piece):
                axes.append(str(piece))
            elif axes:
                axes[-1] += f",{piece}"
            else:
                raise ValueError(f"'{piece}' has no key: write key=value,value, for example peft.rank=1,4,16")
        return axes

    @field_validator("peft", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        # --peft.rank 8 by itself speaks of the most common method.
        return {"name": "lora", **value} if isinstance(value, dict) else value

    @property
    def model_name(self) -> str:
        """The model, once the objective has filled it in.

        Raises:
            UserError: nobody named one.
        """
        if self.model is None:
            raise UserError("no model is named", "Give one with --model.")
        return self.model

    @model_validator(mode="after")
    def _one_method(self) -> Self:
        if self.adapter and "peft" in self.model_fields_set:
            raise ValueError("peft and adapter exclude each other: an adapter is trained further by its own method")
        if self.wise_ft and not self.validation_rows:
            raise ValueError("wise_ft chooses a mix of weights by validation rows: set --validation_rows above 0")
        if "seeds" in self.model_fields_set and not self.sweep:
            raise ValueError("seeds are the repeats of a sweep: give --sweep, or one --seed")
        if self.sweep and not self.test_rows:
            raise ValueError("a sweep judges by test rows: test_rows must not be 0")
        if self.find_lr and self.learning_rate:
            raise ValueError("find_lr and learning_rate exclude each other: one finds what the other gives")
        return self

    @model_validator(mode="after")
    def _one_worker_alone(self) -> Self:
        given = {"workers", "address", "restarts", "shard"} & self.model_fields_set
        if given and self.engine == "local":
            raise ValueError(f"{', '.join(sorted(given))} needs --engine ray")
        if self.engine != "local" and (self.find_lr or self.find_batch_size):
            raise ValueError("find_lr and find_batch_size try on this machine alone: run them without --engine first")
        if self.engine != "local" and (self.ewc or self.wise_ft):
            raise ValueError("ewc and wise_ft need all weights in one process: use replay or l2_sp with --engine")
        return self
