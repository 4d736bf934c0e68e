"""What `tunesmith data check` says of judgements: counts, cycles, contradictions, leakage, and answers given away unread."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tunesmith.core.errors import UserError
from tunesmith.core.records import Preference
from tunesmith.recipes import data
from tunesmith.recipes._judgements import check, verdicts


def pair(better: str, worse: str, where: str = "", tie: bool = False, judge: str | None = None, prompt: str = "p") -> Preference:
    return Preference(where, prompt, (better, worse), (1, 1 if tie else 2), where, judge=judge)


def test_a_cycle_is_named_with_its_texts_and_rows() -> None:
    line = [pair("a", "b", "1"), pair("b", "c", "2")]
    checked = check([*line, pair("c", "a", "3")])
    assert checked.cycles == 1
    assert checked.cycle_rows == ((("a", "b", "c", "a"), ("1", "2", "3")),)
    assert verdicts(checked)[0] == ("1 cyclic judgement, which no reward can follow; the first: 'a' > 'b' > 'c' > 'a' (1, 2, 3).")
    # No cycle: the other way round, of another prompt, by another judge.
    assert check([*line, pair("a", "c", "3")]).cycles == 0
    assert check([*line, pair("c", "a", "3", prompt="q")]).cycles == 0
    assert check([*line, pair("c", "a", "3", judge="ann")]).cycles == 0


def test_a_tie_closes_a_cycle_and_ties_alone_do_not() -> None:
    ties = [pair("b", "c", "2", tie=True), pair("c", "a", "3", tie=True)]
    assert check([pair("a", "b", "1"), *ties]).cycles == 1
    assert check([pair("a", "b", "1", tie=True), *ties]).cycles == 0


def test_a_ranking_has_all_its_pairs_and_the_best_of_four_three() -> None:
    ranking = Preference("", "p", ("a", "b", "c", "d"), (1, 2, 2, 3), "1")
    checked = check([ranking])
    assert (checked.judgements, checked.pairs, checked.ties) == (1, 5, 1)
    best = Preference("", "p", ("a", "b", "c", "d"), (2, 1, 2, 2), "1", only_best=True)
    assert (check([best]).pairs, check([best]).ties) == (3, 0)


def test_the_same_pair_judged_in_two_ways() -> None:
    checked = check([pair("a", "b", "1"), pair("b", "a", "2"), pair("a", "b", "3")])
    assert (checked.contradictions, checked.contradiction_rows, checked.cycles) == (1, (("1", "2"),), 0)
    assert "1 pair judged in two ways; the first: 1 and 2." in verdicts(checked)
    two = check([pair("a", "b", "1", judge="ann"), pair("b", "a", "2", judge="bob"), pair("x", "y", "3", judge="ann")])
    assert (two.contradictions, two.shared, two.disagreements) == (0, 1, 1)
    assert check([pair("a", "b", "1", judge="ann"), pair("a", "b", "2", judge="bob")]).disagreements == 0


def test_length_and_first_words_that_give_the_answer_away() -> None:
    draw = random.Random(0)
    texts = [("".join(draw.choices("abcdefgh ", k=9)).strip() + "x", "y" * draw.choice((5, 20))) for _ in range(200)]
    fair = check([pair(*t, where=str(i)) for i, t in enumerate(texts)])
    assert not any("unread" in sentence for sentence in verdicts(fair))
    long = check([pair(a + " and more besides" * 2, b, str(i)) for i, (a, b) in enumerate(texts)])
    assert (long.clues[0].what, long.clues[0].right, long.clues[0].n) == ("the longer one", 200, 200)
    assert "Preferring the longer of two texts, unread, is right in 100% of 200 pairs" in verdicts(long)[0]
    short = check([pair(b, a + " and more besides" * 2, str(i)) for i, (a, b) in enumerate(texts)])
    assert "Preferring the shorter of two texts" in verdicts(short)[0]
    # Exact 95 % interval of 200 of 200: 1 - .025^(1/200).
    assert long.clues[0].low == pytest.approx(0.025 ** (1 / 200), abs=1e-9)
    words = check([pair(f"Sure {i}", f"No, {i}", str(i)) for i in range(40)])
    assert [c.what for c in words.clues[1:]] == ["begins with 'Sure'", "begins with 'No,'"]
    assert "the one that begins with 'Sure' won 40 of 40 times" in verdicts(words)[-2]


def test_a_completion_in_both_files_is_leakage_where_it_is_no_stock_phrase() -> None:
    long = "an answer of more than forty letters, which nobody writes twice"
    train = [pair(long, "No.", "train:1")]
    checked = check([pair(long.upper(), "Yes.", "test:1", prompt="q"), pair("b", "No.", "test:2", prompt="q")], train)
    assert checked.leaked_rows == (("test:1", "train:1"),)
    assert "1 completions stand in train.jsonl too" in verdicts(checked, "train.jsonl")[0]
    assert check([pair("b", "No.", "test:2")], train).leaked == 1


def report_of(
    tmp_path: Path, rows: list[dict[str, Any]], more: list[dict[str, Any]] | None = None, **settings: Any
) -> dict[str, Any]:
    paths = {"pairs.jsonl": rows} | ({"test.jsonl": more} if more else {})
    for name, some in paths.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in some))
    test = {"test": str(tmp_path / "test.jsonl")} if more else {}
    return data.run(data.Config(action="check", what=str(tmp_path / "pairs.jsonl"), model="toy-llama", **test, **settings))


def test_data_check_says_all_of_it(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "chosen": a, "rejected": b} for a, b in ((f"{w} one", f"{w} two") for w in ("a", "b"))
    ] + [{"prompt": "p", "chosen": "x", "rejected": "y"}, {"prompt": "p", "chosen": "y", "rejected": "z"},
         {"prompt": "p", "chosen": "z", "rejected": "x"}, {"prompt": "p", "chosen": "same", "rejected": "same"},
         {"prompt": "p", "chosen": "p", "rejected": "other"}]  # fmt: skip
    report = report_of(tmp_path, rows, [{"prompt": "p", "chosen": "a two", "rejected": "never"}])
    text = data.render(report)
    assert "jsonl, preference" in text
    assert "pairs.jsonl:6: chosen and rejected are the same" in text
    assert "pairs.jsonl:7: 'chosen' repeats the prompt" in text
    assert "5 judgements of 1 prompt; 5 pairs and 0 ties" in text
    assert any("1 cyclic judgement" in sentence for sentence in report["verdicts"])
    assert any("completions stand in pairs.jsonl too" in sentence for sentence in report["verdicts"])
    assert report["judgements"]["rows"]["cycles"] == 1
    assert report["splits"]["rows"]["bad"] == 2
    # Tokens are those of the prompt and its longest completion, byte by byte.
    assert report["splits"]["test"]["lengths"]["maximum"] == len("p" + "a two")


def test_columns_are_mapped_and_tasks_have_their_own(tmp_path: Path) -> None:
    rows = [{"q": "p", "good": "a", "poor": "b"}]
    report = report_of(tmp_path, rows, map={"prompt": "q", "chosen": "good", "rejected": "poor"})
    assert report["judgements"]["rows"]["pairs"] == 1
    with pytest.raises(UserError, match="--test and --map are for a file of rows"):
        data.run(data.Config(action="check", what="movies", model="toy-llama", test="x.jsonl", samples=0, max_length=None))
