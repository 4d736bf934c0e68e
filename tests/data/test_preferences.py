"""Every convention that carries judgements, in every way it is usually written, and everything that can be wrong with one."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.core.errors import UserError
from tunesmith.core.records import Message, Preference
from tunesmith.data import formats
from tunesmith.data.preferences import read_preferences

USER, GOOD, BAD = (
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
    {"role": "assistant", "content": "5"},
)
AGAIN = {"role": "user", "content": "Sure?"}
CHAT = (Message("user", "2+2?"),)
ORIGINAL = {"prompt": "2+2?", "completions": ["4", "5", "four"]}
# What is written, and prompt, completions, ranks and what else is not as it usually is.
CONVENTIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "texts": ([{"prompt": "2+2?", "chosen": "4", "rejected": "5"}], [{}]),
    "implicit prompt": (
        [{"chosen": "2+2? it is 4", "rejected": "2+2? 5"}],
        [{"prompt": "2+2?", "completions": (" it is 4", " 5")}],
    ),
    "turns": ([{"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}], [{"prompt": CHAT}]),
    "turns without a prompt": ([{"chosen": [USER, GOOD], "rejected": [USER, BAD]}], [{"prompt": CHAT}]),
    "OpenAI": ([{"input": {"messages": [USER]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]}], [{"prompt": CHAT}]),
    "HH-RLHF": (
        [{"chosen": "\n\nHuman: 2+2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2+2?\n\nAssistant: 5"}],
        [{"prompt": "\n\nHuman: 2+2?\n\nAssistant:", "completions": (" 4", " 5")}],
    ),
    "UltraFeedback binarized": (
        [{
            "prompt": "2+2?", "prompt_id": "x", "messages": [USER, GOOD], "chosen": [USER, GOOD], "rejected": [USER, BAD],
            "score_chosen": 8.5, "score_rejected": 3,
        }],
        [{"prompt": CHAT, "ratings": (8.5, 3.0)}],
    ),
    "UltraFeedback": (
        [{
            "source": "s", "instruction": "2+2?", "models": ["m", "n", "o"],
            "completions": [
                {"model": "m", "response": "4", "overall_score": 8.5},
                {"model": "n", "response": "5", "overall_score": "1"},
                {"model": "o", "response": "four", "overall_score": 8.5},
            ],
        }],
        [{"completions": ("4", "5", "four"), "ranks": (1, 2, 1), "ratings": (8.5, 1.0, 8.5)}],
    ),
    "KTO": (
        [{"prompt": "2+2?", "completion": "4", "label": True}, {"prompt": [USER], "completion": [BAD], "label": False}],
        [
            {"completions": ("4",), "ranks": (1,), "ratings": (1.0,)},
            {"prompt": CHAT, "completions": ("5",), "ranks": (1,), "ratings": (0.0,)},
        ],
    ),
    "LLaMA-Factory KTO": (
        [{"instruction": "2", "input": "+2?", "output": "4", "kto_tag": False}],
        [{"prompt": "2\n+2?", "completions": ("4",), "ranks": (1,), "ratings": (0.0,)}],
    ),
    "KTO chat": (
        [{"messages": [USER, GOOD], "kto_tag": True}],
        [{"prompt": CHAT, "completions": ("4",), "ranks": (1,), "ratings": (1.0,)}],
    ),
    "Open WebUI": (
        [{"messages": [USER, BAD | {"annotation": {"rating": -1, "reason": ""}}, AGAIN, GOOD | {"annotation": {"rating": 1}}]}],
        [
            {"prompt": CHAT, "completions": ("5",), "ranks": (1,), "ratings": (0.0,)},
            {
                "prompt": (*CHAT, Message("assistant", "5"), Message("user", "Sure?")), "completions": ("4",), "ranks": (1,),
                "ratings": (1.0,),
            },
        ],
    ),
    "ranking": ([ORIGINAL | {"ranks": [1, 4, 1]}], [{"completions": ("4", "5", "four"), "ranks": (1, 2, 1)}]),
    "scores": (
        [ORIGINAL | {"scores": [1, -1, 0.5]}],
        [{"completions": ("4", "5", "four"), "ranks": (1, 3, 2), "ratings": (1.0, -1.0, 0.5)}],
    ),
    "OpenAssistant": (
        [{"text": "2+2?", "replies": [{"text": "4", "rank": 0}, {"text": "5", "rank": 1}]}],
        [{}],
    ),
    "Argilla": (
        [{"prompt": "2+2?", "one": "4", "two": "5", "ranking": [{"value": "two", "rank": 2}, {"value": "one", "rank": 1}]}],
        [{"completions": ("5", "4"), "ranks": (2, 1)}],
    ),
    "rows of a ranking": (
        [
            {"group": 7, "prompt": "2+2?", "completion": "4", "rank": 1, "annotator": "ann"},
            {"group": 8, "prompt": "2+2?", "completion": "five", "rank": 2, "annotator": "ann"},
            {"group": 7, "prompt": "2+2?", "completion": "5", "rank": 2, "annotator": "ann"},
            {"group": 8, "prompt": "2+2?", "completion": "four", "rank": 1, "annotator": "ann"},
        ],
        [{"judge": "ann"}, {"completions": ("five", "four"), "ranks": (2, 1), "judge": "ann"}],
    ),
    "rated rows": (
        [
            {"prompt": "2+2?", "completion": "4", "rating": 5},
            {"prompt": "2+2?", "completion": "5", "rating": 1},
            {"prompt": "2+2?", "completion": "5", "rating": 3},
            {"prompt": "2+2?", "completion": "4", "rating": 3},
        ],
        [{"ratings": (5.0, 1.0)}, {"completions": ("5", "4"), "ranks": (1, 1), "ratings": (3.0, 3.0)}],
    ),
    "best of k": (
        [ORIGINAL | {"best": 2}],
        [{"completions": ("4", "5", "four"), "ranks": (2, 2, 1), "only_best": True}],
    ),
    "Ziegler": (
        [{"query": "2+2?", "sample0": "1", "sample1": "2", "sample2": "3", "sample3": "4", "best": 3}],
        [{"completions": ("1", "2", "3", "4"), "ranks": (2, 2, 2, 1), "only_best": True}],
    ),
    "verdicts": (
        [{"prompt": "2+2?", "a": "4", "b": "5", "verdict": v} for v in ("worse", "better", "same", "both_bad", "skip")],
        [{}, {"ranks": (2, 1)}, {"ranks": (1, 1)}, {"ranks": (1, 1)}],
    ),
    "arena": (
        [
            {
                "question_id": "q", "model_a": "m", "model_b": "n", "winner": winner, "judge": "j", "turn": 1,
                "conversation_a": [USER, GOOD], "conversation_b": [USER, BAD], "tstamp": 1.0,
            }
            for winner in ("model_a", "model_b", "tie", "tie (bothbad)")
        ],
        [{"prompt": CHAT, "ranks": ranks, "judge": "j"} for ranks in ((1, 2), (2, 1), (1, 1), (1, 1))],
    ),
}  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows, as CSV where the name says so."""
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", CONVENTIONS)
def test_every_convention_means_what_its_author_meant(tmp_path: Path, name: str) -> None:
    rows, expected = CONVENTIONS[name]
    found, warnings = read_preferences(write(tmp_path / "p.jsonl", rows))
    usual = {"prompt": "2+2?", "completions": ("4", "5"), "ranks": (1, 2), "only_best": False, "ratings": None, "judge": None}
    parts = [{key: getattr(one, key) for key in usual} for one in found]
    assert parts == [usual | one for one in expected]
    assert len({one.id for one in found}) == len({str(part) for part in parts})
    assert all(one.where.startswith("p.jsonl:") for one in found)
    assert any("skipped" in w for w in warnings) == (name == "verdicts")


