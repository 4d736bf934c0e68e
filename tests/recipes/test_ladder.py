"""The whole ladder on a toy model: through the command line, interrupted, resumed, damaged, and asked for what it cannot do."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tickets import SMALL, climb_here, rows, write_rows, write_task

from tunesmith import cli
from tunesmith.core.errors import TunesmithError, UserError, WorkFailed
from tunesmith.core.files import verify_manifest
from tunesmith.recipes import ladder
from tunesmith.recipes._child import alone, run_child
from tunesmith.recipes._ladder.climb import Assignment
from tunesmith.recipes._ladder.config import LadderConfig
from tunesmith.recipes._ladder.report import command_of

FLAGS = shlex.join(word for key, value in SMALL.items() for word in (f"--{key}", str(value))).split()
ROUTES = ["--routes", "zero-shot,few-shot,calibrated,lora", "--ranks", "2", "--baselines", "majority,tfidf,vader,human"]
ROW = {
    "route", "name", "kind", "parameters", "metric", "value", "low", "high", "n", "draws", "metrics", "valid",
    "trained_parameters", "seconds", "evaluation_seconds", "peak_memory_gb", "tokens_per_query", "ms_per_query", "p50_ms",
    "p95_ms", "price_per_1000", "forgetting", "items_hash", "template_hash", "scorer", "notes", "reference", "templates",
}  # fmt: skip
REPORT = {
    "status", "run_dir", "seconds", "wall_seconds", "peak_memory_gb", "warnings", "routes", "best", "verdict", "task",
    "description", "model", "metric", "differences", "level", "resamples", "skipped", "command", "price_note", "provenance",
    "tradeoff",
}  # fmt: skip


class Climb:
    """A ladder climbed through the command line: stopped by SIGTERM on the second route, then started again."""

    def __init__(self, folder: Path) -> None:
        self.task, self.run_dir = write_task(folder), folder / "run"
        self.words = ["ladder", str(self.task), *FLAGS, *ROUTES, "--run_dir", str(self.run_dir), "--json"]
        self.stopped = self._stopped_at("climbing 2-shot")
        self.kept = self.stamps()
        self.whole = self.again()

    def _stopped_at(self, line: str) -> tuple[int, str, float]:
        child = subprocess.Popen(self.command(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stderr is not None
        said = ""
        for text in child.stderr:
            said += text
            if text.startswith(line):
                time.sleep(0.5)
                child.send_signal(signal.SIGTERM)
                asked = time.monotonic()
        out, _ = child.communicate()
        return child.returncode, said + out, time.monotonic() - asked

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tunesmith", *self.words]

    def again(self, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.command(), *more], capture_output=True, text=True, timeout=300)

    def stamps(self) -> dict[str, int]:
        """When each finished route was written."""
        routes = self.run_dir / "routes"
        return {str(p.parent.relative_to(routes)): p.stat().st_mtime_ns for p in routes.rglob("result.json")}

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.run_dir / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def climb(tmp_path_factory: pytest.TempPathFactory) -> Climb:
    return Climb(tmp_path_factory.mktemp("ladder with a space"))


@pytest.fixture
def copy(climb: Climb, tmp_path: Path) -> LadderConfig:
    """The settings of the finished ladder, in a copy of its folder."""
    shutil.copytree(climb.run_dir, tmp_path / "run")
    routes = ["zero-shot", "few-shot", "calibrated", "lora"]
    names = ["majority", "tfidf"]
    return LadderConfig(task=str(climb.task), run_dir=str(tmp_path / "run"), routes=routes, ranks=[2], baselines=names, **SMALL)


def changed(config: LadderConfig, **changes: Any) -> LadderConfig:
    return LadderConfig.model_validate({**config.model_dump(), **changes})


def error_of(config: LadderConfig) -> str:
    with pytest.raises(TunesmithError) as caught:
        ladder.run(config)
    return str(caught.value)


def test_sigterm_ends_the_climb_and_keeps_what_is_finished(climb: Climb) -> None:
    code, said, seconds = climb.stopped
    assert code == 143
    assert "stopped; what is finished is kept\n  The same command goes on from there." in said
    assert "Traceback" not in said
    assert json.loads(said.splitlines()[-1])["status"] == "stopped"
    assert seconds < 10
    assert set(climb.kept) == {"baselines/majority", "baselines/tfidf", "zero-shot"}


def test_the_same_command_goes_on_from_there(climb: Climb) -> None:
    assert climb.whole.returncode == 0, climb.whole.stderr
    assert "climbing zero-shot" not in climb.whole.stderr
    assert "climbing 2-shot" in climb.whole.stderr
    now = climb.stamps()
    assert {name: now[name] for name in climb.kept} == climb.kept
    assert set(now) == set(climb.kept) | {"2-shot", "2-shot-calibrated", "lora-r-2"}


def test_the_report_has_its_schema_and_is_the_last_line(climb: Climb) -> None:
    report = climb.report
    assert json.loads(climb.whole.stdout.splitlines()[-1]) == report
    assert set(report) == REPORT
    assert all(set(row) == ROW for row in report["routes"])
    assert [row["route"] for row in report["routes"]] == [
        "majority class", "TF-IDF + logreg", "zero-shot", "2-shot", "2-shot calibrated", "LoRA r=2",
    ]  # fmt: skip
    assert report["skipped"] == {
        "vader": "the labels are not negative and positive",
        "human": "the rows do not hold every rater's score",
    }
    assert len(report["differences"]) == 15
    for row in report["routes"]:
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
        assert row["n"] == 12
        assert row["peak_memory_gb"] > 0.1
        assert row["ms_per_query"] > 0
    by_name = {row["name"]: row for row in report["routes"]}
    assert by_name["tfidf"]["value"] == 1.0
    assert [len(by_name[name]["draws"]) for name in ("zero-shot", "few-shot", "calibrated", "lora")] == [1, 2, 2, 1]
    # Rank 2 on the seven projections of two layers: A [2, in] and B [out, 2] each.
    projections = [(64, 64), (64, 32), (64, 32), (64, 64), (64, 128), (64, 128), (128, 64)]
    assert by_name["lora"]["trained_parameters"] == 2 * sum(2 * (i + o) for i, o in projections)
    assert set(by_name["lora"]["forgetting"]["tasks"]) == {"movies", "tweets", "products", "editorials"}


def test_everything_a_run_leaves_is_there_and_listed(climb: Climb) -> None:
    assert verify_manifest(climb.run_dir) == ""
    names = {p.name for p in climb.run_dir.iterdir()}
    assert names == {"run.json", "report.json", "report.html", "report.md", "report.txt", "MANIFEST.json", "routes"}
    assert (climb.run_dir / "routes" / "lora-r-2" / "adapter" / "adapter_config.json").is_file()
    assert list(climb.run_dir.rglob("*.assignment.json")) == []


def test_no_line_for_people_is_wider_than_a_terminal(climb: Climb) -> None:
    lines = [*climb.whole.stderr.splitlines(), *climb.whole.stdout.splitlines()[:-1]]
    assert [line for line in lines if len(line) > 80 and str(climb.run_dir) not in line] == []


def test_a_finished_ladder_is_only_read_and_gives_the_same_page(climb: Climb) -> None:
    page, before = (climb.run_dir / "report.html").read_bytes(), climb.stamps()
    done = climb.again()
    assert done.returncode == 0, done.stderr
    assert "climbing" not in done.stderr
    assert climb.stamps() == before
    assert (climb.run_dir / "report.html").read_bytes() == page


def test_a_price_needs_no_new_climb(copy: LadderConfig) -> None:
    report = ladder.run(changed(copy, price={"machine_hour": 2.0}))
    for row in report["routes"]:
        assert row["price_per_1000"] == pytest.approx(2.0 * row["ms_per_query"] / 3600)
    assert report["price_note"] == "2 per machine-hour"
    tokens = ladder.run(changed(copy, price={"million_tokens": 0.5}))["routes"]
    assert [row["price_per_1000"] for row in tokens] == pytest.approx([0.5 * row["tokens_per_query"] / 1000 for row in tokens])
    assert tokens[2]["price_per_1000"] > 0
    assert {row["price_per_1000"] for row in ladder.run(copy)["routes"]} == {None}


def test_fewer_routes_are_read_from_a_larger_ladder(copy: LadderConfig) -> None:
    report = ladder.run(changed(copy, routes=["zero-shot"], baselines=["tfidf", "tfidf"]))
    assert [row["route"] for row in report["routes"]] == ["TF-IDF + logreg", "zero-shot"]


def test_a_target_that_was_reached_and_a_budget_that_is_spent_stop_the_climb(copy: LadderConfig) -> None:
    more = [*copy.routes, {"name": "lora", "rank": 3}]
    low = max(row["low"] for row in ladder.run(copy)["routes"] if row["kind"] != "baseline")
    reached = ladder.run(changed(copy, routes=more, target=max(low, 0.01)))
    assert reached["skipped"]["LoRA r=3"].startswith(f"the target of {max(low, 0.01):g} was reached by ")
    spent = ladder.run(changed(copy, routes=more, budget_minutes=1e-9))
    assert spent["skipped"] == {"LoRA r=3": "it would not have finished within the budget of 1e-09 minutes"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "smollm2"}, "holds a run with other settings: model (model was 'toy-llama', now 'smollm2')"),
        ({"seed": 1}, "other settings: seed"),
        ({"test_rows": 5}, "other settings: test items, test_rows (test items was '12, hash "),
        ({"train": {"epochs": 2}}, "other settings: train.epochs"),
        ({"draws": 3}, "2-shot' climbed with other parameters (draws was 2, now 3)"),
        ({"routes": ["calibrated:draws=4"]}, "calibrated' climbed with other parameters (draws was 2, now 4)"),
    ],
)
def test_a_folder_with_other_settings_is_not_mixed_in(copy: LadderConfig, changes: dict, said: str) -> None:
    assert said in error_of(changed(copy, **changes))


def test_rows_or_a_template_that_changed_are_noticed(climb: Climb, copy: LadderConfig, tmp_path: Path) -> None:
    task = write_task(tmp_path / "task")
    same = changed(copy, task=str(task))
    assert ladder.run(same)["status"] == "done"
    yaml = task.read_text(encoding="utf-8")
    task.write_text(yaml.replace("Ticket:", "Mensaje:"), encoding="utf-8")
    assert "other settings: template" in error_of(same)
    task.write_text(yaml, encoding="utf-8")
    write_rows(task.parent / "train.jsonl", rows(60, 9))
    assert "other settings: training rows" in error_of(same)


@pytest.mark.parametrize("key", ["items_hash", "template_hash", "scorer", "metric"])
def test_results_that_were_measured_otherwise_cannot_share_a_table(copy: LadderConfig, key: str) -> None:
    path = Path(str(copy.run_dir)) / "routes" / "2-shot" / "result.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**result, key: "macro_f1"}), encoding="utf-8")
    assert "cannot share a table" in error_of(copy)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result.json", "{"),
        ("result.json", "3"),
        ("result.json", "{}"),
        ("predictions.jsonl", ""),
        ("predictions.jsonl", "4\n"),
        ("predictions.jsonl", "half"),
    ],
)
def test_a_damaged_result_is_named(copy: LadderConfig, name: str, content: str) -> None:
    path = Path(str(copy.run_dir)) / "routes" / "zero-shot" / name
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:3]) if content == "half" else content, encoding="utf-8")
    said = error_of(copy)
    assert f"the finished route in {path.parent} cannot be read (" in said
    assert said.endswith("\n  Delete that folder to climb it again.")


def test_a_route_that_fails_leaves_the_others_be(copy: LadderConfig) -> None:
    """Fifty demonstrations do not fit into the toy model's 2,048 tokens, and everything else is finished."""
    report = ladder.run(changed(copy, routes=[*copy.routes, "few-shot:shots=50,drop_shots=false"]))
    assert "its prompt has" in report["skipped"]["50-shot"]
    assert "toy-llama reads at most 2,048" in report["skipped"]["50-shot"]
    assert len(report["routes"]) == 6


