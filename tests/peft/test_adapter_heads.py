"""Heads, resized embeddings and new tokens travel with an adapter, under the names that Hugging Face PEFT gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.core.files import write_manifest
from tunesmith.core.registry import PEFT
from tunesmith.models.encoder import load_encoder
from tunesmith.models.load import LM, load
from tunesmith.peft import _files, _heads, lora

IDS = torch.tensor([[10, 20, 30, 40, 50]])
PROMPTS = [(10, 20, 30), (40, 50)]
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def classifier(dtype: str = "fp32") -> LM:
    """A toy encoder with a head of its own for three labels."""
    return load_encoder("toy-bert", "classifier", ["a", "b", "c"], dtype)


def logits(model: Any) -> torch.Tensor:
    """Logits of the test's tokens."""
    with torch.inference_mode():
        return model(input_ids=IDS).logits.float().clone()


def trained(lm: LM, name: str = "lora", **given: Any) -> tuple[Any, Any]:
    """Attach a method to a classifier and move it and the head."""
    entry, parameters = PEFT.parameters({"name": name, **given})
    moved = [*entry.attach(lm.model, parameters, 3).values(), *lm.model.classifier.parameters()]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in moved:
            p.add_((0.1 * torch.randn(p.shape, generator=generator)).to(p.dtype))
    return entry, parameters


@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_peft_reads_a_head_of_ours(name: str, tmp_path: Path) -> None:
    from peft import PeftModel

    lm = classifier()
    before = logits(lm.model)
    method = trained(lm, name)
    _files.save_adapter(tmp_path / "a", lm, *method, PROMPTS, "card", heads=("classifier",), task_type="SEQ_CLS")
    assert {n for n in load_file(tmp_path / "a" / "adapter_model.safetensors") if "classifier" in n} == {
        "base_model.model.classifier.weight", "base_model.model.classifier.bias",
    }  # fmt: skip
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["modules_to_save"], config["task_type"]) == (["classifier"], "SEQ_CLS")
    theirs = PeftModel.from_pretrained(classifier().model, str(tmp_path / "a")).eval()
    assert type(theirs).__name__ == "PeftModelForSequenceClassification"
    assert float((logits(theirs) - logits(lm.model)).abs().max()) < 1e-5
    assert float((logits(lm.model) - before).abs().max()) > 1e-2


