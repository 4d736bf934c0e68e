"""PET's parts: rows in patterns, who votes, who labels for whom, and that nobody looks at labels that are not there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tickets import rows, write_rows

from tunesmith.core.errors import UserError
from tunesmith.core.records import Example
from tunesmith.core.registry import ROUTES
from tunesmith.data.collate import collate
from tunesmith.data.task import Task, load_task
from tunesmith.models.encoder import load_encoder
from tunesmith.recipes._routes.pet import Labelled, PatternModel, Vote, _open, ensemble, rows_to_learn, teachers
from tunesmith.recipes._routes.pet_config import Parameters
from tunesmith.recipes._routes.pet_steps import _told
from tunesmith.recipes._routes.repeats import Repeat
from tunesmith.recipes._tune.encoder import Cost

WORDS = "{refund: [A, Z], refund request: [B], delivery delay: [C]}"


def cloze_task(folder: Path, words: str = WORDS, train: int = 60) -> Path:
    """Write tickets with one-letter words and two patterns, as a byte tokenizer needs them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "train.jsonl", rows(train, 1))
    write_rows(folder / "test.jsonl", rows(12, 2))
    lines = [
        "name: tickets", "data: {train: train.jsonl, test: test.jsonl}", 'template: "Ticket: {text}\\nTipo: {answer}"',
        f"choices: {words}", "patterns: ['{text} Tipo:{answer}.', '{answer}! {text}']",
    ]  # fmt: skip
    (folder / "tickets.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "tickets.yaml"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return load_task(str(cloze_task(tmp_path_factory.mktemp("cloze"))))


@pytest.fixture(scope="module")
def model(task: Task) -> PatternModel:
    return PatternModel.of(task, load_encoder("toy-bert", "masked_lm"), task.patterns[0])


def test_a_row_has_one_target_at_its_mask(task: Task, model: PatternModel) -> None:
    examples = task.splits.train[:4]
    encoded, shortened = model.rows(examples, [2, 0, 1, 1])
    assert shortened == 0
    for row, example in zip(encoded, examples, strict=True):
        at = row.loss_mask.index(True)
        assert sum(row.loss_mask) == row.counted == 1
        assert row.ids[at] == model.lm.tokenizer.mask_token_id
        before, after = (model.lm.tokenizer.decode(ids) for ids in (row.ids[:at], row.ids[at + 1 :]))
        assert (before, after) == (f"{example.fields['text']} Tipo:", ".")
    assert [row.targets for row in encoded] == [(2,), (0,), (1,), (1,)]


def test_label_logits_are_means_of_the_models_own_logits(task: Task, model: PatternModel) -> None:
    encoded, _ = model.rows(task.splits.train[:3], [0, 0, 0])
    with torch.inference_mode():
        got = model.label_logits(collate(encoded))
        for number, row in enumerate(encoded):
            logits = model.lm.model(input_ids=torch.tensor([row.ids])).logits[0, row.loss_mask.index(True)]
            a, z, b, c = (logits[model.lm.tokenizer.convert_tokens_to_ids(letter)] for letter in "AZBC")
            assert got[number].tolist() == pytest.approx([float((a + z) / 2), float(b), float(c)], abs=1e-5)


def test_the_gap_and_special_tokens_are_never_hidden(task: Task, model: PatternModel) -> None:
    encoded, _ = model.rows(task.splits.train[:3], [0, 0, 0])
    for row in encoded:
        opened = _open(row, model.lm.tokenizer)
        assert opened.targets is None
        hidden = [token for token, may in zip(row.ids, opened.loss_mask, strict=True) if not may]
        assert hidden == [model.lm.tokenizer.mask_token_id]


def test_a_word_of_two_tokens_is_refused_by_name(tmp_path: Path) -> None:
    broken = load_task(str(cloze_task(tmp_path, "{refund: [AB], refund request: [B], delivery delay: [C]}")))
    with pytest.raises(UserError, match="'AB' is 2 tokens"):
        PatternModel.of(broken, load_encoder("toy-bert", "masked_lm"), broken.patterns[0])


def test_models_vote_with_their_weights() -> None:
    first, second = np.array([[2.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 4.0]])
    assert ensemble([first, second], [1, 1]).tolist() == [[1.0, 0.5], [0.5, 2.0]]
    assert ensemble([first, second], [0.9, 0.3]).tolist() == pytest.approx(np.array([[1.5, 0.25], [0.75, 1.0]]))
    # Nobody was right before training: all count alike, instead of dividing by nothing.
    assert ensemble([first, second], [0, 0]).tolist() == ensemble([first, second], [1, 1]).tolist()


@pytest.mark.parametrize(("models", "share", "wanted"), [(2, 0.25, 1), (5, 0.25, 1), (9, 0.25, 2), (5, 1.0, 4)])
def test_nobody_is_its_own_teacher(models: int, share: float, wanted: int) -> None:
    drawn = Counter[tuple[int, int]]()
    for pupil in range(models):
        for seed in range(40):
            chosen = teachers(pupil, models, share, seed)
            assert chosen == teachers(pupil, models, share, seed)
            assert pupil not in chosen
            assert len(set(chosen)) == wanted
            drawn.update((pupil, teacher) for teacher in chosen)
    # Over many seeds, everybody teaches everybody else.
    assert len(drawn) == models * (models - 1)


def test_one_model_alone_has_no_teacher() -> None:
    with pytest.raises(UserError, match="nobody to learn from"):
        teachers(0, 1, 0.25, 0)


def test_generations_grow_and_keep_the_shares_of_labels() -> None:
    logits = np.zeros((400, 2))
    logits[:200, 0], logits[200:, 1] = 1.0, 1.0
    gold = [0, 0, 1]
    for generation, counts in ((1, {0: 8, 1: 4}), (2, {0: 48, 1: 24})):
        chosen = rows_to_learn(logits, gold, generation, 5, 7)
        assert Counter(label for _, label in chosen) == counts
        assert len({row for row, _ in chosen}) == len(chosen)
        assert all((row < 200) == (label == 0) for row, label in chosen)
    # With fewer rows than wanted, all of them.
    assert len(rows_to_learn(logits, gold, 3, 5, 7)) == 200 + 124
    assert rows_to_learn(logits, gold, 1, 5, 7) == rows_to_learn(logits, gold, 1, 5, 7) != rows_to_learn(logits, gold, 1, 5, 8)


def test_sure_rows_are_preferred() -> None:
    """Ten rows at p = .99, ten at p = .55: of 8 drawn without replacement by weight, more than half are sure ones."""
    logits = np.zeros((20, 2))
    logits[:10, 0], logits[10:, 0] = np.log(99), np.log(55 / 45)
    sure = [sum(row < 10 for row, _ in rows_to_learn(logits, [0, 0], 1, 5, seed)) for seed in range(300)]
    assert 4.4 < np.mean(sure) < 6
    flat = [sum(row < 10 for row, _ in rows_to_learn(np.array([[1.0, 0.0]] * 20), [0, 0], 1, 5, seed)) for seed in range(300)]
    assert np.mean(flat) == pytest.approx(4, abs=0.25)


def test_a_later_generation_learns_from_others_labels() -> None:
    """Model 0 calls every row class 0 and model 1 calls every row class 1: each learns the other's word."""
    unlabelled = [Example(str(i), {"text": str(i)}, f"row {i}") for i in range(30)]
    gold = Labelled([Example("a", {}, ""), Example("b", {}, "")], [0, 1], 2)
    votes = [Vote(np.eye(2)[[label] * 30], 0.5, 0, Cost()) for label in (0, 1)]
    repeat = Repeat(Path(), 3, gold.examples, unlabelled)
    for pupil in (0, 1):
        told = _told(Parameters(), repeat, gold, unlabelled, votes, (1, pupil))
        assert (told.examples[:2], told.classes[:2], told.gold) == (gold.examples, gold.classes, 2)
        assert told.classes[2:] == [1 - pupil] * 4
        assert all(example in unlabelled for example in told.examples[2:])
    assert _told(Parameters(), repeat, gold, unlabelled, [], (0, 0)) is gold


def test_rungs_are_called_by_what_differs() -> None:
    for route, label in (
        ("pet", "PET n=100"),
        ("pet:labelled=10,repeats=3", "PET n=10"),
        ("pet:generations=3", "iPET n=100 generations=3"),
        ({"name": "pet", "encoder": "runs/mlm/model"}, "PET n=100 encoder=mlm"),
        ("classifier", "encoder classifier"),
        ("classifier:labelled=10,learning_rate=5e-5", "encoder classifier n=10 learning_rate=5e-05"),
    ):
        entry, parameters = ROUTES.parameters(route)
        assert entry.label(parameters) == label


def test_free_text_is_no_work_for_either(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"question": f"{i} + 1", "answer": str(i + 1)} for i in range(20)])
    (tmp_path / "sums.yaml").write_text("name: sums\ndata: {train: rows.jsonl}\ntemplate: '{question} = {answer}'\n")
    sums = load_task(str(tmp_path / "sums.yaml"))
    assert "free text" in ROUTES.get("pet").unsuitable(sums)
    assert "free text" in ROUTES.get("classifier").unsuitable(sums)