def test_what_the_first_route_cannot_take_ends_the_ladder(climb: Climb, tmp_path: Path) -> None:
    config = LadderConfig(
        task=str(climb.task),
        run_dir=str(tmp_path / "run"),
        routes=["few-shot:shots=50,drop_shots=false", "zero-shot"],
        baselines=[],
        **SMALL,
    )
    said = error_of(config)
    assert said.startswith("test.jsonl:")
    assert said.endswith("\n  Shorten or remove the row, or show fewer demonstrations.")
    assert not (tmp_path / "run" / "routes" / "zero-shot").exists()


def test_a_process_that_is_killed_is_said_to_be(climb: Climb, tmp_path: Path) -> None:
    config = LadderConfig(task=str(climb.task), **SMALL)
    values = config.model_dump(include=set(Assignment.__dataclass_fields__))
    folder = tmp_path / "routes" / "zero-shot"
    values |= {"train": config.train.model_dump(), "folder": str(folder), "route": {"name": "zero-shot"}, "baselines": []}
    me = f"PPid:\t{os.getpid()}\n"

    def kill() -> None:
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                ours = me in status.read_text(encoding="utf-8")
            except OSError:
                continue
            if ours and b"recipes._ladder.climb" in (status.parent / "cmdline").read_bytes():
                os.kill(int(status.parent.name), signal.SIGKILL)

    failure = run_child(Assignment(**values), kill)
    assert failure is not None
    assert failure.message == "its process was ended by SIGKILL; memory may have run out"
    assert list((tmp_path / "routes").iterdir()) == []


