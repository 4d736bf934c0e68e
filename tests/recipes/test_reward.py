"""`tunesmith reward`: a head for one number learns what people prefer, and says how far it can be trusted."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dying import dying
from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.core.records import Message, Preference
from tunesmith.data.collate import collate, micro_batches
from tunesmith.models.load import load
from tunesmith.recipes import reward
from tunesmith.recipes._reward import losses, measures, rated
from tunesmith.recipes._reward.files import open_reward
from tunesmith.recipes._reward.model import fresh
from tunesmith.recipes._reward.rated import Rated
from tunesmith.recipes.reward import Config
from tunesmith.train import fit as fit_module

SMALL: dict[str, Any] = {
    "data": "pairs.jsonl", "model": "toy-llama", "threads": 1, "dtype": "fp32", "learning_rate": 0.01, "batch_size": 8,
    "evaluations": 1, "save_steps": 2,
}  # fmt: skip
WORDS = ("river", "stone", "cloud", "paper", "green", "seven", "house", "light")


def pair(number: int) -> dict[str, str]:
    """A pair in which the completion with the exclamation mark is the preferred one."""
    say = WORDS[number % len(WORDS)]
    return {"prompt": f"say {number}", "chosen": f"{say}!", "rejected": f"{say}."}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A reward model trained on 120 pairs, and its report."""
    folder = tmp_path_factory.mktemp("reward")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair(i)) + "\n" for i in range(120)))
    report = reward.run(Config(**{**SMALL, "data": str(folder / "pairs.jsonl"), "run_dir": str(folder / "run"), "epochs": 3}))
    return folder, report


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text("".join(json.dumps(pair(i)) + "\n" for i in range(60)))


def preference(prompt: Any, completions: tuple[str, ...], ranks: tuple[int, ...], **more: Any) -> Preference:
    """A judgement for a test."""
    return Preference("id", prompt, completions, ranks, "test:1", **more)


