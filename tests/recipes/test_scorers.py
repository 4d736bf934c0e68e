"""Who judges answers: reward models, metrics, services and mixes; and the attacks that come before a scorer may steer."""

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.core.registry import SCORERS
from tunesmith.recipes import align, inspect, reward
from tunesmith.recipes._reward.attacks import Case, probe
from tunesmith.recipes._reward.scoring import open_scorer
from tunesmith.train.scoring import Answer, scores_of

SCORER = """
calls = []

def length(prompts, answers):
    return [float(len(a)) for a in answers]

def content(prompts, answers):
    return [float("river" in a and len(a) < 20 and a != p) for p, a in zip(prompts, answers)]

def fails(prompts, answers):
    if "b" in answers:
        raise KeyError("no b")
    return [0.0] * len(answers)

def flaky(prompts, answers):
    calls.append(1)
    if len(calls) < 3:
        raise TimeoutError("slow")
    return [1.0] * len(answers)

def text(prompts, answers):
    return ["good"] * len(answers)
"""
ANSWERS = [Answer("p", "a", True, ("a", "c")), Answer("q", "b", True, ("the b",)), Answer("r", "", False, ("x",))]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scorer.py").write_text(SCORER)


class Service(BaseHTTPRequestHandler):
    """Answers with what the test put into `reply`, after as many failures as it asked for."""

    reply: Any = None
    failures = 0
    asked: list[Any] = []

    def do_POST(self) -> None:
        """Read prompts and answers, and answer."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append(body)
        failing = type(self).failures > 0
        type(self).failures -= failing
        content = json.dumps(type(self).reply(body) if callable(type(self).reply) else type(self).reply).encode()
        self.send_response(503 if failing else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[str]:
    """The address of a scorer on this machine."""
    server = HTTPServer(("127.0.0.1", 0), Service)
    Service.asked, Service.failures = [], 0
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/score"
    server.shutdown()
    server.server_close()


def test_every_scorer_gives_one_number_for_each_answer(service: str, tmp_path: Path) -> None:
    Service.reply = staticmethod(lambda body: {"scores": [0.5] * len(body["answers"])})
    Path("pairs.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{i}", "chosen": "a!", "rejected": "a"}) + "\n" for i in range(60))
    )
    small: dict[str, Any] = {"model": "toy-llama", "threads": 1, "dtype": "fp32", "max_steps": 1, "seeds": [0, 1]}
    reward.run(reward.Config(data="pairs.jsonl", run_dir="rm", validation_rows=0, **small))
    specs: dict[str, Any] = {
        "function": "scorer.py:length", "lexicon": "lexicon", "metric": "metric", "url": {"name": "url", "url": service},
        "reward-model": {"name": "reward-model", "path": "rm", "spread": 1.0},
        "mix": {"name": "mix", "of": [{"scorer": "lexicon", "weight": 2}, {"scorer": "scorer.py:length", "weight": -1}]},
    }  # fmt: skip
    assert set(specs) <= set(SCORERS.names())
    for name, spec in specs.items():
        scorer = open_scorer(spec)
        scores = [float(s) for s in scorer(ANSWERS)]
        assert len(scores) == len(ANSWERS), name
        assert all(map(math.isfinite, scores)), name
        assert scores == [float(s) for s in scorer(ANSWERS)], name
        assert list(scorer([])) == [] or name == "reward-model"


def test_a_metric_compares_with_the_rows_own_answers() -> None:
    assert list(open_scorer("metric")(ANSWERS)) == [1.0, 0.0, 0.0]
    assert list(open_scorer("metric:metric=squad_f1")(ANSWERS)) == [1.0, pytest.approx(1.0), 0.0]
    said = [Answer("p", "It is The  B, I think", True, ("the b",)), Answer("p", "the bee", True, ("the b",))]
    assert list(open_scorer("metric:contained=true")(said)) == [1.0, 0.0]
    with pytest.raises(WorkFailed, match="has no right answer to compare with"):
        open_scorer("metric")([Answer("p", "a", True)])
    with pytest.raises(UserError, match="the metric 'brier' cannot judge an answer by itself"):
        open_scorer("metric:metric=brier")


def test_a_service_is_asked_again_and_then_the_run_stops(service: str) -> None:
    Service.reply, Service.failures = {"scores": [1, 2.5, -1]}, 2
    spec = {"name": "url", "url": service, "timeout": 5}
    assert open_scorer(spec)(ANSWERS) == [1.0, 2.5, -1.0]
    assert len(Service.asked) == 3
    assert Service.asked[-1] == {"prompts": ["p", "q", "r"], "answers": ["a", "b", ""]}
    Service.failures = 9
    with pytest.raises(WorkFailed):
        open_scorer({**spec, "attempts": 2})(ANSWERS)
    Service.failures, Service.asked = 0, []
    Service.reply = staticmethod(lambda body: {"scores": [0] * len(body["answers"])})
    open_scorer({**spec, "answers_at_once": 2})(ANSWERS)
    assert [len(body["answers"]) for body in Service.asked] == [2, 1]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({"scores": [1, 2]}, "gave 2 scores for 3 answers"),
        ({"points": []}, "gave no list of scores for 3 answers"),
        ({"scores": [1, None, 2]}, "gave None to the answer 'b'"),
        ({"scores": [1, True, 2]}, "gave True to the answer 'b'"),
        ({"scores": "x" * (2 << 20)}, "sent more than 1,048,576 bytes"),
    ],
)
def test_what_a_service_must_not_answer(service: str, reply: Any, message: str) -> None:
    Service.reply = reply
    with pytest.raises(WorkFailed, match=message):
        open_scorer({"name": "url", "url": service})(ANSWERS)


def test_prompts_do_not_travel_in_the_open() -> None:
    with pytest.raises(UserError, match="is another machine, and http sends prompts there in the open"):
        open_scorer({"name": "url", "url": "http://example.org/score"})
    with pytest.raises(UserError, match="is no address"):
        open_scorer({"name": "url", "url": "ftp://example.org"})


def test_a_function_that_throws_is_named_with_the_answer() -> None:
    with pytest.raises(
        WorkFailed, match=r"the scorer scorer.py:fails throws KeyError: 'no b' .line 12 of scorer.py., at the answer 'b' to 'q'"
    ):
        open_scorer("scorer.py:fails")(ANSWERS)
    # The network's failures are for who asks: it is asked again.
    assert scores_of(open_scorer("scorer.py:flaky"), ANSWERS, ["1", "2", "3"], 60.0) == [1.0, 1.0, 1.0]
    with pytest.raises(WorkFailed, match="gives what is no list of numbers"):
        open_scorer("scorer.py:text")(ANSWERS)


def test_a_mix_is_the_weighted_sum() -> None:
    spec = {"name": "mix", "of": [{"scorer": "scorer.py:length", "weight": 2}, {"scorer": "metric"}]}
    assert open_scorer(spec)(ANSWERS) == [3.0, 2.0, 0.0]
    with pytest.raises(UserError, match="unknown scorer 'lexcon'"):
        open_scorer({"name": "mix", "of": [{"scorer": "lexcon"}]})


def looking(**settings: Any) -> inspect.Config:
    """Settings of `tunesmith inspect`."""
    return inspect.Config(**settings)


CASES = [Case(f"what flows {i}", (f"river {i}",)) for i in range(10)]


def test_attacks_find_what_a_scorer_falls_for() -> None:
    sound = probe(open_scorer("scorer.py:content"), CASES, 0)
    assert [name for name, one in sound["attacks"].items() if one["preferred"]] == []
    fooled = probe(open_scorer("scorer.py:length"), CASES, 0)["attacks"]
    assert {name for name, one in fooled.items() if one["preferred"]} == {"repeated", "copied prompt", "praise"}
    assert fooled["repeated"]["share"] == 1.0
    assert fooled["empty"]["share"] == 0.0
    with pytest.raises(WorkFailed, match="gave nan to the answer ''"):
        probe(lambda answers: [float("nan") if not a.text else 0.0 for a in answers], CASES, 0)
    # No prompt, nothing to copy.
    assert "copied prompt" not in probe(open_scorer("scorer.py:length"), [Case("", ("a",))], 0)["attacks"]


def test_align_refuses_a_scorer_that_prefers_an_attack_and_says_which() -> None:
    rows = [{"prompt": case.prompt, "completion": case.real[0]} for case in CASES]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {
        "data": "prompts.jsonl", "model": "toy-llama", "rollouts": 4, "max_new_tokens": 40, "steps": 1, "threads": 1,
        "dtype": "fp32",
    }  # fmt: skip
    with pytest.raises(UserError, match=r"prefers .*the answer four times over \(repeated\) .* for 10 of 10") as caught:
        align.run(align.Config(**settings, scorer="scorer.py:length", run_dir="refused"))
    assert "--allow_attackable" in caught.value.fix
    assert not Path("refused").exists()
    align.run(align.Config(**settings, scorer="scorer.py:length", run_dir="run", allow_attackable=True))
    kept = json.loads(Path("run/run.json").read_text())
    assert "repeated" in json.dumps(kept["scorer_attacked"])
    align.run(align.Config(**settings, scorer="scorer.py:content", run_dir="sound"))


def test_a_policy_is_steered_by_a_reward_model_on_its_own_trunk_or_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pairs.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{i}", "chosen": "a!", "rejected": "a"}) + "\n" for i in range(60))
    )
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": case.prompt}) + "\n" for case in CASES))
    for name in ("toy-llama", "toy-bert"):
        small: dict[str, Any] = {"model": name, "threads": 1, "dtype": "fp32", "max_steps": 2, "validation_rows": 0}
        reward.run(reward.Config(data="pairs.jsonl", run_dir=f"rm-{name}", **small))
        align.run(align.Config(**{
            "data": "prompts.jsonl", "model": "toy-llama", "rollouts": 4, "max_new_tokens": 6, "steps": 2, "threads": 1,
            "dtype": "fp32", "scorer": f"reward-model:path=rm-{name}", "allow_attackable": True, "run_dir": f"run-{name}",
            "learning_rate": 0.05,
        }))  # fmt: skip
        said = capsys.readouterr().err
        assert ("is a model of its own" in said) == ("it reads answers as text" in said) == (name == "toy-bert")
        scorer = open_scorer(f"reward-model:path=rm-{name}")
        # In the second round the policy has learned on that trunk; the reward model says what it says alone.
        for path in sorted(Path(f"run-{name}/rollouts").glob("round-*.json")):
            rows = json.loads(path.read_text())["rows"]
            again = scorer([Answer(row["prompt"], row["text"], True) for row in rows])
            assert [row["score"] for row in rows] == pytest.approx(list(again), abs=1e-4)


def test_inspect_scorer_measures_agreement_and_attacks() -> None:
    rows = [{"prompt": f"what flows {i}", "chosen": f"river {i}", "rejected": f"lake {i}"} for i in range(100)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = inspect.run(looking(kind="scorer", what="scorer.py:content", data="pairs.jsonl", threads=1))
    assert report["agreement"]["value"] == 1.0
    assert report["preferred"] == []
    assert "It may steer a policy" in inspect.render(report)
    worse = inspect.run(looking(kind="scorer", what="scorer.py:length", data="pairs.jsonl", rows=10, threads=1))
    assert worse["agreement"]["n"] <= 10
    assert "it prefers the answer four times over" in inspect.render(worse)
    with pytest.raises(ValueError, match="name it with --data"):
        looking(kind="scorer", what="lexicon")
    with pytest.raises(ValueError, match="task: not for a scorer"):
        looking(kind="scorer", what="lexicon", data="movies", task="movies")
