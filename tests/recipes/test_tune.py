"""`tunesmith tune`: every usual file trains, every mistake is one clear line, and what is saved is what was evaluated."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith import cli
from tunesmith.core.files import sha256, verify_manifest
from tunesmith.evaluate.loss import mean_loss
from tunesmith.peft import _files, lora
from tunesmith.recipes import _models, tune
from tunesmith.recipes._tune.rows import read_rows
from tunesmith.train import checkpoint

Row = dict[str, Any]
PLAIN = ["--model", "toy-llama", "--threads", "1", "--batch_size", "4", "--max_steps", "4", "--guard", "false"]
FAST = [*PLAIN, "--peft.rank", "2"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def messages(i: int) -> Row:
    """One conversation."""
    return {"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"{i} it is"}]}


CONVENTIONS = {
    "messages": messages,
    "alpaca": lambda i: {"instruction": f"Double {i}", "input": "", "output": str(2 * i)},
    "prompt_completion": lambda i: {"prompt": f"{i} and one is ", "completion": str(i + 1)},
    "text_label": lambda i: {"text": f"number {i}", "label": ("even", "odd")[i % 2]},
    "text": lambda i: {"text": f"Number {i} follows {i - 1}."},
}


def write(path: Path, rows: list[Row]) -> Path:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def file(name: str = "rows.jsonl", convention: str = "messages", count: int = 40) -> Path:
    """Write a file of good rows."""
    return write(Path(name), [CONVENTIONS[convention](i) for i in range(count)])


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run a command line; its exit code, stdout and stderr."""
    code = cli.main([*words])
    out, err = capsys.readouterr()
    return code, out, err


def reported(capsys: pytest.CaptureFixture[str], *words: str) -> Row:
    """Run a command with --json, which must succeed, and read the last line of stdout."""
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


DOCUMENTED = {
    "status", "run_dir", "artefact", "seconds", "wall_seconds", "peak_memory_gb", "tokens", "tokens_per_second",
    "supervised_tokens", "trained_parameters", "steps", "final_loss", "validation", "test", "gain",
    "forgetting", "wise_ft", "warnings",
}  # fmt: skip


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_usual_file_trains(convention: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = reported(capsys, "tune", str(file(convention=convention)), *FAST)
    assert set(report) == DOCUMENTED
    assert (report["status"], report["steps"], report["run_dir"]) == ("done", 4, "runs/tune-rows")
    assert 0 < report["supervised_tokens"] < report["tokens"]
    assert report["trained_parameters"] == 4096
    assert math.isfinite(report["final_loss"])
    assert report["validation"] is not None
    run_dir = Path(report["run_dir"])
    assert {p.name for p in run_dir.iterdir()} == {
        "MANIFEST.json", "adapter", "checkpoints", "metrics.jsonl", "report.html", "report.json", "run.json",
        *(["predictions.jsonl"] if convention == "text_label" else []),
    }  # fmt: skip
    # Rows of texts and labels are a task, a part of which is the test; of other files nothing but the loss is measured.
    assert [r["metric"] for r in report["test"]] == (["accuracy", "macro_f1"] if convention == "text_label" else [])
    assert json.loads((run_dir / "report.json").read_text()) == report
    assert verify_manifest(run_dir) == verify_manifest(run_dir / "adapter") == ""


def test_the_documented_keys_are_those_in_the_docstring() -> None:
    returns = (tune.run.__doc__ or "").partition("Returns:")[2].partition("Raises:")[0]
    assert {word.strip(" .\n") for word in returns.split(",")} == DOCUMENTED


def test_a_task_file_trains_and_is_judged_by_its_metric(capsys: pytest.CaptureFixture[str]) -> None:
    file("train.jsonl", "text_label")
    write(Path("test.jsonl"), [CONVENTIONS["text_label"](i) for i in range(100, 110)])
    Path("mine.yaml").write_text(
        "name: mine\ndata: {train: train.jsonl, test: test.jsonl}\ntemplate: '{text}\n\n  Parity: {answer}'\n"
        "choices: {even: [even], odd: [odd]}\n"
    )
    report = reported(capsys, "tune", "mine.yaml", *FAST)
    assert report["run_dir"] == "runs/tune-mine"
    assert 0 <= report["validation"] <= 1  # accuracy, not a loss


def test_a_run_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "tune", str(file()), *FAST)
    assert code == 0
    assert err.splitlines()[0].startswith("36 rows, ")
    assert err.splitlines()[0].endswith("; training lora on toy-llama, float32")
    assert "talk to it: tunesmith chat --adapter runs/tune-rows/adapter" in out
    # The same command again has nothing left to train and changes nothing.
    before = sha256(Path("runs/tune-rows/adapter/adapter_model.safetensors"))
    code, _, err = run(capsys, "tune", str(file()), *FAST)
    assert (code, "going on after step 4 of 4" in err) == (0, True)
    assert sha256(Path("runs/tune-rows/adapter/adapter_model.safetensors")) == before


