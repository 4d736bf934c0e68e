"""`tunesmith align --rollout_workers`: what workers sample is what this process samples, and a lost worker costs nothing."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from processes import grandchildren, title
from tunesmith.core.errors import WorkFailed
from tunesmith.core.registry import PEFT
from tunesmith.models.generate import Sampling, complete, turns_of
from tunesmith.models.load import LM, load
from tunesmith.recipes import align
from tunesmith.recipes._align import ready as aligning
from tunesmith.recipes.align import Config
from tunesmith.train import rollout_workers
from tunesmith.train.engines import ray as engine
from tunesmith.train.rollout_workers import Workers

SMALL: dict[str, Any] = {
    "data": "prompts.jsonl", "scorer": "scorer.py:score", "model": "toy-llama", "rollouts": 12, "max_new_tokens": 6, "samples": 2,
    "steps": 3, "dtype": "fp32", "threads": 1, "save_steps": 1, "learning_rate": 0.02, "allow_attackable": True,
    "optimisation_epochs": 1, "batch_size": 64,
}  # fmt: skip
SCORER = """
from pathlib import Path

def score(prompts, answers):
    return [float(sum(c.isascii() for c in a)) for a in answers]

def fails(prompts, answers):
    if Path("run/rollouts/round-000001.json").is_file() and not Path("mended").is_file():
        raise RuntimeError("out of coffee")
    return score(prompts, answers)
"""


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scorer.py").write_text(SCORER)
    # Fewer prompts than a round asks: some come twice, with other random numbers.
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("the film", "a day", "once", "go on")))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process sample in the place of workers."""
    monkeypatch.setattr(aligning, "Workers", Here)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray of our own, kept from one test to the next."""
    pytest.importorskip("ray", reason="needs the optional package ray")
    with engine.cluster(None, 2) as ray:
        yield ray


class Here:
    """This process in the place of workers: what is sampled is scored again, and nothing leaves it."""

    def __init__(self, *settings: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def complete(self, *asked: Any) -> Any:
        return complete(*asked)


def run(folder: str, **changes: Any) -> dict[str, str]:
    """Align; the adapter's bytes, and each round without the seconds it took."""
    align.run(Config(**{**SMALL, **changes}, run_dir=folder))
    return outcome(folder)


def outcome(folder: str) -> dict[str, str]:
    made = {"adapter": (Path(folder) / "adapter" / "adapter_model.safetensors").read_bytes().hex()}
    for path in sorted(Path(folder, "rollouts").glob("round-*.json")):
        kept = json.loads(path.read_text())
        kept["measured"] = {k: v for k, v in kept["measured"].items() if not k.startswith("seconds_") and k != "sampled_apart"}
        made[path.name] = json.dumps(kept)
    return made


def answers(made: dict[str, str]) -> list[list[int]]:
    """Token ids of every answer of every round."""
    return [row["ids"] for name in sorted(made) if name != "adapter" for row in json.loads(made[name])["rows"]]


