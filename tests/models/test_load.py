"""Loading: what is loaded is what was saved, and everything else is refused in words."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config

from tunesmith.core.errors import UserError
from tunesmith.models.load import LM, choose_dtype, identity_of, load, load_tokenizer


@pytest.fixture
def folder(toy: LM, tmp_path: Path) -> Path:
    """A model directory as the library writes it."""
    toy.model.save_pretrained(tmp_path / "mine")
    toy.tokenizer.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


def test_a_directory_gives_the_model_that_was_saved_in_it(toy: LM, folder: Path) -> None:
    ids = torch.arange(10, 30)[None]
    loaded = load(str(folder), "fp32")
    assert torch.equal(loaded.model(ids).logits, toy.model(ids).logits)
    assert loaded.model.training is False
    assert (loaded.name, loaded.context_length, loaded.dtype) == (str(folder), 2048, torch.float32)
    assert load_tokenizer(str(folder))("é<|end|>").input_ids == toy.tokenizer("é<|end|>").input_ids
    assert load(str(folder), "bf16").dtype == torch.bfloat16


def test_the_identity_follows_from_the_weights(folder: Path, tmp_path: Path) -> None:
    before = identity_of(str(folder))
    assert identity_of(str(shutil.copytree(folder, tmp_path / "copy"))) == before
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert identity_of(str(folder)) != before
    assert identity_of("someone/a-model") != identity_of("someone/another-model")


def changed(folder: Path, **keys: Any) -> None:
    """Set keys of a model's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def spoil(folder: Path, how: str) -> None:
    """Make something of a model directory that must not be loaded."""
    weights = folder / "model.safetensors"
    if how == "pickled":
        weights.rename(folder / "pytorch_model.bin")
    elif how == "without weights":
        weights.unlink()
    elif how == "cut off":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif how == "asking for code":
        changed(folder, auto_map={"AutoModelForCausalLM": "evil.Model"})
    elif how == "an adapter":
        (folder / "config.json").rename(folder / "adapter_config.json")
    elif how == "not JSON":
        (folder / "config.json").write_text("{")
    elif how == "lacking a layer":
        changed(folder, num_hidden_layers=3)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("pickled", r"only pickled weights \(pytorch_model.bin\), which can run code"),
        ("without weights", "holds no weights"),
        ("cut off", "the weights of .* cannot be loaded"),
        ("asking for code", r"asks for code of its own \(auto_map\)"),
        ("an adapter", "It is an adapter: give it as --adapter"),
        ("not JSON", "config.json cannot be read"),
        ("lacking a layer", "lacks 9 of the weights of a decoder"),
    ],
)
def test_a_directory_that_is_not_a_whole_model_is_refused(folder: Path, how: str, message: str) -> None:
    spoil(folder, how)
    with pytest.raises(UserError, match=f"(?s){message}"):
        load(str(folder), "fp32")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smolm2", "Did you mean 'smollm2'"),
        ("./nowhere", "no embedded name and no directory"),
        ("someone/a-model", "no embedded name and no directory"),  # the hub, while HF_HUB_OFFLINE is set
        ("toy-bert", "'toy-bert' is not a decoder"),
        ("toy-t5", "'toy-t5' is not a decoder"),
        ("minilm", "lacks 6 of the weights of a decoder"),
    ],
)
@pytest.mark.filterwarnings("default")
def test_what_is_no_decoder_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(name, "fp32")


def test_a_model_that_changes_its_logits_after_the_output_layer_is_refused(toy: LM, tmp_path: Path) -> None:
    size = {"vocab_size": 262, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    for cap, refused in ((None, False), (0.01, True)):
        config = Gemma2Config(**size, num_key_value_heads=1, head_dim=16, final_logit_softcapping=cap)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / str(cap))
        toy.tokenizer.save_pretrained(tmp_path / str(cap))
        if refused:
            with pytest.raises(UserError, match="changes its logits after the output layer"):
                load(str(tmp_path / str(cap)), "fp32")
        else:
            assert load(str(tmp_path / str(cap)), "fp32").model.config.model_type == "gemma2"


def test_dtypes_have_names() -> None:
    assert choose_dtype("bf16") is choose_dtype("bfloat16") is torch.bfloat16
    assert choose_dtype("fp32") is choose_dtype("float32") is torch.float32
    assert choose_dtype("auto") in (torch.bfloat16, torch.float32)
    with pytest.raises(UserError, match=r"(?s)unknown dtype 'fp23'.*Did you mean 'fp32'"):
        choose_dtype("fp23")
