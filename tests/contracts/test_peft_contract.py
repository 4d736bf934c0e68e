"""Every peft method keeps what the room promises: on a decoder, on an encoder with a head and on GPT-2's transposed layers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded
from tunesmith.core.registry import PEFT
from tunesmith.data.collate import collate
from tunesmith.models import toy
from tunesmith.models.decoder import hidden_states
from tunesmith.models.encoder import load_encoder
from tunesmith.models.generate import Sampling, complete
from tunesmith.models.load import LM, load
from tunesmith.models.score import Request, score_requests
from tunesmith.peft import _files
from tunesmith.recipes._tune.encoder import class_logits, class_loss, in_order
from tunesmith.train.update import Updater

IDS = torch.tensor([[10, 20, 30, 40, 50, 60, 7, 8]])
PROMPTS = [(10, 20, 30), (40, 50)]
PREFIXES = ("prompt-tuning", "prefix-tuning", "p-tuning")
VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {} for name in PEFT.names()},
    "lora rs": {"rslora": True, "rank": 4},
    "lora dora": {"dora": True},
    "lora pissa": {"init": "pissa", "rank": 4},
    "lora patterns": {"rank_pattern": {"q_proj": 2, "query": 2, "c_attn": 2}, "alpha_pattern": {"v_proj": 3.0}},
    "selective last": {"parts": "all", "first_layer": -1},
    "bitfit query": {"biases": "query+intermediate"},
}


def gpt2() -> LM:
    """A tiny random GPT-2."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(5)
    size = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 262, "bos_token_id": 1, "eos_token_id": 1}
    return LM(GPT2LMHeadModel(GPT2Config(**size)).eval(), toy.byte_tokenizer(), "gpt2", "identity")


def encoder(dtype: str = "fp32") -> LM:
    """A toy encoder with a head that says what it sees aloud: a new one is close to silent."""
    lm = load_encoder("toy-bert", "classifier", ["a", "b", "c"], dtype)
    with torch.no_grad():
        lm.model.classifier.weight.mul_(20)
    return lm


MODELS = {
    "decoder": lambda dtype="fp32": load("toy-llama", dtype=dtype),
    "encoder": encoder,
    "gpt2": lambda dtype="fp32": gpt2(),
}
CASES = [
    (m, v) for m in MODELS for v in VARIANTS if m == "decoder" or (v not in PREFIXES and (m == "encoder" or v in PEFT.names()))
]
ADAPTERS = [(m, v) for m, v in CASES if PEFT.get(v.split()[0]).SAVES == "adapter"]


def method(variant: str, model: str = "decoder") -> tuple[Any, Any]:
    """An entry and its parameters; patterns name the layers that a model has."""
    name, given = variant.split(maxsplit=1)[0], dict(VARIANTS[variant])
    if "rank_pattern" in given:
        own = {"decoder": ("q_proj", "v_proj"), "encoder": ("query", "value"), "gpt2": ("c_attn", "c_fc")}[model]
        given |= {"rank_pattern": {own[0]: 2}, "alpha_pattern": {own[1]: 3.0}}
    return PEFT.parameters({"name": name, **given})


def attached(model: str, variant: str, dtype: str = "fp32") -> tuple[LM, Any, Any, dict[str, torch.nn.Parameter], torch.Tensor]:
    """A model with a method on it, and the logits it had before."""
    lm = MODELS[model](dtype)
    before = logits(lm)
    entry, parameters = method(variant, model)
    return lm, entry, parameters, entry.attach(lm.model, parameters, 3), before


def logits(lm: LM) -> torch.Tensor:
    """Logits of the test's tokens, a soft prefix read first."""
    from tunesmith.models.soft_prefix import cache_of, prefix_key_values

    with torch.inference_mode():
        prefix = prefix_key_values(lm.model)
        behind = {"past_key_values": cache_of(prefix, 1)} if prefix else {}
        return lm.model(input_ids=IDS, **behind).logits.float().clone()


