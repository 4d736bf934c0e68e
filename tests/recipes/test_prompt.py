"""`tunesmith prompt` on a toy model: through the command line, every method, several templates, and prompts that fit."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tickets import climb_here, rows, write_rows, write_task

from tunesmith import cli
from tunesmith.core.errors import UserError
from tunesmith.core.files import verify_manifest
from tunesmith.core.registry import ROUTES
from tunesmith.data.prompts import Prompts
from tunesmith.data.task import load_task
from tunesmith.evaluate.answer import Asker
from tunesmith.models.load import load
from tunesmith.models.score import score
from tunesmith.models.toy import byte_tokenizer
from tunesmith.recipes import ladder, prompt
from tunesmith.recipes._ladder.climb import Workshop
from tunesmith.recipes._ladder.config import LadderConfig
from tunesmith.recipes._ladder.orchestrate import assignment_of
from tunesmith.recipes._routes.prompting import in_blocks
from tunesmith.recipes.routes import verbalizer_search

TOY: dict[str, Any] = {"model": "toy-llama", "threads": 1}
TEMPLATES = """name: tickets
data: {train: train.jsonl, test: test.jsonl}
templates:
  type: "Ticket: {text}\\nTipo: {answer}"
  bare: "{text} {answer}"
  "?": "Pregunta por {text}\\n\\n{answer}"
choices: labels
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("prompt")
    write_task(made)
    (made / "three.yaml").write_text(TEMPLATES, encoding="utf-8")
    return made


