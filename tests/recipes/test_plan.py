"""`tunesmith plan`: estimates that move the right way, on real sizes, without climbing anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tickets import write_rows, write_task

from tunesmith.core.errors import UserError
from tunesmith.data.task import load_task
from tunesmith.recipes import plan
from tunesmith.recipes._ladder.config import LadderConfig
from tunesmith.recipes._ladder.estimates import Estimates, sizes_of
from tunesmith.recipes._ladder.workload import Sizes, Workload, memory_of, seconds_of, training, weights_of


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task(tmp_path_factory.mktemp("plan"))


def planned(task: Path | str, **settings: Any) -> dict[str, Any]:
    return plan.run(plan.Config(task=str(task), **{"model": "toy-llama", "threads": 1, **settings}))


def test_a_plan_has_a_row_for_every_route(task: Path) -> None:
    report = planned(task, ranks=[2, 4])
    assert [row["route"] for row in report["routes"]] == [
        "zero-shot", "4-shot", "4-shot calibrated", "4-shot nearest", "LoRA r=2", "LoRA r=4", "full",
    ]  # fmt: skip
    assert report["status"] == "done"
    splits = load_task(str(task)).splits
    assert (report["items"], report["training_rows"]) == (12, len(splits.train)) == (12, 60 - len(splits.validation))
    assert report["seconds"] == pytest.approx(sum(row["seconds"] for row in report["routes"]) + 30, abs=1)
    assert planned(task, baselines=[])["seconds"] < report["seconds"]


def test_nothing_is_climbed_or_written(task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    planned(task)
    assert list(tmp_path.iterdir()) == []


def test_the_plan_fits_a_terminal_and_says_what_cannot_be_climbed(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"question": f"{a} + {a}", "answer": str(2 * a)} for a in range(40)])
    yaml = tmp_path / "sums.yaml"
    yaml.write_text("name: sums\ndata: {train: rows.jsonl}\ntemplate: '{question} = {answer}'\n", encoding="utf-8")
    report = planned(yaml, model="some-body/a-model-that-is-not-here-yet")
    text = plan.render(report)
    assert max(map(len, text.splitlines())) <= 80
    assert "4-shot calibrated  the answers are free text" in text
    assert "is not here yet, so it is taken to be as large as smollm2" in " ".join(text.split())


def test_more_work_takes_longer(task: Path) -> None:
    def sizes(**settings: Any) -> Sizes:
        return sizes_of(LadderConfig(task=str(task), model="toy-llama", **settings), load_task(str(task)))[0]

    assert sizes(test_rows=6).items == 6
    assert sizes(train={"epochs": 2}).train_tokens == pytest.approx(2 * sizes().train_tokens)
    six = {"max_steps": 2, "batch_size": 3, "gradient_accumulation_steps": len(load_task(str(task)).splits.train)}
    assert sizes(train=six).train_tokens == pytest.approx(6 * sizes().train_tokens)
    # The byte tokenizer reads a token a byte: "Ticket: Hola, ..., pedido 2-0.\nTipo:" is about 55 of them.
    assert 45 < sizes().prompt_tokens < 65


def test_a_workload_by_hand() -> None:
    """10 items of 20 tokens, 5 validation and 2 guard rows: 1000 x 2.5 passes + (10 + 2 x 5 + 6 x 2) x 20 = 3,140 tokens."""
    sizes = Sizes(10, 20.0, 1000.0, 5, 2, weights=1_000_000, bytes_per_weight=2, micro_batch=100, width=1000)
    work = training(sizes, passes=2.5, bytes_per_weight=18.0)
    assert work.forward_tokens == 3140
    # 0.6 + 18 bytes a weight + 34 values of 2 bytes, halved, for each of 100 x 1000 positions and units.
    assert work.memory_gb == pytest.approx(0.6 + 0.018 + 0.0034)
    assert seconds_of(work, 314.0) == pytest.approx(18.0)
    assert memory_of(Workload(0), sizes) == pytest.approx(0.7032)


def test_weights_are_counted_from_file_headers(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, tmp_path / "model-1.safetensors", metadata={"format": "pt"})
    save_file({"c": torch.zeros(2, 2, 2)}, tmp_path / "model-2.safetensors")
    assert weights_of(tmp_path) == 12 + 5 + 8


def test_what_a_route_took_tells_what_the_others_will_take(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = LadderConfig(task=str(task), model="toy-llama", budget_minutes=1.0, quick=True)
    loaded = load_task(str(task))
    routes = {name: {"name": name} for name in ("zero-shot", "few-shot")}
    estimates = Estimates(config.quickened(), config, loaded, routes)
    tokens = {label: work.forward_tokens for label, work in estimates.left.items()}
    assert estimates.promise("few-shot") == ""
    assert estimates.over_budget("few-shot", spent=59) == ""
    estimates.learn("zero-shot", seconds=8 + tokens["zero-shot"] / 100)
    assert estimates.rate == pytest.approx(100)
    said = capsys.readouterr().err
    assert f"the other routes will take about {8 + tokens['few-shot'] / 100:.0f} s" in said
    assert "the full climb, without --quick, would take about " in said
    assert estimates.over_budget("few-shot", spent=1) == ""
    assert estimates.over_budget("few-shot", spent=55) == "it would not have finished within the budget of 1 minutes"


@pytest.mark.parametrize("settings", [{"model": "smolm2"}, {"routes": ["lorra"]}, {"baselines": ["x"]}])
def test_a_wrong_name_is_refused(task: Path, settings: dict) -> None:
    with pytest.raises(UserError):
        planned(task, **settings)
