"""Look into a saved adapter: method, base, parameters, whether it still works, and which words a soft prompt is near to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tunesmith.core.config import Config as BaseConfig
from tunesmith.core.errors import UserError, unknown

if TYPE_CHECKING:
    from tunesmith.models.load import LM

POSITIONAL = ("kind", "what")
EXAMPLES = ("tunesmith inspect adapter runs/tune-movies/adapter", "tunesmith inspect adapter DIR --task movies --json")
_LITTLE = (
    "Near is not the same: these tokens are the closest there are, at the distances shown, and no translation of the prompt. "
    "A prompt that starts from class words often keeps them near whatever it learned, and prompts whose neighbours make no "
    "sense work as well (Lester et al. 2021, section 3.2). Judge a prompt by what the model does with it."
)

# How a prompt was begun, and made in training, is not in its files, so what is read says nothing of it.
_BEGUN = {"init", "label_ids", "encoder"}


class Config(BaseConfig):
    """Settings of `tunesmith inspect`."""

    kind: Literal["adapter"]
    """adapter = a saved LoRA, soft prompt or prefix"""
    what: str
    """its directory"""
    model: str | None = None
    """its base: embedded name, directory or hub id; absent = the one it names"""
    task: str | None = None
    """task whose answer words are looked for among the nearest tokens"""
    nearest: int = Field(5, ge=1, le=100)
    """tokens listed for each virtual one"""
    dtype: str = "auto"
    threads: int | None = None


def run(config: Config) -> dict[str, Any]:
    """Load an adapter on its base, which replays its probe, and say what it is.

    Returns:
        status, folder, method, peft_type, base, base_identity, parameters, tensors, saved_parameters, bytes, probe and, for
        virtual tokens, tokens, class_words and caution.

    Raises:
        UserError: no adapter, a damaged one, or a base or task that is not there.
        WorkFailed: the adapter does not behave as when it was saved.
    """
    from tunesmith.peft._files import read_config
    from tunesmith.recipes._models import load_attached, use_threads

    folder = Path(config.what)
    if not folder.is_dir():
        raise UserError(f"there is no adapter directory '{config.what}'", "Give the folder that holds adapter_config.json.")
    saved = read_config(folder)
    base = config.model or saved.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise UserError(f"{folder} does not say which model it was made for", "Name it: --model.")
    use_threads(config.threads)
    lm, attached = load_attached(base, config.what, config.dtype)
    assert attached is not None
    state = attached.entry.state(lm.model)
    report = {
        "status": "done", "folder": str(folder), "method": attached.entry.__name__.rpartition(".")[2],
        "peft_type": saved["peft_type"], "base": base, "base_identity": lm.identity,
        "parameters": attached.parameters.model_dump(exclude=_BEGUN), "tensors": len(state),
        "saved_parameters": sum(t.numel() for t in state.values()),
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

    settings = ", ".join(f"{key} {value}" for key, value in report["parameters"].items() if value not in (None, []))
    probe = report["probe"]
    lines = [
        f"{report['folder']}: {report['method']} ({report['peft_type']}) of {report['base']}",
        f"  {report['saved_parameters']:,} parameters in {_several(report['tensors'], 'tensor')}; {report['bytes']:,} bytes",
        f"  {settings}",
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
