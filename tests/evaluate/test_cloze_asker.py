"""Cloze answers: scores are what the model says at its masks, and words become labels as the papers' numbers have it."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tunesmith.core.errors import UserError
from tunesmith.data.cloze import Pattern
from tunesmith.data.task import Task, load_task
from tunesmith.evaluate.cloze import ClozeAsker
from tunesmith.models.encoder import load_encoder

PATTERN = Pattern("{text} It was {answer}.")


def make(folder: Path, choices: str, extra: str = "") -> Task:
    """A task of a few rows with these choices."""
    labels = ["positive", "negative"]
    rows = [{"text": "so good " * (1 + i % 7) + str(i), "label": labels[i % 2]} for i in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "t.yaml").write_text(
        f"name: t\ndata: {{train: rows.jsonl}}\ntemplate: '{{text}} {{answer}}'\nchoices: {choices}\n{extra}", encoding="utf-8"
    )
    return load_task(str(folder / "t.yaml"))


LETTERS = "{positive: [g, d], negative: [b, a]}"


def asker_with_logits(task: Task, logits: dict[str, float]) -> ClozeAsker:
    """A real model whose logits at every mask are the output biases: the head's normalisation is set to zero."""
    lm = load_encoder("toy-bert", "masked_lm")
    norm, bias = lm.model.cls.predictions.transform.LayerNorm, lm.model.cls.predictions.bias
    with torch.no_grad():
        norm.weight.zero_()
        norm.bias.zero_()
        bias.fill_(-1.0)
        for letter, value in logits.items():
            bias[lm.tokenizer.convert_tokens_to_ids(letter)] = value
    return ClozeAsker(lm, task, Pattern("{text} It was '{answer}'."))


def softmax(scores: dict[str, float]) -> dict[str, float]:
    """Over the labels only."""
    total = sum(math.exp(v) for v in scores.values())
    return {label: math.exp(v) / total for label, v in scores.items()}


def test_the_golden_label_logits_of_pet(tmp_path: Path) -> None:
    """Methods, section 4: great 3, good 1 | bad .5, awful 1.5, the mean of each label's logits: (2, 1), CE .313262."""
    logits = {"g": 3.0, "d": 1.0, "b": 0.5, "a": 1.5}
    task = make(tmp_path, LETTERS, "aggregate: mean\n")
    scores = asker_with_logits(task, logits).ask(task.splits.test[:1]).predictions[0].scores
    assert scores["positive"] - scores["negative"] == pytest.approx(2.0 - 1.0, abs=1e-5)
    assert -math.log(softmax(scores)["positive"]) == pytest.approx(0.313262, abs=1e-5)
    largest = make(tmp_path, LETTERS, "aggregate: max\n")
    scores = asker_with_logits(largest, logits).ask(task.splits.test[:1]).predictions[0].scores
    assert scores["positive"] - scores["negative"] == pytest.approx(3.0 - 1.5, abs=1e-5), "negative control: max is not mean"


def test_the_golden_answer_mapping_of_the_survey(tmp_path: Path) -> None:
    """Methods, section 8: p(great) .30, p(good) .25, p(bad) .40: the best answer is bad, the sum over synonyms .55 positive."""
    logits = {letter: math.log(p) for letter, p in (("g", 0.30), ("d", 0.25), ("b", 0.40))}
    choices = "{positive: [g, d], negative: [b]}"
    best = make(tmp_path, choices, "aggregate: max\n")
    assert asker_with_logits(best, logits).ask(best.splits.test[:1]).predictions[0].predicted == "negative"
    summed = make(tmp_path, choices, "aggregate: sum\n")
    (answer,) = asker_with_logits(summed, logits).ask(summed.splits.test[:1]).predictions
    assert answer.predicted == "positive"
    assert math.exp(answer.scores["positive"] - answer.scores["negative"]) == pytest.approx(0.55 / 0.40, abs=1e-5)