def test_a_text_task_is_climbed_by_the_routes_that_can(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"question": f"{a} + {b}", "answer": str(a + b)} for a in range(8) for b in range(8)])
    task = tmp_path / "sums.yaml"
    task.write_text("name: sums\ndata: {train: rows.jsonl}\ntemplate: '{question} = {answer}'\n", encoding="utf-8")
    run_dir = tmp_path / "run"
    config = LadderConfig(task=str(task), run_dir=str(run_dir), routes=["zero-shot", "calibrated"], test_rows=4, **SMALL)
    _, predictions = climb_here(task, run_dir, "zero-shot", test_rows=4)
    # The run directory belongs to a ladder only once it has said with which settings.
    shutil.move(run_dir / "routes", tmp_path / "routes")
    run_dir.rmdir()
    with pytest.raises(WorkFailed, match="calibrated: the answers are free text"):
        ladder.run(changed(config, routes=["calibrated"], baselines=[]))
    shutil.copytree(tmp_path / "routes", run_dir / "routes", dirs_exist_ok=True)
    report = ladder.run(config)
    assert report["metric"] == "exact_match"
    assert set(report["skipped"]) == {"majority", "tfidf", "vader", "human", "minilm", "2-shot calibrated"}
    assert all(p.gold == str(sum(map(int, p.prompt.removesuffix(" =").split(" + ")))) for p in predictions)


