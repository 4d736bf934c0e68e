"""A run directory is continued by the same run only."""

import json
import resource
from pathlib import Path

import pytest

from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.core.runs import Run


def test_a_run_directory_explains_itself(tmp_path: Path) -> None:
    Run(tmp_path / "run", {"model": "m", "seed": 0}, {"command": "tunesmith tune"})
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["inputs"], record["command"]) == ({"model": "m", "seed": 0}, "tunesmith tune")
    assert {"tunesmith", "python", "machine", "torch", "transformers"} <= record["versions"].keys()


def test_the_same_inputs_continue_a_run_and_others_do_not(tmp_path: Path) -> None:
    inputs = {"model": "m", "seed": 0, "routes": ("a", "b"), "data": Path("x")}
    Run(tmp_path / "run", inputs, {}).log({"step": 1})
    Run(tmp_path / "run", dict(reversed(inputs.items())), {"command": "another"}).log({"step": 2})
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    with pytest.raises(UserError, match=r"other settings: model, seed \(model was 'm', now 'n'\)\n.*--overwrite"):
        Run(tmp_path / "run", {**inputs, "model": "n", "seed": 1}, {})
    Run(tmp_path / "run", {**inputs, "seed": 1}, {}, overwrite=True)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is not empty and holds no run"):
            Run(tmp_path, {}, {}, overwrite=overwrite)
    assert [f.name for f in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(WorkFailed, match="cannot write"):
        Run(tmp_path / "notes.txt", {}, {})


def test_a_run_killed_before_its_first_file_was_whole_can_start_again(tmp_path: Path) -> None:
    (tmp_path / ".run.json.tmp-123").write_text("{")
    Run(tmp_path, {"seed": 0}, {})
    assert (tmp_path / "run.json").is_file()


@pytest.mark.parametrize("content", ["{", "[]", '{"versions": {}}'])
def test_a_damaged_record_is_an_error_that_says_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"(?s)run.json cannot be read .*--overwrite"):
        Run(tmp_path, {}, {})
    Run(tmp_path, {}, {}, overwrite=True)


def test_steps_after_the_one_resumed_from_are_forgotten(tmp_path: Path) -> None:
    run = Run(tmp_path, {}, {})
    run.forget_after(3)
    for step in range(6):
        run.log({"step": step, "loss": 0.5})
    run.log({"note": "no step"})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    run.forget_after(3)
    run.log({"step": 4})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("step") for line in lines] == [0, 1, 2, 3, None, 4]


def test_lines_that_a_full_disk_refused_come_with_the_next(tmp_path: Path) -> None:
    run = Run(tmp_path, {}, {})
    run.log({"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))  # the system takes half of the second line
        for step in (2, 3):
            with pytest.raises(OSError, match="File too large"):
                run.log({"step": step})
        assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    run.log({"step": 4})
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(f'{{"step": {step}}}\n' for step in (1, 2, 3, 4))


def test_overwriting_that_was_interrupted_can_be_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(tmp_path, {"seed": 0}, {}).log({"step": 1})
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    (tmp_path / "zeta.txt").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "checkpoints")
    real, removed = Path.unlink, []

    def dies(path: Path, missing_ok: bool = False) -> None:
        if len(removed) == 2:
            raise KeyboardInterrupt
        removed.append(path.name)
        real(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dies)
        with pytest.raises(KeyboardInterrupt):
            Run(tmp_path, {"seed": 1}, {}, overwrite=True)
    assert (tmp_path / "run.json").is_file()
    Run(tmp_path, {"seed": 1}, {}, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