def moved(trained: dict[str, torch.nn.Parameter], scale: float = 0.05) -> None:
    """Move all that is trained somewhere else."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in trained.values():
            p.add_((scale * torch.randn(p.shape, generator=generator)).to(p.dtype))


@pytest.mark.parametrize(("model", "variant"), CASES)
def test_it_starts_where_it_promises_and_only_its_own_parameters_learn(model: str, variant: str) -> None:
    lm, entry, _, trained, before = attached(model, variant)
    if entry.IDENTITY_AT_START:
        assert float((logits(lm) - before).abs().max()) <= 1e-6
    else:
        assert not torch.equal(logits(lm), before)
    lm.model.train()
    updater = Updater(trained, 0.0, 0.0)
    if variant in PREFIXES:
        wanted = torch.ones_like(IDS, dtype=torch.bool)
        hidden_states(lm.model, IDS, torch.tensor([IDS.shape[1]]), wanted).square().sum().backward()
    else:
        lm.model(input_ids=IDS).logits.square().sum().backward()
    assert {n for n, p in lm.model.named_parameters() if p.requires_grad} == set(trained)
    assert [n for n, p in lm.model.named_parameters() if (p.grad is not None) != (n in trained) and not _unused(n)] == []
    updater.gather()
    assert updater.step(1e-2) > 0
    lm.model.eval()
    assert float((logits(lm) - before).abs().max()) > 1e-5


def _unused(name: str) -> bool:
    """Weights of the whole model that no logit of a classifier or decoder depends on."""
    return name.startswith("cls.")


@pytest.mark.parametrize(("model", "variant"), ADAPTERS)
def test_disabled_is_bitwise_the_base(model: str, variant: str) -> None:
    lm, entry, _, trained, before = attached(model, variant)
    moved(trained)
    adapted = logits(lm)
    assert float((adapted - before).abs().max()) > 1e-3
    with entry.disabled(lm.model):
        assert torch.equal(logits(lm), before)
    assert torch.equal(logits(lm), adapted)


@pytest.mark.parametrize(("model", "variant"), ADAPTERS)
def test_merged_is_attached_or_refused_by_name(model: str, variant: str) -> None:
    lm, entry, _, trained, before = attached(model, variant)
    moved(trained)
    adapted = logits(lm)
    refused = None
    try:
        entry.merge(lm.model)
    except UserError as error:
        refused = error
    if refused:
        assert "cannot be merged" in refused.message
        assert refused.fix
        assert torch.equal(logits(lm), adapted)
        return
    assert float((logits(lm) - adapted).abs().max()) < 1e-5
    assert float((logits(lm) - before).abs().max()) > 1e-3
    assert [n for n, _ in lm.model.named_parameters() if "lora" in n or "ia3" in n] == []


LOADED = """
import json, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_peft_contract as contract
torch.set_num_threads(1)
found = {}
for case in json.loads(sys.argv[3]):
    lm = contract.MODELS[case[0]]()
    contract._files.load_adapter(lm, Path(sys.argv[1]) / "-".join(case).replace(" ", "-"))
    found["-".join(case)] = contract.logits(lm).flatten().tolist()