def test_two_ladders_do_not_share_a_folder(copy: LadderConfig) -> None:
    folder = Path(str(copy.run_dir))
    with alone(folder), pytest.raises(UserError, match="another tunesmith is at work in"):
        ladder.run(copy)
    assert ladder.run(copy)["status"] == "done"


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_place_that_cannot_be_written_is_named(climb: Climb, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(WorkFailed, match="cannot write"):
        ladder.run(LadderConfig(task=str(climb.task), run_dir=str(tmp_path / place), **SMALL))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"routes": ["lorra"]}, "unknown route 'lorra'\n  Did you mean 'lora'?"),
        ({"routes": ["lora:rnk=4"]}, "route 'lora': unknown key 'rnk'\n  Did you mean 'rank'?"),
        ({"routes": ["lora", "lora:rank=16"], "ranks": [16]}, "the route 'LoRA r=16' is given twice"),
        ({"baselines": ["tf-idf"]}, "unknown baseline 'tf-idf'\n  Did you mean 'tfidf'?"),
        ({"model": "smolm2"}, "there is no model 'smolm2'\n  Did you mean 'smollm2'?"),
        ({"model": "toy-bert"}, "there is no model 'toy-bert'"),
        ({"model": "./nowhere"}, "a model directory, a hub id such as owner/name, or the URL of a server."),
        ({"task": "moveis"}, "unknown task 'moveis'\n  Did you mean 'movies'?"),
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_done(climb: Climb, tmp_path: Path, changes: dict, said: str) -> None:
    config = LadderConfig(task=str(climb.task), run_dir=str(tmp_path / "run"), **SMALL)
    assert said in error_of(changed(config, **changes))
    assert not (tmp_path / "run").exists()


