"""Remedies against forgetting, each a switch: it changes what is learned as it promises, and refuses nonsense in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tunesmith import cli
from tunesmith.core.errors import UserError
from tunesmith.models.load import load
from tunesmith.peft import full, lora
from tunesmith.recipes._tune.remedies import anchor_of, pool_of, with_fisher, with_replay
from tunesmith.recipes._tune.remedies_config import Remedies
from tunesmith.recipes._tune.wise_ft import Point, check_mixable, choose, mix_weights
from tunesmith.train.fit import Validation

PLAIN = [
    "--model",
    "toy-llama",
    "--threads",
    "1",
    "--batch_size",
    "4",
    "--max_steps",
    "4",
    "--learning_rate",
    "0.01",
    "--dtype",
    "fp32",
]
QUIET = [*PLAIN, "--guard", "false"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder with chats to learn and texts to replay."""
    monkeypatch.chdir(tmp_path)
    chats = [
        {"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"{i}!"}]} for i in range(40)
    ]
    texts = [{"text": f"Number {i} follows {i - 1}, and so on without an end."} for i in range(30)]
    for name, rows in (
        ("rows.jsonl", chats),
        ("texts.jsonl", texts),
        ("long.jsonl", [{"text": f"{i}, and on" * 99} for i in range(4)]),
    ):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def tuned(capsys: pytest.CaptureFixture[str], folder: str, *words: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Run `tunesmith tune` and return its report and what was saved."""
    threads = torch.get_num_threads()
    code = cli.main(["tune", "rows.jsonl", *words, "--run_dir", folder, "--json"])
    torch.set_num_threads(threads)
    out, err = capsys.readouterr()
    assert code == 0, err
    (weights,) = (p for p in Path(folder).rglob("*.safetensors") if p.parent.name in ("model", "adapter"))
    return json.loads(out.splitlines()[-1]), load_file(weights)


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return float(sum((a[name].detach().double() - b[name].detach().double()).square().sum() for name in a)) ** 0.5


def test_each_switch_holds_the_weights_nearer_to_their_start(capsys: pytest.CaptureFixture[str]) -> None:
    start = dict(load("toy-llama", "fp32").model.named_parameters())
    ends = {
        name: tuned(capsys, name, *QUIET, "--peft", "full", *words)[1]
        for name, words in {
            "none": (), "l2_sp": ("--l2_sp", "30"), "ewc": ("--ewc", "1e5", "--replay_data", "texts.jsonl"),
            "replay": ("--replay", "0.3", "--replay_data", "texts.jsonl"),
        }.items()
    }  # fmt: skip
    moved = {name: distance(end, {k: start[k] for k in end}) for name, end in ends.items()}
    assert moved["l2_sp"] < 0.9 * moved["none"]
    assert moved["ewc"] < 0.9 * moved["none"]
    assert distance(ends["replay"], ends["none"]) > 0.1 * moved["none"]


def test_the_fisher_information_is_measured_once(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*QUIET, "--ewc", "100", "--replay_data", "texts.jsonl"]
    _, first = tuned(capsys, "run", *words)
    (path,) = Path("run").glob("fisher-*.safetensors")
    made = path.stat().st_mtime_ns
    known = load_file(path)
    assert all(f.dtype == torch.float32 and bool((f >= 0).all()) for f in known.values())
    assert any(bool(f.any()) for f in known.values())
    (Path("run/checkpoints/step-00000004") / "state.json").write_text("damaged")
    _, again = tuned(capsys, "run", *words)
    assert path.stat().st_mtime_ns == made
    assert distance(first, again) == 0
    path.write_bytes(b"not a tensor")
    _, mended = tuned(capsys, "run", *words)
    assert distance(first, mended) == 0


def test_a_share_of_the_rows_and_of_the_loss_is_replayed() -> None:
    lm = load("toy-llama")
    how = Remedies(replay=0.25, replay_data="texts.jsonl")
    pool = pool_of(how, lm, 1024, 0)
    assert pool is not None
    rows = pool_of(Remedies(replay=0.1, replay_data="rows.jsonl"), lm, 1024, 0)
    assert rows is not None
    whole, said = with_replay(how, rows, pool, 0)
    assert (len(rows), len(whole)) == (40, 53)
    assert said == ["13 of the 53 rows of an epoch are replayed from texts.jsonl"]
    assert list(whole[:40]) == list(rows[:40])
    mine, replayed = sum(e.counted for e in whole[:40]), sum(e.counted for e in whole[40:])
    assert replayed / (mine + replayed) == pytest.approx(0.25, abs=0.03)
    assert sum(e.counted for e in pool[:13]) > 5 * replayed  # the control: whole texts would drown the answers
    assert with_replay(how, rows, pool, 0)[0].fingerprint() == whole.fingerprint()
    assert with_replay(how, rows, pool, 1)[0].fingerprint() != whole.fingerprint()
    assert with_replay(Remedies(), rows, None, 0) == (rows, [])


def test_the_general_text_and_tasks_can_be_replayed() -> None:
    lm = load("toy-llama")
    general = pool_of(Remedies(replay=0.1), lm, 400, 0)
    both = pool_of(Remedies(replay=0.1, replay_data="general, products"), lm, 400, 0)
    assert general is not None
    assert both is not None
    assert all(row.counted == len(row) - 1 <= 399 for row in general)
    names = {row.example_id.split(":")[0] for row in both}
    assert len(names) == 2


def test_a_head_is_not_held() -> None:
    parameters = {"body.w": torch.ones(1), "classifier.weight": torch.ones(1), "classifier_old.weight": torch.ones(1)}
    anchor = anchor_of(Remedies(l2_sp=1.0), parameters, ["classifier"])
    assert anchor
    assert anchor.new == {"classifier.weight"}
    assert anchor_of(Remedies(replay=0.5), parameters) is None


def test_ewc_without_rows_says_so(tmp_path: Path) -> None:
    lm = load("toy-llama")
    training: Any = type("T", (), {"anchor": anchor_of(Remedies(ewc=1.0), {})})()
    with pytest.raises(UserError, match="EWC has no rows to measure weights on"):
        with_fisher(training, lm, None, tmp_path, [])


@pytest.mark.parametrize(
    ("points", "kept"),
    [
        # (alpha, value, nats): the gain is .10; .09 of it is enough, and of 0.6 and 1 the first forgets less.
        ([(0, 0.70, 3.0), (0.4, 0.75, 3.05), (0.6, 0.79, 3.1), (1, 0.80, 3.4)], 0.6),
        ([(0, 0.70, 3.0), (0.4, 0.75, 3.05), (0.6, 0.789, 3.1), (1, 0.80, 3.4)], 1),
        ([(0, 0.70, 3.0), (0.5, 0.80, 3.3), (1, 0.80, 3.1)], 1),
        ([(0, 0.70, 3.0), (0.5, 0.69, 3.3), (1, 0.70, 3.1)], 0),
    ],
)
def test_the_mix_that_forgets_least_of_those_that_gain_enough(points: list[tuple[float, float, float]], kept: float) -> None:
    assert choose([Point(*point) for point in points]) == kept


@pytest.mark.parametrize("method", ["full", "lora"])
def test_weights_are_mixed_in_a_straight_line(method: str, tmp_path: Path) -> None:
    lm, old = load("toy-llama", "fp32"), load("toy-llama", "fp32").model
    entry, given = (full, full.Parameters()) if method == "full" else (lora, lora.Parameters(rank=2))
    parameters = entry.attach(lm.model, given, 0)  # type: ignore[arg-type]
    check_mixable((entry, given), parameters, validation=True)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in parameters.values():
            p.add_(torch.randn_like(p) * 0.02)
    ids = torch.arange(6, 30)[None]
    name = "model.layers.0.self_attn.q_proj"

    def weight(model: Any) -> torch.Tensor:
        layer = model.get_submodule(name)
        return (layer.weight if method == "full" else layer.base.weight + layer.scaling * layer.lora_B @ layer.lora_A).detach()

    before, after = weight(old) if method == "full" else old.get_submodule(name).weight.detach(), weight(lm.model)
    values = iter([0.0, 0.5, 0.95, 0.97, 1.0])
    curve = mix_weights(
        lm, "toy-llama", (entry, given), parameters, Validation(lambda: next(values), "eval_accuracy", True), 4, tmp_path
    )
    good = [p for p in curve.points if p.value >= 0.9]
    assert curve.alpha == min(good, key=lambda p: p.nats).alpha
    assert [p.alpha for p in curve.points] == [0, 0.25, 0.5, 0.75, 1]
    assert torch.allclose(weight(lm.model), (1 - curve.alpha) * before + curve.alpha * after, atol=1e-6)
    assert curve.points[0].nats == pytest.approx(_nats(old), rel=1e-4)
    assert torch.isfinite(lm.model(ids).logits).all()
    # What was found is read and not measured again: the values above are used up.
    again = mix_weights(lm, "toy-llama", (entry, given), parameters, Validation(lambda: next(values), "x", True), 4, tmp_path)
    assert again == curve


def _nats(model: Any) -> float:
    from tunesmith.evaluate.forgetting import passages

    lm, nats, count = load("toy-llama", "fp32"), 0.0, 0
    for text in passages():
        ids = torch.tensor([lm.tokenizer(text, add_special_tokens=False).input_ids])
        logprobs = model(ids).logits[0, :-1].detach().log_softmax(-1)
        nats -= float(logprobs.gather(-1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
    return nats / count


def test_what_cannot_be_mixed_is_refused_before_training() -> None:
    lm = load("toy-llama")
    parameters = lora.attach(lm.model, lora.Parameters(rank=2), 0)
    with pytest.raises(UserError, match="chooses a mix by validation rows, and there are none"):
        check_mixable((lora, lora.Parameters()), parameters, validation=False)
    next(p for name, p in parameters.items() if "lora_B" in name).data.add_(1.0)  # trained before
    with pytest.raises(UserError, match="a new, plain LoRA adapter, and this is neither"):
        check_mixable((lora, lora.Parameters()), parameters, validation=True)


def test_gain_and_loss_are_reported_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*PLAIN, "--guard_rows", "3", "--wise_ft", "2"]
    report, _ = tuned(capsys, "run", *words)
    change = report["forgetting"]
    assert set(change["tasks"]) == {"editorials", "movies", "products", "tweets"}
    assert change["rise"] == pytest.approx(np.log(change["perplexity_after"] / change["perplexity_before"]))
    assert (len(change["passages"]["before"]), len(change["choices"]["after"])) == (32, 80)
    assert report["gain"]["measure"] == "eval_loss"
    assert [p["alpha"] for p in report["wise_ft"]["points"]] == [0, 0.5, 1]
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "Gain here, loss there" in page
    assert "alpha 0.5" in page
    assert cli.main(["tune", "rows.jsonl", *words, "--run_dir", "run"]) == 0
    assert "loss there: perplexity of general text" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--replay", "1.2"], "replay: a share of the rows, from 0 to below 1, for example 0.2 (got 1.2)"),
        (["--replay", "-0.1"], "a share of the rows"),
        (["--wise_ft", "0"], "this evaluates no mix of weights: give 1 to 100 steps"),
        (["--wise_ft", "5", "--validation_rows", "0"], "wise_ft chooses a mix of weights by validation rows"),
        (["--ewc", "10", "--replay_data", "nothing.jsonl"], "replay_data: there is no file 'nothing.jsonl'"),
        (["--ewc", "10", "--replay_data", "long.jsonl", "--max_length", "200"], "'long.jsonl' holds no rows of at most 200"),
        (["--replay", "0.1", "--replay_data", "movie"], "Did you mean 'movies'?"),
        (["--replay_data", ","], "replay_data names nothing"),
        (["--l2_sp", "-1"], "l2_sp"),
        (["--ewc", "1", "--engine", "ray"], "ewc and wise_ft need all weights in one process"),
    ],
)
def test_nonsense_is_refused_in_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tune", "rows.jsonl", *QUIET, "--over_long", "drop", *words]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err
    assert not Path("runs").exists()
