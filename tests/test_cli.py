"""The command line: what words mean, what is refused and how, exit codes, and help that fits a terminal."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tunesmith import __version__, cli
from tunesmith.core.errors import UserError
from tunesmith.core.registry import RECIPES

ROW = {"text": "a good film", "label": "positive"}


def read(command: str) -> dict[str, Any]:
    """What a command's words mean: the keys that are not as they are by default."""
    verb, *words = shlex.split(command)
    return cli._configure(verb, RECIPES.get(verb), words).model_dump(exclude_defaults=True)


def said(capsys: pytest.CaptureFixture[str], command: str) -> tuple[int, str, str]:
    """Run a command in this process: exit code, stdout, stderr."""
    code = cli.main(shlex.split(command))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("command", "means"),
    [
        ("ladder movies", {"task": "movies"}),
        ("ladder --task movies", {"task": "movies"}),
        ("ladder --task=movies --test_rows=5", {"task": "movies", "test_rows": 5}),
        ("ladder movies --test-rows 5", {"task": "movies", "test_rows": 5}),
        ("ladder --quick movies", {"task": "movies", "quick": True}),
        ("ladder --quick false movies", {"task": "movies"}),
        ("ladder movies --quick yes --resume no", {"task": "movies", "quick": True, "resume": False}),
        ("ladder movies --ranks 2,4", {"task": "movies", "ranks": [2, 4]}),
        ("ladder movies --ranks 2 4", {"task": "movies", "ranks": [2, 4]}),
        ("ladder movies --ranks '2, 4'", {"task": "movies", "ranks": [2, 4]}),
        ("ladder movies --ranks [2,4]", {"task": "movies", "ranks": [2, 4]}),
        ("ladder movies --set ranks=2,4", {"task": "movies", "ranks": [2, 4]}),
        ("ladder movies --baselines none", {"task": "movies", "baselines": []}),
        ("ladder movies --baselines=", {"task": "movies", "baselines": []}),
        (
            "ladder movies --routes few-shot:shots=2,draws=1,lora --seed -1",
            {"task": "movies", "routes": ["few-shot:shots=2,draws=1", "lora"], "seed": -1},
        ),
        ("ladder movies --routes zero-shot lora:rank=4", {"task": "movies", "routes": ["zero-shot", "lora:rank=4"]}),
        (
            'ladder movies --set \'routes=[{"name": "lora", "rank": 4}]\'',
            {"task": "movies", "routes": [{"name": "lora", "rank": 4}]},
        ),
        ("ladder movies --train.epochs 2", {"task": "movies", "train": {"epochs": 2.0}}),
        ("ladder movies --epochs 2 --batch_size 4", {"task": "movies", "train": {"epochs": 2.0, "batch_size": 4}}),
        ("ladder movies --num_train_epochs 2", {"task": "movies", "train": {"epochs": 2.0}}),
        ("ladder movies --set epochs=2", {"task": "movies", "train": {"epochs": 2.0}}),
        ("ladder movies --learning_rate 1e-4", {"task": "movies", "train": {"learning_rate": 1e-4}}),
        ("ladder movies --price.machine_hour 0.4", {"task": "movies", "price": {"machine_hour": 0.4}}),
        ("ladder movies --set 'price={machine_hour: 0.4}'", {"task": "movies", "price": {"machine_hour": 0.4}}),
        ("ladder 007 --run_dir 1e3 --model no", {"task": "007", "run_dir": "1e3", "model": "no"}),
        ("ladder movies --json --debug --test_rows 5", {"task": "movies", "test_rows": 5}),
        ("tune rows.jsonl --peft lora --peft.rank 8", {"data": "rows.jsonl", "peft": {"name": "lora", "rank": 8}}),
        ("tune rows.jsonl --peft.rank 8 --peft lora", {"data": "rows.jsonl", "peft": {"name": "lora", "rank": 8}}),
        (
            "tune rows.jsonl --output_dir x --per_device_train_batch_size 4 --resume_from_checkpoint false",
            {"data": "rows.jsonl", "run_dir": "x", "batch_size": 4, "resume": False},
        ),
        ("data check rows.jsonl", {"action": "check", "what": "rows.jsonl"}),
        ("fetch", {}),
        ("fetch smollm2 hutto", {"what": ["smollm2", "hutto"]}),
        ("generate 'a, b' --stop x,y", {"prompt": "a, b", "stop": ["x", "y"]}),
    ],
)
def test_words_mean_keys(command: str, means: dict[str, Any]) -> None:
    assert read(command) == means