@pytest.mark.parametrize("name", ["texts", "turns", "KTO", "verdicts", "rows of a ranking", "rated rows", "Ziegler"])
def test_a_csv_file_says_the_same(tmp_path: Path, name: str) -> None:
    rows, _ = CONVENTIONS[name]
    rows = rows[:1] if name == "KTO" else rows
    found, _ = read_preferences(write(tmp_path / "p.csv", rows))
    same, _ = read_preferences(write(tmp_path / "p.jsonl", rows))
    assert [one.id for one in found] == [one.id for one in same]


def test_columns_with_other_names_are_mapped(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"q": "2+2?", "good": "4", "worse": "5"}])
    with pytest.raises(UserError, match=r"has the columns .*none of them is a judgement of completions"):
        read_preferences(path)
    found, _ = read_preferences(path, mapping={"prompt": "q", "chosen": "good", "rejected": "worse"})
    assert found[0].completions == ("4", "5")


def test_what_was_asked_together_is_the_prompt(tmp_path: Path) -> None:
    row = {"prompt": [USER], "chosen": [USER, BAD, AGAIN, GOOD], "rejected": [USER, BAD, AGAIN, BAD | {"content": "6"}]}
    (found,), _ = read_preferences(write(tmp_path / "p.jsonl", [row]))
    assert isinstance(found, Preference)
    assert [turn.content for turn in found.prompt if isinstance(turn, Message)] == ["2+2?", "5", "Sure?"]
    assert found.completions == ("4", "6")


