"""`tunesmith pretrain`: texts in, a model directory out that others can read, the same however often it was stopped."""

import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tickets import climb_here
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertModel

from tunesmith import cli
from tunesmith.core.files import verify_manifest
from tunesmith.core.runs import read_metrics
from tunesmith.data.task import load_task
from tunesmith.models import toy
from tunesmith.models.encoder import load_encoder
from tunesmith.objectives import masked_lm
from tunesmith.recipes._pretrain import ready as pretraining
from tunesmith.recipes._pretrain.config import Config
from tunesmith.recipes._pretrain.rows import read_corpus

TOY = ["--model", "toy-bert", "--threads", "1", "--batch_size", "4", "--max_length", "48", "--held_out", "6", "--dtype", "fp32"]
SENTENCES = ["the cat sat on the mat", "a dog ran in the park", "it rained all day long", "we ate bread and soup"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def texts(path: str = "notes.txt", count: int = 60) -> Path:
    """Write paragraphs with empty lines between them."""
    Path(path).write_text("\n\n".join(f"{SENTENCES[i % 4]}, said {i}." for i in range(count)) + "\n", encoding="utf-8")
    return Path(path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    """Run a command line; its exit code, its report and stderr."""
    code = cli.main(["pretrain", *words, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out.splitlines()[-1]), err


def weights(folder: str) -> dict[str, torch.Tensor]:
    """A saved model's tensors."""
    return load_file(Path(folder) / "model" / "model.safetensors")


def test_masked_pretraining_leaves_a_model_that_others_read(capsys: pytest.CaptureFixture[str]) -> None:
    texts()
    code, report, err = run(capsys, "notes.txt", *TOY, "--epochs", "12", "--learning_rate", "3e-3", "--run_dir", "run")
    assert code == 0, err
    source = report["sources"]["notes.txt"]
    assert (source["documents"], source["held_out"]) == (54, 6)
    # A byte is one of 262 tokens; sentences that repeat are soon predicted far better than that.
    assert source["perplexity_before"] > 150
    assert source["perplexity_after"] < 60
    assert source["perplexity_after"] == pytest.approx(math.exp(source["loss_after"]))
    assert report["steps"] == 12 * 14
    assert verify_manifest(Path("run/model")) == verify_manifest(Path("run")) == ""
    assert "base_model: toy-bert" in Path("run/model/README.md").read_text(encoding="utf-8")
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "mlm" in page
    theirs, info = AutoModelForMaskedLM.from_pretrained("run/model", output_loading_info=True)
    assert not info["missing_keys"]
    assert AutoTokenizer.from_pretrained("run/model").mask_token == "<|mask|>"
    ours = load_encoder("run/model", "masked_lm").model
    assert all(torch.equal(a, b) for a, b in zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True))
    assert [row["step"] for row in read_metrics(Path("run"))] == list(range(1, 169))


def test_the_new_head_is_tied_to_the_embeddings_before_and_after_saving(capsys: pytest.CaptureFixture[str]) -> None:
    size = len(toy.byte_tokenizer())
    config = BertConfig(
        vocab_size=size, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=256, pad_token_id=0,
    )  # fmt: skip
    BertModel(config).save_pretrained("headless")
    toy.byte_tokenizer().save_pretrained("headless")
    texts()
    words = ["notes.txt", *TOY, "--model", "headless", "--max_steps", "6"]
    assert run(capsys, *words, "--run_dir", "one")[0] == 0
    saved = load_encoder("one/model", "masked_lm").model
    decoder, embedding = saved.get_output_embeddings().weight, saved.get_input_embeddings().weight
    assert decoder is embedding
    before = load_file("headless/model.safetensors")["embeddings.word_embeddings.weight"]
    assert not torch.allclose(embedding, before), "the embeddings are trained too"
    assert not [name for name in weights("one") if name.endswith("decoder.weight")]
    # The head is new, and yet the same for the same seed.
    assert run(capsys, *words, "--run_dir", "two")[0] == 0
    assert run(capsys, *words, "--seed", "1", "--run_dir", "other")[0] == 0
    head = "cls.predictions.transform.dense.weight"
    assert torch.equal(weights("one")[head], weights("two")[head])
    assert not torch.equal(weights("one")[head], weights("other")[head])


def test_stopped_and_resumed_is_straight(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    texts()
    words = ["notes.txt", *TOY, "--epochs", "2", "--tokens_per_micro_batch", "4096", "--whole_words"]
    code, straight, err = run(capsys, *words, "--run_dir", "straight")
    assert code == 0, err
    real, calls = masked_lm.loss, []

    def stopping(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        if torch.is_grad_enabled():
            calls.append(1)
            # Two passes count memory; then there is one a step. Step 17 is in the second epoch, where other tokens are hidden.
            if len(calls) == 2 + 17:
                signal.raise_signal(signal.SIGTERM)
        return real(logits, targets)

    with monkeypatch.context() as patch:
        patch.setattr(masked_lm, "loss", stopping)
        code, stopped, _ = run(capsys, *words, "--run_dir", "resumed")
    assert (code, stopped["status"]) == (143, "stopped")
    assert "stopped after step 17; everything is saved" in stopped["error"]
    code, resumed, err = run(capsys, *words, "--run_dir", "resumed")
    assert (code, "going on after step 17" in err) == (0, True)
    ends = [weights(folder) for folder in ("straight", "resumed")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert resumed["sources"] == straight["sources"]
    losses = [[row["loss"] for row in read_metrics(Path(folder))] for folder in ("straight", "resumed")]
    assert losses[0] == losses[1]
    code, other, _ = run(capsys, *words, "--seed", "1", "--run_dir", "other")
    assert code == 0
    assert other["final_loss"] != straight["final_loss"], "negative control: another seed ends elsewhere"


def test_the_loss_that_is_reported_is_that_of_the_saved_model(capsys: pytest.CaptureFixture[str]) -> None:
    texts()
    code, report, err = run(capsys, "notes.txt", *TOY, "--max_steps", "4", "--run_dir", "run")
    assert code == 0, err
    ready = pretraining.ready(Config(data="notes.txt", model="run/model", max_length=48, held_out=6, dtype="fp32", threads=1))
    total, count = 0.0, 0
    for row in ready.held_out["notes.txt"]:
        with torch.no_grad():
            logits = ready.lm.model.eval()(input_ids=torch.tensor([row.ids])).logits[0].double().numpy()
        for place, target in zip(np.flatnonzero(row.loss_mask), row.targets or (), strict=True):
            total, count = total + math.log(np.exp(logits[place]).sum()) - logits[place, target], count + 1
    assert report["sources"]["notes.txt"]["loss_after"] == pytest.approx(total / count, abs=1e-4)


def test_causal_pretraining_of_a_decoder(capsys: pytest.CaptureFixture[str]) -> None:
    texts()
    words = ["--model", "toy-llama", "--learning_rate", "3e-3", "--epochs", "6", *TOY[2:]]
    code, report, err = run(capsys, "notes.txt", "--objective", "clm", *words, "--run_dir", "run")
    assert code == 0, err
    source = report["sources"]["notes.txt"]
    assert source["perplexity_after"] < 30 < 150 < source["perplexity_before"]
    assert Path("run/model/model.safetensors").is_file()
    assert cli.main(["generate", "the cat", "--model", "run/model", "--max_new_tokens", "4"]) == 0


def test_causal_rows_predict_every_token_of_a_long_document_once() -> None:
    Path("long.txt").write_text("\n\n".join("abcdefghij" * 5 + str(i) for i in range(10)), encoding="utf-8")
    tokenizer = toy.byte_tokenizer()
    corpus = read_corpus(Config(data="long.txt", objective="clm", max_length=20, held_out=1), tokenizer)
    (held,) = corpus.held_out.values()
    rows = [*corpus.train, *held]
    documents: dict[str, list[int]] = {}
    for row in rows:
        predicted = [i for i, counts in zip(row.ids, row.loss_mask, strict=True) if counts]
        assert predicted == list(row.ids[1:])
        documents.setdefault(row.example_id.partition(" part")[0], []).extend(predicted)
    assert len(documents) == 10
    for said in documents.values():
        assert said[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(said[:-1]).startswith("bcdefghijabc")
        assert len(said) == 51


def test_tasks_give_their_training_rows_and_never_their_tests() -> None:
    corpus = read_corpus(Config(data="tweets,products", max_length=64, held_out=30, train_rows=50), toy.byte_tokenizer())
    assert corpus.documents == {"tweets": 50, "products": 50}
    assert set(corpus.held_out) == {"tweets", "products"}
    task = load_task("tweets")
    test = {e.where for e in task.splits.test}
    known = {row.example_id.partition(" part")[0] for rows in (corpus.train, *corpus.held_out.values()) for row in rows}
    assert not known & test
    assert known & {e.where for e in task.splits.train}
    held = {row.example_id for row in corpus.held_out["tweets"]}
    assert not held & {row.example_id for row in corpus.train}


def test_answers_of_tasks_are_learned_in_their_patterns(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": f"row {i} is {'up' if i % 2 else 'down'}", "label": "pq"[i % 2]} for i in range(80)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Path("updown.yaml").write_text(
        "name: updown\ndata: {train: rows.jsonl}\ntemplate: '{text}: {answer}'\nchoices: labels\n"
        "patterns: ['{text}: {answer}.', '{answer} for {text}']\n",
        encoding="utf-8",
    )
    words = ["updown.yaml", "--learn", "both", *TOY, "--epochs", "9", "--learning_rate", "3e-3"]
    code, report, err = run(capsys, *words, "--run_dir", "run")
    assert code == 0, err
    text, answers = (report["sources"][name] for name in ("updown.yaml", "updown.yaml answers"))
    assert text["documents"] == answers["documents"]
    # Two answers that follow from the text; not knowing which is which would be a perplexity of 2.
    assert answers["perplexity_after"] < 1.5
    result, _ = climb_here(Path("updown.yaml"), Path("ladder"), "cloze:encoder=run/model")
    assert result.value == 1.0
    assert len(result.draws) == 2
    untrained, _ = climb_here(Path("updown.yaml"), Path("ladder0"), "cloze:encoder=toy-bert")
    assert untrained.value < 0.9, "negative control"


def test_equal_documents_stay_on_one_side() -> None:
    Path("twice.jsonl").write_text("".join(json.dumps({"text": f"text {i % 20}"}) + "\n" for i in range(60)), encoding="utf-8")
    tokenizer = toy.byte_tokenizer()
    corpus = read_corpus(Config(data="twice.jsonl", held_out=2), tokenizer)
    held, train = ({tokenizer.decode(row.ids) for row in rows} for rows in (corpus.held_out["twice.jsonl"], corpus.train))
    assert (len(held), len(train)) == (2, 18)
    assert not held & train


def write(name: str, text: str | bytes) -> str:
    """Write a file and return its name."""
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


BAD = {
    "empty": (lambda: write("e.txt", " \n\n"), "e.txt holds no text"),
    "short": (lambda: write("s.txt", "one\n\ntwo"), "'s.txt' has no text to hold out"),
    "encoding": (lambda: write("l.txt", b"caf\xe9\n\nx"), "l.txt is not UTF-8 text (byte 3)"),
    "chats": (
        lambda: write("c.jsonl", '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'),
        "c.jsonl holds messages rows and not texts",
    ),
    "unknown": (lambda: "tweet", "unknown task 'tweet'\n  Did you mean 'tweets'?"),
    "missing": (lambda: "no.txt", "there is no file 'no.txt'"),
    "no answers": (lambda: texts("n.txt").name, "'n.txt' is a file of texts, which has no answers to learn"),
    "nothing": (lambda: " , ", "pretrain: data names no task and no file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_texts_are_one_clear_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, message = BAD[name]
    extra = ["--learn", "both"] if name == "no answers" else []
    code, report, _ = run(capsys, make(), *TOY, *extra)
    assert (code, report["error"].startswith(message)) == (2, True), report["error"]
    assert not Path("runs").exists()


def test_settings_that_do_not_fit_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    texts()
    code, report, _ = run(capsys, "notes.txt", *TOY, "--model", "toy-llama")
    assert (code, "'toy-llama' is not an encoder" in report["error"]) == (2, True)
    code, report, _ = run(capsys, "notes.txt", *TOY, "--objective", "clm")
    assert (code, "'toy-bert' is not a decoder" in report["error"]) == (2, True)
    code, report, _ = run(capsys, "notes.txt", "--objective", "clm", "--whole_words")
    assert (code, "whole_words needs --objective mlm" in report["error"]) == (2, True)
    code, report, _ = run(capsys, "notes.txt", *TOY, "--max_length", "513")
    assert (code, "max_length = 513, and toy-bert reads at most 512 tokens" in report["error"]) == (2, True), report


def test_span_corruption_teaches_an_encoder_decoder(capsys: pytest.CaptureFixture[str]) -> None:
    texts()
    words = ["notes.txt", *TOY, "--model", "toy-t5", "--objective", "span", "--epochs", "6", "--learning_rate", "3e-3"]
    code, report, err = run(capsys, *words, "--run_dir", "run")
    assert code == 0, err
    source = report["sources"]["notes.txt"]
    assert source["in_domain"]
    assert source["perplexity_before"] > 200
    assert source["perplexity_after"] < source["perplexity_before"] / 3
    # What is saved has the sentinels, and is a T5 that text-to-text training begins with.
    from tunesmith.models.seq2seq import load_seq2seq

    lm = load_seq2seq("run/model")
    assert lm.tokenizer.convert_tokens_to_ids("<extra_id_0>") == 262
    assert lm.model.get_input_embeddings().num_embeddings == 362


@pytest.mark.parametrize(("objective", "model"), [("clm", "toy-llama"), ("mlm", "toy-bert"), ("span", "toy-t5")])
def test_general_text_is_replayed_and_other_text_only_measured(
    objective: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    texts()
    texts("general.txt", 30)
    Path("other.txt").write_text("one\n\ntwo of them\n\nthree here\n", encoding="utf-8")
    words = ["notes.txt", *TOY, "--model", model, "--objective", objective, "--replay", "0.25", "--replay_from", "general.txt"]
    code, report, err = run(capsys, *words, "--out_of_domain", "other.txt", "--run_dir", "run")
    assert code == 0, err
    # An epoch is one pass over 54 documents of the domain, and 18 of 72 rows are general text.
    assert report["steps"] == 72 // 4
    found = {name: (s["in_domain"], s["documents"], s["held_out"]) for name, s in report["sources"].items()}
    assert found == {"notes.txt": (True, 54, 6), "general.txt": (False, 27, 3), "other.txt": (False, 0, 3)}
    ready = pretraining.ready(
        Config(
            data="notes.txt", model=model, objective=objective, max_length=48, held_out=6, dtype="fp32", threads=1,
            replay=0.25, replay_from="general.txt",
        )
    )  # fmt: skip
    replayed = [row.example_id.startswith("general") for row in ready.training.data]
    assert (len(replayed), sum(replayed)) == (72, 18)


@pytest.mark.parametrize(("objective", "model"), [("clm", "toy-llama"), ("span", "toy-t5")])
def test_documents_of_a_batch_do_not_see_each_other(objective: str, model: str) -> None:
    from tunesmith.data.collate import collate

    texts()
    config = Config(data="notes.txt", model=model, objective=objective, max_length=48, held_out=6, dtype="fp32", threads=1)
    ready = pretraining.ready(config)
    ready.lm.model.eval()
    rows = [ready.training.data[i] for i in range(3)]
    with torch.no_grad():
        apart = sum(float(ready.training.loss_of(collate([row]))[0]) for row in rows)
        together = float(ready.training.loss_of(collate(rows))[0])
        # The control: end to end as one row, the later ones do see the earlier ones.
        ids, mask = (tuple(x for row in rows for x in getattr(row, key)) for key in ("ids", "loss_mask"))
        joined = float(ready.training.loss_of(collate([replace(rows[0], ids=ids, loss_mask=mask)]))[0])
    assert together == pytest.approx(apart, abs=1e-2)
    assert abs(joined - apart) > 0.1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--replay_from", "general.txt"], "replay_from needs --replay"),
        (["--replay", "0.1", "--replay_from", "notes.txt"], "'notes.txt' is the data itself"),
        (["--replay", "0.1", "--learn", "both"], "replay is of texts: it goes with --learn text"),
        (["--span_length", "2"], "span_length needs --objective span"),
        (["--out_of_domain", "gone.txt"], "there is no file 'gone.txt'"),
        (["--objective", "span", "--model", "toy-llama"], "'toy-llama' is not an encoder-decoder"),
    ],
)
def test_replay_and_spans_that_do_not_fit_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts()
    code, report, _ = run(capsys, "notes.txt", *TOY, *words)
    assert (code, message in report["error"]) == (2, True), report["error"]
    assert not Path("runs").exists()
