"""`tune --sweep`: every combination a run of its own, judged on the same items, and the smallest that reaches the best named."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tickets import write_task

from tunesmith import cli
from tunesmith.core.config import validate
from tunesmith.core.errors import UserError
from tunesmith.core.files import verify_manifest, write_json
from tunesmith.core.runs import Run
from tunesmith.evaluate.report.sweep import SweepReport, write_sweep_html
from tunesmith.recipes import tune
from tunesmith.recipes._tune import sweep
from tunesmith.recipes._tune.config import Config
from tunesmith.recipes._tune.sweep_report import Combination, choose, write_sweep
from tunesmith.stats.compare import compare

SMALL = {"model": "toy-llama", "threads": 1, "max_steps": 2, "test_rows": 12, "validation_rows": 0}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a task."""
    write_task(tmp_path)
    monkeypatch.chdir(tmp_path)


def config(*sweep: str, **settings: Any) -> Config:
    """Settings of a sweep over the tickets."""
    return validate(Config, {"data": "tickets.yaml", "sweep": list(sweep), **SMALL, **settings}, "tune")


def train_here(one: sweep.Planned) -> None:
    """Do what a process of its own would do."""
    for settings in one.runs:
        folder = Path(settings.run_dir or "")
        write_json(folder.with_name(f"{folder.name}.settings.json"), settings.model_dump(mode="json", exclude_unset=True))
        tune.run(settings)


def test_a_command_line_names_the_combinations() -> None:
    words = ["movies", "--sweep", "peft.rank=1,2,4", "peft.targets=attention,all", "--seeds", "2", "--seed", "5"]
    told = cli._configure("tune", tune, words)
    planned = sweep.plan(told, Path("s"))
    assert [p.name for p in planned[:3]] == ["rank=1 targets=attention", "rank=1 targets=all", "rank=2 targets=attention"]
    assert len(planned) == 6
    assert [(r.seed, r.run_dir) for r in planned[5].runs] == [
        (5, "s/runs/rank-4-targets-all/seed-5"), (6, "s/runs/rank-4-targets-all/seed-6"),
    ]  # fmt: skip
    assert planned[5].runs[0].peft == {"name": "lora", "rank": 4, "targets": "all"}
    assert planned[5].runs[0].sweep == []
    file = validate(Config, {"data": "movies", "sweep": {"peft.rank": [1, 2], "learning_rate": 1e-4}}, "tune")
    assert file.sweep == ["peft.rank=1,2", "learning_rate=0.0001"]
    assert [p.runs[0].learning_rate for p in sweep.plan(file, Path("s"))] == [1e-4, 1e-4]