def test_a_file_holds_the_same_keys_and_flags_win(tmp_path: Path) -> None:
    path = tmp_path / "my settings.yaml"
    path.write_text("task: movies\nepochs: 2\ntrain: {batch_size: 4}\nprice.machine_hour: 1\nranks: [2, 4]\nrun_dir: a\n")
    config = shlex.quote(str(path))
    parts = {"train": {"epochs": 2.0, "batch_size": 4}, "price": {"machine_hour": 1.0}}
    expected = {"task": "movies", **parts, "ranks": [2, 4], "run_dir": "a"}
    assert read(f"ladder --config {config}") == expected
    assert read(f"ladder tweets --config={config} --epochs 3 --ranks 8 --run_dir b") == {
        **expected, "task": "tweets", "train": {"epochs": 3.0, "batch_size": 4}, "ranks": [8], "run_dir": "b",
    }  # fmt: skip
    assert read(f"ladder tweets --ranks 8 --config {config}")["ranks"] == [8]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("laddr movies", "there is no command 'laddr'\n  Did you mean 'ladder'?"),
        ("ladder", "ladder needs TASK\n  For example: tunesmith ladder movies"),
        ("data", "data needs ACTION\n  For example: tunesmith data check rows.jsonl"),
        ("data check", "data needs WHAT\n  For example: tunesmith data check rows.jsonl"),
        (
            "ladder movies tweets",
            "'tweets' is one word too many for ladder\n  See 'tunesmith ladder --help'; flags begin with --.",
        ),
        ("ladder movies --routs lora", "ladder has no flag --routs\n  Did you mean '--routes'?"),
        ("ladder movies --set routs=lora", "ladder has no flag --routs\n  Did you mean '--routes'?"),
        ("ladder movies --jsn", "ladder has no flag --jsn\n  Did you mean '--json'?"),
        ("ladder movies --xyzzy", "ladder has no flag --xyzzy\n  See 'tunesmith ladder --help'."),
        ("ladder movies --train.epocs 2", "ladder has no flag --train.epocs\n  Did you mean '--train.epochs'?"),
        ("ladder movies --price 3", "--price has parts of its own\n  Use --price.machine_hour or --price.million_tokens."),
        ("ladder movies --model.size 3", "ladder has no flag --model.size"),
        ("ladder movies --test_rows", "--test_rows needs a value"),
        ("ladder movies --ranks --quick", "--ranks needs a value"),
        ("ladder movies --config", "--config needs a value\n  Write it as --config FILE.yaml."),
        ("ladder movies --set", "--set needs a value\n  Write it as --set key=value."),
        ("ladder movies --set ranks", "cannot read --set ranks\n  Write it as --set key=value."),
        ("ladder movies --config nowhere.yaml", "there is no file 'nowhere.yaml'"),
        ("ladder movies --test_rows many", "ladder: test_rows: "),
        ("ladder movies --ranks 0", "ladder: ranks.0: "),
        ("ladder movies --target 3", "ladder: target: "),
        ("ladder movies --threads 0", "ladder: threads: "),
        ("ladder movies --dtype fp15", "ladder: dtype: "),
        (
            "ladder movies --price.machine_hour 1 --price.million_tokens 1",
            "ladder: price: give machine_hour or million_tokens, not both",
        ),
        ("data chekc rows.jsonl", "data: action: "),
        ("tune rows.jsonl --peft lorra", "unknown peft method 'lorra'\n  Did you mean 'lora'?"),
        ("tune rows.jsonl --peft.rnk 4", "peft method 'lora': unknown key 'rnk'\n  Did you mean 'rank'?"),
    ],
)
def test_wrong_usage_is_two_lines_and_exit_code_2(capsys: pytest.CaptureFixture[str], command: str, message: str) -> None:
    code, out, err = said(capsys, command)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert len(err.splitlines()) <= 2
    assert "Traceback" not in err


def test_a_key_of_a_file_that_does_not_exist_is_named_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("task: movies\nrouts: [lora]\n")
    with pytest.raises(UserError) as caught:
        read("ladder --config a.yaml")
    assert str(caught.value) == "a.yaml: ladder has no key 'routs'\n  Did you mean 'routes'?"
    Path("a.yaml").write_text("task: movies\nprice: 3\n")
    with pytest.raises(UserError, match=r"a\.yaml: price has parts of its own"):
        read("ladder --config a.yaml")


