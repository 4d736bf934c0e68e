"""A reward model on disk: an adapter or model directory as any other, with a reward.json that says what it is and proves it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import safe_open

from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.core.files import canonical, sha256, text_hash, verify_manifest, write_json, write_manifest
from tunesmith.core.records import Message
from tunesmith.models.encoder import load_headed
from tunesmith.models.load import LM, load
from tunesmith.peft import lora
from tunesmith.peft._files import base_of, load_adapter, read_config
from tunesmith.recipes._artefact import save_artefact
from tunesmith.recipes._open.kinds import REWARD_FILE as FILE
from tunesmith.recipes._reward.model import HEAD, Prompt, RewardModel, put_head
from tunesmith.recipes._tune.heads import load_tuned

KIND, ENSEMBLE = "reward model", "reward ensemble"
_PROBES = 4
# Of a reward's deviation over the probe and its neighbours, what rounding alone explains, by precision.
_ROUNDING = {torch.float32: 5e-3, torch.bfloat16: 0.25, torch.float16: 0.1}


@dataclass(frozen=True)
class Trunk:
    """A policy's model, on which a reward model of the same base can live: one trunk in memory.

    Attributes:
        aside: a with-block in which the policy's own adapter is off and the model is its base.
    """

    lm: LM
    aside: Any


def save(
    folder: Path, it: RewardModel, method: tuple[ModuleType, Any], probes: Sequence[tuple[Prompt, str]], about: dict[str, Any]
) -> Path:
    """Write `adapter/` or `model/` below a run's folder, and return it.

    Args:
        probes: a few prompts with completions; their rewards are kept, and must come back when it is opened.
        about: what else `reward.json` says.

    Raises:
        WorkFailed: the disk could not take it.
    """
    heads, probes = () if it.encoder and method[0].SAVES == "model" else _heads(it), list(probes)[:_PROBES]
    prompts = [it.ids(*probe) for probe in probes]
    artefact = save_artefact(folder, it.lm, method, prompts, "Reward model", heads, "SEQ_CLS")
    rewards = it.score(probes)
    record = {
        "kind": KIND, "reads": "encoder" if it.encoder else "decoder", "base": Path(it.lm.name).name,
        "base_identity": it.lm.identity, "prompts": it.prompts, "gain": it.gain, "bias": it.bias, "trained_gain": it.trained_gain,
        "dtype": str(it.lm.dtype).removeprefix("torch."), **about,
        "probe": [
            {"prompt": _plain(prompt), "completion": completion, "reward": reward}
            for (prompt, completion), reward in zip(probes, rewards, strict=True)
        ],
    }  # fmt: skip
    try:
        write_json(artefact / FILE, record)
        write_manifest(artefact)
    except OSError as error:
        raise WorkFailed(f"cannot write {artefact}: {error}", "Free some space; the same command then only saves.") from error
    return artefact


def _heads(it: RewardModel) -> tuple[str, ...]:
    return ("classifier",) if it.encoder else (HEAD,)


def _plain(prompt: Prompt) -> Any:
    return prompt if isinstance(prompt, str) else [{"role": m.role, "content": m.content} for m in prompt]


def record_of(folder: Path) -> dict[str, Any]:
    """Read `reward.json` of a reward model or ensemble; a run directory stands for what it has made.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        record = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if record["kind"] not in (KIND, ENSEMBLE):
            raise ValueError(f"its kind is {record['kind']!r:.40}")
    except FileNotFoundError:
        raise UserError(f"{folder} is no reward model: it has no {FILE}", "Train one: tunesmith reward DATA.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / FILE} cannot be read: {error}", "Use another copy of the reward model.") from None
    return dict(record)


def identity_of(path: str) -> str:
    """Return a hash of a reward model's files, or of all members of an ensemble: another model in its place has another.

    Raises:
        UserError: no reward model, or damaged.
    """
    folder = found_in(path)
    record = record_of(folder)
    if record["kind"] == ENSEMBLE:
        return text_hash(canonical([identity_of(str(folder / member)) for member in record["members"]]))
    manifest = folder / "MANIFEST.json"
    return sha256(manifest if manifest.is_file() else folder / FILE)


