"""`tunesmith align` by the best of several answers: given as they are, or learned."""

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dying import dying
from tunesmith.core.errors import UserError
from tunesmith.data.preferences import read_preferences
from tunesmith.recipes import align
from tunesmith.recipes._align import best
from tunesmith.recipes.align import Config
from tunesmith.train import fit as fit_module

BASE: dict[str, Any] = {
    "data": "prompts.jsonl", "scorer": "scorer.py:score", "model": "toy-llama", "max_new_tokens": 6, "dtype": "fp32",
    "threads": 1, "allow_attackable": True,
}  # fmt: skip
CHOOSE: dict[str, Any] = {**BASE, "method": "best-of-n", "samples": 4}
EXPERT: dict[str, Any] = {
    **BASE, "method": "expert-iteration", "rollouts": 32, "samples": 8, "learning_rate": 0.01, "save_steps": 1,
    "peft": {"name": "selective", "parts": "all"}, "steps": 12,
}  # fmt: skip
SCORER = """
def score(prompts, answers):
    return [float(sum(c.isascii() for c in a)) for a in answers]

def bad(prompts, answers):
    return [float("inf")] * len(answers)
"""


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scorer.py").write_text(SCORER)
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("the film", "a day", "once", "go on")))


def rows_of(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def rounds(folder: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(Path(folder, "rollouts").glob("round-*.json"))]


def test_the_best_answer_is_given_and_all_are_kept_with_their_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    report = align.run(Config(**CHOOSE, run_dir="run"))
    returns = (best.choose.__doc__ or "").partition("Returns:")[2].partition("Raises:")[0]
    assert set(report) == {word.strip(" .\n") for word in returns.split(",")}
    all_of = json.loads(next(Path("run/answers").glob("*.json")).read_text())
    assert [len(row["answers"]) for row in all_of] == [4] * 4
    for row, given in zip(all_of, rows_of("run/predictions.jsonl"), strict=True):
        assert row["scores"] == [sum(c.isascii() for c in answer) for answer in row["answers"]]
        assert given["score"] == max(row["scores"])
        assert given["answer"] == row["answers"][row["scores"].index(max(row["scores"]))]
    # The mean over all subsets, counted out; log n - (n - 1) / n nats.
    for point in report["curve"]:
        counted = [[max(some) for some in combinations(row["scores"], point["n"])] for row in all_of]
        assert point["score"] == pytest.approx(sum(sum(c) / len(c) for c in counted) / len(counted))
        assert point["kl"] == pytest.approx(math.log(point["n"]) - (point["n"] - 1) / point["n"])
        assert point["low"] <= point["score"] <= point["high"]
    assert [point["n"] for point in report["curve"]] == [1, 2, 4]
    assert report["score"] > report["score_before"]
    shown = align.render(report)
    assert "best of   4: score" in shown
    assert shown.endswith("learn from them: tunesmith align run/rankings.jsonl --method dpo")
    assert json.loads(Path("run/report.json").read_text()) == report
    page = Path("run/report.html").read_text()
    assert "The best of 4 answers scores" in page
    assert "best of 1, 2, 4" in page
    assert "report.html" in json.loads(Path("run/MANIFEST.json").read_text())["files"]
    # A second call reads what is there; a portion that is missing is answered again, alike.
    asked: list[int] = []
    real = best.complete
    monkeypatch.setattr(best, "complete", lambda *rest: asked.append(1) or real(*rest))
    assert align.run(Config(**CHOOSE, run_dir="run"))["curve"] == report["curve"]
    assert not asked
    next(Path("run/answers").glob("*.json")).unlink()
    assert align.run(Config(**CHOOSE, run_dir="run"))["curve"] == report["curve"]
    assert asked


def test_the_answers_are_a_file_of_preferences() -> None:
    align.run(Config(**CHOOSE, run_dir="run"))
    found, _ = read_preferences(Path("run/rankings.jsonl"))
    for one, row in zip(found, rows_of("run/rankings.jsonl"), strict=True):
        assert one.prompt == row["prompt"]
        assert one.ratings is not None
        assert one.ratings == tuple(row["scores"])
        assert len(set(one.completions)) == len(one.completions)
        assert one.ratings[one.ranks.index(1)] == max(one.ratings)


def test_learning_the_best_answers_raises_the_score_round_by_round() -> None:
    report = align.run(Config(**EXPERT, run_dir="run"))
    made = rounds("run")
    assert report["steps"] == 12
    assert made[-1]["measured"]["score"] > made[0]["measured"]["score"] + 1.0
    lines = rows_of("run/metrics.jsonl")
    assert all(line["score_kept"] > line["score"] for line in lines)
    # Four prompts a round, of eight answers to each the best: four rows.
    best_of = [max(made[0]["rows"][i : i + 8], key=lambda row: row["score"]) for i in range(0, 32, 8)]
    assert lines[0]["num_tokens"] == sum(len(row["ids"]) for row in best_of)


def test_a_stopped_run_goes_on_bit_for_bit() -> None:
    settings = {**EXPERT, "steps": 3, "optimisation_epochs": 2, "batch_size": 2}
    align.run(Config(**settings, run_dir="straight"))
    with dying(fit_module, "_step", 6):
        align.run(Config(**settings, run_dir="run"))
    align.run(Config(**settings, run_dir="run"))
    one, other = (load_file(f"{folder}/adapter/adapter_model.safetensors") for folder in ("straight", "run"))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**CHOOSE, "samples": 1}, "the best of one answer is that answer"),
        ({**CHOOSE, "scorer": "none.py:score"}, "there is no Python file"),
        ({**CHOOSE, "allow_attackable": False}, "prefers"),
        ({**EXPERT, "method": "expert-iteration:keep=8"}, "of 8 answers to a prompt 8 cannot be the best"),
    ],
)
def test_bad_input_is_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        align.run(Config(**changes, run_dir="run"))
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**CHOOSE, "learning_rate": 0.1}, "learning_rate: best-of-n trains nothing"),
        ({**EXPERT, "beta": 0.1}, "beta: expert-iteration learns the best answers"),
        ({**BASE, "method": "best-of-n", "scorer": None}, "best-of-n needs somebody who judges"),
    ],
)
def test_settings_without_a_meaning_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**changes)


def test_a_score_that_is_no_number_names_its_answer() -> None:
    from tunesmith.core.errors import WorkFailed

    with pytest.raises(WorkFailed, match=r"the scorer gave inf to the answer"):
        align.run(Config(**{**CHOOSE, "scorer": "scorer.py:bad"}, run_dir="run"))