def test_the_command_in_run_json_makes_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    import shlex

    reported(capsys, "tune", str(file()), *FAST, "--peft.dropout", "0.1", "--run_dir", "one run")
    words = shlex.split(json.loads(Path("one run/run.json").read_text())["command"])
    assert words[:2] == ["tunesmith", "tune"]
    assert run(capsys, *words[1:], "--set", "run_dir=two")[0] == 0
    assert sha256(Path("two/adapter/adapter_model.safetensors")) == sha256(Path("one run/adapter/adapter_model.safetensors"))


MISTAKES: dict[str, tuple[list[str], str]] = {
    "flag": (["--lerning_rate", "1"], "error: tune has no flag --lerning_rate\n  Did you mean '--learning_rate'?"),
    "part": (["--peft.rnk", "8"], "error: peft method 'lora': unknown key 'rnk'\n  Did you mean 'rank'?"),
    "method": (["--peft", "lorra"], "error: unknown peft method 'lorra'\n  Did you mean 'lora'?"),
    "model": (["--model", "toy-lama"], "error: there is no model 'toy-lama': no embedded name and no directory\n"),
    "value": (["--epochs", "0"], "error: tune: epochs: Input should be greater than 0"),
    "word": (["--schedule", "liner"], "error: tune: schedule: "),
    "adapter": (["--adapter", "nowhere"], "error: there is no adapter directory 'nowhere'"),
    "length": (["--max_length", "9"], "error: 36 of 36 rows are longer than max_length = 9 tokens"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_clear_line(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = MISTAKES[case]
    code, _, err = run(capsys, "tune", str(file(count=36)), *PLAIN, "--validation_rows", "0", *words)
    assert code == 2, err
    assert message in err
    assert "Traceback" not in err
    assert not Path("runs").exists()


def test_a_file_or_task_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "tune", "rows.jsnl", *FAST)
    assert (code, "there is no file 'rows.jsnl'" in err) == (2, True)
    code, _, err = run(capsys, "tune", "movis", *FAST)
    assert (code, "Did you mean 'movies'?" in err) == (2, True)


def test_broken_lines_stop_the_run_or_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps(messages(i)) for i in range(40)]
    lines[6], lines[20] = '{"messages": [{"role": "user"', '{"messages": NaN}'
    Path("rows.jsonl").write_text("\n".join(lines) + "\n")
    code, _, err = run(capsys, "tune", "rows.jsonl", *FAST)
    assert code == 2
    assert "2 of 40 rows in rows.jsonl cannot be used" in err
    assert "rows.jsonl:7: " in err
    assert "rows.jsonl:21: " in err
    assert "--skip_bad_rows" in err
    report = reported(capsys, "tune", "rows.jsonl", *FAST, "--skip_bad_rows")
    assert report["warnings"][-1].startswith("2 unusable rows were left out; the first: rows.jsonl:7: ")


def test_long_rows_stop_the_run_or_are_dropped_with_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [messages(i) for i in range(40)]
    rows[11]["messages"][0]["content"] = "x" * 500
    write(Path("rows.jsonl"), rows)
    code, _, err = run(capsys, "tune", "rows.jsonl", *FAST, "--max_length", "100")
    assert code == 2
    assert "1 of 40 rows are longer than max_length = 100 tokens (the longest, rows.jsonl:12, has " in err
    report = reported(capsys, "tune", "rows.jsonl", *FAST, "--max_length", "100", "--over_long", "drop")
    assert report["warnings"] == ["1 rows longer than 100 tokens were dropped"]


def test_a_conversation_without_an_answer_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": "a b"}, {"text": ""}, {"text": "c d"}]
    code, _, err = run(capsys, "tune", str(write(Path("rows.jsonl"), rows)), *FAST, "--json")
    assert code == 2
    assert "rows.jsonl:2" in err


@pytest.mark.parametrize("count", [1, 2, 9, 10])
def test_few_rows_and_equal_rows_train(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    report = reported(capsys, "tune", str(file(count=count)), *FAST)
    assert (report["validation"] is None) == (count < 10)
    write(Path("same.jsonl"), [messages(1)] * (20 * count))
    assert reported(capsys, "tune", "same.jsonl", *FAST)["validation"] is None


def test_no_row_is_trained_and_validated_on() -> None:
    rows = [messages(i % 30) for i in range(90)]
    config = tune.Config(data=str(write(Path("rows.jsonl"), rows)), model="toy-llama")
    read = read_rows(config, _models.load("toy-llama"))
    assert (len(read.train), len(read.validation)) == (81, 9)
    assert not {e.ids for e in read.train} & {e.ids for e in read.validation}
    assert {e.example_id for e in read.validation} <= {f"rows.jsonl:{n}" for n in range(1, 91)}
    smaller = read_rows(config.model_copy(update={"train_rows": 5}), _models.load("toy-llama"))
    assert (len(smaller.train), len(smaller.validation)) == (5, 9)


def test_another_data_or_setting_is_another_run(capsys: pytest.CaptureFixture[str]) -> None:
    reported(capsys, "tune", str(file()), *FAST)
    code, _, err = run(capsys, "tune", "rows.jsonl", *FAST, "--learning_rate", "0.1")
    assert code == 2
    assert "runs/tune-rows holds a run with other settings: learning_rate (learning_rate was None, now 0.1)" in err
    assert "--overwrite" in err
    # What does not change the weights may change: how often to save, threads, how batches are cut.
    reported(capsys, "tune", "rows.jsonl", *FAST, "--save_steps", "3", "--tokens_per_micro_batch", "100")
    for row in (0, 20):  # one changed row, wherever it stands
        changed = [messages(i) for i in range(40)]
        changed[row]["messages"][1]["content"] = "other"
        write(Path("rows.jsonl"), changed)
        code, _, err = run(capsys, "tune", "rows.jsonl", *FAST)
        assert (code, "other settings: rows" in err) == (2, True)
    assert reported(capsys, "tune", "rows.jsonl", *FAST, "--overwrite")["steps"] == 4


def test_the_same_row_as_target_or_as_context_is_another_run() -> None:
    def fingerprint(weight: int) -> str:
        rows = [messages(i) for i in range(9)]
        rows[0]["messages"] = [*rows[0]["messages"], *rows[1]["messages"]]
        rows[0]["messages"][1]["weight"] = weight
        config = tune.Config(data=str(write(Path("rows.jsonl"), rows)), model="toy-llama")
        return read_rows(config, _models.load("toy-llama")).fingerprint

    assert fingerprint(1) == fingerprint(1) != fingerprint(0)


def test_a_loss_that_explodes_ends_the_run_and_names_rows(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", str(file()), *PLAIN, "--peft", "full", "--learning_rate", "1e30", "--warmup", "0", "--evaluations", "0"]
    code, out, err = run(capsys, *words, "--json")
    assert code == 1, err
    assert "not finite" in err or "rows.jsonl:" in err
    assert json.loads(out.splitlines()[-1])["status"] == "failed"
    found = checkpoint.latest(Path("runs/tune-rows/checkpoints"))
    assert found is None or all(bool(t.isfinite().all()) for t in found[1]["optimizer"].values())
    assert not Path("runs/tune-rows/model").exists()


def losses(model: str, adapter: str | None, data: Path, dtype: str = "auto") -> float:
    """Mean loss on the rows of a file, by a model loaded from disk."""
    lm = _models.load(model, adapter, dtype)
    config = tune.Config(data=str(data), model="toy-llama", validation_rows=0)
    return mean_loss(lm, read_rows(config, lm).train)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_whole_model_reloads_by_its_directory_and_is_what_was_evaluated(dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    base = _models.load("toy-llama", dtype="fp32")
    base.model.save_pretrained("base")
    base.tokenizer.save_pretrained("base")
    words = [*PLAIN, "--model", "base", "--peft", "full", "--dtype", dtype, "--learning_rate", "3e-3"]
    words += ["--max_steps", "20", "--evaluations", "5"]
    report = reported(capsys, "tune", str(file()), *words)
    assert report["artefact"] == "runs/tune-rows/model"
    assert not list(Path("runs/tune-rows/model").glob("*.bin"))
    lm = _models.load(report["artefact"], dtype=dtype)
    assert str(lm.dtype).removeprefix("torch.") == {"fp32": "float32", "bf16": "bfloat16"}[dtype]
    config = tune.Config(data="rows.jsonl", model="toy-llama")
    validation = read_rows(config, lm).validation
    # The very number: weights on disk are those that were evaluated, not the float32 masters they were rounded from.
    assert -mean_loss(lm, validation) == report["validation"]
    untrained = -mean_loss(_models.load("toy-llama", dtype=dtype), validation)
    assert report["validation"] > untrained + 0.1
    again = reported(capsys, "tune", "rows.jsonl", *words, "--model", report["artefact"], "--run_dir", "more", "--max_steps", "2")
    assert again["steps"] == 2


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_an_adapter_is_what_was_evaluated(dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*FAST, "--dtype", dtype, "--max_steps", "12", "--learning_rate", "0.02", "--evaluations", "4"]
    report = reported(capsys, "tune", str(file()), *words)
    lm = _models.load("toy-llama", report["artefact"], dtype)
    validation = read_rows(tune.Config(data="rows.jsonl", model="toy-llama"), lm).validation
    assert -mean_loss(lm, validation) == report["validation"]


def test_an_adapter_is_trained_further(capsys: pytest.CaptureFixture[str]) -> None:
    first = reported(capsys, "tune", str(file()), *FAST, "--peft.dropout", "0.2", "--learning_rate", "0.02")
    second = reported(
        capsys, "tune", "rows.jsonl", *PLAIN, "--adapter", first["artefact"], "--run_dir", "further", "--learning_rate", "0.02"
    )
    assert second["trained_parameters"] == first["trained_parameters"]  # its own layers, and no others on top of them
    lm = _models.load("toy-llama", second["artefact"])
    assert {type(layer.base) for layer in lora.layers(lm.model).values()} == {torch.nn.Linear}
    config = json.loads(Path("further/adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_dropout"]) == (2, 0.2)
    assert losses("toy-llama", "further/adapter", Path("rows.jsonl")) < losses("toy-llama", first["artefact"], Path("rows.jsonl"))
    record = json.loads(Path("further/run.json").read_text())
    assert record["parents"] == [first["artefact"]]
    # It began where the first one ended: one tiny step leaves it nearly there, and not at a fresh adapter.
    tiny = reported(
        capsys, "tune", "rows.jsonl", *PLAIN, "--max_steps", "1", "--adapter", first["artefact"], "--run_dir", "tiny",
        "--learning_rate", "1e-9", "--evaluations", "0",
    )  # fmt: skip
    assert losses("toy-llama", tiny["artefact"], Path("rows.jsonl")) == pytest.approx(
        losses("toy-llama", first["artefact"], Path("rows.jsonl")), abs=1e-4
    )


def test_an_adapter_keeps_its_method(capsys: pytest.CaptureFixture[str]) -> None:
    first = reported(capsys, "tune", str(file()), *FAST)
    code, _, err = run(capsys, "tune", "rows.jsonl", *FAST, "--adapter", first["artefact"], "--run_dir", "further")
    assert code == 2
    assert "peft and adapter exclude each other: an adapter is trained further by its own method" in err
    # Another adapter in the same place is another run.
    reported(capsys, "tune", "rows.jsonl", *PLAIN, "--adapter", first["artefact"], "--run_dir", "further")
    reported(capsys, "tune", "rows.jsonl", *FAST, "--overwrite", "--seed", "3")
    code, _, err = run(capsys, "tune", "rows.jsonl", *PLAIN, "--adapter", first["artefact"], "--run_dir", "further")
    assert (code, "other settings: adapter_sha256" in err) == (2, True)


def test_an_artefact_is_replaced_whole(capsys: pytest.CaptureFixture[str]) -> None:
    report = reported(capsys, "tune", str(file()), *FAST)
    adapter = Path(report["artefact"])
    (adapter / "stray.txt").write_text("of an earlier version")
    stage = adapter.with_name(".adapter.tmp")
    stage.mkdir()
    (stage / "adapter_model.safetensors").write_bytes(b"half")
    reported(capsys, "tune", "rows.jsonl", *FAST)
    assert not stage.exists()
    assert not (adapter / "stray.txt").exists()
    assert _files.load_adapter(_models.load("toy-llama"), adapter).parameters.rank == 2


def test_from_python() -> None:
    import tunesmith as ts

    config = ts.TuneConfig(
        data=str(file()), model="toy-llama", threads=1, max_steps=2, peft={"name": "lora", "rank": 2}, guard=False
    )
    assert set(ts.tune(config)) == DOCUMENTED
