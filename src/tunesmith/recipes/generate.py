"""Continue prompts from the command line or a file, greedily or sampled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from tunesmith.core.config import Config as BaseConfig
from tunesmith.core.errors import UserError, near_miss

if TYPE_CHECKING:
    from tunesmith.models.constraint import Constraint

POSITIONAL = "prompt"
EXAMPLES = (
    'tunesmith generate "The film was" --temperature 1 --n 3',
    "tunesmith generate --prompts prompts.txt --out answers.jsonl",
    "tunesmith generate --prompts rows.jsonl --adapters.law a/adapter",
)


class Config(BaseConfig):
    """Settings of `tunesmith generate`."""

    prompt: str | None = None
    """the text to continue"""
    prompts: str | None = None
    """a file with one prompt a line, or a .jsonl file of rows with prompt and, where --adapters are given, adapter"""
    model: str = "smollm2"
    """embedded name, local directory, hub id, or an OpenAI-compatible URL such as https://host/v1#name"""
    adapter: str | None = None
    """adapter directory"""
    adapters: dict[str, str] = {}
    """several on one model, name by name (--adapters.law DIR); rows of a .jsonl file of prompts name theirs"""
    max_new_tokens: int = Field(48, ge=1)
    temperature: float = 0.0
    """0 = greedy"""
    top_p: float = 1.0
    n: int = Field(1, ge=1)
    """completions a prompt"""
    stop: list[str] = []
    """strings that end an answer"""
    choices: list[str] = []
    """answers must be one of these words"""
    regex: str | None = None
    """answers must match this regular expression"""
    json_schema: str | None = None
    """answers must be JSON that fits the schema in this file"""
    out: str | None = None
    """JSONL file for prompts and completions"""
    dtype: str = "auto"
    threads: int | None = None
    cache_gb: float = Field(2.0, gt=0, allow_inf_nan=False)
    """most memory for keys and values of prompts, 10^9 bytes; less is slower and gives the same answers"""
    seed: int = 0

    @model_validator(mode="after")
    def _one_constraint(self) -> Config:
        if len([c for c in (self.choices, self.regex, self.json_schema) if c]) > 1:
            raise ValueError("choices, regex and json_schema exclude each other")
        if self.adapter and self.adapters:
            raise ValueError("adapter and adapters exclude each other: give all of them as adapters")
        return self


def run(config: Config) -> dict[str, Any]:
    """Continue every prompt `n` times.

    Raises:
        UserError: neither or both of prompt and prompts, or a prompt that does not fit.
    """
    from tunesmith.core.files import write_jsonl
    from tunesmith.core.memory import limit_cache
    from tunesmith.models.engine import generate
    from tunesmith.models.generate import Sampling
    from tunesmith.recipes._models import load, open_engine, quiet_libraries, use_threads
    from tunesmith.recipes._open.kinds import named

    asked, constraint = _asked(config), _constraint(config)
    quiet_libraries()
    use_threads(config.threads)
    limit_cache(config.cache_gb)
    if config.adapters:
        lm = load(config.model, None, config.dtype, adapters=config.adapters)
    else:
        model, adapter = named(config)
        lm = open_engine(model, config.dtype, adapter)
    how = Sampling(config.max_new_tokens, config.temperature, config.top_p, tuple(config.stop), constraint)
    adapters, prompts = [adapter for adapter, _ in asked], [prompt for _, prompt in asked]
    answers = generate(lm, prompts, how, config.seed, config.n, adapters)
    rows = [
        {
            "prompt": p,
            **({"adapter": a} if a else {}),
            "completions": [{"text": c.text, "stop_reason": c.stop_reason} for c in cs],
        }
        for (a, p), cs in zip(asked, answers, strict=True)
    ]
    if config.out:
        write_jsonl(Path(config.out), rows)
    return {"status": "done", "answers": rows, "out": config.out}


def _constraint(config: Config) -> Constraint | None:
    """Return what answers must match."""
    from tunesmith.models.constraint import Constraint

    if config.choices:
        return Constraint.choices(config.choices)
    if config.json_schema:
        try:
            return Constraint.json_schema(Path(config.json_schema).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{config.json_schema} cannot be read as UTF-8 text ({error})") from None
    return Constraint(config.regex) if config.regex else None


def _asked(config: Config) -> list[tuple[str | None, str]]:
    """Return the prompts, each with the adapter that continues it (None = the base, or the only adapter)."""
    if (config.prompt is None) == (config.prompts is None):
        raise UserError("give either one prompt or --prompts FILE")
    if config.prompts is None:
        asked, where = [_asked_in(config.prompt or "", "", False)], "the prompt"
    else:
        where = f"a line of {config.prompts}"
        try:
            lines = Path(config.prompts).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{config.prompts} cannot be read as UTF-8 text ({error})") from None
        rows = config.prompts.endswith(".jsonl")
        asked = [_asked_in(line, f"{config.prompts}:{n}", rows) for n, line in enumerate(lines, 1)]
    if not asked or not all(prompt for _, prompt in asked):
        raise UserError(f"{where} is empty" if asked else f"{config.prompts} is empty", "A model continues at least one word.")
    known = [*config.adapters, "base"]
    for number, (adapter, _) in enumerate(asked, 1):
        if adapter is not None and adapter not in known:
            raise UserError(f"{config.prompts}:{number}: there is no adapter '{adapter}'", near_miss(adapter, known))
    return asked


def _asked_in(line: str, where: str, is_row: bool) -> tuple[str | None, str]:
    if not is_row:
        return None, line
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(
            f"{where} is not JSON ({error})", 'Write {"prompt": "..."} or {"prompt": "...", "adapter": "name"}.'
        ) from None
    allowed = isinstance(row, dict) and {*row} <= {"prompt", "adapter"} and isinstance(row.get("prompt"), str)
    if not allowed or not isinstance(row.get("adapter"), str | None):
        raise UserError(f"{where} is no row of a prompt", 'Write {"prompt": "..."} or {"prompt": "...", "adapter": "name"}.')
    return row.get("adapter"), row["prompt"]


def render(report: dict[str, Any]) -> str:
    """Return the prompts with their continuations."""
    if report["out"]:
        return f"{len(report['answers'])} prompts continued; see {report['out']}"
    return json.dumps(report["answers"], indent=2, ensure_ascii=False)