@pytest.fixture
def ask(folder: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Ask by a method, in this process."""

    def ask(method: str | dict[str, Any], task: str = "tickets.yaml", **settings: Any) -> dict[str, Any]:
        config = {"task": str(folder / task), "method": method, "run_dir": str(tmp_path / "run"), **TOY, **settings}
        return prompt.run(prompt.Config(**config))

    return ask


def test_the_command_line_leaves_a_run_that_explains_itself(folder: Path, tmp_path: Path) -> None:
    words = ["prompt", str(folder / "three.yaml"), "--method", "few_shot:draws=2", "--method.shots", "2", "--model", "toy-llama"]
    words += ["--threads", "1", "--run_dir", str(tmp_path / "run"), "--json"]
    done = subprocess.run([sys.executable, "-m", "tunesmith", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *shown, last = done.stdout.splitlines()
    report = json.loads(last)
    assert shown[0] == "2-shot on tickets with toy-llama"
    assert f"[{report['low']:.3f}, {report['high']:.3f}] on 12 items" in shown[1]
    assert report["low"] <= report["value"] <= report["high"]
    assert report["value"] == pytest.approx(sum(report["draws"]) / 2)
    assert report == json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert {f.name for f in (tmp_path / "run").iterdir()} >= {"run.json", "predictions.jsonl", "result.json", "report.html"}
    assert verify_manifest(tmp_path / "run") == ""
    lines = (tmp_path / "run" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    predictions = [json.loads(line) for line in lines]
    assert len(predictions) == 24
    assert [e["prompt"] for e in report["examples"]] == [p["prompt"] for p in predictions[:3]]
    assert all(e["prompt"] in done.stdout for e in report["examples"])
    assert report["value"] == pytest.approx(sum(p["correct"] for p in predictions) / 24)
    # The command it names gives the same report, read and not asked again, and another setting is refused.
    stamp = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    assert cli.main([*shlex.split(report["command"])[1:], "--run_dir", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == stamp
    assert cli.main([*words, "--seed", "1"]) == 2
    assert cli.main([*words, "--seed", "1", "--overwrite"]) == 0


def test_it_is_the_ladders_route_with_the_ladders_numbers(ask: Callable[..., dict], folder: Path, tmp_path: Path) -> None:
    for method in ("few-shot", "calibrated", "zero-shot"):
        result, predictions = climb_here(folder / "tickets.yaml", tmp_path / "ladder", method, draws=3, shots=4)
        report = ask(method, overwrite=True)
        assert (report["value"], report["draws"], report["name"]) == (result.value, result.draws, method)
        assert report["items_hash"] == result.items_hash
        assert report["examples"][0]["scores"] == pytest.approx(predictions[0].scores, abs=1e-4)


def test_prefix_is_the_fields_word_for_the_bare_template(ask: Callable[..., dict]) -> None:
    assert ask("prefix")["name"] == "zero-shot"


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("lora", "'lora' trains weights and is no way of prompting\n  Give calibrated, cloze, "),
        ("few_shott", "unknown route 'few_shott'\n  Did you mean 'few-shot'"),
        ("few_shot:shot=1", "unknown key 'shot'\n  Did you mean 'shots'"),
        ({"shots": 1}, "a route needs a name"),
    ],
)
def test_a_method_that_is_none_is_refused(ask: Callable[..., dict], method: Any, said: str) -> None:
    with pytest.raises(UserError) as error:
        ask(method)
    assert said in str(error.value)


def test_a_method_that_does_not_suit_the_task_is_refused(ask: Callable[..., dict], folder: Path) -> None:
    write_rows(folder / "sums.jsonl", [{"question": f"{i} + 1", "answer": str(i + 1)} for i in range(30)])
    yaml = "name: sums\ndata: {train: sums.jsonl}\ntemplate: '{question} = {answer}'\n"
    (folder / "sums.yaml").write_text(yaml, encoding="utf-8")
    for method in ("calibrated", "verbalizer_search"):
        with pytest.raises(UserError, match="does not suit the task 'sums': the answers are free text"):
            ask(method, "sums.yaml")


def test_all_templates_are_asked_and_their_spread_is_said(ask: Callable[..., dict]) -> None:
    alone = {}
    for at, method in enumerate(("zero_shot:templates=all", "few_shot:templates=all,draws=2,shots=2")):
        report = ask(method, "three.yaml", overwrite=True)
        names = ["type", "bare", "?"]
        assert report["templates"] == [name for name in names for _ in range(1 + at)]
        means = {n: [v for v, t in zip(report["draws"], report["templates"], strict=True) if t == n] for n in names}
        note = next(n for n in report["notes"] if n.startswith("accuracy by template"))
        assert all(f"{name} {sum(v) / len(v):.3f}" in note for name, v in means.items())
        alone[method] = report
    assert ask("zero_shot", "three.yaml", overwrite=True)["value"] == alone["zero_shot:templates=all"]["draws"][0]
    assert ask("zero_shot", "three.yaml", overwrite=True)["templates"] == []


def workshop(task: Path, tmp_path: Path, route: dict[str, Any], **settings: Any) -> Workshop:
    config = LadderConfig(task=str(task), routes=[route], **TOY, **settings)
    return Workshop(assignment_of(config, tmp_path, route, []), alone=True)


def test_calibration_of_several_templates_has_a_prior_of_its_own_for_each(folder: Path, tmp_path: Path) -> None:
    route = {"name": "calibrated", "templates": "all", "per_item": True, "draws": 1, "shots": 2}
    shop = workshop(folder / "three.yaml", tmp_path, route, test_rows=3)
    entry, parameters = ROUTES.parameters(route)
    from tunesmith.evaluate.answer import calibration_prior
    from tunesmith.recipes.routes import few_shot

    calibrated = entry.climb(shop, parameters).draws
    plain = few_shot.climb(shop, few_shot.Parameters(**parameters.model_dump())).draws
    shown = few_shot.demonstrations(shop, parameters)[0]
    for at, name in enumerate(shop.task.templates):
        asker = shop.with_task(shop.task.with_template(name)).asker()
        for before, after, demonstrations in zip(plain[at], calibrated[at], shown, strict=True):
            prior = calibration_prior(asker, demonstrations)
            assert after.scores == pytest.approx({y: before.scores[y] - prior[y] for y in prior}, abs=1e-4)


def test_demonstrations_come_in_the_order_and_by_the_draw_that_was_asked_for(folder: Path, tmp_path: Path) -> None:
    from tunesmith.recipes.routes import few_shot

    def ids(**parameters: Any) -> list[list[list[str]]]:
        shop = workshop(folder / "tickets.yaml", tmp_path, {"name": "few-shot"}, test_rows=4)
        found = few_shot.demonstrations(shop, few_shot.Parameters(shots=6, draws=2, **parameters))
        return [[[e.id for e in one] for one in draw] for draw in found]

    fixed, per_item, blocks = ids(), ids(per_item=True), ids(order="blocks")
    assert fixed == ids()
    assert all(one == draw[0] for draw in fixed for one in draw)
    assert fixed[0][0] != fixed[1][0]
    assert len({tuple(one) for draw in per_item for one in draw}) == 8
    assert per_item == ids(per_item=True)
    task = load_task(str(folder / "tickets.yaml"))
    labels = {e.id: task.gold(e) for e in task.splits.train}
    said = [labels[i] for i in blocks[0][0]]
    assert sorted(blocks[0][0]) == sorted(fixed[0][0])
    assert said == sorted(said, key=said.index)
    assert [labels[i] for i in fixed[0][0]] != said
    assert in_blocks([], task.gold) == []


@pytest.mark.parametrize("route", ["few_shot_nearest:by=words", "few_shot_nearest:choice=diverse,by=words,order=blocks"])
def test_rows_chosen_by_words_share_rare_words_with_the_item(ask: Callable[..., dict], route: str) -> None:
    report = ask(route)
    assert report["route"] == ("4-shot diverse BM25 in blocks" if "choice" in route else "4-shot nearest BM25")
    for example in report["examples"]:
        *shown, item = example["prompt"].split("\n\n")
        assert len(shown) == 4
        if "choice" not in route:  # the nearest, next to the item, says what the item says; only the number differs
            assert shown[-1].split(",")[1] == item.split(",")[1]


def long_task(folder: Path) -> Path:
    """Rows of which only a few fit the toy model together."""
    folder.mkdir(exist_ok=True)
    for name, count, seed in (("train", 30, 1), ("test", 6, 2)):
        content = [{**row, "text": row["text"] + " y más" * (30 + 40 * (i % 3))} for i, row in enumerate(rows(count, seed))]
        write_rows(folder / f"{name}.jsonl", content)
    (folder / "long.yaml").write_text(TEMPLATES, encoding="utf-8")
    return folder / "long.yaml"


def test_shots_that_do_not_fit_are_left_out_counted_and_can_be_forbidden(tmp_path: Path) -> None:
    task = long_task(tmp_path / "task")
    method = "few_shot:shots=12,draws=1"
    report = prompt.run(prompt.Config(task=str(task), method=method, run_dir=str(tmp_path / "run"), **TOY))
    note = next(n for n in report["notes"] if "would not have fitted" in n)
    assert note.startswith("6 of 6 prompts would not have fitted the 2,048 tokens that toy-llama reads, so ")
    predictions = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text("utf-8").splitlines()]
    dropped, longest = 0, max(len(s.encode()) for p in predictions for s in p["prompt"].split("\n\n")) + 60
    full = prompt.run(prompt.Config(task=str(task), method="few_shot:shots=2,draws=1", run_dir=str(tmp_path / "few"), **TOY))
    assert not [n for n in full["notes"] if "fitted" in n]
    for p in predictions:
        *shown, _ = p["prompt"].split("\n\n")
        dropped += 12 - len(shown)
        size = len(byte_tokenizer()(p["prompt"]).input_ids)
        assert size <= 2048
        # One more demonstration would have been too many, if it was one of the long ones.
        assert size + longest > 2048
    assert f"so {dropped:,} of their demonstrations were left out" in note
    config = prompt.Config(task=str(task), method=method + ",drop_shots=false", run_dir=str(tmp_path / "not"), **TOY)
    with pytest.raises(UserError, match="toy-llama reads at most 2,048 with the answer"):
        prompt.run(config)


def test_pmi_is_the_score_minus_that_without_the_item(folder: Path, tmp_path: Path) -> None:
    text = (folder / "tickets.yaml").read_text(encoding="utf-8")
    (folder / "pmi.yaml").write_text(text.replace("choices: labels", "choices: [refund, delivery delay]\nnormalise: pmi"))
    write_rows(folder / "train.jsonl", [row for row in rows(60, 1) if row["label"] != "refund request"])
    write_rows(folder / "test.jsonl", [row for row in rows(12, 2) if row["label"] != "refund request"])
    task = load_task(str(folder / "pmi.yaml"))
    lm = load("toy-llama")
    item = task.splits.test[0]
    found = Asker(lm, Prompts(task, lm.tokenizer)).ask([item]).predictions[0].scores
    for word in ("refund", "delivery delay"):
        given, alone = score(lm, [(task.template.prompt(item.fields), f" {word}"), ("Tipo:", f" {word}")])
        assert found[word] == pytest.approx(given - alone, abs=1e-4)
        assert found[word] != pytest.approx(given, abs=1e-2)
    write_task(folder)


@pytest.mark.parametrize("name", ["verbalizer_search", "template_search"])
def test_a_search_uses_training_rows_only_saves_its_log_and_is_seeded(
    ask: Callable[..., dict], folder: Path, tmp_path: Path, name: str
) -> None:
    report = ask(f"{name}:rows=12", "three.yaml")
    path = tmp_path / "run" / {"verbalizer_search": "verbalizer.json", "template_search": "templates.json"}[name]
    log = json.loads(path.read_text(encoding="utf-8"))
    task = load_task(str(folder / "three.yaml"))
    assert set(log["row_ids"]) <= {e.id for e in task.splits.train}
    assert log["rows"] == len(log["row_ids"]) == 12
    assert ask(f"{name}:rows=12", "three.yaml", overwrite=True)["examples"] == report["examples"]
    tried = log["tried"]
    if name == "template_search":
        best = max(tried, key=lambda one: (one["value"], one["gold_logprob"]))
        assert (log["winner"], log["template"]) == (best["name"], best["template"])
        assert {one["template"] for one in tried} >= set(task.file.texts.values())
        assert len({one["template"] for one in tried}) == len(tried) >= 7
        assert any("won among" in note for note in report["notes"])
    else:
        kept = any("own words were kept" in note for note in report["notes"])
        own = {y: y for y in task.verbalizer.labels}  # type: ignore[union-attr]
        assert log["choices"] == {y: [w] for y, w in (own if kept else tried[0]["words"]).items()}
        given = next(one for one in tried if one["words"] == own)
        assert (tried[0]["accuracy"], tried[0]["logprob"]) >= (given["accuracy"], given["logprob"])
        assert set(report["examples"][0]["scores"]) == set(log["choices"])


@pytest.mark.parametrize(("better", "worse", "kept"), [(5, 1, True), (6, 0, False), (0, 0, True), (0, 9, True)])
def test_words_found_must_beat_the_tasks_own_by_more_than_luck(better: int, worse: int, kept: bool) -> None:
    """Of 32 rows the found words answer some that the own ones do not, and the other way round.

    5 and 1: mean 4 / 32 = 0.125, deviation sqrt(6 / 32 - 0.125^2) = 0.415, two standard errors 0.147.
    6 and 0: 0.1875 against 0.138.
    """
    # Columns: found words for a and b, own words for a and b. All rows are a's.
    scores = np.tile([1.0, 0.0, 1.0, 0.0], (32, 1))
    scores[:better, 2:] = [0.0, 1.0]
    scores[better : better + worse, :2] = [0.0, 1.0]
    found, own = {"a": 0, "b": 1}, {"a": 2, "b": 3}
    assert verbalizer_search._better_than_luck(scores, ["a"] * 32, found, own) is not kept


def test_what_is_odd_about_answers_is_said(folder: Path) -> None:
    lm = load("smollm2")

    def remarks(template: str, choices: str) -> list[str]:
        yaml = f'name: t\ndata: {{train: train.jsonl, test: test.jsonl}}\ntemplate: "{template}"\nchoices: {choices}\n'
        (folder / "odd.yaml").write_text(yaml, encoding="utf-8")
        return Prompts(load_task(str(folder / "odd.yaml")), lm.tokenizer).remarks()

    three = "{refund: positive, refund request: negative, delivery delay: late}"
    assert remarks("{text}\\nTipo: {answer}", three) == []
    joined = "{refund: happy, refund request: known, delivery delay: late}"
    assert "joins 'happy' with the text before it" in remarks("{text} un{answer}", joined)[0]
    assert "'terrible' has 2 tokens where it stands, and fewer after a space" in remarks(
        "{text}={answer}", "{refund: terrible, refund request: good, delivery delay: late}"
    )[0]  # fmt: skip
    begins = remarks("{text}\\nTipo: {answer}", "{refund: refund, refund request: refund request, delivery delay: late}")
    assert begins == ["'refund' begins 'refund request', so the end of an answer is scored too"]


def test_prompt_has_the_ladders_settings_and_none_of_its_own_rows() -> None:
    shared = set(prompt.Config.model_fields) - {"method"}
    assert shared <= set(LadderConfig.model_fields)
    for key in shared - {"task"}:
        assert prompt.Config.model_fields[key].default == LadderConfig.model_fields[key].default
    assert ladder.EXAMPLES
