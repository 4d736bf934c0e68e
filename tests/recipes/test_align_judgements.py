"""`tunesmith align` from judgements: DPO, IPO, KTO and ORPO learn, measure, go on bit for bit, and name what is wrong."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dying import dying
from tunesmith import cli
from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.core.registry import ALIGNERS
from tunesmith.data.collate import collate
from tunesmith.data.preferences import read_preferences
from tunesmith.evaluate.report.judged import verdict
from tunesmith.models.load import load
from tunesmith.recipes import align
from tunesmith.recipes._align import measured, offline
from tunesmith.recipes._align.judged import REFERENCE, by_prompt, encode_answer, judged
from tunesmith.recipes._models import load as load_with_adapter
from tunesmith.recipes.align import Config
from tunesmith.train import fit as fit_module

WORDS = ["tea", "rain", "snow", "art", "jam", "ale", "oak", "fog", "ice", "sun", "sea", "mud", "tin", "wax", "zoo", "yak"]
SMALL: dict[str, Any] = {
    "data": "pairs.jsonl", "method": "dpo", "model": "toy-llama", "dtype": "fp32", "threads": 1, "epochs": 6, "batch_size": 4,
    "learning_rate": 0.01, "test_share": 0.25, "save_steps": 1, "max_new_tokens": 4,
}  # fmt: skip
METHODS = [name for name in ALIGNERS.names() if ALIGNERS.get(name).LEARNS_FROM in ("pairs", "texts")]


def pair(word: str, good: str = " yes, it is", bad: str = " no, never") -> dict[str, Any]:
    """A row whose preferred answer agrees."""
    return {"prompt": f"is {word} good", "chosen": good, "rejected": bad}


def write(path: str, rows: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("pairs.jsonl", [pair(word) for word in WORDS])


def config(**changes: Any) -> Config:
    """Settings of a small alignment."""
    return Config(**{**SMALL, **changes})


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "adapter" / "adapter_model.safetensors")


def metrics(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def equal(one: str, other: str) -> bool:
    return all(torch.equal(weights(one)[key], tensor) for key, tensor in weights(other).items())


# The loss of the first step, when the policy is the reference: log 2, (1 / 2 tau)^2, 1 / 2; ORPO has no reference.
FIRST = {"dpo": math.log(2), "ipo": 25.0, "kto": 0.5, "orpo": None}


@pytest.mark.parametrize("method", METHODS)
def test_what_was_preferred_gains_on_prompts_it_never_saw(method: str) -> None:
    report = align.run(config(method=method, run_dir="run"))
    returns = (offline.learn.__doc__ or "").partition("Returns:")[2].partition(" The seconds")[0]
    assert set(report) == {word.strip(" .\n") for word in returns.split(",")}
    assert (report["prompts"], report["after"]["prompts"]) == (12, 4)
    assert report["before"]["accuracy"] == 0.5
    assert report["before"]["margin"] == 0.0
    assert report["after"]["accuracy"] == 1.0
    assert report["after"]["margin"] > 1.0
    assert math.isfinite(report["kl"])
    first, last = metrics("run")[0], metrics("run")[-1]
    if FIRST[method] is not None:
        assert first["loss"] == pytest.approx(FIRST[method], abs=1e-5)
        assert first["margin"] == pytest.approx(0.0, abs=1e-5)
        assert first["accuracy"] == 0.5 or method == "kto"
        assert last["margin"] > 1.0
    assert last["loss"] < first["loss"]
    load_with_adapter("toy-llama", "run/adapter", dtype="fp32")
    shown = align.render(report)
    assert re.search(r"moved the right way +50.0% +100.0%", shown)
    assert "4 held-out prompts cannot tell whether it learned anything" in " ".join(shown.split())  # 0.4 to 1
    assert shown.endswith("try it: tunesmith generate PROMPT --model toy-llama --adapter run/adapter")
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    assert json.loads(Path("run/report.json").read_text()) == report
    page = Path("run/report.html").read_text()
    assert "4 held-out prompts cannot tell" in page
    assert "Before and after" in page
    assert {"report.json", "report.html"} <= {*json.loads(Path("run/MANIFEST.json").read_text())["files"]}
    assert all(words in page for words in ("Tunesmith align", "<b>pairs.jsonl</b>", f"{method} on toy-llama"))
    assert ("Preferred completions" in page) == (method != "kto")


def test_a_run_that_fails_leaves_a_page_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    real = offline.judged
    monkeypatch.setattr(offline, "judged", lambda *rest: replace(real(*rest), logprobs=real(*rest).logprobs * math.nan))
    with pytest.raises(WorkFailed, match=r"the loss of step 1 is nan; .* Rows: pairs.jsonl:\d"):
        align.run(config(run_dir="run"))
    assert "The loss of step 1 is nan" in Path("run/report.html").read_text()


def test_a_reference_that_is_not_finite_names_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.recipes._align import judged as judged_module

    real = judged_module.logprobs_of

    def broken(*rest: Any) -> Any:
        logprobs, *others = real(*rest)
        return logprobs * math.inf, *others

    monkeypatch.setattr(judged_module, "logprobs_of", broken)
    with pytest.raises(WorkFailed, match=r"no finite log-probability to a completion at pairs.jsonl:1"):
        align.run(config(run_dir="run"))


def test_turned_round_judgements_are_learned_turned_round() -> None:
    write("turned.jsonl", [pair(word, " no, never", " yes, it is") for word in WORDS])
    report = align.run(config(data="turned.jsonl", run_dir="run"))
    with_turned = load_with_adapter("toy-llama", "run/adapter", dtype="fp32")
    (asked,) = by_prompt(read_preferences(Path("pairs.jsonl"))[0][:1])
    assert report["after"]["accuracy"] == 1.0
    said = [offline.log_probabilities(lm, [row_of(lm, asked)])[0] for lm in (with_turned, load("toy-llama", dtype="fp32"))]
    assert measured.agreement([asked], [said[0]], [said[1]], True).accuracy == 0.0  # type: ignore[union-attr]


def row_of(lm: Any, asked: Any) -> Any:
    texts = [encode_answer(lm, asked.prompt, completion) for completion in asked.completions]
    return offline.encode_row(lm, texts, offline.pair_targets(asked, False), asked.where)


def test_the_gradient_is_that_of_the_plain_formula() -> None:
    it = offline.ready(config(method="dpo:sft_weight=0.3"), Path("run"))
    with torch.no_grad():  # away from the reference, where the gradient has its size
        for p in it.training.parameters.values():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    rows = it.rows[:3]
    it.lm.model.eval()
    loss, stats = it.training.loss_of(collate(rows))
    loss.backward()
    found = {name: p.grad.clone() for name, p in it.training.parameters.items() if p.grad is not None}
    it.lm.model.zero_grad()
    total, margins = torch.zeros(()), 0.0
    asked = {one.where: one for one in by_prompt(read_preferences(Path("pairs.jsonl"))[0])}
    for row in rows:
        gains, means = [], []
        for completion in asked[row.example_id].completions:
            ids, length = encode_answer(it.lm, asked[row.example_id].prompt, completion)
            mine = it.lm.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            with it.method[0].disabled(it.lm.model):
                theirs = it.lm.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1).detach()
            places = range(len(ids) - length - 1, len(ids) - 1), list(ids[-length:])
            gains.append((mine[places] - theirs[places]).sum())
            means.append(mine[places].mean())
        total = total - torch.nn.functional.logsigmoid(0.1 * (gains[0] - gains[1])) - 0.3 * means[0]
        margins += float((gains[0] - gains[1]).detach())
    total.backward()
    assert float(loss.detach()) == pytest.approx(float(total.detach()), abs=1e-4)
    assert stats["margin"] == pytest.approx(margins, abs=1e-3)
    assert abs(margins) > 0.01
    for name, p in it.training.parameters.items():
        if p.grad is not None:
            assert torch.allclose(found[name], p.grad, atol=1e-4), name


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_a_killed_run_goes_on_bit_for_bit(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    align.run(config(method=method, run_dir="straight", epochs=3))
    with dying(fit_module, "_step", 5):
        align.run(config(method=method, run_dir="run", epochs=3))
    asked = list[int]()
    ask = offline.log_probabilities
    monkeypatch.setattr(offline, "log_probabilities", lambda *rest: asked.append(1) or ask(*rest))
    align.run(config(method=method, run_dir="run", epochs=3))
    assert not asked  # what the reference said was kept
    assert equal("run", "straight")
    shutil.rmtree("run")
    align.run(config(method=method, run_dir="run", epochs=3, seed=1))
    assert not equal("run", "straight")


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_how_a_batch_is_cut_for_memory_changes_no_loss(method: str) -> None:
    for name, tokens in (("whole", 4096), ("cut", 1)):
        align.run(config(method=method, run_dir=name, epochs=2, tokens_per_micro_batch=tokens))
    for one, other in zip(metrics("whole"), metrics("cut"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=2e-5)
    assert metrics("whole")[-1]["loss"] < metrics("whole")[0]["loss"] - 0.01


def test_all_judgements_of_a_prompt_are_one_row() -> None:
    write("ranks.jsonl", [
        {"prompt": "p", "completions": ["a", "b", "c"], "ranks": [1, 2, 2]},
        {"prompt": "p", "completions": ["c", "d"], "ranks": [2, 1]},
        {"prompt": "q", "completions": ["a", "b"], "ranks": [1, 1]},
        {"prompt": "r", "completions": ["a", "b"], "ranks": [2, 1]},
    ])  # fmt: skip
    it = offline.ready(config(data="ranks.jsonl", test_share=0.0, method="dpo:ties=davidson"), Path("run"))
    assert [row.counted for row in it.rows] == [4, 1, 1]
    assert [sum(row.loss_mask) for row in it.rows] == [4, 2, 2]
    read = judged(it.lm, collate(it.rows), True)
    texts = list(zip(read.first.tolist(), read.second.tolist(), read.tie.tolist(), strict=True))
    # Texts a b c d of p, then a b of q, then a b of r.
    assert texts == [(0, 1, False), (0, 2, False), (1, 2, True), (3, 2, False), (4, 5, True), (7, 6, False)]
    assert read.lengths.tolist() == [2] * 8
    said = [number for row in it.rows for number in (place[REFERENCE] for place in row.beside or ())]
    assert read.logprobs.tolist() == pytest.approx(said, abs=1e-4)
    dropped = offline.ready(config(data="ranks.jsonl", test_share=0.0), Path("run"))
    assert [row.counted for row in dropped.rows] == [3, 1]
    assert "1 prompts without a pair of which one was preferred were left out" in dropped.warnings
    assert "2 ties were left out; --method.ties davidson learns from them" in dropped.warnings


@pytest.mark.parametrize("ties", ["davidson", "rao-kupper"])
def test_a_tie_pulls_a_pair_together(ties: str) -> None:
    rows = [pair(word) for word in WORDS[:8]]
    same = [{"prompt": f"is {w} good", "a": " it may be", "b": " who knows", "verdict": "same"} for w in WORDS[:8]]
    write(
        "mixed.jsonl", [*({"prompt": r["prompt"], "a": r["chosen"], "b": r["rejected"], "verdict": "worse"} for r in rows), *same]
    )
    it = offline.ready(config(data="mixed.jsonl", method={"name": "dpo", "ties": ties}, test_share=0.0), Path("run"))
    read = judged(it.lm, collate(it.rows), True)
    moved = read.logprobs.detach() + torch.arange(len(read.logprobs))  # the second of each pair gains by one more
    entry, parameters = it.aligner
    gains = replace(read, logprobs=moved.requires_grad_())
    entry.loss(gains, parameters)[0].backward()
    assert moved.grad is not None
    tied = moved.grad[read.second[read.tie]]
    assert bool((tied > 0).all())  # descending lowers the one that is ahead
    assert bool((moved.grad[read.first[~read.tie]] < 0).all())


def test_completions_judged_by_themselves_and_their_weights() -> None:
    write("thumbs.jsonl", [{"prompt": f"is {w} good", "completion": " yes", "label": True} for w in WORDS[:9]] + [
        {"prompt": "is it bad", "completion": " no", "label": False}])  # fmt: skip
    report = align.run(config(data="thumbs.jsonl", method="kto", run_dir="run", epochs=1))
    assert any("9 answers were wanted and 1 were not" in warning for warning in report["warnings"])
    quiet = align.run(config(data="thumbs.jsonl", method="kto:weight_unwanted=8", run_dir="quiet", epochs=1))
    assert not any("answers were wanted" in warning for warning in quiet["warnings"])
    assert quiet["after"]["likelier"] is None


def test_falling_log_probabilities_are_said() -> None:
    before = measured.Agreement(4, 4, 0.5, 0, 1, 0.5, 0.0, -50.0, -50.0)
    fell = measured.Agreement(4, 4, 1.0, 0, 1, 1.0, 9.0, -53.0, -62.0)
    assert "preferred completions became less likely, by 3.0 nats, and the others by 12.0" in measured.fallen(before, fell)[0]
    rose = measured.Agreement(4, 4, 1.0, 0, 1, 1.0, 9.0, -49.0, -62.0)
    assert measured.fallen(before, rose) == []
    little = measured.Agreement(4, 4, 1.0, 0, 1, 1.0, 9.0, -50.4, -49.0)
    assert measured.fallen(before, little) == ["preferred completions became less likely, by 0.4 nats"]


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.6, 0.9, "It learned what was asked for: on 20"), (0.4, 0.9, "20 held-out prompts cannot tell"),
     (0.1, 0.4, "It learned the opposite")],
)  # fmt: skip
def test_the_verdict_is_as_sure_as_its_interval(low: float, high: float, said: str) -> None:
    after = measured.Agreement(1, 20, (low + high) / 2, low, high, 1.0, 9.0, -53.0, -62.0).as_dict()
    assert said in verdict({"after": after})
    assert " of 1 judgement (95 % interval" in verdict({"after": after})
    assert verdict({"after": None}).startswith("Nothing was held out")


def test_where_neither_gained_a_half_is_counted() -> None:
    assert measured.halves(torch.tensor([1.0, 0.0, -2.0, 1e-6, -1e-6])) == 2.5
    assert measured.halves(torch.tensor([0.01, -0.01, -0.02])) == 1.0


def test_columns_are_mapped_and_bad_rows_passed_over_when_asked() -> None:
    rows = [{"q": r["prompt"], "good": r["chosen"], "poor": r["rejected"]} for r in map(pair, WORDS)]
    write("other.jsonl", [*rows, {"q": "same", "good": "x", "poor": "x"}])
    named = {"prompt": "q", "chosen": "good", "rejected": "poor"}
    with pytest.raises(UserError, match=r"other.jsonl:17: chosen and rejected are the same"):
        align.run(config(data="other.jsonl", map=named, run_dir="run"))
    report = align.run(config(data="other.jsonl", map=named, run_dir="run", skip_bad_rows=True, epochs=1))
    assert "1 unusable rows were left out" in report["warnings"][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "none.jsonl"}, "there is no file 'none.jsonl'.*dpo learns from a file of preferences"),
        ({"data": "bigbench:hhh_alignment"}, "carry a canary"),
        ({"data": "prompts.jsonl"}, "has the columns .*none of them is a judgement"),
        ({"data": "ties.jsonl"}, "ties.jsonl has no pair of which one was preferred"),
        ({"data": "ties.jsonl", "method": "kto"}, "ties.jsonl has no completion that was wanted or not"),
        ({"data": "one.jsonl", "method": "kto"}, "there is only one prompt"),
        ({"max_length": 12}, r"16 of 16 prompts have a completion with which they are longer than 12 tokens"),
        ({"peft": "full"}, "align trains an adapter"),
        ({"method": "dpo:ties=coin"}, "alignment method 'dpo'.*ties"),
        ({"method": "dpo:tie_strength=2"}, "tie_strength needs ties"),
        ({"method": "dpo:ties=rao-kupper,tie_strength=1"}, "which is more than 1"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(changes: dict[str, Any], message: str) -> None:
    write("prompts.jsonl", [{"prompt": "p"}])
    write("ties.jsonl", [{"prompt": "p", "a": "x", "b": "y", "verdict": "same"}])
    write("one.jsonl", [pair("tea")])
    with pytest.raises(UserError, match=f"(?s){message}"):
        align.run(config(run_dir="run", **changes))
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scorer": "lexicon"}, "scorer: dpo learns from judgements"),
        ({"steps": 3}, "steps: dpo learns from judgements"),
        ({"method": "ppo"}, "ppo needs somebody who judges answers: --scorer"),
        ({"method": "ppo", "scorer": "lexicon"}, "test_share: ppo learns from scores and reads no judgements"),
    ],
)
def test_settings_of_the_other_kind_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
        ({"chosen": "is it good", "rejected": "a"}, "'chosen' repeats the prompt"),
        ({"completions": ["a"], "ranks": [1]}, "a ranking of one completion compares nothing"),
    ],
)
def test_the_command_line_ends_with_2_and_names_the_row(
    row: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"chosen": "a", "rejected": "b"} if "chosen" in row else {"completions": ["a", "b"], "ranks": [1, 2]}
    write("bad.jsonl", [{"prompt": "is it good", **one} for one in (good, row)])
    assert cli.main(["align", "bad.jsonl", "--method", "dpo", "--model", "toy-llama"]) == 2
    printed = capsys.readouterr().err
    assert "1 of 2 rows in bad.jsonl cannot be used" in printed
    assert f"bad.jsonl:2: {said}" in printed
    assert "--skip_bad_rows" in printed


def test_a_cycle_is_reported_and_does_not_stop() -> None:
    turns = [("a", "b"), ("b", "c"), ("c", "a")]
    write("cycle.jsonl", [{"prompt": "p", "chosen": x, "rejected": y} for x, y in turns] + [pair(word) for word in WORDS[:3]])
    report = align.run(config(data="cycle.jsonl", run_dir="run", epochs=1))
    assert any("1 cyclic judgement, which no reward can follow; the first: 'a' > 'b'" in one for one in report["warnings"])