print(json.dumps(found))
"""


def test_a_fresh_process_gives_the_same_logits(tmp_path: Path) -> None:
    expected = {}
    cases = [(m, v) for m, v in ADAPTERS if m == "decoder" or (m == "encoder" and v in PEFT.names())]
    for case in cases:
        lm, entry, parameters, trained, _ = attached(*case)
        moved(trained)
        _files.save_adapter(tmp_path / "-".join(case).replace(" ", "-"), lm, entry, parameters, PROMPTS, "card")
        expected["-".join(case)] = logits(lm)
    arguments = [str(tmp_path), str(Path(__file__).parent), json.dumps(cases)]
    done = subprocess.run([sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name, values in expected.items():
        assert float((torch.tensor(found[name]) - values.flatten()).abs().max()) < 1e-5, name


@pytest.mark.parametrize("variant", [v for m, v in ADAPTERS if m == "decoder"])
def test_a_model_in_bfloat16_starts_as_it_was_and_learns(variant: str) -> None:
    lm, entry, _, trained, before = attached("decoder", variant, "bf16")
    if entry.IDENTITY_AT_START:
        assert float((logits(lm) - before).abs().max()) <= 1e-2
    updater = Updater(trained, 0.0, 0.0)
    losses = []
    wanted = torch.arange(IDS.shape[1])[None] < IDS.shape[1] - 1
    for _ in range(6):
        hidden = hidden_states(lm.model, IDS, torch.tensor([IDS.shape[1]]), wanted)
        assert hidden.dtype == torch.bfloat16
        loss = torch.nn.functional.cross_entropy(lm.model.get_output_embeddings()(hidden).float(), IDS[0, 1:])
        loss.backward()
        updater.gather()
        assert updater.step(entry.LEARNING_RATE * 10) > 0
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert not updater.not_finite()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("variant", [v for m, v in CASES if m == "decoder"])
def test_training_scoring_and_generating_all_see_it(variant: str, dtype: str) -> None:
    """Through the model's own code, which knows nothing of ours: one token after the other, by what it finds most likely."""
    lm, _, _, trained, _ = attached("decoder", variant, dtype)
    tolerance = 1e-4 if dtype == "fp32" else 0.15
    base = load("toy-llama", dtype=dtype)
    moved(trained, 0.1)
    lm.model.requires_grad_(False)
    expected = torch.log_softmax(logits(lm)[0], -1)
    plain = torch.log_softmax(logits(base)[0], -1)
    wanted = torch.ones_like(IDS, dtype=torch.bool)
    with torch.no_grad():
        hidden = hidden_states(lm.model, IDS, torch.tensor([IDS.shape[1]]), wanted)
        ours = torch.log_softmax(lm.model.get_output_embeddings()(hidden).float(), -1)
    assert float((ours - expected).abs().max()) < tolerance
    assert float((ours - expected).abs().mean()) < float((plain - expected).abs().mean()) / 3
    ids = tuple(IDS[0].tolist())
    (scored,) = score_requests(lm, [Request(ids[:3], (ids[3:],))])
    assert scored.logprobs[0] == pytest.approx(
        sum(float(expected[i, token]) for i, token in enumerate(ids[3:], 2)), abs=5 * tolerance
    )
    (answer,) = complete(lm, [ids], Sampling(2, 0.0, 1.0, ()), 0)
    said = answer.ids[0] if answer.ids else lm.tokenizer.eos_token_id
    assert float(expected[-1].max() - expected[-1, said]) < tolerance


@pytest.mark.parametrize("variant", [v for m, v in CASES if m == "encoder"])
def test_classifying_and_training_a_classifier_see_it(variant: str) -> None:
    """The recipes' way through an encoder gives the model's own logits and gradients, in a padded batch too."""
    lm, _, _, trained, before = attached("encoder", variant)
    moved(trained, 0.3)
    ids = tuple(IDS[0].tolist())
    rows = [Encoded(r, (True,) + (False,) * (len(r) - 1), str(len(r)), (1,)) for r in (ids, ids[:3])]
    found = in_order(lambda batch: class_logits(lm, batch), rows)
    assert float((found[:1] - logits(lm)).abs().max()) < 1e-4
    assert float((found[:1] - before).abs().max()) > 1e-3
    lm.model.eval()  # no dropout
    loss, _ = class_loss(lm)(collate(rows))
    loss.backward()
    ours = {n: p.grad.clone() for n, p in trained.items() if p.grad is not None}
    lm.model.zero_grad()
    both = [lm.model(input_ids=torch.tensor([row.ids])).logits for row in rows]
    torch.nn.functional.cross_entropy(torch.cat(both), torch.tensor([1, 1]), reduction="sum").backward()
    assert set(ours) == {n for n, p in trained.items() if p.grad is not None}
    for name, gradient in ours.items():
        own = trained[name].grad
        # That of a key's bias is nothing: all keys of a row share it.
        assert float((gradient - own).norm()) < 1e-3 * float(own.norm()) + 1e-5, name


@pytest.mark.parametrize("name", PREFIXES)
def test_a_soft_prompt_does_not_go_on_an_encoder(name: str) -> None:
    with pytest.raises(UserError, match="a BertForSequenceClassification is none"):
        attached("encoder", name)


@pytest.mark.parametrize("name", PEFT.names())
def test_a_head_is_never_a_target(name: str) -> None:
    if name in PREFIXES or name == "full":
        return
    lm, _, _, trained, _ = attached("encoder", name)
    assert not [n for n in trained if n.startswith("classifier")]
    assert not lm.model.classifier.weight.requires_grad
