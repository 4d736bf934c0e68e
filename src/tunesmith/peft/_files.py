"""Adapter directories: plain Hugging Face PEFT files, plus tokenizer, card, and a probe that loading replays."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.core.files import verify_manifest, write_json, write_manifest, write_text
from tunesmith.core.registry import PEFT
from tunesmith.models import embedded, toy
from tunesmith.models.soft_prefix import cache_of, prefix_key_values
from tunesmith.peft._heads import heads_state, load_heads

_PROBED_TOKENS = 32
# Mean logit error that rounding alone explains, when an adapter is replayed in another precision than it was saved in.
_ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.05}


@dataclass(frozen=True)
class Attached:
    """An adapter on a model: its peft entry and parameters, and its trainable tensors by name."""

    entry: ModuleType
    parameters: Any
    trained: dict[str, torch.nn.Parameter]


def save_adapter(
    folder: Path,
    lm: Any,
    entry: Any,
    parameters: Any,
    prompts: list[tuple[int, ...]],
    card: str,
    heads: Sequence[str] = (),
    task_type: str = "CAUSAL_LM",
) -> None:
    """Write an adapter directory that explains itself, and that any PEFT loads where PEFT has the method.

    Embeddings that were given rows for new tokens are written too.

    Args:
        prompts: a few prompts' token ids; their logits with and without the adapter are kept as the probe.
        card: text of README.md.
        heads: modules that were trained whole, as PEFT's `modules_to_save`.
        task_type: what PEFT calls a model with such a head: CAUSAL_LM, SEQ_CLS, TOKEN_CLS, QUESTION_ANS, SEQ_2_SEQ_LM.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": entry.PEFT_TYPE,
        "task_type": task_type,
        # A name or hub id travels with the adapter; a path of the machine it was made on would not.
        "base_model_name_or_path": Path(lm.name).name if Path(lm.name).is_dir() else lm.name,
        "inference_mode": True,
        **({"modules_to_save": list(heads)} if heads else {}),
        **entry.to_peft_config(lm.model, parameters),
    }
    tensors = entry.state(lm.model) | heads_state(lm, heads)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    write_json(folder / "adapter_config.json", config)
    lm.tokenizer.save_pretrained(folder)
    write_text(folder / "README.md", card)
    with entry.disabled(lm.model):
        without = _probe_logits(lm, prompts)
    adapted = _probe_logits(lm, prompts)
    probe = [
        {"prompt_ids": list(ids), "outputs": top, "logits": values, "logits_without_adapter": [base[i] for i in top]}
        for ids, base, (top, values) in zip(prompts, without, map(_top, adapted), strict=True)
    ]
    write_json(
        folder / "probe.json", {"base_identity": lm.identity, "dtype": str(lm.dtype).removeprefix("torch."), "prompts": probe}
    )
    write_manifest(folder)


def load_adapter(lm: Any, folder: Path) -> Attached:
    """Attach a saved adapter to a loaded base and prove that it is the one that was saved.

    Raises:
        UserError: not an adapter directory, damaged, pickled, or made for another base.
        WorkFailed: the probe's logits do not come back on the base it was made for.
    """
    config = read_config(folder)
    entry, heads = entry_of(folder, config), heads_in(config)
    if (folder / "MANIFEST.json").is_file() and (problem := verify_manifest(folder)):
        raise UserError(f"the adapter in {folder} is damaged: {problem}", "Use another copy of it.")
    try:
        tensors = load_file(folder / "adapter_model.safetensors")
    except FileNotFoundError:
        raise UserError(
            f"{folder} has no adapter_model.safetensors", "Pickled adapters (.bin) are refused: they can run code."
        ) from None
    except SafetensorError as error:
        raise UserError(f"{folder}/adapter_model.safetensors is damaged: {error}") from error
    parameters = entry.from_peft_config(config)
    trained = entry.attach(lm.model, parameters, seed=0)
    # Heads are loaded after the method has frozen the model: they can be trained further.
    heads_trained = load_heads(lm, folder, heads, tensors, own=entry.state(lm.model).keys())
    entry.load_state(lm.model, tensors)
    _replay(lm, folder)
    return Attached(entry, parameters, {**trained, **heads_trained})


def entry_of(folder: Path, config: Mapping[str, Any]) -> ModuleType:
    """Return the peft method that an `adapter_config.json` is of.

    Raises:
        UserError: a kind that is not read here.
    """
    kinds = {PEFT.get(name).PEFT_TYPE: PEFT.get(name) for name in PEFT.names() if PEFT.get(name).SAVES == "adapter"}
    if config.get("peft_type") not in kinds:
        raise UserError(f"{folder} is a {config.get('peft_type')} adapter", f"This version reads {', '.join(sorted(kinds))}.")
    return kinds[config["peft_type"]]


def heads_in(config: Mapping[str, Any]) -> list[str]:
    """Return the names of the modules that were trained whole and travel with an adapter.

    Raises:
        UserError: no list of names.
    """
    heads = config.get("modules_to_save") or []
    if not isinstance(heads, list) or not all(isinstance(head, str) and head for head in heads):
        raise UserError(f"adapter_config.json: modules_to_save is {heads!r:.60}", "A list of modules' names is read here.")
    return heads


