"""Loading a model by embedded name, local directory or hub id, into one object that every room understands."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tunesmith.core.errors import UserError, near_miss
from tunesmith.core.files import sha256, text_hash
from tunesmith.models import embedded, toy
from tunesmith.models.soft_prefix import prefix_length
from tunesmith.models.trunk import head_width

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pt2")


@dataclass(frozen=True)
class LM:
    """A language model ready to use.

    Attributes:
        model: the transformers model, in eval mode, on `device`.
        tokenizer: its tokenizer, with the chat template if there is one.
        name: as the user wrote it. identity: hash of the weights' files, so results name what they were made with.
        rows_at_first: rows of the embedding table when it was loaded; it has more once tokens are added.
    """

    model: Any
    tokenizer: Any
    name: str
    identity: str
    rows_at_first: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows_at_first", len(self.model.get_input_embeddings().weight))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.model.dtype

    @property
    def context_length(self) -> int:
        """Largest number of tokens the model was built for, less those that a soft prefix takes."""
        return int(getattr(self.model.config, "max_position_embeddings", 0) or 1_000_000) - prefix_length(self.model)

    @property
    def cache_bytes_per_token(self) -> int:
        """Memory of the keys and values of one token."""
        config = self.model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        return 2 * config.num_hidden_layers * heads * head_width(config) * self.dtype.itemsize

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end an answer."""
        configured = self.model.generation_config.eos_token_id if self.model.can_generate() else None
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(i for i in [*ids, self.tokenizer.eos_token_id] if i is not None)


def choose_dtype(dtype: str) -> torch.dtype:
    """Turn "auto", "bf16" or "fp32" into a torch dtype; auto = bf16 where the processor computes it natively.

    Raises:
        UserError: another word.
    """
    known = {"bf16": torch.bfloat16, "bfloat16": torch.bfloat16, "fp32": torch.float32, "float32": torch.float32}
    if dtype == "auto":
        return torch.bfloat16 if torch.cuda.is_available() or _native_bf16() else torch.float32
    if dtype not in known:
        raise UserError(f"unknown dtype '{dtype}'", near_miss(dtype, ["auto", "bf16", "fp32"]))
    return known[dtype]


def _native_bf16() -> bool:
    capabilities = getattr(torch.backends.cpu, "get_cpu_capability", lambda: "")()
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return capabilities.startswith("AMX")
    return "avx512_bf16" in flags or "amx_bf16" in flags


def load(name: str, dtype: str = "auto", device: str = "auto") -> LM:
    """Load a decoder by embedded name ("smollm2"), toy name, local directory or hub id.

    Only safetensors are read, and no code that comes with a model is run.

    Raises:
        UserError: there is no such model, its directory holds only pickled weights or not all of them, or it is no
            decoder whose logits are its output layer's.
    """
    precision = choose_dtype(dtype)
    place = torch.device(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    if name in toy.NAMES:
        model, tokenizer = toy.build(name)
        model = model.to(device=place, dtype=precision if dtype != "auto" else torch.float32)
        lm = LM(model, tokenizer, name, text_hash("toy", name))
    else:
        folder, tokenizer = open_folder(name)
        lm = LM(_weights(name, folder, precision).to(device=place).eval(), tokenizer, name, identity_of(folder))
    # Whoever trains says what is trained; weights at rest can be laid out for speed.
    lm.model.requires_grad_(False)
    _check_decoder(lm)
    return lm


def _weights(name: str, folder: str, precision: torch.dtype) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=precision, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"the weights of '{name}' cannot be loaded: {str(error).splitlines()[0]}") from error
    model, info = loaded
    if lacking := sorted(info["missing_keys"]):
        raise UserError(
            f"'{name}' lacks {len(lacking)} of the weights of a decoder, {lacking[0]} for one; they would be random numbers",
            "Use a model that was trained to write text.",
        )
    return model


def _check_decoder(lm: LM) -> None:
    """Refuse what scoring, generation and training would compute wrongly without a word."""
    if lm.model.config.is_encoder_decoder or not lm.model.can_generate():
        raise UserError(f"'{lm.name}' is not a decoder", "Use a model that continues text, for example smollm2.")
    ids = torch.arange(4, device=lm.device)[None]
    with torch.inference_mode():
        whole = lm.model(input_ids=ids).logits
        parts = lm.model.get_output_embeddings()(lm.model.base_model(input_ids=ids).last_hidden_state)
    if not torch.allclose(whole, parts, rtol=1e-3, atol=1e-3):
        raise UserError(
            f"'{lm.name}' changes its logits after the output layer (scaling or soft-capping), which is not supported",
            "Use another model, for example smollm2.",
        )


def load_tokenizer(name: str) -> Any:
    """Load only the tokenizer of a model.

    Raises:
        UserError: there is no such model.
    """
    return toy.byte_tokenizer() if name in toy.NAMES else open_folder(name)[1]


def open_folder(name: str) -> tuple[str, Any]:
    """Return a model's directory (or hub id) and its tokenizer.

    Raises:
        UserError: there is no such model, or its directory is unsafe or incomplete.
    """
    from transformers import AutoTokenizer

    folder = str(embedded.folder_of(name)) if name in embedded.NAMES else name
    path = Path(folder)
    if path.is_dir():
        _check_folder(path)
    elif os.environ.get("HF_HUB_OFFLINE") == "1" or "/" not in name or name.startswith((".", "/")):
        known = [*embedded.NAMES, *toy.NAMES]
        raise UserError(f"there is no model '{name}': no embedded name and no directory", near_miss(name, known))
    try:
        return folder, AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"the tokenizer of '{name}' cannot be loaded: {str(error).splitlines()[0]}") from error


def _check_folder(path: Path) -> None:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = "It is an adapter: give it as --adapter." if (path / "adapter_config.json").is_file() else ""
        raise UserError(f"{path} has no config.json, so it is not a model directory", hint) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path / 'config.json'} cannot be read: {error}") from None
    # These keys make a loader run code that came with the weights (CVE-2026-4372 and its like).
    risky = [key for key in config if key == "auto_map" or key.startswith("_attn_implementation") or key.endswith("_internal")]
    if risky:
        raise UserError(
            f"{path / 'config.json'} asks for code of its own ({', '.join(risky)})", "Tunesmith never runs it. Remove the keys."
        )
    if not list(path.glob("*.safetensors")):
        pickles = [f.name for f in path.iterdir() if f.suffix in _PICKLES]
        what = f"only pickled weights ({pickles[0]}), which can run code when opened" if pickles else "no weights"
        raise UserError(f"{path} holds {what}", "Convert them to safetensors first.")


def identity_of(folder: str) -> str:
    """Return a short hash of a model directory's weights and configuration; of the name itself for a hub id."""
    path = Path(folder)
    if not path.is_dir():
        return text_hash("hub", folder)
    manifest = path / "MANIFEST.json"
    if manifest.is_file():
        return text_hash(manifest.read_text(encoding="utf-8"))
    return text_hash(*(sha256(file) for file in sorted([path / "config.json", *path.glob("*.safetensors")])))
