"""`tunesmith rounds`: one task after the other, the whole matrix, and rounds that are not run twice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith import cli
from tunesmith.data.task import load_task
from tunesmith.recipes._rounds.matrix import Row, transfer

TOY = [
    "--model",
    "toy-llama",
    "--threads",
    "1",
    "--batch_size",
    "8",
    "--dtype",
    "fp32",
    "--evaluations",
    "0",
    "--guard_rows",
    "0",
]
DOCUMENTED = {
    "status", "run_dir", "model", "peft", "tasks", "matrix", "averages", "lineage", "seconds", "wall_seconds",
    "peak_memory_gb", "warnings",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks with a usual answer, which is quickly learned: the same texts, other answers."""
    folder = tmp_path_factory.mktemp("rounds")
    for name, words in (("first", ("yes", "no")), ("second", ("high", "low"))):
        for split, count in (("train", 48), ("test", 20)):
            rows = [{"text": f"{split} {i}", "label": words[i % 5 == 0]} for i in range(count)]
            (folder / f"{name}-{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        (folder / f"{name}.yaml").write_text(
            f"name: {name}\ndata: {{train: {name}-train.jsonl, test: {name}-test.jsonl}}\n"
            f"template: \"{{text}} {name}: {{answer}}\"\nchoices: {{{words[0]}: [{words[0]}], {words[1]}: [{words[1]}]}}\n"
            "metrics: [accuracy]\n"
        )  # fmt: skip
    return folder


def rounds(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run the two tasks in a row."""
    threads = torch.get_num_threads()
    code = cli.main(["rounds", f"{folder / 'first.yaml'},{folder / 'second.yaml'}", *TOY, *words])
    torch.set_num_threads(threads)
    return (code, *capsys.readouterr())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "r"


LEARN = ["--epochs", "3", "--learning_rate", "0.01", "--warmup", "0"]


def test_each_round_goes_on_from_the_one_before(folder: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = rounds(folder, capsys, *LEARN, "--run_dir", str(place), "--json")
    assert code == 0, err
    report = json.loads(out.splitlines()[-1])
    assert set(report) == DOCUMENTED
    assert [row["trained"] for row in report["matrix"]] == ["", "first", "second"]
    assert all([c["task"] for c in row["cells"]] == ["first", "second"] for row in report["matrix"])
    values = np.array([[c["value"] for c in row["cells"]] for row in report["matrix"]])
    assert values[1, 0] == values[2, 1] == 0.8  # the usual answer of the round's task
    assert report["lineage"][1]["from"] == report["lineage"][0]["artefact"]
    second = json.loads((place / "round-2-second" / "run.json").read_text())
    assert second["parents"] == [report["lineage"][0]["artefact"]]
    assert all(row["perplexity"] > 100 and 0 <= row["choices"] <= 1 for row in report["matrix"])
    assert not list(place.rglob("checkpoints"))
    page = (place / "report.html").read_text()
    assert "The whole matrix" in page
    assert "Lineage" in page


def test_finished_rounds_are_not_run_again(folder: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in place.rglob("*.safetensors")}
    values = json.loads((place / "report.json").read_text())["matrix"]
    (place / "row-2.json").unlink()  # killed after the training of round 2, before its row was written
    code, out, _ = rounds(folder, capsys, *LEARN, "--run_dir", str(place))
    assert code == 0
    assert json.loads((place / "report.json").read_text())["matrix"] == values
    model = place / "round-1-first" / "model" / "model.safetensors"
    assert model.stat().st_mtime_ns == before[model]
    assert "after round" in out
    assert "Backward transfer" in out
    code, _, err = rounds(folder, capsys, "--epochs", "2", "--run_dir", str(place))
    assert code == 2
    assert "holds a run with other settings: epochs" in err


def test_an_adapter_is_trained_further_and_earlier_rows_are_replayed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--peft", "lora:rank=2", "--max_steps", "2", "--replay", "0.5", "--run_dir", str(tmp_path / "r"), "--json"]
    code, out, err = rounds(folder, capsys, *words, "--guard", "false")
    assert code == 0, err
    report = json.loads(out.splitlines()[-1])
    assert [Path(r["artefact"]).name for r in report["lineage"]] == ["adapter", "adapter"]
    assert report["matrix"][1]["perplexity"] is None
    assert "46 of the 92 rows of an epoch are replayed from general" in report["warnings"][0]
    assert f"rows of an epoch are replayed from {folder / 'first.yaml'}" in report["warnings"][1]


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        ("movies", "rounds needs two tasks or more, separated by commas; for one there is tune"),
        ("movies,products,movies", "the task 'movies' is given twice"),
        ("movies,moviez", "unknown task 'moviez'"),
    ],
)
def test_what_cannot_be_rounds_is_refused(
    tasks: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["rounds", tasks, *TOY]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_transfer_is_worked_out_by_hand(folder: Path) -> None:
    tasks: list[Any] = [load_task(str(folder / f"{name}.yaml")) for name in ("first", "second")]
    tasks.append(tasks[1])
    matrix = [[0.5, 0.4, 0.3], [0.9, 0.5, 0.3], [0.7, 0.8, 0.5], [0.6, 0.7, 0.9]]

    def cell(share: float) -> dict[str, list[str]]:
        return {"gold": ["yes"] * 10, "predicted": ["yes"] * round(10 * share) + ["no"] * round(10 * (1 - share))}

    rows = [Row(i, "", [], [cell(v) for v in line], None, None) for i, line in enumerate(matrix)]
    found = transfer(rows, tasks, seed=0)
    assert found["final"]["value"] == pytest.approx((0.6 + 0.7 + 0.9) / 3)
    assert found["backward"]["value"] == pytest.approx(((0.6 - 0.9) + (0.7 - 0.8)) / 2)
    assert found["forgetting"]["value"] == pytest.approx(((0.9 - 0.6) + (0.8 - 0.7)) / 2)
    assert found["forward"]["value"] == pytest.approx(((0.5 - 0.4) + (0.5 - 0.3)) / 2)
    assert all(average["low"] <= average["value"] <= average["high"] for average in found.values())
    # The control: a matrix read the wrong way round says something else.
    assert found["backward"]["value"] != pytest.approx(((0.3 - 0.9) + (0.3 - 0.8)) / 2)