def found_in(path: str) -> Path:
    """Return the directory of a reward model, given it or the run that made it.

    Raises:
        UserError: there is no such directory.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"there is no reward model '{path}'", "Give the folder that 'tunesmith reward' saved.")
    inside = (folder, folder / "ensemble", folder / "adapter", folder / "model")
    return next((one for one in inside if (one / FILE).is_file()), folder)


def open_reward(path: str, base: str | None = None, dtype: str = "auto", trunk: Trunk | None = None) -> list[RewardModel]:
    """Open a reward model, or all members of an ensemble.

    Args:
        base: model it stands on, where it is not found under the name it has kept.
        trunk: a policy's model; a LoRA reward model of the same base is put on it, others are loaded beside it.

    Raises:
        UserError: no reward model, damaged, or for another base.
        WorkFailed: its rewards do not come back.
    """
    folder = found_in(path)
    record = record_of(folder)
    if record["kind"] == ENSEMBLE:
        return [one for member in record["members"] for one in open_reward(str(folder / member), base, dtype, trunk)]
    if (folder / "MANIFEST.json").is_file() and (problem := verify_manifest(folder)):
        raise UserError(f"the reward model in {folder} is damaged: {problem}", "Use another copy of it.")
    bare = _bare(folder, record, base, dtype, trunk)
    try:
        numbers = {key: float(record[key]) for key in ("gain", "bias", "trained_gain")}
        it = replace(bare, prompts=str(record["prompts"]), **numbers)
        probe = [(prompt_of(one["prompt"]), str(one["completion"]), float(one["reward"])) for one in record["probe"]]
        saved_as = getattr(torch, record["dtype"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / FILE} cannot be read: {error}", "Use another copy of the reward model.") from None
    it.lm.model.requires_grad_(False)
    _replay(folder, it, probe, max(_ROUNDING[saved_as], _ROUNDING[it.lm.dtype]))
    return [it]


def _bare(folder: Path, record: dict[str, Any], base: str | None, dtype: str, trunk: Trunk | None) -> RewardModel:
    """Load weights and head, or put them on the trunk."""
    encoder, whole = record.get("reads") == "encoder", not (folder / "adapter_config.json").is_file()
    precision = "fp32" if encoder and dtype == "auto" else dtype
    if encoder and whole:
        lm = load_headed(str(folder), "classifier", dtype=precision)[0]
        return RewardModel(lm, True, lm.model.classifier)
    if whole:
        lm = load(str(folder), dtype)
        _take_up(folder, put_head(lm, 0))
        return RewardModel(lm, False, lm.model.score)
    if encoder:
        lm = load_tuned(base or base_of(folder), str(folder), "classifier", precision)
        return RewardModel(lm, True, lm.model.classifier)
    if trunk and trunk.lm.identity == record.get("base_identity") and read_config(folder).get("peft_type") == lora.PEFT_TYPE:
        return _on_trunk(folder, trunk)
    lm = load(base or base_of(folder), dtype)
    put_head(lm, 0)
    load_adapter(lm, folder)
    return RewardModel(lm, False, lm.model.score)


def _on_trunk(folder: Path, trunk: Trunk) -> RewardModel:
    """Attach an adapter to a policy's bare model, which checks it, and take it off again, ready to be put in place."""
    model = trunk.lm.model
    head = put_head(trunk.lm, 0)
    try:
        load_adapter(trunk.lm, folder)
    finally:
        layers: dict[str, torch.nn.Module] = {**lora.take_off(model)}
        del model.score
    for module in (head, *layers.values()):
        module.requires_grad_(False).eval()
    return RewardModel(trunk.lm, False, head, layers=layers, aside=trunk.aside)


def _take_up(folder: Path, head: Any) -> None:
    """Copy the head that was saved with a model's weights.

    Raises:
        UserError: it was not, or it has another shape.
    """
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            saved = tensors.get_tensor(f"{HEAD}.weight") if f"{HEAD}.weight" in tensors.keys() else None  # noqa: SIM118
        if saved is not None and saved.shape == head.weight.shape:
            with torch.no_grad():
                head.weight.copy_(saved)
            return
    raise UserError(f"{folder} has no head for rewards", "Use another copy of the reward model.")


def prompt_of(saved: Any) -> Prompt:
    """Return a prompt of a text, or of turns as {"role", "content"}."""
    return saved if isinstance(saved, str) else tuple(Message(turn["role"], turn["content"]) for turn in saved)


def _replay(folder: Path, it: RewardModel, probe: Sequence[tuple[Prompt, str, float]], rounding: float) -> None:
    rewards = it.score([(prompt, completion) for prompt, completion, _ in probe])
    scale = max((abs(reward) for *_, reward in probe), default=0.0) + abs(it.gain)
    for (_, completion, wanted), reward in zip(probe, rewards, strict=True):
        if not abs(reward - wanted) <= rounding * scale:
            raise WorkFailed(
                f"the reward model in {folder} gives {reward:.4g} to {completion[:40]!r}, and gave {wanted:.4g} when saved",
                "Its base may be another one: name it with model, or use another copy.",
            )


def trunk_of(method: tuple[ModuleType, Any], lm: LM) -> Trunk | None:
    """Return the trunk that a policy about to be trained by this method can share; None where its base weights change."""
    entry, _ = method

    def aside() -> AbstractContextManager[None]:
        return entry.disabled(lm.model)

    return Trunk(lm, aside) if entry.SAVES == "adapter" and entry is lora else None
