"""PPO's value function: on the policy's hidden states, or an adapter of its own on the same base, new or a reward model's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dying import dying
from tunesmith.core.errors import UserError
from tunesmith.models.load import load
from tunesmith.recipes import align, reward
from tunesmith.recipes._align import ready as aligning
from tunesmith.recipes._reward.files import open_reward
from tunesmith.train.rollouts import RETURN, VALUE

# A norm that every gradient exceeds.
SMALL: dict[str, Any] = {
    "data": "prompts.jsonl", "scorer": "scorer.py:score", "model": "toy-llama", "rollouts": 8, "max_new_tokens": 6, "steps": 2,
    "allow_attackable": True, "dtype": "fp32", "threads": 1, "save_steps": 1, "learning_rate": 0.01, "optimisation_epochs": 1,
    "batch_size": 8, "clip_norm": 1e-3,
}  # fmt: skip
SEPARATE = {"name": "ppo", "value": "separate"}


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LoRA reward model of the toy (a), one that is a model of its own (b), and two of them (c)."""
    folder = tmp_path_factory.mktemp("judges")
    pairs = [{"prompt": f"say {i}", "chosen": f"{i}!", "rejected": f"{i}."} for i in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    for name, more in {"a": {}, "b": {"peft": "full"}, "c": {"seeds": [0, 1]}}.items():
        some = {"model": "toy-llama", "dtype": "fp32", "threads": 1, "learning_rate": 0.01, "evaluations": 1, **more}
        reward.run(reward.Config(data=str(folder / "pairs.jsonl"), run_dir=str(folder / name), **some))
    return folder


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scorer.py").write_text("def score(prompts, answers):\n    return [float(len(set(a))) for a in answers]\n")
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("the film", "a day", "once", "go on")))


def config(**changes: Any) -> align.Config:
    """Settings of a small alignment."""
    return align.Config(**{**SMALL, **changes})


def trained(folder: str) -> dict[str, torch.Tensor]:
    """What the newest checkpoint of a run trains, by name."""
    saved = sorted(Path(folder, "checkpoints").glob("step-*"))[-1]
    return {key: tensor for path in sorted(saved.glob("*.safetensors")) for key, tensor in load_file(path).items()}


def beside(folder: str, number: int) -> torch.Tensor:
    """What a round kept of each of its tokens, [N, 6]."""
    kept = json.loads(Path(folder, f"rollouts/round-{number:06d}.json").read_text())
    return torch.tensor([place for row in kept["rows"] for place in row["beside"]], dtype=torch.float64)


def losses(folder: str) -> list[float]:
    """The value loss a token of each update."""
    rows = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    return [row["value_loss"] for row in rows if "value_loss" in row]


