"""Chain of thought and self-consistency, climbed as the ladder climbs them: on the toy decoder, and on a rule behind a URL."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tickets import climb_here, write_rows, write_task

from served import Served, served
from tunesmith.core.errors import UserError
from tunesmith.data.extraction import extraction_for
from tunesmith.data.prompts import Prompts
from tunesmith.data.reasoning import STEP_BY_STEP, ReasoningPrompts
from tunesmith.data.task import load_task
from tunesmith.models.toy import byte_tokenizer
from tunesmith.recipes._ladder.config import LadderConfig
from tunesmith.recipes.ladder import prepare, route_specs


@pytest.fixture(scope="module")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task with labels of several words."""
    return write_task(tmp_path_factory.mktemp("tickets"))


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """A server whose model is a rule that the test sets."""
    with served() as it:
        yield it


def sums(folder: Path, rationale: bool = False, extra: str = "") -> Path:
    """Write a task of sums whose gold answers are written as nobody would say them."""
    content = []
    for i in range(40):
        row = {"question": f"{i} + 2", "answer": f"{i + 2}.0"}
        content.append({**row, "rationale": f"{i} plus 2 makes {i + 2}."} if rationale and i % 2 else row)
    folder.mkdir(exist_ok=True)
    write_rows(folder / "rows.jsonl", content)
    template = 'template: "Q: {question}\\nA: {answer}"'
    (folder / "sums.yaml").write_text(f"name: sums\ndata: {{train: rows.jsonl}}\n{template}\n{extra}")
    return folder / "sums.yaml"


def adder(prompt: str, seed: int) -> str:
    """Six paths of ten add, two forget the 2, and two say nothing: by the seed alone."""
    item = prompt.rsplit("Q: ", 1)[1]
    number = int(item.split(" ")[0])
    if "Therefore" in item:
        return " nobody knows."
    right, wrong = f" Step 1. The answer is ${number + 2}.00.", f" The answer is {number}"
    return right if seed % 10 < 6 else wrong if seed % 10 < 8 else " Hm."


def test_reasons_come_first_and_the_answer_is_asked_for(tickets: Path, tmp_path: Path) -> None:
    result, predictions = climb_here(tickets, tmp_path, "cot:max_new_tokens=8", test_rows=3)
    assert (result.name, result.n, result.valid) == ("cot", 3, 0.0)
    asked = "Therefore, among delivery delay, refund and refund request, the answer is"
    for p in predictions:
        assert p.prompt == f"Ticket: {p.text}\nTipo: {STEP_BY_STEP}"
        assert (p.predicted, p.scores, p.valid, p.correct) == ("", {}, False, False)
        assert asked in p.rationale
    assert "zero-shot, step by step" in result.notes[0]
    assert "3 of 3 paths (100.0%) state no answer" in result.notes[0]
    again = climb_here(tickets, tmp_path / "again", "cot:max_new_tokens=8", test_rows=3)[1]
    assert again == predictions


def test_paths_follow_from_the_seed_and_more_of_them_begin_alike(tickets: Path, tmp_path: Path) -> None:
    def texts(folder: str, paths: int, seed: int) -> dict[tuple[str, int], str]:
        route = f"self-consistency:paths={paths},max_new_tokens=4"
        climb_here(tickets, tmp_path / folder, route, test_rows=2, seed=seed)
        (file,) = (tmp_path / folder).rglob("paths.jsonl")
        return {(row["id"], row["path"]): row["text"] for row in map(json.loads, file.read_text().splitlines())}

    three = texts("three", 3, 0)
    assert len(three) == 6
    assert texts("same", 3, 0) == three
    assert texts("other", 3, 1) != three
    assert {key: text for key, text in texts("four", 4, 0).items() if key[1] < 3} == three
    assert len({text for (_, _), text in three.items()}) > 2


