"""`tunesmith align` on scores: what is sampled, judged, watched and learned beside the scores, and how it ends."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.data.collate import collate
from tunesmith.models.load import load
from tunesmith.recipes import align
from tunesmith.recipes._align import ready as aligning
from tunesmith.recipes.align import Config
from tunesmith.train import rollouts as rollouts_module
from tunesmith.train.rollouts import ADVANTAGE, LENGTH, Round

SMALL: dict[str, Any] = {
    "data": "prompts.jsonl", "scorer": "scorer.py:score", "model": "toy-llama", "rollouts": 8, "max_new_tokens": 6,
    "steps": 3, "dtype": "fp32", "threads": 1, "save_steps": 1, "learning_rate": 0.01, "allow_attackable": True,
    "optimisation_epochs": 1, "batch_size": 64,
}  # fmt: skip
SCORER = """
calls = 0

def score(prompts, answers):
    return [float(sum(c in "aeiou" for c in a)) for a in answers]

def other(prompts, answers):
    return [float(-len(a)) for a in answers]

def ascii(prompts, answers):
    return [float(sum(c.isascii() for c in a)) for a in answers]

def equal(prompts, answers):
    return [1.0] * len(answers)
"""


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scorer.py").write_text(SCORER)
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("the film", "a day", "once", "go on")))
    Path("texts.jsonl").write_text("".join(json.dumps({"text": f"some text to keep, number {i}"}) + "\n" for i in range(5)))


def config(**changes: Any) -> Config:
    """Settings of a small alignment."""
    return Config(**{**SMALL, **changes})


def rounds(folder: str = "run") -> list[dict[str, Any]]:
    """The rounds that a run kept."""
    return [json.loads(path.read_text()) for path in sorted(Path(folder, "rollouts").glob("round-*.json"))]


def weights(folder: str) -> bytes:
    """The adapter that a run saved."""
    return (Path(folder) / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_held_out_scorer_is_measured_shown_and_never_learned_from() -> None:
    plain = align.run(config(run_dir="plain"))
    report = align.run(config(run_dir="run", held_out="scorer.py:other"))
    assert weights("run") == weights("plain")
    assert plain["held_out"] is None
    first, last = rounds()[0], rounds()[-1]
    assert [row["held_out"] for row in first["rows"]] == [-float(len(row["text"])) for row in first["rows"]]
    mean = sum(row["held_out"] for row in last["rows"]) / 8
    assert report["held_out"] == pytest.approx(mean) == last["measured"]["held_out"]
    assert report["score"] == pytest.approx(sum(row["score"] for row in last["rows"]) / 8)
    page = Path("run/report.html").read_text()
    assert "By the held-out scorer" in page
    assert "By the held-out scorer" not in Path("plain/report.html").read_text()
    assert "What it answers" in page
    assert json.loads(Path("run/report.json").read_text()) == json.loads(json.dumps(report))


def test_measures_of_a_round_are_those_of_plain_python() -> None:
    align.run(config(run_dir="run", steps=2, method="grpo", samples=4))
    for number, kept in enumerate(rounds()):
        rows, measured = kept["rows"], kept["measured"]
        answers = [row["ids"][row["loss_mask"].index(True) :] for row in rows]
        pairs = [tuple(ids[i : i + 2]) for ids in answers for i in range(len(ids) - 1)]
        assert measured["distinct_2"] == pytest.approx(len(set(pairs)) / len(pairs))
        repeated = [1 - len({tuple(a[i : i + 4]) for i in range(len(a) - 3)}) / (len(a) - 3) for a in answers if len(a) > 3]
        assert measured["repetition"] == pytest.approx(sum(repeated) / 8)
        scores = [row["score"] for row in rows]
        assert measured["ties"] == sum(len(set(scores[i : i + 4])) == 1 for i in (0, 4)) / 2
        logps = [place[0] for row in rows for place in row["beside"]]
        assert measured["entropy"] == pytest.approx(-sum(logps) / len(logps))
        apart = [place[0] - place[4] for row in rows for place in row["beside"]]
        assert measured["kl"] == pytest.approx(sum(apart) / 8, abs=1e-9)
        # Before the first update the policy is its reference; afterwards it is not.
        assert (abs(measured["kl"]) < 1e-5) == (number == 0)
        assert measured["round"] == number


def test_explained_variance_is_one_less_the_variance_that_is_left() -> None:
    made = Round(
        torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, 2), torch.zeros(2, 2),
        torch.tensor([[1.0, 3.0], [2.0, 0.0]], dtype=torch.float64), torch.tensor([[True, True], [True, False]]), 0.0,
    )  # fmt: skip
    returns = torch.tensor([[2.0, 4.0], [1.0, 99.0]], dtype=torch.float64)
    from tunesmith.core.records import Completion
    from tunesmith.train.scoring import Answer

    found = [Completion("a", (1, 2), (0.0, 0.0), "length", (1.0, 3.0)), Completion("b", (3,), (0.0,), "length", (2.0,))]
    measured = rollouts_module.measures(made, found, [Answer("p", "a", False)] * 2, returns)
    # Returns 2, 4, 1 have variance 14/9; what is left, 1, 1, -1, has 8/9.
    assert measured["explained_variance"] == pytest.approx(1 - 8 / 14)
    assert "ties" not in measured


def test_a_policy_that_is_not_its_reference_at_first_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = rollouts_module._round

    def apart(scores: Any, found: Any, reference: Any, beta: float) -> Round:
        return real(scores, found, [[x - 0.01 for x in row] for row in reference], beta)

    monkeypatch.setattr(rollouts_module, "_round", apart)
    with pytest.raises(WorkFailed, match=r"before the first update the policy is 0.0100 nats a token from its reference"):
        align.run(config(run_dir="run"))


@pytest.mark.parametrize("method", ["ppo", "rloo", "grpo", "reinforce"])
def test_what_scored_better_than_expected_becomes_likelier(method: str) -> None:
    it = aligning.ready(config(method=method, scorer="scorer.py:ascii", beta=0.0), Path("run"))
    rows = list(it.rollouts.in_epoch(0))
    it.lm.model.eval()

    @torch.no_grad()
    def logp() -> list[float]:
        sums = []
        for row in rows:
            logits = it.lm.model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
            start = row.loss_mask.index(True)
            sums.append(float(logits[start - 1 : -1][range(len(row.ids) - start), list(row.ids[start:])].sum()))
        return sums

    before = logp()
    loss, _ = it.training.loss_of(collate(rows))
    loss.backward()
    with torch.no_grad():
        for name, p in it.training.parameters.items():
            if p.grad is not None and "value" not in name:
                p -= 1e-3 * p.grad
    credit = [sum(place[ADVANTAGE] for place in row.beside or ()) for row in rows]
    gained = sum(c * (b - a) for c, a, b in zip(credit, before, logp(), strict=True))
    assert gained > 0


def test_reinforce_credits_by_the_rest_of_the_round() -> None:
    align.run(config(run_dir="run", steps=1, method="reinforce:whiten=false", beta=0.0))
    rows = rounds()[0]["rows"]
    scores = [row["score"] for row in rows]
    for row, score in zip(rows, scores, strict=True):
        others = (sum(scores) - score) / 7
        assert [place[ADVANTAGE] for place in row["beside"]] == pytest.approx([score - others] * len(row["beside"]))
    align.run(config(run_dir="white", steps=1, method="reinforce", beta=0.0))
    each = torch.tensor([row["beside"][0][ADVANTAGE] for row in rounds("white")[0]["rows"]])
    assert float(each.std(unbiased=False)) == pytest.approx(1.0, abs=1e-4)


def test_texts_are_learned_beside_answers_by_their_weight() -> None:
    it = aligning.ready(config(ptx="texts.jsonl", ptx_weight=3.0, rollouts=4), Path("run"))
    rows = list(it.rollouts.in_epoch(0))
    assert len(rows) == len(it.rollouts) == 8
    answers, texts = rows[:4], rows[4:]
    assert len({row.ids for row in texts}) == 4
    it.lm.model.eval()
    both, stats = it.training.loss_of(collate(rows))
    alone, _ = it.training.loss_of(collate(answers))
    nll = 0.0
    for row in texts:
        assert row.beside is not None
        assert all(place[LENGTH] == 0 for place in row.beside)
        logits = it.lm.model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        nll -= float(logits[:-1][range(len(row.ids) - 1), list(row.ids[1:])].sum().detach())
    tokens = [sum(map(len, (row.beside or () for row in some))) for some in (answers, texts)]
    # Three times the mean over texts' tokens beside the mean over answers' tokens.
    expected = float(alone.detach()) + 3.0 * nll / tokens[1] * tokens[0]
    assert float(both.detach()) == pytest.approx(expected, rel=1e-4)
    assert stats["ptx_loss"] == pytest.approx(3.0 * nll / tokens[1] * tokens[0], rel=1e-4)
    report = align.run(config(ptx="texts.jsonl", run_dir="whole", optimisation_epochs=2, batch_size=4))
    assert report["steps"] == 3 * 2 * 4
    assert rounds("whole")[0]["rows"][-1]["where"] == "text 7"


@pytest.mark.parametrize(("method", "updates"), [("ppo", 2 * 4), ("grpo", 2 * 4), ("rloo", 1), ("reinforce", 1)])
def test_a_round_is_learned_from_as_its_method_has_it(method: str, updates: int) -> None:
    settings = {k: v for k, v in SMALL.items() if k not in ("optimisation_epochs", "batch_size", "learning_rate")}
    it = aligning.ready(Config(**{**settings, "rollouts": 32, "method": method}), Path("run"))
    assert it.training.how.max_steps == 3 * updates
    assert it.training.how.learning_rate == 3e-4


def test_a_fixed_length_goes_on_behind_the_end_and_judges_what_stands_before_it() -> None:
    lm = load("toy-llama", dtype="fp32")
    # At a high temperature every token comes, ends too.
    align.run(config(run_dir="run", steps=1, rollouts=64, max_new_tokens=60, fixed_length=True, no_end=-9.0))
    align.run(config(run_dir="free", steps=1, rollouts=64, max_new_tokens=60))
    ended = 0
    for row in rounds()[0]["rows"]:
        answer = row["ids"][row["loss_mask"].index(True) :]
        assert len(answer) == 60
        end = next((i for i, token in enumerate(answer) if token in lm.stop_ids), None)
        assert (row["score"] == -9.0) == (end is None)
        assert row["text"] == lm.tokenizer.decode(answer[:end], skip_special_tokens=True)
        ended += end is not None
    assert ended
    assert rounds()[0]["measured"]["ended"] == ended / 64
    assert min(len(row["beside"]) for row in rounds("free")[0]["rows"]) < 60


def test_answers_are_judged_up_to_a_token_and_one_without_it_has_a_score_of_its_own() -> None:
    lm = load("toy-llama", dtype="fp32")
    align.run(config(run_dir="run", steps=1, rollouts=32, max_new_tokens=40, end_at="e", end_after=5, no_end=-1.0))
    seen = set()
    for row in rounds()[0]["rows"]:
        ids = [i for i in row["ids"][row["loss_mask"].index(True) :] if i not in lm.stop_ids]
        end = next((i for i in range(5, len(ids)) if "e" in lm.tokenizer.decode([ids[i]])), None)
        assert row["text"] == lm.tokenizer.decode(ids[: None if end is None else end + 1])
        if end is None:
            assert row["score"] == -1.0
        # All that was sampled is learned from, judged or not.
        assert len(row["beside"]) >= len(ids)
        seen.add(end is None)
    assert seen == {True, False}


def test_a_run_that_stops_early_saves_reports_why_and_stays_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    changes: dict[str, Any] = {"scorer": "scorer.py:equal", "method": "rloo", "samples": 4, "steps": 9, "stop_on": ["ties"]}
    report = align.run(config(run_dir="run", **changes))
    assert (report["rounds"], report["steps"], report["rollouts"]) == (4, 3, 32)
    assert report["stopped"].startswith("all answers score the same for 100% of prompts")
    assert report["stopped"].endswith("(--stop_on ties)")
    assert any("a finer scorer helps" in warning for warning in report["warnings"])
    assert "Stopped: all answers score the same" in Path("run/report.html").read_text()
    assert "stopping before round 4 is learned from" in capsys.readouterr().err
    saved = weights("run")
    again = align.run(config(run_dir="run", **changes))
    assert (again["stopped"], again["steps"], weights("run")) == (report["stopped"], 3, saved)
    far = align.run(config(run_dir="far", steps=9, max_kl=0.01))
    assert far["stopped"].startswith("KL reached")
    assert 2 <= far["rounds"] < 9
    assert align.run(config(run_dir="near", steps=3, max_kl=1e6))["stopped"] == ""


def test_numbers_of_the_policy_that_are_not_finite_stop_within_a_step() -> None:
    with pytest.raises(WorkFailed, match=r"not finite|is nan|is inf") as caught:
        align.run(config(run_dir="run", steps=4, learning_rate=1e30, clip_norm=0.0))
    assert "prompts.jsonl:" in str(caught.value) or "Rows:" in str(caught.value)
    assert len(rounds()) <= 2


def test_a_scorer_that_fails_stops_cleanly_and_the_same_command_goes_on() -> None:
    failing = (
        SCORER + "\ndef late(prompts, answers):\n    global calls\n    calls += 1\n    if calls > {n}: raise ValueError('gone')\n"
    )
    failing += "    return score(prompts, answers)\n"
    align.run(config(run_dir="straight", scorer="scorer.py:score"))
    Path("scorer.py").write_text(failing.replace("{n}", "2"))
    settings = {"run_dir": "run", "scorer": "scorer.py:late"}
    with pytest.raises(WorkFailed, match="gone"):
        align.run(config(**settings))
    done = len(rounds())
    Path("scorer.py").write_text(failing.replace("{n}", "99"))
    align.run(config(**settings))
    assert 0 < done < 3
    assert weights("run") == weights("straight")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stop_on": ["lenght"]}, "there is no rule lenght; there are length"),
        ({"end_after": 3}, "end_after says from where on end_at"),
        ({"ptx_weight": 3.0}, "ptx_weight is the weight of the texts that --ptx names"),
        ({"ptx": "none.jsonl"}, "there is no file 'none.jsonl'"),
        ({"ptx": "prompts.jsonl"}, "the row has no text of two tokens to learn from"),
        ({"held_out": "scorer.py:othr"}, "scorer.py has no function 'othr'"),
        ({"rollouts": 1}, "one rollout a round says nothing"),
        ({"method": "dpo", "held_out": "lexicon"}, "held_out.*dpo learns from judgements"),
        ({"method": "best_of_n", "max_kl": 3.0}, "max_kl"),
    ],
)
def test_bad_settings_are_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        align.run(config(run_dir="run", **changes))
    assert not Path("run").exists()