def test_a_metric_that_judges_no_answers_is_refused(climb: Climb, tmp_path: Path) -> None:
    task = write_task(tmp_path)
    task.write_text(task.read_text(encoding="utf-8") + "metrics: [perplexity]\n", encoding="utf-8")
    said = error_of(LadderConfig(task=str(task), run_dir=str(tmp_path / "run"), **SMALL))
    assert said.startswith("task 'tickets': the metric 'perplexity' cannot judge answers\n  Use accuracy, ")
    assert "perplexity" not in said.partition("\n")[2]


def test_ranks_are_rows_and_shared_settings_reach_the_routes_that_have_them() -> None:
    config = LadderConfig(
        task="movies", routes=["zero-shot", "few-shot:draws=1", "lora", "lora:rank=3,alpha=1"], ranks=[2, 8], shots=6
    )
    specs = ladder.route_specs(config)
    assert list(specs) == ["zero-shot", "6-shot", "LoRA r=2", "LoRA r=8", "LoRA r=3 alpha=1"]
    assert specs["6-shot"] == {"name": "few-shot", "draws": 1, "shots": 6}
    assert specs["LoRA r=8"] == {"name": "lora", "rank": 8}


def test_a_quick_look_is_smaller_and_stands_in_a_folder_of_its_own(climb: Climb, tmp_path: Path, monkeypatch: Any) -> None:
    full = LadderConfig(task="movies", quick=True, train_rows=300)
    quick = full.quickened()
    assert (quick.train_rows, quick.test_rows, quick.draws) == (300, 200, 2)
    monkeypatch.chdir(tmp_path)
    config = LadderConfig(task=str(climb.task), quick=True, routes=[], baselines=["majority"], **SMALL)
    report = ladder.run(config)
    assert report["run_dir"] == "runs/ladder-tickets-quick"
    assert any("a quick look" in warning for warning in report["warnings"])
    assert shlex.split(report["command"])[3:5] == ["--model", "toy-llama"]
    assert "--quick" in report["command"]
    assert "--test_rows" not in report["command"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"quick": True, "routes": ["lora:rank=4,alpha=8", "few-shot:shots=2"], "ranks": [2, 4], "baselines": []},
        {"routes": [{"name": "lora", "targets": ["q_proj", "v_proj"]}, "zero-shot"], "run_dir": 'my runs/it\'s "here" $HOME'},
        {"price": {"machine_hour": 0.4}, "train": {"epochs": 0.5, "learning_rate": 1e-4}, "target": 0.9, "budget_minutes": 2.5},
        {"skip_bad_rows": True, "threads": 1, "seed": -3, "dtype": "fp32", "run_dir": "--odd"},
    ],
)
def test_the_reported_command_means_the_same_when_it_is_pasted(settings: dict) -> None:
    config = LadderConfig(task="a folder/täsk's.yaml", **settings)
    words = "import json, sys; print(json.dumps(sys.argv[1:]))"
    shell = f'tunesmith() {{ {shlex.join([sys.executable, "-c", words])} "$@"; }}; {command_of(config)}'
    pasted = json.loads(subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True).stdout)
    assert pasted[0] == "ladder"
    assert cli._configure("ladder", ladder, pasted[1:]) == config
