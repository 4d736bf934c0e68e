"""Several adapters on one base: each row of a batch is computed by its own, and switching touches no weight."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tunesmith as ts
from tunesmith.core.errors import UserError
from tunesmith.core.levers import without
from tunesmith.models.generate import Sampling, complete
from tunesmith.models.residents import ResidentLinear, Residents
from tunesmith.models.score import Request, score_requests
from tunesmith.models.trunk import trunk_of
from tunesmith.peft import lora, prompt_tuning
from tunesmith.peft._files import save_adapter
from tunesmith.recipes import _models

PROMPTS = [tuple(range(5, 5 + n)) for n in (4, 9, 9, 30, 2)]
# One adapter on all linear layers, one of another rank on some.
MADE: dict[str, dict[str, Any]] = {"a": {"rank": 3}, "b": {"rank": 2, "targets": ["q_proj", "down_proj"], "alpha": 3.0}}
MIXED = ["a", "b", "base", "b", "a"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two saved adapters of toy-llama that do something."""
    saved = {}
    for seed, (name, parameters) in enumerate(MADE.items()):
        lm = _models.load("toy-llama", dtype="fp32")
        trained = lora.attach(lm.model, lora.Parameters(**parameters), seed)
        chance = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in trained.values():
                p.add_(0.2 * torch.randn(p.shape, generator=chance))
        folder = tmp_path_factory.mktemp("adapters") / name
        save_adapter(folder, lm, lora, lora.Parameters(**parameters), [(5, 6, 7)], "A card.")
        saved[name] = str(folder)
    return saved


def alone(folders: dict[str, str], name: str) -> Any:
    """The model with one adapter the usual way, or without any."""
    return _models.load("toy-llama", folders.get(name), "fp32")


def logprobs(lm: Any, adapters: list[str] | list[None]) -> list[tuple[float, ...]]:
    """Scores of two continuations after every prompt."""
    asked = [Request(p, ((7, 8), (9,)), a) for p, a in zip(PROMPTS, adapters, strict=True)]
    return [scored.logprobs for scored in score_requests(lm, asked)]


def largest(a: list[tuple[float, ...]], b: list[tuple[float, ...]]) -> float:
    """The largest difference."""
    return float((torch.tensor(a) - torch.tensor(b)).abs().max())


def test_the_update_of_each_row_by_hand() -> None:
    # W = I, A = [1 2], B = [3 4]^T, alpha / r = 2: 2 B A x = (18, 24) for x = (1, 1); the other adapter's 1 * (1, 0) * (1 - 0).
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.eye(2)  # type: ignore[union-attr]
    model.device = torch.device("cpu")  # type: ignore[assignment]
    residents = Residents(model)
    residents.put("one", {"0": (torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]]), 2.0)})
    residents.put("two", {"0": (torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0], [0.0]]), 1.0)})
    x = torch.ones(4, 2)
    with torch.inference_mode(), residents.of_rows([("two", 1), ("one", 2), ("base", 1)]):
        assert model(x).tolist() == [[2.0, 1.0], [19.0, 25.0], [19.0, 25.0], [1.0, 1.0]]
    assert model(x).tolist() == [[1.0, 1.0]] * 4
    residents.switch("one")
    with torch.inference_mode(), residents.of_rows([(None, 3), ("two", 1)]):
        assert model(x).tolist() == [[19.0, 25.0]] * 3 + [[2.0, 1.0]]


@pytest.mark.parametrize("levers", [(), ("decoder",)], ids=["ours", "library"])
def test_mixed_rows_equal_one_adapter_at_a_time(folders: dict[str, str], levers: tuple[str, ...]) -> None:
    with without(*levers):
        lm = ts.load("toy-llama", adapters=folders, dtype="fp32")
        mixed = logprobs(lm, MIXED)
        solo = {name: logprobs(alone(folders, name), [None] * 5) for name in ("a", "b", "base")}
        assert largest(mixed, [solo[name][i] for i, name in enumerate(MIXED)]) < 1e-5
        swapped = ["b", "a", *MIXED[2:]]
        assert largest(logprobs(lm, swapped)[:2], mixed[:2]) > 1e-2
        assert largest(logprobs(lm, swapped)[2:], mixed[2:]) < 1e-5


@pytest.mark.parametrize("levers", [(), ("decoder",)], ids=["ours", "library"])
def test_generation_of_mixed_rows_equals_one_adapter_at_a_time(folders: dict[str, str], levers: tuple[str, ...]) -> None:
    # Rows end at different steps and new ones take their places, so places change their adapters.
    prompts, names = PROMPTS * 9, (MIXED * 9)[:45]
    how = Sampling(12, temperature=1.0)
    with without(*levers):
        lm = ts.load("toy-llama", adapters=folders, dtype="fp32")
        mixed = complete(lm, prompts, how, 3, adapters=names)
        for name in ("a", "b", "base"):
            own = [i for i, n in enumerate(names) if n == name]
            solo = complete(alone(folders, name), [prompts[i] for i in own], how, 3)
            assert [mixed[i].ids for i in own] == [one.ids for one in solo]
            found = [(mixed[i].logprobs, one.logprobs) for i, one in zip(own, solo, strict=True)]
            assert max(abs(x - y) for a, b in found for x, y in zip(a, b, strict=True)) < 1e-5
    assert len({c.ids for c in mixed}) > 20


