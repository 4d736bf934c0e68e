"""Soft prompts and prefixes: only they are trained, they are read as PEFT reads them, and files go both ways."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.core.files import write_manifest
from tunesmith.core.registry import PEFT
from tunesmith.models import toy
from tunesmith.models.load import LM, load
from tunesmith.models.soft_prefix import cache_of, prefix_key_values
from tunesmith.peft import _files
from tunesmith.peft._nearest import nearest_tokens
from tunesmith.train.update import Updater

IDS = torch.tensor([[10, 20, 30, 40, 50, 60, 7, 8]])
PROMPTS = [(10, 20, 30), (40, 50)]
METHODS = {
    "prompt-tuning": {"tokens": 5, "init": "random"},
    "prefix-tuning": {"tokens": 5, "hidden": 16},
    "p-tuning": {"tokens": 5, "encoder": "lstm", "hidden": 16},
    "p-tuning mlp": {"tokens": 5, "encoder": "mlp", "hidden": 16},
}
PEFT_WARNS = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def gpt2() -> Any:
    """A tiny random GPT-2: learned positions, Conv1D layers, one key head a query head."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(5)
    size = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 262, "bos_token_id": 1, "eos_token_id": 1}
    return GPT2LMHeadModel(GPT2Config(**size)).eval()


MODELS = {"llama": lambda: toy.build("toy-llama")[0], "gpt2": gpt2}


def attached(name: str, model: str = "llama") -> tuple[LM, Any, Any, dict[str, torch.nn.Parameter]]:
    """A model with a method on it: language model, entry, parameters and what is trained."""
    entry, parameters = PEFT.parameters({"name": name.split(maxsplit=1)[0], **METHODS[name]})
    lm = LM(MODELS[model](), toy.byte_tokenizer(), model, "identity")
    return lm, entry, parameters, entry.attach(lm.model, parameters, 3)


def logits(model: Any) -> torch.Tensor:
    """Logits of the test's tokens behind the model's prefix, if it has one, by transformers alone."""
    with torch.inference_mode():
        prefix = prefix_key_values(model)
        return model(input_ids=IDS, past_key_values=cache_of(prefix, 1) if prefix else None).logits


def step(lm: LM, trained: dict[str, torch.nn.Parameter], rate: float = 0.05) -> None:
    """One update on some tokens."""
    from tunesmith.models.lm_loss import summed_loss
    from tunesmith.objectives import causal_lm

    mask = torch.ones_like(IDS, dtype=torch.bool)
    mask[:, 0] = False
    updater = Updater(trained, weight_decay=0.0, clip_norm=1.0)
    summed_loss(lm.model, IDS, torch.tensor([IDS.shape[1]]), mask, causal_lm.loss)[0].backward()
    updater.gather()
    updater.step(rate)


@pytest.mark.parametrize("name", METHODS)
def test_only_its_own_parameters_are_trained_and_a_step_changes_the_answer(name: str) -> None:
    lm, entry, _, trained = attached(name)
    base = {n: p.clone() for n, p in lm.model.named_parameters() if n not in trained}
    before = logits(lm.model)
    step(lm, trained)
    assert trained
    assert all(n.startswith("soft_prefix.") for n in trained)
    assert all(torch.equal(p, base[n]) for n, p in lm.model.named_parameters() if n in base)
    assert [n for n, p in lm.model.named_parameters() if p.requires_grad] == list(trained)
    after = logits(lm.model)
    assert float((after - before).abs().max()) > 1e-3
    with entry.disabled(lm.model):
        assert torch.equal(logits(lm.model), logits(MODELS["llama"]()))
        assert lm.context_length == 2048
    assert torch.equal(logits(lm.model), after)
    assert lm.context_length == 2048 - 5


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    lm, _, _, trained = attached(name)
    loss = lm.model.soft_prefix.values().square().sum()
    loss.backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in trained.values())


def test_the_seed_decides_and_nothing_else() -> None:
    entry, parameters = PEFT.parameters({"name": "prefix-tuning", "tokens": 2, "hidden": 8})
    made = []
    for seed in (1, 1, 2):
        torch.rand(seed)  # the global state is neither used nor moved
        model = MODELS["llama"]()
        state = torch.get_rng_state()
        entry.attach(model, parameters, seed)
        assert torch.equal(torch.get_rng_state(), state)
        made.append(entry.state(model)["prompt_embeddings"])
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