BROKEN: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "equal texts": ({"prompt": "p", "chosen": "a", "rejected": "b"}, {"chosen": "b"}, "chosen and rejected are the same"),
    "the prompt again": ({"prompt": "p", "chosen": "a", "rejected": "b"}, {"chosen": "p "}, "'chosen' repeats the prompt"),
    "one item": (ORIGINAL | {"ranks": [1, 2, 3]}, {"completions": ["4"], "ranks": [1]}, "a ranking of one completion"),
    "too few ranks": (ORIGINAL | {"ranks": [1, 2, 3]}, {"ranks": [1, 2]}, "there are 3 completions and 2 ranks"),
    "no rank": (ORIGINAL | {"ranks": [1, 2, 3]}, {"ranks": [1, 2, "x"]}, "a rank must be a number, and is 'x'"),
    "twice": (ORIGINAL | {"ranks": [1, 2, 3]}, {"completions": ["4", "5", "4"]}, "completions 1 and 3 are the same text"),
    "best": (ORIGINAL | {"best": 2}, {"best": 3}, "'best' is 3; expected the place of the best from 0 to 2"),
    "verdict": (
        {"prompt": "p", "a": "x", "b": "y", "verdict": "same"}, {"verdict": "meh"}, "'verdict' is 'meh'; expected",
    ),
    "thumb": ({"prompt": "p", "completion": "c", "label": True}, {"label": "maybe"}, "expected true or false"),
    "two answers": (
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, {"chosen": [GOOD, AGAIN, GOOD]}, "'chosen' goes on for 3 turns",
    ),
    "a lonely row": (
        {"group": 1, "prompt": "p", "completion": "c", "rank": 1}, {"group": 2, "completion": "d"}, "a ranking of one",
    ),
    "two prompts": (
        {"group": 1, "prompt": "p", "completion": "c", "rank": 1}, {"prompt": "q", "completion": "d"}, "'1' has another prompt",
    ),
    "judged before asked": ({"messages": [USER, GOOD | {"rating": 1}]}, {"messages": [GOOD | {"rating": 1}, USER]}, "first turn"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_row_is_named_with_its_reason(tmp_path: Path, name: str) -> None:
    good, change, reason = BROKEN[name]
    more = [good | {"completion": "other", "group": 1, "rank": 2}] if name == "a lonely row" else [good]
    path = write(tmp_path / "p.jsonl", [good, good | change, *more])
    with pytest.raises(UserError) as caught:
        read_preferences(path)
    assert reason in str(caught.value)
    assert "rows in" in str(caught.value) or name == "two prompts"
    if name != "two prompts":
        found, warnings = read_preferences(path, skip_bad_rows=True)
        assert found
        assert "1 unusable rows were left out; the first: p.jsonl:2" in warnings[-1]


def test_other_commands_read_a_judged_chat_as_a_chat(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", CONVENTIONS["Open WebUI"][0])
    assert formats.sniff(path).convention == "rated_turns"
    assert formats.sniff(path, first=("messages",)).convention == "messages"
    # A row that says it is unwanted is never learned as if it were wanted.
    unwanted = write(tmp_path / "k.jsonl", CONVENTIONS["LLaMA-Factory KTO"][0])
    assert formats.sniff(unwanted, first=("alpaca",)).convention == "unpaired"
