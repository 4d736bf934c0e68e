"""An adapter directory loads as it was saved, or not at all, and says which."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunesmith.core.errors import TunesmithError, UserError, WorkFailed
from tunesmith.core.files import write_manifest
from tunesmith.models import toy
from tunesmith.models.load import LM, load
from tunesmith.peft import _files, lora
from tunesmith.recipes import _models

IDS = torch.tensor([[10, 20, 30, 40, 50, 60, 7, 8]])
PROMPTS = [(10, 20, 30), (40, 50)]


def logits(lm: LM) -> torch.Tensor:
    """Logits of the test's tokens."""
    with torch.inference_mode():
        return lm.model(input_ids=IDS).logits.float().clone()


def trained(lm: LM, scale: float = 0.2, **parameters: Any) -> lora.Parameters:
    """Put a LoRA that does something on a model."""
    chosen = lora.Parameters(**{"rank": 4, **parameters})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in lora.attach(lm.model, chosen, 3).values():
            p.add_((scale * torch.randn(p.shape, generator=generator)).to(p.dtype))
    return chosen


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A saved adapter of the toy decoder and the logits it gives."""
    lm = load("toy-llama")
    parameters = trained(lm, dropout=0.3)
    _files.save_adapter(tmp_path / "adapter", lm, lora, parameters, PROMPTS, "# card\n")
    return tmp_path / "adapter", logits(lm)


def refused(folder: Path, base: LM | None = None, kind: type[TunesmithError] = UserError) -> str:
    """What a person is told when an adapter does not load."""
    with pytest.raises(kind) as caught:
        _files.load_adapter(base or load("toy-llama"), folder)
    return str(caught.value)


def resigned(folder: Path) -> Path:
    """Make an edited adapter look whole, so that only what it does can give it away."""
    write_manifest(folder)
    return folder


def test_a_fresh_process_gives_the_same_logits(saved: tuple[Path, torch.Tensor]) -> None:
    folder, expected = saved
    assert torch.equal(logits(_models.load("toy-llama", str(folder))), expected)
    code = (
        "import sys, torch, hashlib, tunesmith as ts; torch.set_num_threads(1); lm = ts.load('toy-llama', adapter=sys.argv[1])\n"
        f"x = torch.tensor({IDS.tolist()})\nwith torch.inference_mode(): y = lm.model(input_ids=x).logits\n"
        "print(hashlib.sha256(y.numpy().tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert done.stdout.strip() == hashlib.sha256(expected.numpy().tobytes()).hexdigest(), done.stderr


def test_the_directory_explains_itself(saved: tuple[Path, torch.Tensor]) -> None:
    folder, _ = saved
    names = {p.name for p in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "probe.json", "MANIFEST.json"} <= names
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= names
    assert not [n for n in names if n.endswith((".bin", ".pt"))]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"], config["peft_type"]) == (4, 8.0, 0.3, "LORA")
    probe = json.loads((folder / "probe.json").read_text())
    assert [tuple(p["prompt_ids"]) for p in probe["prompts"]] == PROMPTS


def test_the_path_of_the_base_does_not_travel(tmp_path: Path) -> None:
    model, tokenizer = toy.build("toy-llama")
    (tmp_path / "secret" / "my-base").mkdir(parents=True)
    lm = LM(model, tokenizer, str(tmp_path / "secret" / "my-base"), "identity")
    _files.save_adapter(tmp_path / "adapter", lm, lora, trained(lm), PROMPTS, "card")
    config = (tmp_path / "adapter" / "adapter_config.json").read_text()
    assert '"base_model_name_or_path": "my-base"' in config
    assert not [p.name for p in (tmp_path / "adapter").iterdir() if b"secret" in p.read_bytes()]


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json", "probe.json", "tokenizer.json"])
def test_a_flipped_bit_is_refused(saved: tuple[Path, torch.Tensor], file: str) -> None:
    folder, _ = saved
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 4
    (folder / file).write_bytes(data)
    message = refused(folder)
    assert f"{file} has changed since it was written" in message or "adapter_config.json cannot be read" in message


def test_a_truncated_file_is_refused_without_a_manifest_too(saved: tuple[Path, torch.Tensor]) -> None:
    folder, _ = saved
    (folder / "MANIFEST.json").unlink()
    tensors = folder / "adapter_model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-10])
    assert "adapter_model.safetensors is damaged" in refused(folder)


def test_pickled_adapters_are_refused_unopened(saved: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    folder, _ = saved
    (folder / "MANIFEST.json").unlink()
    (folder / "adapter_model.safetensors").unlink()
    # Protocol 0 of pickle: opening it would make this file.
    (folder / "adapter_model.bin").write_bytes(f"cos\nsystem\n(S'touch {tmp_path}/opened'\ntR.".encode())
    assert "Pickled adapters (.bin) are refused: they can run code" in refused(folder)
    assert not (tmp_path / "opened").exists()


def test_an_adapter_without_effect_is_refused(saved: tuple[Path, torch.Tensor]) -> None:
    folder, _ = saved
    path = folder / "adapter_model.safetensors"
    save_file({n: torch.zeros_like(t) for n, t in load_file(path).items()}, path)
    message = refused(resigned(folder), kind=WorkFailed)
    assert "does not behave as it did when it was saved: its probe's logits differ by" in message


def test_a_base_of_other_weights_is_refused(saved: tuple[Path, torch.Tensor]) -> None:
    folder, _ = saved
    model, tokenizer = toy.build("toy-llama", seed=1)
    message = refused(folder, LM(model, tokenizer, "other", "other-identity"))
    assert "this one is other-identity" in message


def other_base(**changes: int) -> LM:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = toy.build("toy-llama")[0].config.to_dict()
    return LM(LlamaForCausalLM(LlamaConfig(**{**config, **changes})).eval(), toy.byte_tokenizer(), "other", "other")


def test_a_base_of_other_shapes_is_refused(saved: tuple[Path, torch.Tensor]) -> None:
    folder, _ = saved
    assert "the adapter does not fit this model: tensor" in refused(folder, other_base(num_hidden_layers=1))
    assert "down_proj.lora_B.weight is [64, 4], the model needs [32, 4]" in refused(folder, other_base(hidden_size=32))
    # Fewer tokens in the vocabulary: the adapted layers fit, and what the probe asks for does not exist.
    assert "differ by inf" in refused(folder, other_base(vocab_size=20))


def test_other_precision_is_rounding_and_no_fault(saved: tuple[Path, torch.Tensor]) -> None:
    folder, expected = saved
    lm = load("toy-llama", dtype="bf16")
    _files.load_adapter(lm, folder)
    assert float((logits(lm) - expected).abs().mean()) < 0.05


CONFIGS: dict[str, tuple[Any, str]] = {
    "no json": ("{", "adapter_config.json cannot be read"),
    "no object": ("[1]", "adapter_config.json cannot be read"),
    "kind": ({"peft_type": "VERA"}, "is a VERA adapter"),
    "another kind": ({"peft_type": "IA3"}, "down_proj.ia3_l is missing"),
    "qalora": ({"use_qalora": True}, "uses 'use_qalora'"),
    "no magnitude": ({"use_dora": True}, "lora_magnitude_vector is missing"),
    "ranks": ({"rank_pattern": {"q_proj": 2}}, "q_proj.lora_A.weight is [4, 64], the model needs [2, 64]"),
    "expression": ({"rank_pattern": {".*_proj": 2}}, "rank_pattern has the regular expression '.*_proj'"),
    "pattern": ({"rank_pattern": {"query": 2}}, "the pattern query fits no target layer"),
    "head": ({"modules_to_save": ["lm_head"]}, "tensor base_model.model.lm_head.weight is missing"),
    "heads": ({"modules_to_save": "lm_head"}, "modules_to_save is 'lm_head'"),
    "bias": ({"bias": "all"}, "trains biases"),
    "rank": ({"r": None}, "adapter_config.json: rank"),
    "rank text": ({"r": "many"}, "adapter_config.json: rank"),
    "targets": ({"target_modules": ".*_proj"}, "adapter_config.json: targets"),
    "no layer": ({"target_modules": ["qkv"]}, "match no layer"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations_that_are_not_read_are_refused(saved: tuple[Path, torch.Tensor], case: str) -> None:
    folder, _ = saved
    change, message = CONFIGS[case]
    path = folder / "adapter_config.json"
    path.write_text(change if isinstance(change, str) else json.dumps({**json.loads(path.read_text()), **change}))
    assert message in refused(resigned(folder))


@pytest.mark.parametrize("probe", ["", "{}", '{"prompts": 3, "dtype": "float32", "base_identity": ""}', '{"prompts": []}'])
def test_a_probe_that_cannot_be_read_is_refused(saved: tuple[Path, torch.Tensor], probe: str) -> None:
    folder, _ = saved
    (folder / "probe.json").write_text(probe)
    assert "probe.json cannot be read" in refused(resigned(folder))


def test_no_adapter_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no adapter directory 'none'"):
        _models.load("toy-llama", "none")
    assert "is not an adapter directory: it has no adapter_config.json" in refused(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "b")
    (tmp_path / "b" / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}'
    )
    assert "has no adapter_model.safetensors" in refused(tmp_path / "b")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks transformers by its older name
def test_the_real_model_with_plain_peft(tmp_path: Path) -> None:
    from peft import PeftModel

    lm = load("smollm2", dtype="fp32")
    before = logits(lm)
    _files.save_adapter(tmp_path / "a", lm, lora, trained(lm, 0.02), PROMPTS, "card")
    ours = logits(lm)
    lora.merge(lm.model)
    merged = logits(lm)
    assert float((ours - before).abs().max()) > 0.1
    assert float((merged - ours).abs().max()) < 1e-3
    del lm
    theirs = PeftModel.from_pretrained(load("smollm2", dtype="fp32").model, str(tmp_path / "a")).eval()
    with torch.inference_mode():
        assert float((theirs(input_ids=IDS).logits - ours).abs().max()) < 1e-3
