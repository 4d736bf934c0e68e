"""What was trained is opened again and used: `ts.load`, `chat`, `inspect adapter` and `eval` on every kind of artefact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tunesmith as ts
from tunesmith import cli
from tunesmith.core.errors import UserError
from tunesmith.core.registry import METRICS
from tunesmith.data.task import load_task
from tunesmith.recipes import eval as evaluation
from tunesmith.recipes import reward, tune

WHO, WHERE = ("Ana", "Bob", "Eve"), ("Rome", "Oslo")


def labelled(n: int) -> dict[str, Any]:
    """A text of high or low letters."""
    return {"text": f"{('aaa', 'zzz')[n % 2]} {n}", "label": ("low", "high")[n % 2]}


def counted(n: int) -> dict[str, Any]:
    """A text with a number."""
    return {"text": f"{('low', 'high')[n % 2]} {n}", "label": (0.5, 2.5)[n % 2]}


def several(n: int) -> dict[str, Any]:
    """A text of the letters that are its labels."""
    labels = [label for at, label in enumerate("abc") if n >> at & 1]
    return {"text": "-".join(label * 3 for label in labels) + f" {n}", "labels": labels}


def tagged(n: int) -> dict[str, Any]:
    """Who sees which town."""
    return {"tokens": [WHO[n % 3], "sees", WHERE[n % 2], str(n)], "tags": ["B-PER", "O", "B-LOC", "O"]}


def asked(n: int) -> dict[str, Any]:
    """Where somebody is; every fourth question has no answer."""
    context = f"{WHO[n % 3]} is in {WHERE[n % 2]} {n}"
    answers = {"text": [], "answer_start": []} if n % 4 == 0 else {"text": [WHERE[n % 2]], "answer_start": [10]}
    return {"context": context, "question": "how?" if n % 4 == 0 else "where?", "answers": answers}


ROWS = {
    "classification": labelled, "regression": counted, "multi-label": several, "token-classification": tagged, "span": asked,
    "text-to-text": labelled, "gpt-classification": labelled,
}  # fmt: skip
MODELS = {"text-to-text": "toy-t5", "gpt-classification": "toy-llama"}


@pytest.fixture(autouse=True)
def _own_threads() -> Any:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every objective, of the whole model and of an adapter, below one folder, beside their rows."""
    folder = tmp_path_factory.mktemp("open")
    for objective, row in ROWS.items():
        data = folder / f"{objective}.jsonl"
        data.write_text("".join(json.dumps(row(n)) + "\n" for n in range(40)), encoding="utf-8")
        for peft in ("full", "lora"):
            tune.run(
                tune.Config(
                    data=str(data), objective=objective, model=MODELS.get(objective, "toy-bert"), peft={"name": peft},
                    run_dir=str(folder / f"{objective}-{peft}"), max_steps=6, batch_size=8, learning_rate=3e-3, threads=1,
                    guard=False,
                )
            )  # fmt: skip
    return folder


@pytest.mark.parametrize("peft", ["full", "lora"])
@pytest.mark.parametrize("objective", list(ROWS))
def test_it_answers_as_in_its_own_test(runs: Path, objective: str, peft: str) -> None:
    run = runs / f"{objective}-{peft}"
    opened = ts.load(str(run / ("model" if peft == "full" else "adapter")))
    assert (opened.objective, list(opened.tasks)) == (objective, [objective])
    task = load_task(str(runs / f"{objective}.jsonl"))
    saved = [json.loads(line) for line in (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    fields = opened.reads(opened.tasks[objective])
    # The rows as a user has them: without their answers.
    answers = opened.answer([{name: item.fields[name] for name in fields} for item in task.splits.test])
    between = {"multi-label": ", ", "token-classification": " "}.get(objective, "")
    texts = [between.join(a.value) if isinstance(a.value, list) else a.value for a in answers]
    texts = [f"{text:.4f}" if isinstance(text, float) else text for text in texts]
    wanted = [row["predicted"] if row["valid"] else row["rationale"] for row in saved]
    assert texts == wanted
    for answer, row in zip(answers, saved, strict=True):
        if objective != "span":
            logs = {label: torch.tensor(p).log().item() for label, p in answer.probabilities.items()}
            assert logs == pytest.approx(row["scores"], abs=1e-5)
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))["test"][0]
    metric = METRICS.get(report["metric"]).evaluate
    read = [text if row["valid"] else "" for text, row in zip(texts, saved, strict=True)]
    if objective != "span":  # which takes the best of several gold answers
        assert metric([row["gold"] for row in saved], read) == pytest.approx(report["value"])