def test_the_vote_of_many_paths_mends_what_one_path_gets_wrong(server: Served, tmp_path: Path) -> None:
    server.rule = adder
    task = sums(tmp_path)
    result, predictions = climb_here(task, tmp_path / "run", "self-consistency:paths=20", model=server.url)
    (file,) = (tmp_path / "run").rglob("paths.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 20 * result.n
    # A second count, by hand: what each path's text says, and the most frequent of them.
    for p in predictions:
        said = [row["text"] for row in rows if row["id"] == p.id]
        stated = [text.partition("answer is ")[2] for text in said if "Hm" not in text]
        read = [answer.strip("$.").removesuffix(".00") for answer in stated]
        plain = Counter(read)
        assert p.predicted in (plain.most_common(1)[0][0], f"{plain.most_common(1)[0][0]}.0")
        assert sorted(p.scores.values()) == sorted(n / len(read) for n in plain.values())
        assert p.rationale in said
    unread = sum(row["answer"] == "" for row in rows)
    assert 0.1 < unread / len(rows) < 0.3
    assert f"{unread} of {len(rows)} paths" in result.notes[0]
    assert result.value == 1.0
    assert result.tokens_per_query > 0
    # The control: one greedy path in ten of another kind would not do.
    single = [next(row["answer"] for row in rows if row["id"] == p.id) for p in predictions]
    assert sum(f"{a}.0" == p.gold for a, p in zip(single, predictions, strict=True)) < len(predictions)


def test_exemplars_show_their_reasons_and_are_training_rows(server: Served, tmp_path: Path) -> None:
    server.rule = adder
    task = sums(tmp_path, rationale=True)
    result, predictions = climb_here(task, tmp_path / "run", "cot:exemplars=3", model=server.url, test_rows=4)
    train = {e.fields["question"]: e.fields for e in load_task(str(task)).splits.train}
    for p in predictions:
        *shown, last = p.prompt.split("\n\n")
        assert last == f"Q: {p.text.removeprefix('question: ')}\nA:"
        assert len(shown) == 3
        for one in shown:
            question, _, worked = one.removeprefix("Q: ").partition("\nA: ")
            assert worked == f"{train[question]['rationale']} The answer is {train[question]['answer']}."
    assert "3 exemplars with a rationale" in result.notes[0]
    assert "Let's think" not in predictions[0].prompt
    everything, _ = climb_here(task, tmp_path / "all", "cot", model=server.url, test_rows=2)
    assert "8 exemplars" in everything.notes[0]
    none, asked = climb_here(task, tmp_path / "none", "cot:exemplars=0", model=server.url, test_rows=2)
    assert "zero-shot" in none.notes[0]
    assert asked[0].prompt.endswith(STEP_BY_STEP)


def test_exemplars_that_no_row_can_give_are_an_error(tickets: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"no training row has a field .{1,3}rationale"):
        climb_here(tickets, tmp_path, "cot:exemplars=2", test_rows=1)


def test_a_conversation_is_asked_turn_by_turn(server: Served, tmp_path: Path) -> None:
    def rule(said: str, seed: int) -> str:
        return "The answer is 7" if said.startswith("Therefore") else "Let me see, that is seven"

    server.rule, server.asked = rule, []
    task = sums(tmp_path, extra="chat: true\ninstruction: Add.\n")
    _, predictions = climb_here(task, tmp_path / "run", "cot", model=server.url, test_rows=1)
    turns = [[m["role"] for m in body["messages"]] for route, _, body in server.asked if route.endswith("chat/completions")]
    assert turns[-2:] == [["system", "user"], ["system", "user", "assistant", "user"]]
    assert predictions[0].predicted in ("7", "7.0")
    assert predictions[0].rationale == "Let me see, that is seven\nTherefore, the answer (arabic numerals) is 7"


def test_choices_by_generation_and_by_score_through_a_url(server: Served, tickets: Path, tmp_path: Path) -> None:
    server.rule = None
    for route in ("zero-shot", "few-shot:shots=1,draws=1"):
        here = climb_here(tickets, tmp_path / "here", route, test_rows=4)[1]
        there = climb_here(tickets, tmp_path / "there", route, test_rows=4, model=server.url)[1]
        for a, b in zip(here, there, strict=True):
            assert (a.predicted, a.prompt) == (b.predicted, b.prompt)
            assert a.scores == pytest.approx(b.scores, abs=1e-4)
    server.scores = False
    with pytest.raises(AssertionError, match="this server cannot score, only generate"):
        climb_here(tickets, tmp_path / "mute", "zero-shot", test_rows=2, model=server.url)
    server.scores = True


def test_a_model_behind_a_url_is_not_trained(server: Served, tickets: Path) -> None:
    with pytest.raises(UserError, match="'LoRA r=16' trains weights, and a model behind a URL has none here") as error:
        prepare(LadderConfig(task=str(tickets), model=server.url, routes=["zero-shot", "lora", "full"]))
    assert error.value.fix == "Leave LoRA r=16, full out: --routes zero-shot."
    config = LadderConfig(task=str(tickets), model=server.url, routes=["zero-shot"])
    assert prepare(config)[0] == route_specs(config)
    with pytest.raises(UserError, match="no user name, key"):
        prepare(config.model_copy(update={"model": "https://key@host/v1"}))


def test_where_the_model_begins_another_item_it_is_stopped(tmp_path: Path) -> None:
    task = load_task(str(sums(tmp_path)))
    prompts = ReasoningPrompts(Prompts(task, byte_tokenizer()), extraction_for(task, task.splits.train))
    assert prompts.stop == ("\n\nQ:",)
    text, _ = prompts.answer(task.splits.test[0], (), "I add.")
    question = task.splits.test[0].fields["question"]
    steps = f"{STEP_BY_STEP} I add.\nTherefore, the answer (arabic numerals) is"
    assert text == f"Q: {question}\nA: {steps}"
