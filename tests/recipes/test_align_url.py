"""`tunesmith align --rollout_url`: a server loads each round's adapter and samples, and one that does not is found out."""

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from test_align_workers import SMALL

from tunesmith.core.errors import TunesmithError, UserError, WorkFailed
from tunesmith.core.seeds import derive
from tunesmith.models.generate import Sampling, complete
from tunesmith.models.load import LM, load
from tunesmith.peft._files import load_adapter
from tunesmith.recipes import align
from tunesmith.recipes.align import Config
from tunesmith.recipes.plans import align as plan_align

SCORER = """
from pathlib import Path

def score(prompts, answers):
    if Path("run/rollouts/round-000001.json").is_file() and Path("broken").is_file():
        raise RuntimeError("out of coffee")
    return [float(sum(c.isascii() for c in a)) for a in answers]
"""


@dataclass
class Sampled:
    """A server with the toy decoder that loads adapters while it runs.

    Attributes:
        adapters: by name, the model with it. fault: in which way it is not what it should be; "" = it is.
        asked: (route, body) of every request. paths: where adapters were when they were loaded, and what else stood there.
    """

    url: str = ""
    fault: str = ""
    adapters: dict[str, LM] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    paths: list[tuple[Path, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, route: str, body: Any) -> tuple[int, Any]:
        """Return status and content: an object as JSON, a text as it stands, as vLLM says that an adapter was loaded."""
        self.asked.append((route, body))
        name = (body or {}).get("lora_name", "")
        if route == "/v1/models":
            return 200, {"data": [{"id": id} for id in ("base", *self.adapters)]}
        if route == "/v1/completions":
            if body["model"] not in self.adapters:
                return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
            return 200, self.completion(self.adapters[body["model"]], body)
        if self.fault == "no adapters" or route not in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
            return 404, {"detail": "Not Found"}
        if route == "/v1/unload_lora_adapter":
            return (
                (200, f"Removed '{name}'.") if self.adapters.pop(name, None) else (404, {"error": {"message": "no such adapter"}})
            )
        if name in self.adapters:
            return 400, {"error": {"message": f"'{name}' has already been loaded"}}
        folder = Path(body["lora_path"])
        self.paths.append((folder, len(list(folder.parent.iterdir()))))
        lm = load("toy-llama", "fp32")
        if self.fault == "another model":
            with torch.no_grad():
                lm.model.get_output_embeddings().weight.mul_(8.0)
        if self.fault != "deaf":
            load_adapter(lm, folder)
        self.adapters[name] = lm
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def completion(self, lm: LM, body: Any) -> Any:
        how = Sampling(body["max_tokens"], body["temperature"], body["top_p"], ignore_end=body.get("ignore_eos", False))
        found = complete(lm, [tuple(body["prompt"])], how, body["seed"])[0]
        tokens = [f"token_id:{i}" for i in found.ids]
        if self.fault == "texts":
            tokens = [lm.tokenizer.decode([i]) for i in found.ids]
        if self.fault == "unknown token":
            tokens[-1] = "token_id:999999"
        numbers: list[float | None] = [round(p, 6) for p in found.logprobs]
        if self.fault == "no number":
            numbers[0] = None
        if self.fault == "cut off":
            tokens, numbers = tokens[:3], numbers[:3]
        said = {"tokens": tokens, "token_logprobs": numbers} if self.fault != "no log-probabilities" else None
        return {"choices": [{"text": found.text, "logprobs": said, "finish_reason": "stop"}]}


@pytest.fixture
def server() -> Iterator[Sampled]:
    state = Sampled()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Keep stderr for the tests."""

        def do_GET(self) -> None:
            self.say(None)

        def do_POST(self) -> None:
            self.say(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def say(self, body: Any) -> None:
            with state.lock:
                status, value = state.answer(self.path, body)
            content = (value if isinstance(value, str) else json.dumps(value)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{listening.server_address[1]}/v1"
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield state
    listening.shutdown()
    listening.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scorer.py").write_text(SCORER)
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("the film", "a day", "once", "go on")))


def run(server: Sampled, folder: str = "run", **changes: Any) -> list[dict[str, Any]]:
    """Align; the rounds that were kept."""
    align.run(Config(**{**SMALL, "rollout_url": server.url, **changes}, run_dir=folder))
    return rounds(folder)


def rounds(folder: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(Path(folder, "rollouts").glob("round-*.json"))]


@pytest.mark.parametrize("method", ["ppo", "rloo", "expert-iteration"])
def test_each_round_is_sampled_by_the_adapter_of_the_moment(server: Sampled, method: str) -> None:
    made = run(server, method=method)
    assert all(0 < one["measured"]["sampled_apart"] < 1e-5 for one in made)
    # A model without the adapter would say something else of the last round's tokens.
    assert abs(made[-1]["measured"]["kl"]) > 0.01
    assert "explained_variance" in made[-1]["measured"] or method != "ppo"
    asked = [body for route, body in server.asked if route == "/v1/completions"]
    assert len(asked) == 36
    assert len({body["model"] for body in asked}) == 3
    assert len({(*body["prompt"], body["seed"]) for body in asked}) == 36
    assert all(body["temperature"] == body["top_p"] == 1.0 and body["top_k"] == -1 for body in asked)
    # What is learned from are our own numbers, of the answers that were given.
    policy = load("toy-llama", "fp32")
    for row in made[0]["rows"]:
        start = row["loss_mask"].index(True)
        logits = policy.model(torch.tensor([row["ids"]])).logits[0, start - 1 : -1]
        ours = logits.log_softmax(-1)[range(6), row["ids"][start:]]
        assert [place[0] for place in row["beside"]] == pytest.approx(ours.tolist(), abs=1e-5)
    # One adapter at a time, here and there, and none behind it.
    assert [count for _, count in server.paths] == [1, 1, 1]
    assert not server.adapters
    assert not Path("run/pushed").exists()
    assert Path("run/adapter/adapter_model.safetensors").is_file()


def test_a_run_that_stopped_goes_on_and_takes_away_what_it_left_behind(server: Sampled) -> None:
    straight = run(server, "straight")
    Path("broken").touch()
    with pytest.raises(WorkFailed, match="out of coffee"):
        run(server)
    Path("broken").unlink()
    left = next(body["lora_name"] for _, body in reversed(server.asked) if body and "lora_name" in body)
    begin = left.rpartition("-")[0]
    # As a process that was killed leaves it; another run's stays.
    server.adapters |= {f"{begin}-dead": load("toy-llama"), "tunesmith-another-run": load("toy-llama")}
    again = run(server)
    assert list(server.adapters) == ["tunesmith-another-run"]
    for one in (*straight, *again):
        one["measured"] = {k: v for k, v in one["measured"].items() if not k.startswith("seconds_")}
    assert again == straight
    weights = [Path(name, "adapter/adapter_model.safetensors").read_bytes() for name in ("run", "straight")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("fault", "error", "message", "fix"),
    [
        ("deaf", WorkFailed, "answers were sampled without the adapter", "--enable-lora"),
        ("another model", WorkFailed, "answers were sampled by another model", "--model"),
        ("no adapters", UserError, "has no /load_lora_adapter", "VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
        ("texts", UserError, "gives tokens as text", "return_tokens_as_token_ids"),
        ("no log-probabilities", UserError, "gives no log-probabilities", "return_tokens_as_token_ids"),
        ("unknown token", WorkFailed, "that this model cannot have said", "--model"),
        ("no number", WorkFailed, "that this model cannot have said", "--model"),
        ("cut off", WorkFailed, "an answer of 3 tokens that this model cannot have said", "--max_new_tokens"),
    ],
)
def test_a_server_that_is_not_the_policy_is_found_out(
    server: Sampled, fault: str, error: type[TunesmithError], message: str, fix: str
) -> None:
    server.fault = fault
    with pytest.raises(error, match=message) as raised:
        run(server)
    assert fix in raised.value.fix
    # Before the first update the policy is the model without its adapter, so the first round shows nothing of a deaf server.
    assert len(rounds("run")) == (1 if fault == "deaf" else 0)
    assert not Path("run/pushed").exists()


def test_an_adapter_of_the_round_before_is_found_out_once_it_is_far_off(server: Sampled, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Path] = []
    real = load_adapter

    def stale(lm: LM, folder: Path) -> Any:
        kept = Path("stale")
        if not loaded:
            kept.mkdir()
            for path in folder.iterdir():
                (kept / path.name).write_bytes(path.read_bytes())
        loaded.append(folder)
        return real(lm, kept)

    monkeypatch.setattr(sys.modules[__name__], "load_adapter", stale)
    with pytest.raises(WorkFailed, match="answers were sampled"):
        run(server, learning_rate=0.1)
    assert len(loaded) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout_workers": 2}, "rollout_url and rollout_workers exclude each other"),
        ({"peft": "ia3"}, "loads LoRA only"),
        ({"rollout_url": "localhost:8000"}, "is no address of a server"),
        ({"rollout_url": "http://127.0.0.1:9/v1#base"}, "names a model"),
        ({"rollout_url": "http://127.0.0.1:9/v1", "method": "dpo", "scorer": None}, "samples nothing"),
    ],
)
def test_what_makes_no_sense_is_refused(server: Sampled, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, UserError), match=message):
        run(server, **{k: v for k, v in changes.items() if k != "scorer"})


def test_a_server_that_cannot_be_reached_ends_the_work(server: Sampled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(WorkFailed, match="cannot be reached: connection refused"):
        run(server, rollout_url="http://127.0.0.1:9/v1")


def test_seeds_are_of_requests_not_of_their_order(server: Sampled) -> None:
    made = run(server, steps=1)
    seeds = {tuple(body["prompt"]): set() for route, body in server.asked if route == "/v1/completions"}
    for route, body in server.asked:
        if route == "/v1/completions":
            seeds[tuple(body["prompt"])].add(body["seed"])
    for prompt, some in seeds.items():
        assert some == {derive(derive(0, "sample", 0), "sample", n, *prompt) % (1 << 31) for n in range(len(some))}
    assert len(made[0]["rows"]) == 12


def test_a_plan_samples_its_round_where_the_training_will(server: Sampled) -> None:
    planned = plan_align.run(plan_align.Config(**SMALL, rollout_url=server.url, run_dir="planned"))
    assert planned["status"] == "done"
    assert sum(route == "/v1/completions" for route, _ in server.asked) == 12
    assert not server.adapters
    assert not Path("planned").exists()
