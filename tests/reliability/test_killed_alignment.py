"""`tunesmith align` killed anywhere in a round goes on by the same command to the bits of a run that was not."""

import json
import random
import shutil
from pathlib import Path

import pytest
from forkserver import Server

from tunesmith.core.files import sha256

# Where a kill falls: file operations below the run's folder, from its making over rounds and checkpoints to the artefact; and,
# since nothing is written meanwhile, the work itself: the scorer kills the process when it is asked, at the n-th time.
COMMAND = [
    "align", "prompts.jsonl", "--scorer", "scorer.py:score", "--model", "toy-llama", "--run_dir", "run", "--rollouts", "8",
    "--max_new_tokens", "6", "--steps", "4", "--dtype", "fp32", "--threads", "1", "--save_steps", "1", "--learning_rate", "0.01",
    "--optimisation_epochs", "2", "--batch_size", "4", "--kl_target", "2", "--allow_attackable", "true",
]  # fmt: skip
SCORER = """
import os, signal
from pathlib import Path

def score(prompts, answers):
    plan = Path("die")
    left = int(plan.read_text()) if plan.is_file() else -1
    if left >= 0:
        plan.write_text(str(left - 1))
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return [float(sum(c.isascii() for c in a)) for a in answers]
"""


def prepared(folder: Path) -> Path:
    """A working directory with prompts and a scorer."""
    folder.mkdir()
    rows = [{"prompt": p} for p in ("the film", "a day", "once", "go on", "we were")]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "scorer.py").write_text(SCORER)
    return folder


def outcome(folder: Path) -> dict[str, str]:
    """SHA-256 of all that was made: adapter, last checkpoint, and every round without the seconds it took."""
    run = folder / "run"
    saved = sorted((run / "checkpoints").glob("step-*"))[-1]
    made = {path.name: sha256(path) for path in [*(run / "adapter").glob("*.safetensors"), *saved.glob("*.safetensors")]}
    for path in sorted((run / "rollouts").glob("round-*.json")):
        kept = json.loads(path.read_text())
        kept["measured"] = {key: value for key, value in kept["measured"].items() if not key.startswith("seconds_")}
        made[path.name] = json.dumps(kept)
    return made


@pytest.fixture(scope="module")
def straight(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, float]]:
    """What a run that nothing happened to makes, and how it went."""
    folder = prepared(tmp_path_factory.mktemp("align") / "straight")
    done = server.run(folder, *COMMAND)
    assert done["code"] == 0, done["err"]
    made = outcome(folder)
    assert sum(name.startswith("round-") for name in made) == 4
    return made, done


@pytest.mark.parametrize("by", ["operation", "scoring", "time"])
def test_a_killed_alignment_ends_with_the_same_bits(
    server: Server, straight: tuple[dict[str, str], dict[str, float]], tmp_path: Path, by: str, full: bool
) -> None:
    expected, done = straight
    chance = random.Random(f"alignment {by}")
    # 20 lives that end in kills, 7 + 7 + 6, or one of each kind.
    for number in range((7 if by != "time" else 6) if full else 1):
        folder, how = prepared(tmp_path / str(number)), {}
        if by == "operation":
            how["die_at"] = chance.randrange(1, int(done["operations"]))
        elif by == "scoring":
            (folder / "die").write_text(str(number % 4 + 1))
        else:
            how["die_after"] = chance.uniform(0.2, 0.9) * done["seconds"]
        first = server.run(folder, *COMMAND, **how)
        assert first["code"] in ((-9, 0) if by == "time" else (-9,)), first["err"]
        again = server.run(folder, *COMMAND)
        assert again["code"] == 0, again["err"]
        assert outcome(folder) == expected
        steps = [json.loads(line)["step"] for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, 17))
        shutil.rmtree(folder)


def test_another_seed_ends_with_other_bits(
    server: Server, straight: tuple[dict[str, str], dict[str, float]], tmp_path: Path
) -> None:
    folder = prepared(tmp_path / "other")
    assert server.run(folder, *COMMAND, "--seed", "1")["code"] == 0
    other = outcome(folder)
    assert all(other[name] != straight[0][name] for name in ("adapter_model.safetensors", "optimizer.safetensors"))
    assert other["round-000000.json"] != straight[0]["round-000000.json"]
