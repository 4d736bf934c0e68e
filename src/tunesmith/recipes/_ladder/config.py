"""The settings that `ladder`, `plan` and `prompt` share, and what follows from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tunesmith.core.config import Config
from tunesmith.core.records import Example
from tunesmith.data.task import Task
from tunesmith.train.parameters import FitParameters

_ROUTES = ["zero-shot", "few-shot", "calibrated", "few-shot-nearest", "lora", "full"]
_BASELINES = ["majority", "tfidf", "vader", "human", "minilm"]
_REMEDIES = ["zero-shot", "full", "replay", "l2-sp", "ewc", "wise-ft", "wise-ft:l2_sp=1000", "lora"]
_QUICK = {"train_rows": 400, "validation_rows": 100, "test_rows": 200, "guard_rows": 50, "draws": 2}


class Price(Config):
    """What a query costs, in money of any kind."""

    machine_hour: float | None = Field(default=None, ge=0)
    """money for an hour of this machine, for the price of 1,000 queries"""
    million_tokens: float | None = Field(default=None, ge=0)
    """or money for a million prompt tokens"""

    @model_validator(mode="after")
    def _one_of_two(self) -> Price:
        if self.machine_hour is not None and self.million_tokens is not None:
            raise ValueError("give machine_hour or million_tokens, not both")
        return self


class ClimbConfig(Config):
    """What `ladder`, `plan` and `prompt` share: a task, a model, how many rows of each kind, and where it all goes."""

    task: str
    """embedded task, task YAML, or a file with text and label columns"""
    model: str = "smollm2"
    """embedded name, local directory, hub id, or (routes without training) an OpenAI-compatible URL: https://host/v1#name"""
    train_rows: int = Field(1600, ge=1)
    """at most this many training rows"""
    validation_rows: int = Field(200, ge=0)
    """at most this many rows for early stopping"""
    test_rows: int = Field(1000, ge=1)
    """at most this many items to measure on"""
    dtype: Literal["auto", "bf16", "fp32", "bfloat16", "float32"] = "auto"
    """precision of the weights; auto = bf16 where the processor has it"""
    threads: int | None = Field(None, ge=1)
    """processor threads; absent = all"""
    cache_gb: float = Field(2.0, gt=0, allow_inf_nan=False)
    """most memory for keys and values of prompts, 10^9 bytes; less is slower and gives the same answers"""
    seed: int = 0
    """decides the draws of demonstrations, the order of rows, and initial weights"""
    run_dir: str | None = None
    """absent = a folder below runs/ named after the command, the task and what is done with it"""
    overwrite: bool = False
    """throw away finished work in run_dir"""
    resume: bool = True
    """reuse finished work in run_dir; --resume false is --overwrite"""
    skip_bad_rows: bool = False
    """go on with the good rows of a file and list the bad ones"""
    allow_canary: bool = False
    """learn from rows that carry a canary (bigbench:TASK), which are meant for measuring only; the run records it"""

    def rows(self, task: Task) -> dict[str, list[Example]]:
        """Return the rows of a task that are used, by what they are used for."""
        splits = task.splits
        return {
            "test items": splits.test[: self.test_rows],
            "training rows": splits.train[: self.train_rows],
            "validation rows": splits.validation[: self.validation_rows],
        }


class LadderConfig(ClimbConfig):
    """Settings of `tunesmith ladder`."""

    routes: list[str | dict[str, Any]] = [*_ROUTES]
    """which routes; few-shot:shots=8 sets a route's own parameters"""
    remedies: bool = False
    """compare remedies against forgetting: zero-shot, full, replay, l2-sp, ewc, wise-ft with and without l2-sp, and lora,
    without baselines"""
    baselines: list[str] = [*_BASELINES]
    """rows without a language model; none = none"""
    shots: int = Field(4, ge=1)
    """demonstrations of the few-shot routes"""
    draws: int = Field(3, ge=1)
    """seeded draws of demonstrations"""
    ranks: list[Annotated[int, Field(ge=1)]] = Field([16], min_length=1)
    """ranks of the LoRA route, each a row"""
    guard_rows: int = Field(100, ge=1)
    """rows of each guard task for forgetting"""
    train: FitParameters = FitParameters.model_validate({})
    """how trained routes are trained"""
    quick: bool = False
    """a first look in minutes: few rows, two draws"""
    target: float | None = Field(None, gt=0, le=1)
    """stop climbing once the lower bound of a route's interval reaches this"""
    budget_minutes: float | None = Field(None, gt=0)
    """start no route that would not finish within this"""
    price: Price = Price()
    engine: Literal["local", "ray"] = "local"
    """local = one route after another; ray = side by side, each where processors (--threads) and memory for it are free"""
    address: str | None = None
    """a running Ray cluster, for example auto or ray-head:6379; absent = start one here; needs --engine ray"""

    @model_validator(mode="after")
    def _one_after_another(self) -> LadderConfig:
        if self.engine == "ray" and (self.target is not None or self.budget_minutes is not None):
            raise ValueError("target and budget_minutes stop a climb between routes, and --engine ray climbs them side by side")
        if self.address and self.engine != "ray":
            raise ValueError("address needs --engine ray")
        return self

    @model_validator(mode="before")
    @classmethod
    def _for_remedies(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("remedies") not in (True, "true"):
            return given
        if "routes" in given and given["routes"] != _REMEDIES:
            raise ValueError("remedies and routes exclude each other: remedies names the routes itself")
        return {"baselines": [], **given, "routes": [*_REMEDIES]}

    def quickened(self) -> LadderConfig:
        """Return the settings of a first look: fewer rows and draws."""
        return self.model_copy(update={key: min(value, getattr(self, key)) for key, value in _QUICK.items()})


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn {"train": {"epochs": 1}} into {"train.epochs": 1}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return found