def read_config(folder: Path) -> dict[str, Any]:
    """Read `adapter_config.json`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        return dict(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{folder} is not an adapter directory: it has no adapter_config.json", "Check the path.") from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder}/adapter_config.json cannot be read: {error}", "Use another copy of the adapter.") from None


def base_of(folder: Path) -> str:
    """Return the model that an adapter was made for: its name, or the directory that it was in.

    The adapter itself holds no path. The `run.json` beside it says what its run was told, and is believed as seen from here,
    from the run or from a folder above it, so that runs can be moved together. Loading proves that it is the base.

    Raises:
        UserError: no adapter, or one whose base is not said or is nowhere to be found.
    """
    name = read_config(folder).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise UserError(f"{folder} does not say which model it was made for", "Name it: --model.")
    told = _told(folder.resolve().parent)
    if told and Path(told).name == name:
        for above in (Path(), *folder.resolve().parents):
            if (above / told / "config.json").is_file():
                return str(above / told)
    if name in (*embedded.NAMES, *toy.NAMES) or "/" in name or Path(name).is_dir():
        return name
    raise UserError(f"the base of {folder} was a directory '{told or name}', which is not there", "Name it: --model.")


def _told(run: Path) -> str:
    """Return the model that a run was told to begin with; "" where its directory does not say."""
    try:
        return str(json.loads((run / "run.json").read_text(encoding="utf-8"))["inputs"]["model"] or "")
    except (OSError, ValueError, TypeError, LookupError):
        return ""


def _probe_logits(lm: Any, prompts: list[tuple[int, ...]]) -> list[list[float]]:
    with torch.inference_mode():
        prefix = prefix_key_values(lm.model)
        behind = [{"past_key_values": cache_of(prefix, 1)} if prefix else {} for _ in prompts]
        inputs = [torch.tensor([ids], device=lm.device) for ids in prompts]
        return [_outputs(lm.model(**_asked(lm, i), **b)) for i, b in zip(inputs, behind, strict=True)]


def _asked(lm: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a model reads a prompt as; a model with a decoder of its own begins that with the prompt's first token."""
    return {"input_ids": ids, "decoder_input_ids": ids[:, :1]} if lm.model.config.is_encoder_decoder else {"input_ids": ids}


def _outputs(answer: Any) -> list[float]:
    """The numbers that a prompt is answered with: the next token's or the class's logits, or those of start and end."""
    spans = [part for part in (answer.get("start_logits"), answer.get("end_logits")) if part is not None]
    logits = torch.cat(spans, -1)[0] if spans else answer.logits[0]
    return logits.reshape(-1, logits.shape[-1])[-1].float().tolist()


def _top(logits: list[float]) -> tuple[list[int], list[float]]:
    best = sorted(range(len(logits)), key=lambda i: -logits[i])[:_PROBED_TOKENS]
    return best, [logits[i] for i in best]


def _replay(lm: Any, folder: Path) -> None:
    path = folder / "probe.json"
    if not path.is_file():  # an adapter of another library has none
        return
    try:
        probe = json.loads(path.read_text(encoding="utf-8"))
        error, effect = _differences(lm, probe["prompts"])
        rounding = max(_ROUNDING[lm.dtype], _ROUNDING[getattr(torch, probe["dtype"])])
        base = probe["base_identity"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise UserError(f"{path} cannot be read: {problem}", "Use another copy of the adapter.") from None
    if error > rounding or (effect > rounding and error > effect / 2):
        kind, fix = UserError, f"Load it on the base it was trained on ({base}; this one is {lm.identity})."
        if base == lm.identity:
            kind, fix = WorkFailed, "This is the base it was trained on, so its files were changed: use another copy of them."
        raise kind(
            f"the adapter in {folder} does not behave as it did when it was saved: "
            f"its probe's logits differ by {error:.3g} on average",
            fix,
        )


def _differences(lm: Any, prompts: list[Any]) -> tuple[float, float]:
    """Return the mean differences of the probe's logits: from those saved, and of those saved from those without adapter."""
    size = lm.model.get_input_embeddings().num_embeddings
    if any(token >= size for p in prompts for token in p["prompt_ids"]):
        return math.inf, math.inf  # this base has fewer tokens than the one it was saved with
    error = effect = 0.0
    count = 0
    for item, logits in zip(prompts, _probe_logits(lm, [tuple(p["prompt_ids"]) for p in prompts]), strict=True):
        # Adapters saved by the first versions call them so: their outputs were tokens.
        outputs = item["outputs"] if "outputs" in item else item["token_ids"]
        if max(outputs) >= len(logits):
            return math.inf, math.inf  # or fewer outputs
        for output, saved, without in zip(outputs, item["logits"], item["logits_without_adapter"], strict=True):
            error += abs(logits[output] - saved)
            effect += abs(saved - without)
            count += 1
    return error / max(count, 1), effect / max(count, 1)