def test_it_learns_what_was_preferred_and_says_so(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, report = trained
    returns = (reward.run.__doc__ or "").partition("Returns:")[2].partition("Raises:")[0]
    assert set(report) == {word.strip(" .\n") for word in returns.split(",")}
    assert report["accuracy"]["value"] == 1.0
    assert report["objective"] == "kwise"
    assert json.loads((folder / "run" / "report.json").read_text())["accuracy"] == report["accuracy"]
    page = (folder / "run" / "report.html").read_text()
    assert "Agreement with people" in page
    assert "agrees with 1.000" in reward.render(report)


def test_no_prompt_is_on_two_sides_and_the_other_answer_is_not_better(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, report = trained
    (it,) = open_reward(report["artefact"])
    new = [pair(i) for i in range(500, 510)]
    better, worse = (it.score([(row["prompt"], row[key]) for row in new]) for key in ("chosen", "rejected"))
    assert all(b > w for b, w in zip(better, worse, strict=True))
    # The mean of the preferred completions that were trained on is zero.
    assert report["normalised"]["after"]["deviation"] > 0
    rows = [pair(i) for i in range(120)]
    assert abs(np.mean(it.score([(row["prompt"], row["chosen"]) for row in rows]))) < report["normalised"]["after"]["deviation"]
    assert 0 < (folder / "run" / "adapter" / "adapter_model.safetensors").stat().st_size < 1_000_000


def test_a_reward_is_read_at_the_last_real_token_whatever_stands_behind() -> None:
    it = fresh("toy-llama", "fp32", seed=0)
    it.head.requires_grad_(False)
    tokenizer, model = it.lm.tokenizer, it.lm.model
    # Padding is the end of a text here, and a prompt holds one too: a search for the id would find that.
    assert tokenizer.pad_token_id is not None
    texts = [("one two", " three"), ("a", "b"), ("longer than the others", " by far")]
    together = it.score(texts)
    for (prompt, answer), found in zip(texts, together, strict=True):
        ids = torch.tensor([it.ids(prompt, answer)])
        assert int(ids[0, -1]) == tokenizer.eos_token_id
        hidden = model.base_model(input_ids=ids).last_hidden_state[0, -1]
        assert found == pytest.approx(float(hidden @ it.head.weight[0]), abs=1e-4)
        assert found == pytest.approx(it.score([(prompt, answer)])[0], abs=1e-5)
    padded = torch.nn.functional.pad(torch.tensor([it.ids(*texts[0])]), (0, 3), value=tokenizer.pad_token_id)
    behind = model.base_model(input_ids=padded).last_hidden_state
    assert float(behind[0, -1] @ it.head.weight[0]) != pytest.approx(together[0], abs=1e-3)


def test_the_head_begins_with_variance_one_over_d_plus_one() -> None:
    weights = torch.cat([fresh("toy-llama", "fp32", seed).head.weight.detach().flatten() for seed in range(20)])
    assert float(weights.std()) == pytest.approx(1 / math.sqrt(65), rel=0.05)
    assert torch.equal(fresh("toy-llama", "fp32", 3).head.weight, fresh("toy-llama", "fp32", 3).head.weight)


def of_batch(preferences: list[Preference], **changes: Any) -> tuple[float, list[list[float]], losses.Fitted]:
    """The loss of judgements by a toy, their rewards, and what is fitted."""
    it = fresh("toy-llama", "fp32", seed=1)
    config = Config(data="x", **changes)
    objective = losses.objective_of(config, preferences)
    fitted = losses.Fitted(objective, config.ties, preferences)
    rows = losses.encode(it, preferences, objective)
    loss, _ = losses.loss_of(it, fitted, config)(collate(rows))
    parts = sum(float(losses.loss_of(it, fitted, config)(batch)[0].detach()) for batch in micro_batches(rows, 40))
    assert float(loss.detach()) == pytest.approx(parts, rel=1e-5)
    return float(loss.detach()), [it.score([(p.prompt, c) for c in p.completions]) for p in preferences], fitted


def log_sigma(x: float) -> float:
    return -math.log1p(math.exp(-x))


RANKED = [preference("p", ("a", "bb", "ccc", "dd"), (1, 2, 3, 3)), preference("q", ("x", "y"), (2, 1))]
RATED = [
    preference("p", ("a", "bb", "ccc"), (1, 2, 3), ratings=(3.0, 1.0, -2.0)),
    preference("q", ("x", "y"), (1, 2), ratings=(1.0, -2.0)),
]


def test_all_pairs_of_a_prompt_count_as_one_judgement() -> None:
    loss, rewards, _ = of_batch(RANKED)
    first = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    expected = -sum(log_sigma(rewards[0][i] - rewards[0][j]) for i, j in first) / 5 - log_sigma(rewards[1][1] - rewards[1][0])
    assert loss == pytest.approx(expected, abs=1e-4)
    turned = -sum(log_sigma(rewards[0][j] - rewards[0][i]) for i, j in first) / 5 - log_sigma(rewards[1][0] - rewards[1][1])
    assert loss != pytest.approx(turned, abs=1e-4)


def test_margin_smoothing_and_centring_are_those_of_the_formula() -> None:
    loss, (r, s), _ = of_batch(RATED, margin=0.5, rating_margin=0.1, label_smoothing=0.2, centring=0.01)
    expected = 0.0
    for rewards, ratings, pairs in ((r, RATED[0].ratings, [(0, 1), (0, 2), (1, 2)]), (s, RATED[1].ratings, [(0, 1)])):
        assert ratings is not None
        for i, j in pairs:
            d, m = rewards[i] - rewards[j], 0.5 + 0.1 * (ratings[i] - ratings[j])
            term = -0.8 * log_sigma(d - m) - 0.2 * log_sigma(m - d) + 0.01 * (rewards[i] + rewards[j]) ** 2
            expected += term / len(pairs)
    assert loss == pytest.approx(expected, abs=1e-4)


def test_the_best_of_several_is_a_softmax_over_them() -> None:
    chosen = [
        preference("p", ("a", "bb", "ccc", "d"), (2, 1, 2, 2), only_best=True),
        preference("q", ("x", "y"), (1, 2), only_best=True),
    ]
    loss, (r, s), fitted = of_batch(chosen)
    assert fitted.objective == "best-of-k"
    expected = math.log(sum(math.exp(x) for x in r)) - r[1] + math.log(sum(math.exp(x) for x in s)) - s[0]
    assert loss == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("ties", ["davidson", "rao-kupper"])
def test_ties_are_an_outcome_whose_strength_begins_where_equal_rewards_tie_as_often(ties: str) -> None:
    loss, (r, s), fitted = of_batch(RANKED, ties=ties)
    strength = float(fitted.tie_strength().detach())
    # One of seven pairs is a tie: nu / (2 + nu) = 1/7, (theta - 1) / (theta + 1) = 1/7.
    assert strength == pytest.approx(1 / 3 if ties == "davidson" else 4 / 3, abs=1e-4)
    assert losses.tie_probability(ties, strength, 0.0) == pytest.approx(1 / 7, abs=1e-4)

    def nll(d: float, outcome: int) -> float:
        tie = losses.tie_probability(ties, strength, d)
        if ties == "davidson":
            win = math.exp(d / 2) / (math.exp(d / 2) + math.exp(-d / 2) + strength)
        else:
            win = 1 / (1 + math.exp(-(d - math.log(strength))))
        return -math.log((win, tie, 1 - win - tie)[outcome])

    pairs = [(0, 1, 0), (0, 2, 0), (0, 3, 0), (1, 2, 0), (1, 3, 0), (2, 3, 1)]
    expected = sum(nll(r[i] - r[j], outcome) for i, j, outcome in pairs) / 6 + nll(s[0] - s[1], 2)
    assert loss == pytest.approx(expected, abs=1e-4)


def test_ratings_are_learned_as_numbers_or_as_levels() -> None:
    loss, (r, s), fitted = of_batch(RATED, objective="regression")
    given = np.array([3.0, 1.0, -2.0, 1.0, -2.0])
    assert (fitted.mean, fitted.deviation) == pytest.approx((given.mean(), given.std()), abs=1e-5)
    assert loss == pytest.approx(float((((given - given.mean()) / given.std() - [*r, *s]) ** 2).sum()), rel=1e-4)
    loss, (r, s), fitted = of_batch(RATED, objective="ordinal")
    low, high = fitted.thresholds().detach().tolist()
    assert (low, high) == pytest.approx((math.log(0.4 / 0.6), math.log(0.8 / 0.2)), abs=1e-4)
    sigma = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    of = {-2.0: lambda x: sigma(low - x), 1.0: lambda x: sigma(high - x) - sigma(low - x), 3.0: lambda x: sigma(x - high)}
    assert loss == pytest.approx(-sum(math.log(of[g](x)) for g, x in zip(given, [*r, *s], strict=True)), rel=1e-4)


def test_gain_and_bias_change_neither_order_nor_probabilities() -> None:
    it = fresh("toy-llama", "fp32", 0)
    texts = [("", word) for word in WORDS]
    before = it.score(texts)
    it.normalise(before, deviation=True)
    after = it.score(texts)
    assert np.mean(after) == pytest.approx(0, abs=1e-5)
    assert np.std(after) == pytest.approx(1, abs=1e-5)  # of the population
    assert np.argsort(before).tolist() == np.argsort(after).tolist()
    # Rewards 1, 2, 4, 5: mean 3, deviation sqrt 2.5 (methods, section 20).
    plain = replace(it, gain=1.0, bias=0.0)
    plain.normalise([1.0, 2.0, 4.0, 5.0], deviation=True)
    assert (plain.gain, plain.bias) == pytest.approx((0.632456, -1.897367), abs=1e-6)
    with pytest.raises(WorkFailed, match="all 3 answers have the same reward"):
        it.normalise([2.0, 2.0, 2.0], deviation=True)


def test_what_is_saved_opens_on_its_base_and_on_a_policys_trunk(trained: tuple[Path, dict[str, Any]]) -> None:
    from tunesmith.peft import lora
    from tunesmith.recipes._reward.files import trunk_of

    _, report = trained
    (own,) = open_reward(report["artefact"], dtype="fp32")
    lm = load("toy-llama", dtype="fp32")
    modules, weights = dict(lm.model.named_modules()), {n: p.clone() for n, p in lm.model.named_parameters()}
    (shared,) = open_reward(report["artefact"], trunk=trunk_of((lora, None), lm))
    assert shared.lm is lm
    assert dict(lm.model.named_modules()) == modules
    # The policy learns on the same trunk, and the reward model does not feel it.
    lora.attach(lm.model, lora.Parameters.model_validate({"rank": 4}), seed=0)
    for layer in lora.layers(lm.model).values():
        layer.lora_B.data.normal_()
    texts = [("say 3", "paper!"), ("say 4", "green."), ("", "house")]
    policy = lm.model(input_ids=torch.tensor([[1, 2, 3]])).logits
    assert shared.score(texts) == pytest.approx(own.score(texts), abs=1e-4)
    assert torch.equal(lm.model(input_ids=torch.tensor([[1, 2, 3]])).logits, policy)
    assert all(torch.equal(p, weights[n]) for n, p in lm.model.named_parameters() if n in weights)


def test_a_damaged_or_foreign_reward_model_is_refused(trained: tuple[Path, dict[str, Any]]) -> None:
    _, report = trained
    shutil.copytree(report["artefact"], "copy")
    text = Path("copy/reward.json").read_text()
    Path("copy/reward.json").write_text(text.replace('"gain": 1.0', '"gain": 1.5'))
    with pytest.raises(UserError, match=r"the reward model in copy is damaged: reward.json has changed"):
        open_reward("copy")
    Path("copy/MANIFEST.json").unlink()
    with pytest.raises(WorkFailed, match=r"gave .* when saved"):
        open_reward("copy")
    Path("copy/reward.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        open_reward("copy")
    with pytest.raises(UserError, match=r"pairs.jsonl|no reward model"):
        open_reward("nowhere")


def test_a_killed_training_goes_on_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    config = lambda name: Config(**{**SMALL, "run_dir": name, "ties": "davidson"})  # noqa: E731
    rows = [pair(i) for i in range(60)]
    from tunesmith.recipes._reward import rows as rows_module

    def drawn(*_: Any, **__: Any) -> tuple[list[Preference], list[str]]:
        ranks = [(1, 1) if i % 5 == 0 else (1, 2) for i in range(60)]
        return [
            Preference(str(i), r["prompt"], (r["chosen"], r["rejected"]), rank, f"row {i}")
            for i, (r, rank) in enumerate(zip(rows, ranks, strict=True))
        ], []

    monkeypatch.setattr(rows_module, "read_preferences", drawn)
    straight = reward.run(config("straight"))
    assert straight["fitted"]["nu"] > 0
    assert "predicted" in straight["ties"]
    with dying(fit_module, "_step", 4):
        reward.run(config("run"))
    again = reward.run(config("run"))
    first, second = (load_file(f"{name}/adapter/adapter_model.safetensors") for name in ("straight", "run"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert again["fitted"] == straight["fitted"]
    assert "base_model.model.score.weight" in first


def test_an_encoder_and_an_ensemble() -> None:
    report = reward.run(Config(**{**SMALL, "model": "toy-bert", "seeds": [0, 1], "max_steps": 4, "run_dir": "run"}))
    assert Path(report["artefact"]).name == "ensemble"
    assert len(report["members"]) == 2
    assert report["spread"] > 0
    members = open_reward("run")
    assert [m.encoder for m in members] == [True, True]
    alone = open_reward(report["members"][1]["artefact"])
    assert alone[0].score([("a", "b")]) == members[1].score([("a", "b")])
    ids = alone[0].ids("ab", "c")
    tokenizer = alone[0].lm.tokenizer
    # A pair has the end of the first text between; without a prompt there is one text.
    assert tokenizer.decode(list(ids)) == f"ab{tokenizer.eos_token}c"
    assert tokenizer.decode(list(alone[0].ids("", "c"))) == "c"


def test_conversations_are_scored_behind_their_last_answer() -> None:
    it = fresh("toy-llama", "fp32", 0)
    if not it.lm.tokenizer.chat_template:
        turns = "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ eos_token }}\n{% endfor %}"
        it.lm.tokenizer.chat_template = turns + "{% if add_generation_prompt %}assistant:{% endif %}"
    ids = it.ids((Message("user", "hello"),), "there")
    assert ids[-1] == it.lm.tokenizer.eos_token_id
    assert "there" in it.lm.tokenizer.decode(list(ids))
    it.prompts = "chat"
    assert it.ids("hello", "there") == ids


@pytest.mark.parametrize("name", ["toy-llama", "toy-bert"])
def test_who_learned_texts_without_a_prompt_reads_prompt_and_answer_as_one(name: str) -> None:
    it = fresh(name, "fp32", 0)
    it.prompts = "none"
    assert it.ids("the film", " was fine") == it.ids("", "the film was fine")
    it.prompts = "text"
    assert (it.ids("the film", " was fine") == it.ids("", "the film was fine")) == (name == "toy-llama")


def test_the_rewards_of_a_policys_answers_have_mean_zero_and_deviation_one() -> None:
    report = reward.run(Config(**{
        **SMALL, "normalise": "samples", "policy_samples": 16, "max_new_tokens": 4, "max_steps": 4, "run_dir": "run",
    }))  # fmt: skip
    made = report["normalised"]
    assert made["samples"] == 16
    assert made["before"]["deviation"] > 0
    assert made["after"]["deviation"] != pytest.approx(1.0, abs=1e-3)  # before it was set back
    (it,) = open_reward("run")
    assert it.gain == pytest.approx(made["gain"])
    assert it.gain != it.trained_gain


RATINGS = Rated(("good", "fair", "bad"), ((3.0, 4.0, 2.0), (1.0, 0.0, 1.0), (-3.0, -2.0, -3.0)))


def test_judgements_are_drawn_from_ratings_the_same_way_every_time() -> None:
    found = rated.drawn(RATINGS, 300, 2, seed=0)
    assert found == rated.drawn(RATINGS, 300, 2, seed=0)
    assert found != rated.drawn(RATINGS, 300, 2, seed=1)
    for one in found:
        assert one.ratings is not None
        for text, rating in zip(one.completions, one.ratings, strict=True):
            assert rating in RATINGS.ratings[RATINGS.texts.index(text)]
        assert (one.ranks[0] < one.ranks[1]) == (one.ratings[0] > one.ratings[1])
    once = rated.drawn(RATINGS, 300, 2, seed=0, once=True)
    assert len(once) == 1
    tied = rated.drawn(Rated(("a", "b"), ((1.0, 1.0), (1.0, 1.0))), 3, 2, seed=0)
    assert {one.ranks for one in tied} == {(1, 1)}


def test_one_human_is_judged_by_the_others() -> None:
    human = rated.one_human(RATINGS, 0)
    assert human["agreement"] == 1.0
    # Two people gave x 1 and -1, all gave y 0: by the others' mean, whoever rates x is always wrong.
    split = rated.one_human(Rated(("x", "y"), ((1.0, -1.0), (0.0, 0.0))), 0)
    assert split["agreement"] == 0.0
    assert math.isnan(split["agreement_with_own"])
    same = rated.one_human(Rated(("x", "y"), ((1.0, 0.0), (0.0, 1.0))), 0)
    assert same["ties"] == pytest.approx(0.5, abs=0.01)


def test_measures_are_those_of_a_second_programme() -> None:
    generator = np.random.default_rng(0)
    judged = []
    for number in range(80):
        ratings = generator.integers(-4, 5, 3).astype(float)
        places = sorted(set(ratings), reverse=True)
        ranks = tuple(1 + places.index(r) for r in ratings)
        texts = tuple("x" * int(n) for n in generator.integers(1, 9, 3))
        judged.append(Preference(str(number), "", texts, ranks, f"{number}", ratings=tuple(map(float, ratings))))
    rewards = generator.normal(size=(80, 3)).tolist()
    found = measures.measure(judged, rewards, 1.0, losses.Fitted("kwise", "drop", judged), 0)
    per, ties, total, confidence, correct = [], 0, 0, [], []
    for one, given in zip(judged, rewards, strict=True):
        pairs = [(i, j) for i in range(3) for j in range(3) if one.ranks[i] < one.ranks[j]]
        ties += sum(one.ranks[i] == one.ranks[j] for i in range(3) for j in range(i))
        total += 3
        if pairs:
            per.append(np.mean([given[i] > given[j] for i, j in pairs]))
        for i, j in pairs:
            confidence.append(1 / (1 + math.exp(-abs(given[i] - given[j]))))
            correct.append(given[i] > given[j])
    assert found["accuracy"]["value"] == pytest.approx(np.mean(per))
    assert found["accuracy"]["n"] == len(per)
    assert found["accuracy"]["low"] < np.mean(per) < found["accuracy"]["high"]
    assert found["ties"]["share"] == pytest.approx(ties / total)
    assert found["calibration"]["mean_confidence"] == pytest.approx(np.mean(confidence))
    assert sum(b["n"] for b in found["calibration"]["bins"]) == len(correct)
    assert found["people"] is None
    lengths = [len(t) for one in judged for t in one.completions]
    from scipy.stats import spearmanr

    assert found["length"]["correlation"] == pytest.approx(spearmanr(lengths, np.ravel(rewards))[0])
    assert found["by_difficulty"][0]["to"] <= found["by_difficulty"][-1]["from"]
    # A model that scores by length is found out.
    lengths_only = [[float(len(t)) for t in one.completions] for one in judged]
    long = measures.measure(judged, lengths_only, 1.0, losses.Fitted("kwise", "drop", judged), 0)
    assert long["length"]["longer_scored_higher"] == 1.0
    assert long["length"]["accuracy_shorter_preferred"]["value"] == 0.0


def test_agreement_with_mean_ratings_counts_every_pair_of_texts() -> None:
    texts = Rated(("a", "b", "c", "d"), ((4.0, 4.0), (2.0, 2.0), (2.0, 2.0), (-1.0, 0.0)))
    judged = rated.drawn(texts, 2, 2, 0)
    fitted = losses.Fitted("kwise", "drop", judged)
    found = measures.measure(judged, [[0.0, 1.0]] * 2, 1.0, fitted, 0, (texts, [3.0, 5.0, 1.0, 0.0]))
    # Of the five pairs with different means, a > b is the one that is wrong.
    assert found["people"]["agreement"]["value"] == pytest.approx(4 / 5)


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([pair(0)] * 3, {}, "judgements that can be used to train on, and 8 are the least"),
        ([pair(i) for i in range(60)], {"ties": "davidson"}, "no judgement is a tie"),
        ([pair(i) for i in range(60)], {"objective": "regression"}, "none of the .* judgements has a rating"),
        (
            [pair(i) for i in range(60)],
            {"max_length": 4},
            r"a completion has \d+ tokens .* more than the 4 that --max_length allows",
        ),
        ([pair(i) for i in range(60)], {"completions": 4}, "completions: these are for a task with ratings"),
        ([pair(i) for i in range(60)], {"model": "toy-bert", "normalise": "samples"}, "an encoder writes no answers"),
        ([pair(i) for i in range(60)], {"data": "nowhere.jsonl"}, "there is no file or task 'nowhere.jsonl'"),
        ([pair(i) for i in range(60)], {"data": "bigbench:hhh_alignment"}, "carry a canary"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_with_what_to_do(
    rows: list[dict[str, str]], changes: dict[str, Any], message: str
) -> None:
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=message) as caught:
        reward.run(Config(**{**SMALL, **changes}))
    assert caught.value.fix


def test_what_is_too_long_is_found_before_training_whatever_it_is_for() -> None:
    rows = [pair(i) for i in range(60)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    long = [{**pair(60), "chosen": "river! " * 300}, *({**pair(i), "rejected": "stone. " * 300} for i in range(200, 230))]
    Path("long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *long]))
    with pytest.raises(UserError, match=r"more than the 512 that toy-bert reads"):
        reward.run(Config(**{**SMALL, "data": "long.jsonl", "model": "toy-bert"}))
    report = reward.run(
        Config(**{**SMALL, "data": "long.jsonl", "model": "toy-bert", "over_long": "drop", "max_steps": 1, "run_dir": "other"})
    )
    assert report["warnings"][-1] == "31 judgements with a completion of more than 512 tokens were dropped"


def test_judgements_that_are_all_ties_teach_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.recipes._reward import rows as rows_module

    tied = [Preference(str(i), f"p{i}", ("a", "b"), (1, 1), f"row {i}") for i in range(60)]
    monkeypatch.setattr(rows_module, "read_preferences", lambda *_, **__: (tied, []))
    with pytest.raises(UserError, match="judgements are ties, which say nothing about what is better"):
        reward.run(Config(**SMALL))


def test_choices_of_which_some_are_better_are_judgements(monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.data.sources import _bigbench

    rows = {"input": "Shall I?", "target_scores": {"Yes. ": 0, "Better not.": 1, "Perhaps.": 0}}
    content = {"bigbench:talk/kind": {"examples": [rows]}, "bigbench:talk/wise": {"examples": [{"input": "?", "target": "!"}]}}
    monkeypatch.setattr(_bigbench, "names", lambda: ["talk/kind", "talk/wise"])
    monkeypatch.setattr(_bigbench, "_content", content.__getitem__)
    (found,) = _bigbench.preferences("bigbench:talk")
    assert (found.prompt, found.completions, found.ranks) == ("Shall I?", ("Yes.", "Better not.", "Perhaps."), (2, 1, 2))
    assert found.where == "bigbench:talk/kind:1"
    with pytest.raises(UserError, match="have no choices of which some are better"):
        _bigbench.preferences("bigbench:talk/wise")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"margin": 0.5, "ties": "davidson"}, "margin belong to pairs"),
        ({"objective": "ordinal", "ties": "davidson"}, "ties belong to pairs"),
        ({"policy_samples": 8}, "policy_samples need --normalise samples"),
        ({"seeds": [1]}, "seeds are two or more different ones"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(data="pairs.jsonl", **settings)