def test_shared_beginnings_are_not_shared_between_adapters(folders: dict[str, str]) -> None:
    lm = ts.load("toy-llama", adapters=folders, dtype="fp32")
    long = tuple(range(5, 65))
    prompts = [(*long, i) for i in range(6)]
    names = ["a", "b"] * 3
    asked = [Request(p, ((9,),), n) for p, n in zip(prompts, names, strict=True)]
    mixed = [s.logprobs for s in score_requests(lm, asked)]
    for name in ("a", "b"):
        one = alone(folders, name)
        solo = [s.logprobs for s in score_requests(one, [Request(p, ((9,),)) for p in prompts])]
        own = [i for i, n in enumerate(names) if n == name]
        assert largest([mixed[i] for i in own], [solo[i] for i in own]) < 1e-5


def test_switching(folders: dict[str, str]) -> None:
    lm = ts.load("toy-llama", adapters=folders, dtype="fp32")
    assert lm.adapters.names == ["a", "b"]
    base = logprobs(alone(folders, "base"), [None] * 5)
    assert logprobs(lm, [None] * 5) == base
    lm.adapters.switch("a")
    assert largest(logprobs(lm, [None] * 5), logprobs(alone(folders, "a"), [None] * 5)) < 1e-5
    with lm.adapters.using("b"):
        assert largest(logprobs(lm, [None] * 5), logprobs(alone(folders, "b"), [None] * 5)) < 1e-5
        with lm.adapters.using("base"):
            assert logprobs(lm, [None] * 5) == base
    assert lm.adapters.active == "a"
    lm.adapters.remove("a")
    assert lm.adapters.active is None
    assert logprobs(lm, [None] * 5) == base


def test_the_packed_pass_adds_the_same_updates(folders: dict[str, str]) -> None:
    # bfloat16 is laid out anew for the processor; the updates must be added there too, where one adapter has all rows and
    # where each row has its own.
    lm, exact = ts.load("toy-llama", adapters=folders, dtype="bf16"), ts.load("toy-llama", adapters=folders, dtype="fp32")
    trunk_of(lm.model, pack=True)
    for names in (["a"] * 5, ["base"] * 5, MIXED):
        assert largest(logprobs(lm, names), logprobs(exact, names)) < 0.1
    assert trunk_of(lm.model).packed
    assert largest(logprobs(lm, ["a"] * 5), logprobs(lm, ["base"] * 5)) > 0.3


def test_python_names_an_adapter_for_each_text(folders: dict[str, str]) -> None:
    lm = ts.load("toy-llama", adapters=folders, dtype="fp32")
    both = ts.score(lm, [("a", "film ", "good"), ("b", "film ", "good"), ("film ", "good")])
    assert both[0] == pytest.approx(ts.score(alone(folders, "a"), [("film ", "good")])[0], abs=1e-5)
    assert both[2] == pytest.approx(ts.score(alone(folders, "base"), [("film ", "good")])[0], abs=1e-5)
    assert abs(both[0] - both[1]) > 1e-3
    answers = ts.generate(lm, [("a", "film "), "film "], max_new_tokens=5, temperature=0.0)
    assert [a[0].text for a in answers] == [
        ts.generate(alone(folders, n), ["film "], max_new_tokens=5, temperature=0.0)[0][0].text for n in ("a", "base")
    ]


def test_no_number_of_an_adapter_is_a_parameter_of_the_model(folders: dict[str, str]) -> None:
    # A hundred adapters must not slow down what looks through a model's parameters, nor be saved with it.
    lm, bare = ts.load("toy-llama", adapters=folders), alone(folders, "base")
    assert sum(p.numel() for p in lm.model.parameters()) == sum(p.numel() for p in bare.model.parameters())
    assert any(isinstance(m, ResidentLinear) for m in lm.model.modules())
    assert lm.adapters.parameters == sum(p.numel() for n in MADE for p in lora.state(alone(folders, n).model).values())


def test_mistakes_are_one_line(folders: dict[str, str], tmp_path: Path) -> None:
    lm = ts.load("toy-llama", adapters=folders, dtype="fp32")
    with pytest.raises(UserError, match=r"there is no adapter 'c' on this model"):
        lm.adapters.switch("c")
    with pytest.raises(UserError, match=r"there is no adapter 'aa'.*\n.*Did you mean 'a'"):
        ts.score(lm, [("aa", "x", "y")])
    with pytest.raises(UserError, match=r"cannot be called 'base'"):
        ts.load("toy-llama", adapters={"base": folders["a"]})
    with pytest.raises(UserError, match="exclude each other"):
        ts.load("toy-llama", folders["a"], adapters=folders)
    with pytest.raises(UserError, match=r"has no adapters to switch"):
        _ = alone(folders, "a").adapters
    with pytest.raises(UserError, match=r"there is no adapter 'a' on this model"):
        ts.score(alone(folders, "base"), [("a", "x", "y")])
    soft = alone(folders, "base")
    parameters = prompt_tuning.Parameters(tokens=3, init="random")
    prompt_tuning.attach(soft.model, parameters, 0)
    save_adapter(tmp_path / "soft", soft, prompt_tuning, parameters, [(5, 6)], "A card.")
    with pytest.raises(UserError, match=r"PROMPT_TUNING adapter, and only LoRA adapters can share a model"):
        ts.load("toy-llama", adapters={"soft": str(tmp_path / "soft")})