@pytest.mark.parametrize("objective", ["text-to-text", "gpt-classification"])
def test_eval_asks_it_too(runs: Path, objective: str, tmp_path: Path) -> None:
    for kind, peft in (("model", "full"), ("adapter", "lora")):
        config = evaluation.Config(
            task=str(runs / f"{objective}.jsonl"), run_dir=str(tmp_path / kind), threads=1,
            **{kind: str(runs / f"{objective}-{peft}" / kind)},
        )  # fmt: skip
        report = json.loads((runs / f"{objective}-{peft}" / "report.json").read_text(encoding="utf-8"))
        assert evaluation.run(config)["results"] == report["test"]


def test_texts_rows_and_what_is_missing(runs: Path) -> None:
    opened = ts.load(str(runs / "classification-full"))  # a run stands for what it made
    text, row = opened.answer(["aaa 1", {"text": "aaa 1", "beside": 3}])
    assert text == row
    assert text.probability == max(text.probabilities.values())
    assert sum(text.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert opened.answer([]) == []
    with pytest.raises(UserError, match="max_new_tokens is for models that write"):
        opened.answer(["aaa"], max_new_tokens=3)
    with pytest.raises(UserError, match="unknown task of this model 'tweets'"):
        opened.answer(["aaa"], task="tweets")
    with pytest.raises(UserError, match=r"input 1 has no 'question'\n.*This model reads \{\"question\": ..., \"context\": ...\}"):
        ts.load(str(runs / "span-lora")).answer(["where is Ana?"])


def test_a_model_that_does_not_say_its_task_reads_a_text_or_two(runs: Path, tmp_path: Path) -> None:
    """As any classifier of transformers'."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    for file in (runs / "classification-full" / "model").iterdir():
        if file.name not in ("task.json", "MANIFEST.json"):
            (folder / file.name).write_bytes(file.read_bytes())
    theirs, ours = ts.load(str(folder)), ts.load(str(runs / "classification-full"))
    assert theirs.answer(["zzz 3"]) == ours.answer(["zzz 3"])
    assert theirs.answer([{"premise": "zzz", "hypothesis": "3"}]) != ours.answer(["zzz 3"])
    with pytest.raises(UserError, match="max_new_tokens is 0"):
        ts.load("toy-t5").answer(["hello"], max_new_tokens=0)
    spoken = ts.load("toy-t5").answer(["hello"], max_new_tokens=4)
    assert isinstance(spoken[0].value, str)


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run a command line; its exit code, stdout and stderr."""
    code = cli.main([*words])
    return (code, *capsys.readouterr())


def test_chat_says_a_label_with_its_probability(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(runs / "classification-lora" / "adapter")
    (answer,) = ts.load(folder).answer(["zzz 3"])
    shown = f"{answer.value} {answer.probability:.3f}\n"
    for flag in ("--adapter", "--model"):
        assert command(capsys, "chat", "zzz 3", flag, folder, "--threads", "1")[:2] == (0, shown)
    code, out, _ = command(capsys, "chat", "zzz 3", "--adapter", folder, "--json", "--threads", "1")
    assert (code, json.loads(out.splitlines()[-1])["answers"][0]["value"]) == (0, answer.value)
    row = '{"question": "where?", "context": "Ana is in Rome 3"}'
    code, out, _ = command(capsys, "chat", row, "--model", str(runs / "span-full"), "--threads", "1")
    (found,) = ts.load(str(runs / "span-full")).answer([json.loads(row)])
    assert (code, out) == (0, f"{found.value or '(no answer)'}\n")
    code, _, err = command(capsys, "chat", "where?", "--model", str(runs / "span-full"), "--threads", "1")
    assert (code, "input 1 has no 'question'" in err) == (2, True)
    code, _, err = command(capsys, "chat", "zzz", "--adapter", folder, "--temperature", "1", "--threads", "1")
    assert (code, "temperature: not for a model that was tuned for classification" in err) == (2, True)
    # A question longer than a file's name can be.
    assert command(capsys, "chat", "why? " * 60, "--model", "toy-llama", "--max_new_tokens", "2", "--threads", "1")[0] == 0
    code, _, err = command(capsys, "chat", folder)
    assert (code, f"tunesmith chat --model {folder}" in err) == (2, True)


@pytest.mark.parametrize(("objective", "kind", "what"), [
    ("classification", "model", "a classifier (classification)"),
    ("token-classification", "adapter", "a token classifier"),
    ("text-to-text", "model", "an encoder-decoder"),
    ("text-to-text", "adapter", "an adapter for text-to-text"),
    ("gpt-classification", "adapter", "an adapter for gpt-classification"),
])  # fmt: skip
def test_what_does_not_go_on_with_text_is_refused_in_a_line(
    runs: Path, capsys: pytest.CaptureFixture[str], objective: str, kind: str, what: str
) -> None:
    folder = str(runs / f"{objective}-{'full' if kind == 'model' else 'lora'}" / kind)
    base = [] if kind == "model" else ["--model", MODELS.get(objective, "toy-bert")]
    code, _, err = command(capsys, "generate", "Once", *base, f"--{kind}", folder, "--threads", "1")
    assert (code, f"'{folder}' is {what}" in err, "tunesmith chat --model" in err) == (2, True, True), err


@pytest.mark.parametrize("objective", list(ROWS))
def test_inspect_says_what_an_adapter_carries(runs: Path, capsys: pytest.CaptureFixture[str], objective: str) -> None:
    folder = str(runs / f"{objective}-lora" / "adapter")
    code, out, err = command(capsys, "inspect", "adapter", folder, "--json", "--threads", "1")
    assert code == 0, err
    head = json.loads(out.splitlines()[-1])["head"]
    assert (head["for"], head["tasks"]) == (objective, [objective])
    assert bool(head["modules"]) == (objective != "text-to-text")
    assert head["labels"] == {
        "classification": ["high", "low"], "gpt-classification": ["high", "low"], "multi-label": ["a", "b", "c"],
        "token-classification": ["B-LOC", "B-PER", "O"],
    }.get(objective, [])  # fmt: skip
    assert f"for {objective} on {objective}; head: " in out


def judged(n: int) -> dict[str, Any]:
    """The longer answer is better."""
    return {"prompt": f"Say {n}.", "chosen": f"well {n} done", "rejected": f"no {n}"}


def rewarded(folder: Path, model: str, **settings: Any) -> str:
    """Train a reward model for a few steps."""
    (folder / "prefs.jsonl").write_text("".join(json.dumps(judged(n)) + "\n" for n in range(40)), encoding="utf-8")
    config = reward.Config(
        data=str(folder / "prefs.jsonl"), model=model, max_steps=2, threads=1, **settings,
    )  # fmt: skip
    return reward.run(config)["artefact"]


def test_a_reward_model_scores_and_does_not_talk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = rewarded(tmp_path, "toy-bert", run_dir=str(tmp_path / "rm"), peft="lora")
    opened = ts.load(folder)
    saved = json.loads((Path(folder) / "reward.json").read_text(encoding="utf-8"))["probe"]
    pairs = [(one["prompt"], one["completion"]) for one in saved]
    assert opened.score(pairs) == pytest.approx([one["reward"] for one in saved], abs=1e-3)
    assert len(set(opened.score(pairs))) > 1
    for words in (["chat", "hello"], ["generate", "hello"]):
        code, _, err = command(capsys, *words, "--model", "toy-bert", "--adapter", folder, "--threads", "1")
        assert (code, "is a reward model: it scores answers and writes none" in err) == (2, True), err
    code, out, err = command(capsys, "inspect", "adapter", folder, "--threads", "1")
    assert (code, "for reward; head: " in out) == (0, True), err


def test_a_reward_model_finds_the_model_of_a_run_that_it_stands_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "texts.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 8, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    tune.run(
        tune.Config(
            data="texts.jsonl", model="toy-llama", peft={"name": "full"}, run_dir="runs/base", max_steps=1, threads=1, guard=False
        )
    )
    folder = Path(rewarded(tmp_path, "runs/base/model", run_dir="runs/rm", max_length=64))
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "model"
    scores = ts.load(str(folder)).score([("Say 3.", "well 3 done")])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert ts.load(str(tmp_path / folder)).score([("Say 3.", "well 3 done")]) == scores
    (tmp_path / "runs" / "base").rename(tmp_path / "runs" / "moved")
    with pytest.raises(UserError, match=r"was a directory 'runs/base/model', which is not there\n.*Name it"):
        ts.load(str(tmp_path / folder))
    assert (
        ts.load(str(tmp_path / "runs" / "moved" / "model"), str(tmp_path / folder)).score([("Say 3.", "well 3 done")]) == scores
    )
