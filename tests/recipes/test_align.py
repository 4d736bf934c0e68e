"""`tunesmith align`: a policy learns from scores, keeps near its reference, and goes on bit for bit."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dying import dying
from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.data.collate import collate
from tunesmith.models.load import load
from tunesmith.models.score import Request, score_requests
from tunesmith.models.value_head import ValueHead
from tunesmith.recipes import align
from tunesmith.recipes._align import ready as aligning
from tunesmith.recipes._models import load as load_with_adapter
from tunesmith.recipes.align import Config
from tunesmith.train import fit as fit_module
from tunesmith.train.rollouts import ADVANTAGE, LENGTH, OLD, REFERENCE

SMALL: dict[str, Any] = {
    "data": "prompts.jsonl", "scorer": "scorer.py:score", "model": "toy-llama", "rollouts": 8, "max_new_tokens": 6,
    "steps": 3, "allow_attackable": True, "dtype": "fp32", "threads": 1, "save_steps": 1, "learning_rate": 0.01,
    "optimisation_epochs": 1, "batch_size": 64,
}  # fmt: skip
# The toy's frozen output layer can hardly tell tokens apart, so all weights are trained.
EASY: dict[str, Any] = {
    "scorer": "scorer.py:ascii", "method": "rloo", "rollouts": 32, "samples": 8, "learning_rate": 0.01,
    "peft": {"name": "selective", "parts": "all"},
}  # fmt: skip
SCORER = """
def score(prompts, answers):
    return [float(sum(c in "aeiou" for c in a)) for a in answers]

def ascii(prompts, answers):
    return [float(sum(c.isascii() for c in a)) for a in answers]

def bad(prompts, answers):
    return [float("nan")] * len(answers)

def few(prompts, answers):
    return [1.0]