@pytest.mark.parametrize(("init", "low", "high"), [("random", 0.45, 0.5), ("vocabulary", 0, 9), ("labels", 0, 9)])
def test_initialisation(init: str, low: float, high: float) -> None:
    entry, parameters = PEFT.parameters({"name": "prompt-tuning", "tokens": 40, "init": init, "label_ids": [[7, 8], [9]]})
    model = MODELS["llama"]()
    entry.attach(model, parameters, 3)
    values, table = entry.state(model)["prompt_embeddings"], model.get_input_embeddings().weight.detach()
    assert values.shape == (40, 64)
    assert low <= float(values.abs().max()) <= high
    if init == "random":  # uniform: variance (1 - 0)^2 / 12
        assert abs(float(values.var()) - 1 / 12) < 0.005
        return
    words = 2 if init == "labels" else 0
    if words:
        assert torch.allclose(values[0], (table[7] + table[8]) / 2)
        assert torch.equal(values[1], table[9])
    chosen = [int((table == row).all(1).nonzero()[0, 0]) for row in values[words:]]
    assert len(set(chosen)) == 40 - words  # without replacement


def test_of_more_label_words_than_tokens_the_first_are_used_and_a_small_vocabulary_is_said() -> None:
    from tunesmith.peft import prompt_tuning

    words = prompt_tuning.Parameters(tokens=2, label_ids=[[1], [2], [3]])
    assert prompt_tuning.initial(torch.eye(4), words, torch.Generator()).tolist() == torch.eye(4)[1:3].tolist()
    with pytest.raises(UserError, match="5 virtual tokens cannot be sampled from a vocabulary of 4"):
        prompt_tuning.initial(torch.eye(4), prompt_tuning.Parameters(tokens=5), torch.Generator())
    with pytest.raises(UserError, match="tokens"):
        PEFT.parameters({"name": "prompt-tuning", "tokens": 151})