def killed_at_work() -> threading.Thread:
    """Kill one of the workers as soon as it samples."""

    def kill() -> None:
        while not (found := [pid for pid in grandchildren() if title(pid).startswith("ray::_Worker.complete")]):
            time.sleep(0.01)
        os.kill(max(found), signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


@pytest.mark.usefixtures("cluster")
def test_a_worker_samples_what_this_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    one, plain = run("one", rollout_workers=1), run("plain")
    assert answers(one) == answers(plain)
    assert len({tuple(ids) for ids in answers(one)}) > 20
    measured = [json.loads(Path(f"one/rollouts/round-00000{n}.json").read_text())["measured"] for n in range(3)]
    assert all(m["sampled_apart"] < 1e-5 for m in measured)
    assert abs(measured[-1]["kl"]) > 0.01  # the adapter that was sent has learned something
    # What is scored again here has the same bits, whoever sampled it.
    monkeypatch.setattr(aligning, "Workers", Here)
    assert run("here", rollout_workers=1) == one != plain


@pytest.mark.usefixtures("cluster")
def test_two_workers_a_killed_one_and_a_run_taken_up_without_any_end_with_the_same_bits(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = killed_at_work()
    with pytest.raises(WorkFailed, match="out of coffee"):
        run("run", rollout_workers=2, scorer="scorer.py:fails", method="grpo")
    assert not killed.is_alive()
    assert "was lost: its process died; another one samples its share of the round (1 of 3)" in capfd.readouterr().err
    assert len(list(Path("run/rollouts").iterdir())) == 2
    Path("mended").touch()
    monkeypatch.setattr(aligning, "Workers", Here)
    resumed = run("run", rollout_workers=1, scorer="scorer.py:fails", method="grpo")
    assert resumed == run("here", rollout_workers=1, method="grpo")


@pytest.mark.usefixtures("cluster")
def test_workers_that_die_without_end_end_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(threads: int) -> LM:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    monkeypatch.setattr(rollout_workers, "_LOSSES", 0)
    lm, method = policy("lora")
    message = "workers were lost 1 times: worker 0 was lost: its process died"
    with Workers(dies, method, 1, 1, None) as workers, pytest.raises(WorkFailed, match=message) as raised:
        workers.complete(lm, [(5, 6)], Sampling(2), 0)
    assert "newest checkpoint" in raised.value.fix


def policy(peft: str) -> tuple[LM, tuple[Any, Any]]:
    """The toy decoder with an adapter that has learned something, and the adapter's method."""
    lm = load("toy-llama", "fp32")
    entry, parameters = PEFT.parameters(peft)
    chance = torch.Generator().manual_seed(1)
    for parameter in entry.attach(lm.model, parameters, 7).values():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=chance)
    lm.model.eval()
    return lm, (entry, parameters)


def sent(lm: LM, method: tuple[Any, Any]) -> Any:
    """What a worker is told of a policy, beside its adapter's tensors."""
    entry, parameters = method
    about = entry.to_peft_config(lm.model, parameters)
    name = entry.__name__.rpartition(".")[2]
    return rollout_workers._Policy(lambda threads: load("toy-llama", "fp32"), 1, lm.identity, name, about)


def test_a_worker_that_finds_other_weights_or_not_the_folder_says_so() -> None:
    lm, method = policy("lora")
    about = replace(sent(lm, method), identity="of other files")
    asked = save(method[0].state(lm.model)), [(5, 6)], [0], Sampling(2), 0
    for folder, message in (
        (".", "worker 3 finds other weights under the name 'toy-llama'"),
        ("gone", "worker 3 does not see gone"),
    ):
        said = rollout_workers._Worker(3, folder).complete(about, *asked)
        assert isinstance(said, dict)
        assert said["error"][:2] == ("UserError", message)


@pytest.mark.parametrize(
    "peft",
    [*(n for n in PEFT.names() if PEFT.get(n).SAVES == "adapter"), "lora:init=pissa,rank=4", "lora:dora=true,alpha=3"],
)
def test_every_adapter_answers_as_the_policy_it_was_sent_by(peft: str) -> None:
    lm, (entry, parameters) = policy(peft)
    prompts, how = [(9, 8, 7), (5, 6), (9, 8, 7), (5, 6)], Sampling(8)
    here = complete(lm, prompts, how, 3)
    about = sent(lm, (entry, parameters))
    worker, turns = rollout_workers._Worker(0, "."), turns_of(prompts)
    there = [worker.complete(about, save(entry.state(lm.model)), prompts[a:b], turns[a:b], how, 3) for a, b in ((0, 1), (1, 4))]
    assert not any(isinstance(some, dict) for some in there), there
    assert [c.ids for some in there for c in some] == [c.ids for c in here]
    assert here[0].ids != here[2].ids
    # Without the places of equal prompts, and without the adapter, other answers come.
    assert [c.ids for c in complete(lm, prompts[1:], how, 3)] != [c.ids for c in here[1:]]
    with entry.disabled(lm.model):
        assert [c.ids for c in complete(lm, prompts, how, 3)] != [c.ids for c in here]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"address": "auto"}, "address needs --rollout_workers"),
        ({"rollout_workers": 2, "method": "best-of-n"}, "rollout_workers: best-of-n trains nothing"),
        (
            {"rollout_workers": 2, "method": "dpo", "scorer": None},
            "rollout_workers.*: dpo learns from judgements and samples nothing",
        ),
    ],
)
def test_workers_are_refused_where_nothing_is_sampled(changes: dict[str, Any], message: str) -> None:
    known = {"data": "prompts.jsonl", "scorer": "scorer.py:score"}
    with pytest.raises(ValueError, match=message):
        Config(**{**known, **changes})