def test_the_last_line_is_json_when_it_works_and_when_it_does_not(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"film {i} ü", "label": "ab"[i % 2]}) + "\n" for i in range(12)), encoding="utf-8"
    )
    code, out, _ = said(capsys, f"data check {path} --model toy-llama --json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["splits"]["rows"]["rows"] == 12
    code, out, err = said(capsys, "ladder movies --target 3 --json")
    assert json.loads(out) == {"status": "failed", "error": err.strip().removeprefix("error: "), "exit_code": 2}
    assert code == 2


def test_debug_shows_where_an_error_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Traceback" not in said(capsys, "ladder moveis")[2]
    err = said(capsys, "ladder moveis --debug")[2]
    assert "Traceback" in err
    assert err.endswith("error: unknown task 'moveis'\n  Did you mean 'movies'?\n")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped\n"),
        (PermissionError(13, "Permission denied", "runs/x"), 1, "error: runs/x: Permission denied\n"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device\n"),
        (ZeroDivisionError("division by zero"), 1, "error: ZeroDivisionError: division by zero (at test_cli.py:"),
    ],
)
def test_whatever_happens_ends_in_a_line_and_a_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def run(config: object) -> None:
        raise error

    monkeypatch.setattr(RECIPES.get("ladder"), "run", run)
    got, out, err = said(capsys, "ladder movies")
    assert (got, out) == (code, "")
    assert err.startswith(message)
    assert "Traceback" not in err
    assert json.loads(said(capsys, "ladder movies --json")[1])["status"] == ("stopped" if code == 130 else "failed")


def test_sigterm_ends_with_143_and_a_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "prompts.txt")  # reading it waits for ever, as a busy command would
    command = [sys.executable, "-m", "tunesmith", "generate", "--prompts", str(tmp_path / "prompts.txt"), "--json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(1.5)
    child.send_signal(signal.SIGTERM)
    try:
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert (child.returncode, err) == (143, "stopped\n")
    assert json.loads(out) == {"status": "stopped", "error": "stopped", "exit_code": 143}


def test_sigterm_that_is_swallowed_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[int] = []

    def swallows(words: list[str], debug: bool, as_json: bool) -> int:
        for _ in range(2):
            try:
                if not ends:
                    os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(30)
            except SystemExit as end:
                ends.append(int(end.code or 0))
        return 0

    monkeypatch.setattr(cli, "_SECONDS_TO_END", 0.05)
    monkeypatch.setattr(cli, "_guarded", swallows)
    assert cli.main(["generate"]) == 0
    assert ends == [143, 143]
    # Control: nothing comes after the command has ended.
    time.sleep(0.2)
    assert signal.getsignal(signal.SIGTERM) != cli._terminated


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m tunesmith ladder --help; echo $? >&2"
    done = subprocess.run(["bash", "-c", f"({command}) | true"], capture_output=True, text=True)
    assert done.stderr.splitlines() == ["0"]


@pytest.mark.parametrize("verb", ["", *RECIPES.names()])
def test_help_fits_a_terminal_and_names_every_key(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, err = said(capsys, f"{verb} --help")
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if len(line) > 80] == []
    assert said(capsys, f"help {verb}")[1] == out
    if verb:
        keys = cli._kinds(RECIPES.get(verb).Config)
        assert [key for key in keys if f"--{key}" not in out] == []
        assert f"Usage: tunesmith {verb} " in out
    else:
        assert [name for name in RECIPES.names() if f"  {name} " not in out] == []


def test_help_lists_the_own_keys_of_what_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("--method dpo --help", "--help --method=dpo:beta=0.2", "--method dpo --scorer scorer.py:score --help"):
        out = said(capsys, f"align {words}")[1]
        _, title, own = out.partition("\nKeys of --method dpo:\n")
        assert title
        assert all(f"  --method.{key}" in own for key in ("beta", "label_smoothing", "ties", "tie_strength", "sft_weight"))
        assert "--method.clip" not in out.partition("Keys of")[2]
    assert "Keys of --method ppo:" in said(capsys, "align --help")[1]
    assert "--method best-of-n has no keys of its own." in said(capsys, "align --method best-of-n --help")[1]
    mixed = said(capsys, "plan align --scorer reward-model:path=a --peft lora --help")[1]
    assert "Keys of --scorer reward-model:" in mixed
    assert "  --peft.rank" in mixed
    assert max(map(len, mixed.splitlines())) <= 80


def test_examples_of_the_help_are_commands_that_can_be_read() -> None:
    for verb in RECIPES.names():
        for example in RECIPES.get(verb).EXAMPLES:
            assert example.startswith(f"tunesmith {verb}")
            read(example.removeprefix("tunesmith "))


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version") == (0, f"tunesmith {__version__}\n", "")


def test_no_words_are_a_question_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "") == said(capsys, "--help") == said(capsys, "help")