def test_we_read_a_head_of_pefts(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"], init_lora_weights=False)
    theirs: Any = get_peft_model(classifier().model, config)
    with torch.no_grad():
        theirs.base_model.model.classifier.modules_to_save["default"].weight.add_(1.0)
    theirs.save_pretrained(str(tmp_path / "a"))
    lm = classifier()
    found = _files.load_adapter(lm, tmp_path / "a")
    assert float((logits(lm.model) - logits(theirs.eval())).abs().max()) < 1e-5
    assert float((logits(lm.model) - logits(classifier().model)).abs().max()) > 1e-2
    assert {n for n in found.trained if "classifier" in n} == {"classifier.weight", "classifier.bias"}
    assert all(p.requires_grad for p in found.trained.values())


@pytest.mark.parametrize("name", [n for n in PEFT.names() if n not in ("full", "prompt-tuning", "prefix-tuning", "p-tuning")])
def test_a_head_comes_back_with_every_method(name: str, tmp_path: Path) -> None:
    lm = classifier()
    method = trained(lm, name)
    _files.save_adapter(tmp_path / "a", lm, *method, PROMPTS, "card", heads=("classifier",), task_type="SEQ_CLS")
    probe = json.loads((tmp_path / "a" / "probe.json").read_text())
    assert [len(p["logits"]) for p in probe["prompts"]] == [3, 3]  # the head's, not the vocabulary's
    again = classifier()
    _files.load_adapter(again, tmp_path / "a")
    assert torch.equal(logits(again.model), logits(lm.model))
    # Without the head that was trained, its logits do not come back.
    path = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({n: torch.zeros_like(t) if "classifier" in n else t for n, t in tensors.items()}, path)
    write_manifest(tmp_path / "a")
    with pytest.raises(WorkFailed, match="does not behave as it did"):
        _files.load_adapter(classifier(), tmp_path / "a")


def test_heads_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    lm = classifier()
    method = trained(lm)
    _files.save_adapter(tmp_path / "a", lm, *method, PROMPTS, "card", heads=("classifier",), task_type="SEQ_CLS")
    two = load_encoder("toy-bert", "classifier", ["a", "b"], "fp32")
    with pytest.raises(UserError, match=r"classifier\.bias is \[3\], the model needs \[2\]"):
        _files.load_adapter(two, tmp_path / "a")
    with pytest.raises(UserError, match=r"tensor base_model\.model\.classifier\.bias is unexpected"):
        _files.load_adapter(load_encoder("toy-bert", "masked_lm", dtype="fp32"), tmp_path / "a")


def with_new_tokens(lm: LM) -> LM:
    """Add two tokens, and rows for them."""
    lm.tokenizer.add_special_tokens({"additional_special_tokens": ["<start>", "<delimiter>"]})
    torch.manual_seed(3)
    lm.model.resize_token_embeddings(len(lm.tokenizer), mean_resizing=False)
    return lm


def test_new_tokens_and_their_embeddings_travel(tmp_path: Path) -> None:
    lm = with_new_tokens(load("toy-llama", dtype="fp32"))
    size = len(lm.tokenizer)
    with torch.no_grad():
        for p in lora.attach(lm.model, lora.Parameters(rank=4), 0).values():
            p.add_(0.1)
    _files.save_adapter(tmp_path / "a", lm, lora, lora.Parameters(rank=4), [(10, size - 1, size - 2)], "card")
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert len(tensors["base_model.model.model.embed_tokens.weight"]) == size
    again = load("toy-llama", dtype="fp32")
    assert len(again.tokenizer) == size - 2
    _files.load_adapter(again, tmp_path / "a")
    assert again.tokenizer("a<delimiter>b").input_ids == lm.tokenizer("a<delimiter>b").input_ids
    ids = torch.tensor([[10, size - 1, size - 2]])
    with torch.inference_mode():
        assert torch.equal(again.model(input_ids=ids).logits, lm.model(input_ids=ids).logits)
    assert len(again.model.get_output_embeddings().weight) == size
    # A tied output layer stays tied.
    tied = lm.model.get_output_embeddings().weight is lm.model.get_input_embeddings().weight
    assert (again.model.get_output_embeddings().weight is again.model.get_input_embeddings().weight) == tied


def test_an_embedding_table_can_be_a_head(tmp_path: Path) -> None:
    """Trained whole, as GPT-1 trains its delimiters."""
    lm = with_new_tokens(load("toy-llama", dtype="fp32"))
    lora.attach(lm.model, lora.Parameters(rank=4), 0)
    with torch.no_grad():
        lm.model.get_input_embeddings().weight.add_(0.1)
    _files.save_adapter(tmp_path / "a", lm, lora, lora.Parameters(rank=4), PROMPTS, "card", heads=("embed_tokens",))
    again = load("toy-llama", dtype="fp32")
    found = _files.load_adapter(again, tmp_path / "a")
    assert torch.equal(logits(again.model), logits(lm.model))
    assert "model.embed_tokens.weight" in found.trained


def test_a_base_whose_embeddings_are_its_own_gives_none_away() -> None:
    lm = load("toy-llama")
    assert _heads.heads_state(lm, ()) == {}
    assert set(_heads.embeddings(lm.model)) == {"model.embed_tokens", "lm_head"}


@pytest.mark.parametrize("kind", ["TokenClassification", "QuestionAnswering"])
def test_the_probe_of_other_heads_holds_their_logits(kind: str, tmp_path: Path) -> None:
    import transformers

    config = load_encoder("toy-bert", "masked_lm").model.config
    torch.manual_seed(0)
    model = getattr(transformers, f"BertFor{kind}")(config).eval()
    base = classifier()
    lm = LM(model, base.tokenizer, "toy-bert", "identity")
    head = "classifier" if kind == "TokenClassification" else "qa_outputs"
    entry, parameters = PEFT.parameters("lora")
    with torch.no_grad():
        for p in entry.attach(model, parameters, 0).values():
            p.add_(0.05)
    task = "TOKEN_CLS" if kind == "TokenClassification" else "QUESTION_ANS"
    _files.save_adapter(tmp_path / "a", lm, entry, parameters, PROMPTS, "card", heads=(head,), task_type=task)
    probe = json.loads((tmp_path / "a" / "probe.json").read_text())
    with torch.inference_mode():
        outputs = model(input_ids=torch.tensor([PROMPTS[0]]))
    saved = probe["prompts"][0]
    if kind == "TokenClassification":
        expected = outputs.logits[0, -1]
    else:
        expected = torch.cat([outputs.start_logits, outputs.end_logits], -1)[0]
    assert len(saved["logits"]) == len(expected)
    assert saved["logits"] == pytest.approx([float(expected[i]) for i in saved["outputs"]], abs=1e-6)
    torch.manual_seed(1)  # another head
    other = LM(getattr(transformers, f"BertFor{kind}")(config).eval(), base.tokenizer, "toy-bert", "identity")
    with pytest.raises(WorkFailed, match="does not behave as it did"):  # and another body, so the adapter has no use
        _files.load_adapter(other, tmp_path / "a")
