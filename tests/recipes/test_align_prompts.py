"""What a policy is asked: texts as they stand, conversations through the chat template, and who judges sees which it was."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tunesmith.core.encode import chat_prompt, token_ids, with_bos
from tunesmith.core.errors import UserError
from tunesmith.core.records import Message
from tunesmith.models.load import load
from tunesmith.recipes import align, inspect, reward
from tunesmith.recipes._align.prompts import read_prompts
from tunesmith.recipes._reward.files import open_reward
from tunesmith.recipes._reward.scoring import open_scorer
from tunesmith.train.scoring import Answer

SMALL: dict[str, Any] = {
    "data": "prompts.jsonl", "scorer": "scorer.py:score", "model": "toy-llama", "rollouts": 4, "max_new_tokens": 6, "steps": 1,
    "threads": 1, "dtype": "fp32", "allow_attackable": True,
}  # fmt: skip
ASKED = (Message("user", "What is tea?"), Message("assistant", "A drink."), Message("user", "Is it good?"))
AS_TEXT = "user: What is tea?\nassistant: A drink.\nuser: Is it good?"
TURNS = [{"role": m.role, "content": m.content} for m in ASKED]
YES = {"role": "assistant", "content": "Yes."}


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scorer.py").write_text(
        "import pathlib\nSEEN = []\ndef score(prompts, answers):\n    SEEN.extend(prompts)\n"
        "    pathlib.Path('seen.txt').write_text(chr(0).join(SEEN))\n"
        "    return [float(len(a) % 7) for a in answers]\n"
    )


def asked(rows: Sequence[Any], **changes: Any) -> list[Any]:
    """What `align` reads of a file with these rows."""
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_prompts(align.Config(**{**SMALL, **changes}), load("toy-llama"))[0]


@pytest.mark.parametrize(
    ("row", "golds"),
    [
        ({"messages": TURNS}, ()),
        ({"messages": [*TURNS, YES]}, ("Yes.",)),
        ({"conversations": [{"from": "human" if t["role"] == "user" else "gpt", "value": t["content"]} for t in TURNS]}, ()),
        ({"prompt": TURNS}, ()),
        ({"prompt": TURNS, "completion": [YES]}, ("Yes.",)),
    ],
)
def test_a_conversation_is_read_through_the_chat_template(row: dict[str, Any], golds: tuple[str, ...]) -> None:
    (found,) = asked([row])
    tokenizer = load("toy-llama").tokenizer
    assert found.ids == chat_prompt(tokenizer, ASKED)[1]
    assert (found.turns, found.text, found.golds) == (ASKED, AS_TEXT, golds)
    # The control: the same words as a text are read as they stand.
    (text,) = asked([{"prompt": AS_TEXT}])
    assert text.ids == with_bos(tokenizer, token_ids(tokenizer, AS_TEXT)) != found.ids
    assert text.turns == ()


def test_a_single_turn_is_shown_to_scorers_as_what_it_says() -> None:
    (found,) = asked([{"messages": [{"role": "user", "content": "Is it good?"}]}])
    assert found.text == "Is it good?"
    assert found.ids == chat_prompt(load("toy-llama").tokenizer, [Message("user", "Is it good?")])[1]


def test_a_task_that_chats_is_asked_as_a_chat() -> None:
    """Control tokens of its template are tokens, and not the letters they look like."""
    rows = [{"text": f"row {i}", "label": "yes" if i % 2 else "no"} for i in range(40)]
    for name, part in (("train", rows[:30]), ("test", rows[30:])):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    Path("task.yaml").write_text(
        'name: t\ndata: {train: train.jsonl, test: test.jsonl}\ntemplate: "{text}\\n{answer}"\nchoices: labels\nchat: true\n'
    )
    lm = load("toy-llama")
    found = read_prompts(align.Config(**{**SMALL, "data": "task.yaml"}), lm)[0]
    assert found
    expected = {chat_prompt(lm.tokenizer, [Message("user", f"row {i}\n")])[1] for i in range(40)} | {
        chat_prompt(lm.tokenizer, [Message("user", f"row {i}")])[1] for i in range(40)
    }
    assert {prompt.ids for prompt in found} <= expected


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([{"messages": TURNS}], {"prompt_tokens": 4}, r"prompts.jsonl:1: prompt_tokens cuts texts, and this is a conversation"),
        ([{"messages": TURNS}, {"messages": [{"role": "judge", "content": "x"}]}], {}, r"prompts.jsonl:2: .* the role 'judge'"),
        ([{"messages": TURNS}, {"messages": "x"}], {}, r"prompts.jsonl:2"),
    ],
)
def test_bad_conversations_are_named(rows: list[Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        asked(rows, **changes)


def test_from_conversations_to_rankings_to_dpo() -> None:
    Path("prompts.jsonl").write_text("".join(
        json.dumps({"messages": [*TURNS[:2], {"role": "user", "content": f"Is it good {i}?"}]}) + "\n" for i in range(8)
    ))  # fmt: skip
    small = {key: value for key, value in SMALL.items() if key not in ("rollouts", "steps")}
    align.run(align.Config(**small, method="best-of-n", samples=3, run_dir="best"))
    rankings = [json.loads(line) for line in Path("best/rankings.jsonl").read_text().splitlines()]
    assert rankings[0]["prompt"][:2] == TURNS[:2]
    assert AS_TEXT.replace("good", "good 0") in Path("seen.txt").read_text().split("\0")
    report = align.run(align.Config(
        data="best/rankings.jsonl", method="dpo", model="toy-llama", threads=1, dtype="fp32", max_steps=1, run_dir="dpo"
    ))  # fmt: skip
    assert report["judgements"] > 0
    align.run(align.Config(**SMALL, method="rloo", samples=2, run_dir="rloo"))
    assert json.loads(Path("rloo/rollouts/round-000000.json").read_text())["rows"][0]["prompt"].startswith("user: What is tea?")


def test_a_reward_model_reads_the_conversation_and_not_a_text_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"prompt": [*TURNS[:2], {"role": "user", "content": f"Good {i}?"}],
         "chosen": [{"role": "assistant", "content": f"Yes {i}!"}], "rejected": [{"role": "assistant", "content": f"No {i}."}]}
        for i in range(60)
    ]  # fmt: skip
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward.run(reward.Config(
        data="pairs.jsonl", run_dir="rm", model="toy-llama", threads=1, dtype="fp32", max_steps=2, validation_rows=0
    ))  # fmt: skip
    scorer, model = open_scorer("reward-model:path=rm"), open_reward("rm", None, "fp32")[0]
    said = list(scorer([Answer(AS_TEXT, "Yes!", True, (), ASKED)]))
    assert said == pytest.approx(model.score([(ASKED, "Yes!")]), abs=1e-5)
    assert said != pytest.approx(list(scorer([Answer(AS_TEXT, "Yes!", True)])), abs=1e-5)
    capsys.readouterr()
    report = inspect.run(inspect.Config(kind="scorer", what="reward-model:path=rm", data="pairs.jsonl", threads=1))
    assert report["agreement"]["n"] > 0