def test_a_sweep_from_end_to_end(capsys: pytest.CaptureFixture[str]) -> None:
    # Rank 1 and 2 are trained before, as if an earlier command had been stopped; the third is left to the sweep, and fails.
    asked = ["peft.targets=[q_proj],[nowhere]", "peft.rank=1,2"]
    told, place = config(*asked, seeds=2), Path("runs/sweep-tickets")
    Run(place, told.model_dump(exclude=sweep._FREE), {"command": "tunesmith tune"})
    planned = sweep.plan(told, place)
    for one in planned[:2]:
        train_here(one)
    before = {p: p.stat().st_mtime_ns for p in Path("runs").rglob("adapter_model.safetensors")}
    words = [w for k, v in SMALL.items() for w in (f"--{k}", str(v))]
    code = cli.main(["tune", "tickets.yaml", "--sweep", *asked[:1], "peft.rank=1", "--seeds", "2", *words, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    report = json.loads(out.splitlines()[-1])
    assert [c["name"] for c in report["combinations"]] == ["targets=q_proj rank=1"]
    assert "LoRA targets ['nowhere'] match no layer" in report["failed"]["targets=nowhere rank=1"]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    # More values are added to the same sweep, and what is finished is not trained again.
    report = sweep.run_sweep(config("peft.targets=[q_proj]", "peft.rank=1,2", seeds=2))
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert [(c["name"], c["trained_parameters"]) for c in report["combinations"]] == [
        ("targets=q_proj rank=1", 256), ("targets=q_proj rank=2", 512),
    ]  # fmt: skip
    assert all(len(c["seeds"]) == 2 and c["n"] == 12 and c["low"] <= c["value"] <= c["high"] for c in report["combinations"])
    folder = Path(report["run_dir"])
    assert verify_manifest(folder) == ""
    assert json.loads((folder / "report.json").read_text()) == report
    page = (folder / "report.html").read_text()
    assert report["recommended"] in page
    assert not re.search(r"<script|https?://(?!www\.w3\.org)", page)
    returns = (sweep.run_sweep.__doc__ or "").partition("Returns:")[2].partition("Raises:")[0]
    plain = re.sub(r"\([^)]*\)|;.*", "", returns, flags=re.DOTALL).replace(" and ", ", ")
    assert {w.strip() for w in re.sub(r"\s+", " ", plain).split(",")} - {""} == set(report)


def combination(name: str, parameters: int, right: list[list[bool]]) -> Combination:
    """A finished one, whose seeds answered these items rightly."""
    said = [["yes" if r else "no" for r in seed] for seed in right]
    values = [sum(seed) / len(seed) for seed in right]
    mean, n = sum(values) / len(values), len(right[0])
    ids = [str(i) for i in range(n)]
    return Combination(
        name, {}, "accuracy", mean, mean, mean, values, parameters, 1.0, 1.0, ["a/adapter"], said, ["yes"] * n, ids
    )


def answers(share: float, seed: int) -> list[bool]:
    """400 items of which about this share is right, the same easy ones first whatever the seed."""
    ease = np.random.default_rng(0).random(400)
    return ((ease + 0.05 * np.random.default_rng(seed).standard_normal(400)) < share).tolist()


def found(small: float, best: float = 0.85) -> list[Combination]:
    """Three sizes; the middle one is the best."""
    made = [("r=1", 100, small), ("r=4", 400, best), ("r=16", 1600, best - 0.01)]
    return [combination(name, size, [answers(share, seed + size) for seed in range(3)]) for name, size, share in made]


def recommended(some: list[Combination]) -> str:
    """What is recommended of them."""
    best = max(some, key=lambda c: c.value).name
    from tunesmith.metrics.accuracy import evaluate

    pairs = [(c.name, best) for c in some if c.name != best]
    return choose(some, compare(evaluate, some[0].gold, {c.name: c.predicted for c in some}, 0, pairs=pairs), best)


def test_the_smallest_that_reaches_the_best_is_recommended() -> None:
    assert recommended(found(0.845)) == "r=1"  # smaller, and as good as can be told
    assert recommended(found(0.70)) == "r=4"  # clearly worse, so the best itself, although a larger one reaches it too
    assert recommended(list(reversed(found(0.845)))) == "r=1"


def test_the_report_says_why(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    report = write_sweep(
        tmp_path / "r", config("peft.rank=1,4,16", seeds=3), found(0.845), {"r=64": "<b>out of memory"}, "c", 1.0
    )
    assert report["verdict"].startswith("Take r=1: it is the smallest whose interval reaches the best. It trains 100 parameters")
    by_name = {c["name"]: c for c in report["combinations"]}
    assert by_name[report["best"]]["difference"] is None
    assert set(by_name["r=1"]["difference"]) == {"value", "low", "high", "p_holm"}
    page = write_sweep_html(SweepReport(report, "tunesmith tune x", {"a": "b"}))
    assert "&lt;b&gt;out of memory" in page
    assert page.count('class="mark tuned"') == 3
    # 100 to 1,600 parameters on a logarithmic axis from 100 to 10,000: log10(400 / 100) / 2 = 30.1 %.
    assert 'x="30.1%"' in page
    text = (tmp_path / "r" / "report.txt").read_text()
    assert re.search(r"^> +r=1 ", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tickets.yaml", "--sweep", "4,16"], "has no key: write key=value,value"),
        (["tickets.yaml", "--sweep", "peft.rank=1,1"], "the sweep has 'rank=1' twice"),
        (["tickets.yaml", "--sweep", "peft.rnk=1"], "unknown key 'rnk'"),
        (["tickets.yaml", "--sweep", "epoch=1"], "unknown key 'epoch'"),
        (["tickets.yaml", "--sweep", "peft.rank=1,0"], "greater than or equal to 1"),
        (["tickets.yaml", "--sweep", "seed=1,2"], "For several seeds, give --seeds"),
        (["tickets.yaml", "--seeds", "3"], "seeds are the repeats of a sweep"),
        (["tickets.yaml", "--sweep", "peft.rank=1", "--test_rows", "0"], "test_rows must not be 0"),
        (["chat.jsonl", "--sweep", "peft.rank=1"], "a sweep judges by test rows, and chat.jsonl has none"),
    ],
)
def test_mistakes_are_one_line_before_any_work(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    turn = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "there"}]
    Path("chat.jsonl").write_text(json.dumps({"messages": turn}) + "\n")
    code = cli.main(["tune", *words, "--model", "toy-llama"])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert said in err
    assert not Path("runs").exists()


def test_other_items_are_not_compared(tmp_path: Path) -> None:
    some = found(0.8)
    other = combination("r=2", 200, [[True] * 3])
    with pytest.raises(UserError, match="'r=1' and 'r=2' answered different test rows"):
        write_sweep(tmp_path, config("peft.rank=1,2"), [some[0], other], {}, "c", 1.0)
