"""`tunesmith chat` and `generate` answer, with or without an adapter, from arguments, lines and files."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tunesmith import cli
from tunesmith.core.records import Message
from tunesmith.recipes import _models, tune

TOY = ["--model", "toy-llama", "--threads", "1"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Leave the number of threads as it was."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An adapter that learned one answer by heart."""
    folder = tmp_path_factory.mktemp("chat")
    said = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "ja"}]}
    (folder / "rows.jsonl").write_text((json.dumps(said) + "\n") * 8)
    config = tune.Config(
        data=str(folder / "rows.jsonl"), model="toy-llama", run_dir=str(folder / "run"), threads=1, max_steps=120,
        learning_rate=0.02, peft={"name": "lora", "rank": 16}, guard=False,
    )  # fmt: skip
    return tune.run(config)["artefact"]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run a command line; its exit code, stdout and stderr."""
    code = cli.main([*words])
    return (code, *capsys.readouterr())


def test_the_adapter_is_what_answers(adapter: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "chat", "hello", *TOY, "--adapter", adapter) == (0, "ja\n", "")
    code, out, _ = run(capsys, "chat", "hello", *TOY, "--max_new_tokens", "8")
    assert (code, out == "ja\n") == (0, False)


def test_chat_says_what_training_showed(adapter: str) -> None:
    from tunesmith.core.encode import chat_prompt

    lm = _models.load("toy-llama", adapter)
    _, ids = chat_prompt(lm.tokenizer, [Message("user", "hello")])
    # The prompt the chat sends is the one the training rows began with.
    probe = json.loads((Path(adapter) / "probe.json").read_text())
    assert tuple(probe["prompts"][0]["prompt_ids"]) == ids


def test_one_question_as_json(adapter: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["chat", "hello", *TOY, "--adapter", adapter, "--system", "Be brief.", "--json", "--max_new_tokens", "4"]
    code, out, _ = run(capsys, *asked)
    report = json.loads(out.splitlines()[-1])
    assert (code, report["status"]) == (0, "done")
    assert [(t["role"]) for t in report["turns"]] == ["system", "user", "assistant"]


def test_a_conversation_is_held_line_by_line(
    adapter: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n\nand you?\n/quit\nnever said\n"))
    code, out, err = run(capsys, "chat", *TOY, "--adapter", adapter, "--max_new_tokens", "4", "--json")
    lines = out.splitlines()
    assert (code, lines[0], "Traceback" in err) == (0, "ja", False)
    turns = json.loads(lines[-1])["turns"]
    assert [t["content"] for t in turns if t["role"] == "user"] == ["hello", "and you?"]
    assert turns[1] == {"role": "assistant", "content": "ja"}


def test_the_command_line_talks_through_a_pipe(adapter: str) -> None:
    command = [sys.executable, "-m", "tunesmith", "chat", *TOY, "--adapter", adapter]
    done = subprocess.run(command, input="hello\n", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "ja\n"), done.stderr


def test_samples_depend_on_the_seed(capsys: pytest.CaptureFixture[str]) -> None:
    def said(seed: int) -> str:
        return run(capsys, "chat", "hi", *TOY, "--temperature", "1", "--max_new_tokens", "12", "--seed", str(seed))[1]

    assert said(1) == said(1)
    assert len({said(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize(("words", "message"), [
    (["--adapter", "nowhere"], "there is no adapter directory 'nowhere'"),
    (["--tempreture", "1"], "Did you mean '--temperature'?"),
    (["--max_new_tokens", "0"], "max_new_tokens >= 1"),
    (["--max_new_tokens", "5000"], "exceed the context of 2048"),
])  # fmt: skip
def test_a_mistake_is_one_clear_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "chat", "hello", *TOY, *words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_generate_continues_a_prompt_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TOY, "--max_new_tokens", "5", "--temperature", "1"]
    code, out, _ = run(capsys, "generate", "Once", *words, "--n", "2", "--json")
    [answer] = json.loads(out.splitlines()[-1])["answers"]
    assert (code, answer["prompt"], len(answer["completions"])) == (0, "Once", 2)
    (tmp_path / "prompts.txt").write_text("Once\nTwice\n")
    out_file = tmp_path / "answers.jsonl"
    code, out, _ = run(capsys, "generate", "--prompts", str(tmp_path / "prompts.txt"), "--out", str(out_file), *words)
    rows = [json.loads(line) for line in out_file.read_text().splitlines()]
    assert (code, [row["prompt"] for row in rows]) == (0, ["Once", "Twice"])
    assert out == f"2 prompts continued; see {out_file}\n"
    assert rows[0]["completions"][0] == answer["completions"][0]


@pytest.mark.parametrize(("given", "message"), [
    ([], "give either one prompt or --prompts FILE"),
    (["a", "--prompts", "p.txt"], "give either one prompt or --prompts FILE"),
    ([""], "the prompt is empty"),
    (["--prompts", "missing.txt"], "missing.txt cannot be read as UTF-8 text"),
    (["--prompts", "blank.txt"], "a line of blank.txt is empty"),
    (["--prompts", "empty.txt"], "empty.txt is empty"),
    (["--prompts", "latin.txt"], "latin.txt cannot be read as UTF-8 text"),
])  # fmt: skip
def test_prompts_that_cannot_be_continued(
    given: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (("p", b"a\n"), ("blank", b"a\n\nb\n"), ("empty", b""), ("latin", "é".encode("latin-1"))):
        (tmp_path / f"{name}.txt").write_bytes(content)
    code, _, err = run(capsys, "generate", *given, *TOY)
    assert (code, message in err) == (2, True), err
