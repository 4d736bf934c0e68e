"""Look into a saved adapter (what it is, whether it still works), or measure a scorer against people and attacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from tunesmith.core.config import Config as BaseConfig
from tunesmith.core.errors import UserError, unknown

if TYPE_CHECKING:
    from tunesmith.models.load import LM

POSITIONAL = ("kind", "what")
EXAMPLES = (
    "tunesmith inspect adapter runs/tune-movies/adapter",
    "tunesmith inspect adapter DIR --task movies --json",
    "tunesmith inspect scorer reward-model:path=runs/reward-movies --data movies",
)
_LITTLE = (
    "Near is not the same: these tokens are the closest there are, at the distances shown, and no translation of the prompt. "
    "A prompt that starts from class words often keeps them near whatever it learned, and prompts whose neighbours make no "
    "sense work as well (Lester et al. 2021, section 3.2). Judge a prompt by what the model does with it."
)

# How a prompt was begun, and made in training, is not in its files, so what is read says nothing of it.
_BEGUN = {"init", "label_ids", "encoder"}


class Config(BaseConfig):
    """Settings of `tunesmith inspect`."""

    kind: Literal["adapter", "scorer"]
    """adapter = a saved LoRA, soft prompt or prefix; scorer = who judges answers for align"""
    what: str
    """the directory of the adapter or of its run; or the scorer as align is given it: lexicon, FILE.py:FUNCTION,
    reward-model:path=DIR"""
    data: str | None = None
    """of a scorer: judgements to measure it by, a file of preferences or a rated task"""
    rows: int = Field(200, ge=2)
    """of a scorer: at most this many judgements"""
    model: str | None = None
    """its base: embedded name, directory or hub id; absent = the one it names"""
    task: str | None = None
    """task whose answer words are looked for among the nearest tokens"""
    nearest: int = Field(5, ge=1, le=100)
    """tokens listed for each virtual one"""
    dtype: str = "auto"
    threads: int | None = None

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        others = {"scorer": {"model", "task", "nearest", "dtype"}, "adapter": {"data", "rows"}}[self.kind]
        if given := others & self.model_fields_set:
            raise ValueError(f"{', '.join(sorted(given))}: not for a {self.kind}")
        if self.kind == "scorer" and self.data is None:
            raise ValueError("a scorer is measured by what people said: name it with --data, for example --data movies")
        return self


def run(config: Config) -> dict[str, Any]:
    """Load an adapter on its base, which replays its probe, and say what it is; or measure a scorer.

    Returns:
        Of a scorer what `recipes._reward.inspecting` says; of an adapter status, folder, method, peft_type, base,
        base_identity, parameters, head (None = it goes on with text), tensors, saved_parameters, bytes, probe and, for
        virtual tokens, tokens, class_words and caution.

    Raises:
        UserError: no adapter, a damaged one, or a base or task that is not there.
        WorkFailed: the adapter does not behave as when it was saved.
    """
    if config.kind == "scorer":
        from tunesmith.recipes._reward.inspecting import inspect_scorer

        assert config.data is not None
        return inspect_scorer(config.what, config.data, config.rows, config.threads)
    from tunesmith.peft._files import entry_of, read_config
    from tunesmith.recipes._models import use_threads
    from tunesmith.recipes._open.inspecting import head_of, lm_of
    from tunesmith.recipes._open.kinds import placed
    from tunesmith.recipes._open.opening import load

    base, what = placed(config.model, config.what)
    folder = Path(what or config.what)
    saved = read_config(folder)
    use_threads(config.threads)
    opened = load(base, str(folder), config.dtype)
    lm, entry = lm_of(opened), entry_of(folder, saved)
    state = entry.state(lm.model)
    report = {
        "status": "done", "folder": str(folder), "method": entry.__name__.rpartition(".")[2],
        "peft_type": saved["peft_type"], "base": base, "base_identity": lm.identity,
        "parameters": entry.from_peft_config(saved).model_dump(exclude=_BEGUN), "head": head_of(opened, saved),
        "tensors": len(state), "saved_parameters": sum(t.numel() for t in state.values()),
        "bytes": sum(f.stat().st_size for f in folder.iterdir() if f.is_file()), "probe": _probe(folder),
    }  # fmt: skip
    return {**report, **_virtual_tokens(config, lm)}


def _probe(folder: Path) -> dict[str, Any] | None:
    """What was replayed when it was loaded; None where there is none to replay."""
    path = folder / "probe.json"
    if not path.is_file():
        return None
    probe = json.loads(path.read_text(encoding="utf-8"))
    return {"prompts": len(probe["prompts"]), "dtype": probe["dtype"], "base_identity": probe["base_identity"], "replayed": True}


def _virtual_tokens(config: Config, lm: LM) -> dict[str, Any]:
    """The nearest tokens of every virtual one; nothing for an adapter without virtual tokens."""
    from tunesmith.models.soft_prefix import soft_prefix_of
    from tunesmith.peft._nearest import nearest_tokens

    soft = soft_prefix_of(lm.model)
    if soft is None or soft.cache_shape:
        if config.task:
            raise UserError("--task looks for words near virtual tokens, and this adapter has none", "Leave it out.")
        return {}
    embeddings, table = soft.embeddings().detach(), lm.model.get_input_embeddings().weight.detach()
    ids, cosines = nearest_tokens(embeddings, table, config.nearest)
    tokens = [
        {
            "position": position,
            "norm": float(embeddings[position].norm()),
            "nearest": [
                {"id": token, "token": lm.tokenizer.decode([token]), "cosine": cosine, "distance": 1 - cosine}
                for token, cosine in zip(row, near, strict=True)
            ],
        }
        for position, (row, near) in enumerate(zip(ids.tolist(), cosines.tolist(), strict=True))
    ]
    typical = float(table.float().norm(dim=1).median())
    return {
        "tokens": tokens,
        "median_norm_of_vocabulary": typical,
        "class_words": _class_words(config, lm, tokens),
        "caution": _LITTLE,
    }


def _class_words(config: Config, lm: LM, tokens: list[dict[str, Any]]) -> dict[str, Any] | None:
    """How often the task's answer words, or pieces of them, are among the nearest tokens."""
    if config.task is None:
        return None
    from tunesmith.data.prompts import Prompts
    from tunesmith.data.task import embedded_tasks, load_task, names_task

    if not names_task(config.task) and not Path(config.task).is_file():
        raise unknown("task", config.task, embedded_tasks())
    task = load_task(config.task, skip_bad_rows=True)
    if task.verbalizer is None:
        raise UserError(f"the task '{task.name}' has no choices, so no class words", "Leave --task out.")
    pieces = [lm.tokenizer.decode([i]) for answer in Prompts(task, lm.tokenizer).answers() for i in answer]
    words = {_plain(word) for word in [*task.verbalizer.flat(), *pieces]} - {""}
    near = [_plain(one["token"]) in words for token in tokens for one in token["nearest"]]
    positions = [t["position"] for t in tokens if any(_plain(one["token"]) in words for one in t["nearest"])]
    return {"words": sorted(words), "found": sum(near), "of": len(near), "positions": positions}