def policy(folder: str) -> dict[str, torch.Tensor]:
    """The adapter that a run saved."""
    return load_file(Path(folder) / "adapter" / "adapter_model.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights have the same bits."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("value", ["shared", "separate"])
def test_learning_to_expect_moves_the_policy_only_where_they_share_weights(value: str) -> None:
    # The head starts at zero, so that only the second update could pull at weights below it.
    for weight in (0.0, 5.0):
        method = {"name": "ppo", "value": value, "value_weight": weight}
        align.run(config(method=method, steps=1, optimisation_epochs=2, run_dir=str(weight)))
    assert equal(policy("0.0"), policy("5.0")) == (value == "separate")
    assert not equal(trained("0.0"), trained("5.0"))


def test_a_value_function_of_its_own_learns_and_leaves_the_base_alone() -> None:
    align.run(config(method=SEPARATE, run_dir="run"))
    assert not any("value" in name for name in policy("run"))
    # Nothing is expected at first, and something in the round behind the first update.
    assert beside("run", 0)[:, VALUE].abs().max() == 0
    assert beside("run", 1)[:, VALUE].abs().max() > 0
    it = aligning.ready(config(method=SEPARATE), Path("other"))
    learned = sorted(name.removeprefix("value.") for name in it.training.parameters if name.startswith("value."))
    assert learned == sorted(name for name in it.training.parameters if not name.startswith("value"))
    before = {name: p.detach().clone() for name, p in it.lm.model.named_parameters() if "lora" not in name}
    bare = dict(load("toy-llama", dtype="fp32").model.named_parameters())
    assert {name.replace(".base.", ".") for name in before} == set(bare)
    assert all(torch.equal(tensor, bare[name.replace(".base.", ".")]) for name, tensor in before.items())


@pytest.mark.parametrize("value", ["shared", "separate"])
def test_what_is_learned_from_is_what_was_expected(value: str) -> None:
    align.run(config(method={"name": "ppo", "value": value}, run_dir="run"))
    for number, loss in enumerate(losses("run")):
        kept = beside("run", number)
        expected = 0.5 * ((kept[:, VALUE] - kept[:, RETURN]) ** 2).mean()
        assert loss == pytest.approx(float(expected), rel=1e-5)
        assert loss != pytest.approx(float(0.5 * (kept[:, RETURN] ** 2).mean()), rel=1e-3) or number == 0


def test_it_begins_as_a_reward_model(judges: Path) -> None:
    method = {**SEPARATE, "value_from": str(judges / "a")}
    align.run(config(method=method, run_dir="run", steps=1))
    (judge,) = open_reward(str(judges / "a"), dtype="fp32")
    kept = json.loads(Path("run/rollouts/round-000000.json").read_text())
    apart, spread = [], []
    for row in kept["rows"]:
        start = row["loss_mask"].index(True)
        with torch.no_grad():
            hidden = judge.lm.model.base_model(input_ids=torch.tensor([row["ids"]])).last_hidden_state[0, start - 1 : -1]
            expected = judge.gain * judge.head(hidden)[:, 0] + judge.bias
        values = torch.tensor(row["beside"])[:, VALUE]
        apart.append(float((values - expected).abs().max()))
        spread.append(float(expected.abs().max()))
    assert max(apart) < 1e-4 < 1e-2 < max(spread)
    # The scorer that it began as is not trained with it.
    assert open_reward(str(judges / "a"), dtype="fp32")[0].score([("say", "it!")]) == judge.score([("say", "it!")])


def test_the_reward_model_that_steers_stays_as_it_is(judges: Path) -> None:
    path = str(judges / "a")
    it = aligning.ready(config(method={**SEPARATE, "value_from": path}, scorer=f"reward-model:path={path}"), Path("run"))
    first = it.rollouts.sampler.judges.scorer
    answers = [prompt.answered(" it!", True) for prompt in it.rollouts.sampler.prompts]
    before = list(first(answers))
    with torch.no_grad():
        for parameter in it.training.parameters.values():
            parameter.add_(0.1)
    assert list(first(answers)) == before


def test_a_killed_run_goes_on_bit_for_bit() -> None:
    changes = {"method": SEPARATE, "optimisation_epochs": 2, "batch_size": 4}
    align.run(config(run_dir="straight", **changes))
    with dying(aligning.Rollouts, "_answers", 2):
        align.run(config(run_dir="run", **changes))
    align.run(config(run_dir="run", **changes))
    assert equal(trained("run"), trained("straight"))
    assert equal(policy("run"), policy("straight"))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"scorer": "reward-model:path=judge"}, "scorer_identity"),
        ({"held_out": "reward-model:path=judge"}, "held_out_identity"),
        ({"scorer": {"name": "mix", "of": [{"scorer": "reward-model:path=judge"}]}}, "scorer_identity"),
        ({"method": {**SEPARATE, "value_from": "judge"}}, "value_from_identity"),
    ],
)
def test_a_run_does_not_go_on_with_another_reward_model_of_the_same_name(changes: dict[str, Any], key: str, judges: Path) -> None:
    shutil.copytree(judges / "a", "judge")
    align.run(config(run_dir="run", **changes))
    align.run(config(run_dir="run", **changes))  # the same one
    shutil.rmtree("judge")
    shutil.copytree(judges / "c" / "seed-1", "judge")
    with pytest.raises(UserError, match=f"{key} was"):
        align.run(config(run_dir="run", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": SEPARATE, "peft": "ia3"}, "a value function of its own is a LoRA"),
        ({"method": SEPARATE, "activation_checkpointing": True}, "does not go with --method.value separate"),
        ({"method": {**SEPARATE, "value_from": "b"}}, r"value_from: the reward model in .*b is no LoRA on the weights"),
        ({"method": {**SEPARATE, "value_from": "c"}}, "value_from: .*c is several"),
        ({"method": {**SEPARATE, "value_from": "none"}}, "value_from: there is no reward model 'none'"),
        ({"method": {**SEPARATE, "value_from": ""}}, "value_from"),
        ({"method": {"name": "ppo", "value_from": "a"}}, "add --method.value separate"),
    ],
)
def test_bad_input_is_one_clear_line(changes: dict[str, Any], message: str, judges: Path) -> None:
    if (name := changes["method"].get("value_from")) in ("a", "b", "c"):
        changes = {**changes, "method": {**changes["method"], "value_from": str(judges / name)}}
    with pytest.raises((UserError, ValueError), match=message):
        align.run(config(run_dir="run", **changes))
    assert not Path("run").exists()