"""


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scorer.py").write_text(SCORER)
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("the film", "a day", "once", "go on")))


def config(**changes: Any) -> Config:
    """Settings of a small alignment."""
    return Config(**{**SMALL, **changes})


def weights(folder: str) -> dict[str, torch.Tensor]:
    """The adapter that a run saved."""
    return load_file(Path(folder) / "adapter" / "adapter_model.safetensors")


def rounds(folder: str) -> list[dict[str, Any]]:
    """The rounds that a run kept."""
    return [json.loads(path.read_text()) for path in sorted(Path(folder, "rollouts").glob("round-*.json"))]


@pytest.mark.parametrize("method", ["ppo", "rloo", "grpo"])
def test_a_run_reports_and_its_adapter_loads(method: str) -> None:
    report = align.run(config(method=method, run_dir="run"))
    returns = (align.run.__doc__ or "").partition("Returns:")[2].partition("Raises:")[0]
    assert set(report) == {word.strip(" .\n") for word in returns.split(",")}
    assert report["steps"] == 3
    assert report["rollouts"] == 24
    assert "value_head" not in "".join(weights("run"))
    load_with_adapter("toy-llama", "run/adapter", dtype="fp32")
    first = rounds("run")[0]
    # Before the first update the policy is the reference.
    assert abs(first["measured"]["kl"]) < 1e-4
    assert abs(rounds("run")[-1]["measured"]["kl"]) > 1e-3


def test_numbers_kept_from_sampling_are_those_of_a_second_reading() -> None:
    align.run(config(run_dir="run", steps=1))
    lm, kept = load("toy-llama", dtype="fp32"), rounds("run")[0]
    for row in kept["rows"]:
        start = row["loss_mask"].index(True)
        prompt, answer = tuple(row["ids"][:start]), tuple(row["ids"][start:])
        (scored,) = score_requests(lm, [Request(prompt, (answer,))])
        numbers = torch.tensor(row["beside"])
        assert numbers[:, OLD].tolist() == pytest.approx(scored.token_logprobs[0], abs=1e-5)
        assert numbers[:, REFERENCE].tolist() == pytest.approx(scored.token_logprobs[0], abs=1e-5)
        mean = sum(sum(one["loss_mask"]) for one in kept["rows"]) / len(kept["rows"])
        assert numbers[:, LENGTH].tolist() == pytest.approx([len(answer) / mean] * len(answer))
        assert row["score"] == sum(c in "aeiou" for c in row["text"])
    advantages = torch.tensor([place[ADVANTAGE] for row in kept["rows"] for place in row["beside"]])
    assert float(advantages.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(advantages.std(unbiased=False)) == pytest.approx(1.0, abs=1e-5)


def test_the_gradient_is_that_of_the_plain_formula() -> None:
    it = aligning.ready(config(method="rloo", samples=4), Path("run"))
    rows = list(it.rollouts.in_epoch(0))
    it.lm.model.eval()
    loss, _ = it.training.loss_of(collate(rows))
    loss.backward()
    found = {name: p.grad.clone() for name, p in it.training.parameters.items() if p.grad is not None}
    it.lm.model.zero_grad()
    total = torch.zeros(())
    for row in rows:
        logits = it.lm.model(input_ids=torch.tensor([row.ids])).logits[0]
        start = row.loss_mask.index(True)
        logp = logits[start - 1 : -1].log_softmax(-1)[range(len(row.ids) - start), list(row.ids[start:])]
        assert row.beside is not None
        total = total - (logp * torch.tensor([place[ADVANTAGE] for place in row.beside])).sum()
    total.backward()
    assert float(loss.detach()) == pytest.approx(float(total.detach()), abs=1e-4)
    for name, p in it.training.parameters.items():
        if p.grad is not None:
            assert torch.allclose(found[name], p.grad, atol=1e-5), name


def test_scores_rise_where_they_are_easy() -> None:
    report = align.run(config(run_dir="run", steps=25, **EASY, beta=0.0))
    first, last = rounds("run")[:3], rounds("run")[-3:]
    mean = lambda some: sum(r["measured"]["score"] for r in some) / len(some)  # noqa: E731
    assert mean(last) > mean(first) + 1.5
    assert report["score"] == last[-1]["measured"]["score"]


def test_divergence_is_held_by_its_price() -> None:
    free = align.run(config(run_dir="free", steps=25, **EASY, beta=0.0))
    dear = align.run(config(run_dir="dear", steps=25, **EASY, beta=20.0))
    assert abs(dear["kl"]) < free["kl"] / 4


@pytest.mark.parametrize("moment", ["sampling", "update"])
def test_a_killed_run_goes_on_bit_for_bit(moment: str) -> None:
    changes = {"optimisation_epochs": 2, "batch_size": 4, "kl_target": 2.0}
    align.run(config(run_dir="straight", **changes))
    with dying(*{"sampling": (aligning.Rollouts, "_answers", 2), "update": (fit_module, "_step", 6)}[moment]):
        align.run(config(run_dir="run", **changes))
    align.run(config(run_dir="run", **changes))
    assert all(torch.equal(weights("run")[key], tensor) for key, tensor in weights("straight").items())
    betas = [r["beta_after"] for r in rounds("run")]
    assert betas == [r["beta_after"] for r in rounds("straight")]
    assert len(set(betas)) == 3
    shutil.rmtree("run")
    align.run(config(run_dir="run", seed=1, **changes))
    assert not all(torch.equal(weights("run")[key], tensor) for key, tensor in weights("straight").items())


def test_a_score_that_is_no_number_stops_with_its_answer_named() -> None:
    with pytest.raises(WorkFailed, match=r"the scorer gave nan to the answer .* to '"):
        align.run(config(run_dir="run", scorer="scorer.py:bad"))
    with pytest.raises(WorkFailed, match=r"the scorer gave 1 scores for \d+ answers"):
        align.run(config(run_dir="other", scorer="scorer.py:few"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scorer": "none.py:score"}, "there is no Python file 'none.py' with a scorer"),
        ({"scorer": "scorer.py:scroe"}, "scorer.py has no function 'scroe'"),
        ({"method": "rloo", "rollouts": 6}, "6 rollouts cannot be 4 samples for each prompt"),
        ({"method": "grpo", "samples": 1}, "cannot be 1 samples"),
        ({"peft": "full"}, "align trains an adapter"),
        ({"data": "none.jsonl"}, "there is no file 'none.jsonl'"),
        ({"max_new_tokens": 100_000}, "with the answer at most"),
    ],
)
def test_bad_input_is_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        align.run(config(run_dir="run", **changes))
    assert not Path("run").exists()


def test_a_value_head_expects_nothing_at_first() -> None:
    assert ValueHead(5, torch.device("cpu"))(torch.randn(3, 5, dtype=torch.bfloat16)).tolist() == [0.0, 0.0, 0.0]


def test_an_answer_that_does_not_end_may_have_a_score_of_its_own() -> None:
    align.run(config(run_dir="run", steps=1, no_end=-9.0))
    for row in rounds("run")[0]["rows"]:
        assert (row["score"] == -9.0) == (row["stop_reason"] == "length")
    assert math.isfinite(rounds("run")[0]["measured"]["score"])