@pytest.mark.parametrize(("method", "tokens", "expected"), [("prefix-tuning", 5, 245_760), ("prefix-tuning", 10, 491_520)])
def test_published_sizes_of_prefixes(method: str, tokens: int, expected: int) -> None:
    """GPT-2 medium: p * 2 * 24 layers * 1,024 (Li & Liang 2021)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_embd=1024, n_layer=24, n_head=16, vocab_size=10))
    entry, parameters = PEFT.parameters({"name": method, "tokens": tokens, "hidden": None})
    trained = entry.attach(model, parameters, 0)
    assert sum(p.numel() for p in trained.values()) == expected == tokens * 2 * 24 * 1024


@pytest.mark.parametrize(("tokens", "width", "expected"), [(100, 4096, 409_600), (20, 4096, 81_920), (20, 576, 11_520)])
def test_published_sizes_of_prompts(tokens: int, width: int, expected: int) -> None:
    """T5-XXL (Lester et al. 2021), and the default on smollm2."""
    from tunesmith.peft import prompt_tuning

    values = prompt_tuning.initial(
        torch.zeros(200, width), prompt_tuning.Parameters(tokens=tokens, init="random"), torch.Generator()
    )
    assert values.numel() == expected


def test_a_prefix_of_zeros_is_not_the_identity() -> None:
    lm, entry, _, _ = attached("prefix-tuning")
    entry.attach(lm.model, entry.Parameters(tokens=5, hidden=None), 0)
    entry.load_state(lm.model, {"prompt_embeddings": torch.zeros(5, 128)})
    assert float((logits(lm.model) - logits(MODELS["llama"]())).abs().max()) > 1e-3


def test_a_prefix_cannot_be_merged() -> None:
    for name in METHODS:
        lm, entry, _, _ = attached(name)
        with pytest.raises(UserError, match="cannot be merged into the weights"):
            entry.merge(lm.model)


@PEFT_WARNS
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", METHODS)
def test_plain_peft_reads_the_files(name: str, model: str, tmp_path: Path) -> None:
    from peft import PeftModel

    lm, entry, parameters, trained = attached(name, model)
    step(lm, trained)
    _files.save_adapter(tmp_path / "a", lm, entry, parameters, PROMPTS, "card")
    theirs = PeftModel.from_pretrained(MODELS[model](), str(tmp_path / "a")).eval()
    with torch.inference_mode():
        got = theirs(input_ids=IDS).logits[:, -IDS.shape[1] :]
    assert float((got - logits(lm.model)).abs().max()) < 1e-5
    assert float((got - logits(MODELS[model]())).abs().max()) > 1e-3
    again = LM(MODELS[model](), toy.byte_tokenizer(), model, "identity")
    back = _files.load_adapter(again, tmp_path / "a")
    assert float((logits(again.model) - logits(lm.model)).abs().max()) < 1e-6
    assert sum(p.numel() for p in back.trained.values()) == sum(t.numel() for t in entry.state(lm.model).values())


@PEFT_WARNS
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "PREFIX_TUNING projected", "P_TUNING"])
def test_an_adapter_of_plain_peft_loads(kind: str, model: str, tmp_path: Path) -> None:
    from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model

    config = {
        "PROMPT_TUNING": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=7),
        "PREFIX_TUNING": lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=7),
        "PREFIX_TUNING projected": lambda: PrefixTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=7, prefix_projection=True, encoder_hidden_size=8
        ),
        "P_TUNING": lambda: PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=7, encoder_hidden_size=8),
    }[kind]()
    torch.manual_seed(2)
    theirs = get_peft_model(MODELS[model](), config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    with torch.inference_mode():
        expected = theirs(input_ids=IDS).logits[:, -IDS.shape[1] :]
    lm = LM(MODELS[model](), toy.byte_tokenizer(), "base", "identity")
    got = _files.load_adapter(lm, tmp_path / "theirs")
    assert kind.split(maxsplit=1)[0] == got.entry.PEFT_TYPE
    assert got.parameters.tokens == 7
    assert float((logits(lm.model) - expected).abs().max()) < 1e-5
    assert float((logits(lm.model) - logits(MODELS[model]())).abs().max()) > 1e-4


@PEFT_WARNS
@pytest.mark.parametrize("name", ["prompt-tuning", "prefix-tuning"])
def test_loss_and_gradient_are_those_of_peft(name: str) -> None:
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
    from tunesmith.models.lm_loss import summed_loss
    from tunesmith.objectives import causal_lm

    entry, parameters = PEFT.parameters({"name": name, "tokens": 5, **({"hidden": None} if name == "prefix-tuning" else {})})
    lm = LM(MODELS["llama"](), toy.byte_tokenizer(), "llama", "identity")
    (ours,) = entry.attach(lm.model, parameters, 3).values()
    config = (PrefixTuningConfig if name == "prefix-tuning" else PromptTuningConfig)(task_type="CAUSAL_LM", num_virtual_tokens=5)
    theirs = get_peft_model(MODELS["llama"](), config)
    weight = theirs.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        weight.copy_(ours)
    ids = torch.randint(6, 200, (3, 9), generator=torch.Generator().manual_seed(1))
    real = torch.arange(9)[None] < torch.tensor([[9], [7], [4]])
    labels = ids.where(real & (torch.arange(9) > 1), -100)
    (theirs(input_ids=ids, attention_mask=real.long(), labels=labels).loss * (labels != -100).sum()).backward()
    loss, _ = summed_loss(lm.model, ids, real.sum(1), labels != -100, causal_lm.loss)
    loss.backward()
    assert weight.grad is not None
    assert ours.grad is not None
    assert float((ours.grad - weight.grad).abs().max()) < 1e-5
    assert float(weight.grad.abs().max()) > 1e-2
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=real.long(), labels=labels).loss * (labels != -100).sum()
    assert abs(float(loss.detach() - expected)) < 1e-4  # 17 tokens of about 5.6 nats


@pytest.mark.parametrize("name", METHODS)
def test_a_fresh_process_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    entry, parameters = PEFT.parameters({"name": name.split(maxsplit=1)[0], **METHODS[name]})
    lm = load("toy-llama")
    step(lm, entry.attach(lm.model, parameters, 3))
    _files.save_adapter(tmp_path / "a", lm, entry, parameters, PROMPTS, "card")
    if name != "prefix-tuning":  # one process is enough where the file is of the same kind
        again = load("toy-llama")
        _files.load_adapter(again, tmp_path / "a")
        assert float((logits(again.model) - logits(lm.model)).abs().max()) < 1e-6
        return
    code = (
        "import sys, torch, hashlib, tunesmith as ts; torch.set_num_threads(1); lm = ts.load('toy-llama', adapter=sys.argv[1])\n"
        "from tunesmith.models.score import Request, score_requests\n"
        "print(score_requests(lm, [Request((10, 20, 30), ((40,), (50, 60)))])[0].logprobs)"
    )
    from tunesmith.models.score import Request, score_requests

    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True)
    expected = score_requests(lm, [Request((10, 20, 30), ((40,), (50, 60)))])[0].logprobs
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.replace("(", "[").replace(")", "]")) == pytest.approx(expected, abs=1e-6)


def test_a_prompt_without_effect_or_for_another_base_is_refused(tmp_path: Path) -> None:
    lm, entry, parameters, trained = attached("prompt-tuning")
    step(lm, trained)
    folder = tmp_path / "a"
    _files.save_adapter(folder, lm, entry, parameters, PROMPTS, "card")
    wrong = LM(toy.build("toy-llama", seed=1)[0], toy.byte_tokenizer(), "other", "other-identity")
    with pytest.raises(UserError, match="does not behave as it did when it was saved"):
        _files.load_adapter(wrong, folder)
    narrow = LM(gpt2(), toy.byte_tokenizer(), "gpt2", "other")
    with pytest.raises(UserError, match=r"prompt_embeddings is \[5, 64\], the model needs \[5, 32\]"):
        _files.load_adapter(narrow, folder)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    save_file({n: 5 * torch.randn(t.shape) for n, t in tensors.items()}, path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() != digest
    write_manifest(folder)
    with pytest.raises(WorkFailed, match="its probe's logits differ by"):
        _files.load_adapter(LM(MODELS["llama"](), toy.byte_tokenizer(), "llama", "identity"), folder)


@pytest.mark.parametrize(("change", "message"), [
    ({"num_virtual_tokens": None}, "adapter_config.json: tokens"),
    ({"num_virtual_tokens": 500}, "adapter_config.json: tokens"),
    ({"num_transformer_submodules": 2}, "for an encoder and a decoder"),
])  # fmt: skip
def test_configurations_that_are_not_read_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    lm, entry, parameters, _ = attached("prompt-tuning")
    _files.save_adapter(tmp_path / "a", lm, entry, parameters, PROMPTS, "card")
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    write_manifest(tmp_path / "a")
    with pytest.raises(UserError, match=message):
        _files.load_adapter(LM(MODELS["llama"](), toy.byte_tokenizer(), "llama", "identity"), tmp_path / "a")


def test_tensors_of_another_name_are_refused() -> None:
    lm, entry, _, _ = attached("prompt-tuning")
    with pytest.raises(UserError, match=r"tensor base\.weight is unexpected"):
        entry.load_state(lm.model, {"prompt_embeddings": torch.zeros(5, 64), "base.weight": torch.zeros(1)})
    with pytest.raises(UserError, match="tensor prompt_embeddings is missing"):
        entry.load_state(lm.model, {})


def test_nearest_tokens_are_so_by_cosine() -> None:
    """p = (.9, .5): cosine with (.7, .7) is 1.4 * .7 / (|p| sqrt .98) = .961524; by dot product (10, 1) would win."""
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.7, 0.7], [10.0, 1.0]])
    p = torch.tensor([[0.9, 0.5]])
    ids, cosines = nearest_tokens(p, table, 5)
    assert ids.tolist()[0][0] == 2
    assert float(cosines[0, 0]) == pytest.approx(0.961524, abs=1e-6)
    assert int((p @ table.T).argmax()) == 3
    assert cosines.shape == (1, 4)
    assert cosines[0].tolist() == sorted(cosines[0].tolist(), reverse=True)
