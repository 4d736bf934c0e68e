"""The route `cloze`: every pattern is a draw, its prompts are kept, and what was unusual is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tickets import climb_here, write_task

from tunesmith.core.registry import ROUTES
from tunesmith.data.task import load_task
from tunesmith.recipes._ladder.climb import by_draw

PATTERNS = ["{text} Es {answer}.", "Tipo {answer}: {text}"]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_task(tmp_path_factory.mktemp("task"))
    path.write_text(path.read_text(encoding="utf-8") + f"patterns: {json.dumps(PATTERNS)}\n", encoding="utf-8")
    return path


def test_patterns_are_draws_with_their_exact_prompts(task: Path, tmp_path: Path) -> None:
    result, predictions = climb_here(task, tmp_path, "cloze:encoder=toy-bert")
    items = load_task(str(task)).splits.test
    assert (result.route, result.kind, result.trained_parameters) == ("cloze", "prompt", 0)
    assert (len(result.draws), result.n, len(predictions)) == (2, len(items), 2 * len(items))
    for pattern, draw in zip(PATTERNS, by_draw(predictions), strict=True):
        before, _, after = pattern.partition("{answer}")
        for item, p in zip(items, draw, strict=True):
            text = item.fields["text"]
            # Labels of three lengths have prompts with as many masks each; a space before the gap belongs to the word.
            space = 1 if before.endswith(" ") else 0
            sizes = sorted(len(label) + space for label in ("refund", "refund request", "delivery delay"))
            expected = [(before + "<|mask|>" * n + after).replace("{text}", text) for n in dict.fromkeys(sizes)]
            assert p.prompt.split("\n") == expected
            assert set(p.scores) == {"refund", "refund request", "delivery delay"}
            assert p.predicted == max(p.scores, key=lambda label: p.scores[label])
    assert result.notes[1:] == [
        *(f"draw {i} is the pattern '{pattern}'" for i, pattern in enumerate(PATTERNS, 1)),
        "3 words have several tokens, and as many masks: 'delivery delay', 'refund', 'refund request'",
    ]


def test_calibration_moves_every_score_of_a_pattern_by_the_same(task: Path, tmp_path: Path) -> None:
    plain = by_draw(climb_here(task, tmp_path, "cloze:encoder=toy-bert")[1])
    result, predictions = climb_here(task, tmp_path, "cloze:encoder=toy-bert,calibrated=true")
    assert result.route == "cloze calibrated"
    shifts = []
    for before, after in zip(plain, by_draw(predictions), strict=True):
        moved = [{label: b.scores[label] - a.scores[label] for label in a.scores} for b, a in zip(before, after, strict=True)]
        assert all(m == pytest.approx(moved[0], abs=1e-4) for m in moved)
        shifts.append(moved[0])
    assert shifts[0] != pytest.approx(shifts[1], abs=1e-4), "each pattern has a prior of its own"


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("minilm", "minilm.* has no trained masked-lm head.*Train one first: tunesmith pretrain DATA --model minilm"),
        ("toy-llama", "toy-llama.* is not an encoder"),
        ("no-such-folder", "there is no model .*no-such-folder"),
    ],
)
def test_an_encoder_that_cannot_fill_a_gap_is_named(task: Path, tmp_path: Path, encoder: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        climb_here(task, tmp_path, f"cloze:encoder={encoder}")


def test_free_text_does_not_fit_into_a_gap(tmp_path: Path) -> None:
    rows = [{"question": f"{i} + 1", "answer": str(i + 1)} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "sums.yaml").write_text(
        "name: sums\ndata: {train: rows.jsonl}\ntemplate: '{question} = {answer}'\n", encoding="utf-8"
    )
    entry = ROUTES.get("cloze")
    assert entry.unsuitable(load_task(str(tmp_path / "sums.yaml"))) == "the answers are free text, which does not fit into a gap"