def _several(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _plain(text: str) -> str:
    return text.strip().lower()


def render(report: dict[str, Any]) -> str:
    """Return the facts, and for a soft prompt its nearest tokens, for a terminal."""
    import textwrap

    from tunesmith.recipes._open.inspecting import head_in_words

    if "scorer" in report:
        from tunesmith.recipes._reward.inspecting import render_scorer

        return render_scorer(report)
    settings = ", ".join(f"{key} {value}" for key, value in report["parameters"].items() if value not in (None, []))
    probe = report["probe"]
    lines = [
        f"{report['folder']}: {report['method']} ({report['peft_type']}) of {report['base']}",
        f"  {report['saved_parameters']:,} parameters in {_several(report['tensors'], 'tensor')}; {report['bytes']:,} bytes",
        f"  {settings}",
        *head_in_words(report["head"]),
        f"  probe: {probe['prompts']} prompts gave the logits they gave when it was saved" if probe else "  probe: it has none",
    ]
    if "tokens" not in report:
        return "\n".join(lines)
    lines.append(f"  nearest tokens by cosine (length of an embedding: {report['median_norm_of_vocabulary']:.2f} in the middle)")
    for token in report["tokens"]:
        near = ", ".join(f"{one['token']!r} {one['cosine']:.2f}" for one in token["nearest"])
        lines.append(f"  {token['position']:>3}  length {token['norm']:5.2f}  {near}")
    if found := report["class_words"]:
        at = f", all at {_several(len(found['positions']), 'virtual token')}" if found["found"] else ""
        lines.append(f"  class words among them: {found['found']} of {found['of']} ({', '.join(found['words'])}){at}")
    return "\n".join([*lines, *textwrap.wrap(report["caution"], 80, initial_indent="  ", subsequent_indent="  ")])