def by_hand(asker: ClozeAsker, text: str, word: str) -> float:
    """The sum of log p over a word's masks, one row through the model's own forward pass, in numpy."""
    tokenizer = asker.lm.tokenizer
    pieces = tokenizer(f" {word}").input_ids
    ids = tokenizer(f"{text} It was").input_ids + [tokenizer.mask_token_id] * len(pieces) + tokenizer(".").input_ids
    with torch.no_grad():
        logits = asker.lm.model(input_ids=torch.tensor([ids])).logits[0].double().numpy()
    first = len(tokenizer(f"{text} It was").input_ids)
    return sum(logits[first + i, t] - math.log(np.exp(logits[first + i]).sum()) for i, t in enumerate(pieces))


def test_scores_are_those_of_single_rows_whatever_the_batch_and_the_words_lengths(tmp_path: Path) -> None:
    task = make(tmp_path, "{positive: [good], negative: [so bad]}")
    asker = ClozeAsker(load_encoder("toy-bert", "masked_lm"), task, PATTERN)
    answers = asker.ask(task.splits.test, draw=3)
    assert asker.long_words() == ["good", "so bad"]
    for item, answer in zip(task.splits.test, answers.predictions, strict=True):
        text = item.fields["text"]
        expected = {"positive": by_hand(asker, text, "good"), "negative": by_hand(asker, text, "so bad")}
        assert answer.scores == pytest.approx(expected, abs=1e-4)
        assert answer.predicted == max(expected, key=lambda label: expected[label])
        assert answer.prompt == f"{text} It was {'<|mask|>' * 5}.\n{text} It was {'<|mask|>' * 7}."
        tokenizer = asker.lm.tokenizer
        ids = [i for line in answer.prompt.split("\n") for i in tokenizer(line.replace(" <|mask|>", "<|mask|>", 1)).input_ids]
        assert answer.prompt_hash == hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()
        assert answer.draw == 3
    alone = asker.ask(task.splits.test[:1], draw=3).predictions[0]
    assert alone.scores == pytest.approx(answers.predictions[0].scores, abs=1e-4)


def test_calibration_divides_by_what_the_pattern_says_without_content(tmp_path: Path) -> None:
    task = make(tmp_path, "{positive: [good], negative: [baad]}")
    asker = ClozeAsker(load_encoder("toy-bert", "masked_lm"), task, PATTERN)
    raw = {"positive": 0.0, "negative": 0.0}
    for text in ("N/A", "", "[MASK]"):
        for label, word in (("positive", "good"), ("negative", "baad")):
            raw[label] += math.exp(by_hand(asker, text, word))
    expected = {label: math.log(value / sum(raw.values())) for label, value in raw.items()}
    prior = asker.prior()
    assert prior == pytest.approx(expected, abs=1e-4)
    plain, calibrated = (asker.ask(task.splits.test[:3], prior=p).predictions for p in (None, prior))
    for a, b in zip(plain, calibrated, strict=True):
        assert b.scores == pytest.approx({label: a.scores[label] - prior[label] for label in prior}, abs=1e-5)


def test_rows_longer_than_the_model_are_shortened_and_counted(tmp_path: Path) -> None:
    task = make(tmp_path, LETTERS)
    lm = load_encoder("toy-bert", "masked_lm")
    lm.tokenizer.model_max_length = 30
    asker = ClozeAsker(lm, task, PATTERN)
    items = task.splits.test
    long = [i for i, item in enumerate(items) if len(item.fields["text"]) + len(" It was") + 3 > 30]
    assert 0 < len(long) < len(items)
    assert asker.shortened(items) == len(long)
    prompts = [p.prompt for p in asker.ask(items).predictions]
    assert all(prompt.endswith(" It was <|mask|><|mask|>.") for prompt in prompts)
    assert all(len(lm.tokenizer(p.replace(" <", "<", 1)).input_ids) == 30 for i, p in enumerate(prompts) if i in long)


def test_wrong_models_and_words_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'toy-llama' is not an encoder"):
        load_encoder("toy-llama", "masked_lm")
    with pytest.raises(UserError, match=r"'minilm' has no trained masked-lm head.*\n.*tunesmith pretrain DATA --model minilm"):
        load_encoder("minilm", "masked_lm")
    task = make(tmp_path, LETTERS)
    asker = ClozeAsker(load_encoder("toy-bert", "masked_lm"), task, Pattern("{txt} is {answer}"))
    with pytest.raises(UserError, match=r"rows.jsonl:\d+: the pattern .* uses \{txt\}"):
        asker.ask(task.splits.test)
