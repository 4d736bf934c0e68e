"""Tasks: two files a user writes, and what is said when they do not fit each other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.core.errors import UserError
from tunesmith.data.task import Task, embedded_tasks, load_task

TEMPLATE = 'template: "Text: {text}\\nTopic: {answer}"'
TOPICS = ("sport", "cooking", "law")


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Distinct rows with three labels in turn."""
    return [{"text": f"Text number {start + i}", "label": TOPICS[i % 3]} for i in range(count)]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Task]:
    """Write a task with its files, and load it."""

    def make(yaml: str, skip_bad_rows: bool = False, **files: list[dict[str, Any]]) -> Task:
        for name, content in files.items():
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in content))
        (tmp_path / "mine.yaml").write_text("name: mine\n" + yaml)
        return load_task(str(tmp_path / "mine.yaml"), skip_bad_rows=skip_bad_rows)

    return make


def texts(examples: list[Any]) -> set[str]:
    """The texts of examples."""
    return {e.fields["text"] for e in examples}


def error_of(call: Callable[[], object]) -> str:
    """What a person reads."""
    with pytest.raises(UserError) as error:
        call()
    return str(error.value)


BOTH = "data: {train: train.jsonl, test: test.jsonl}\n"


def test_a_task_of_two_files(make: Callable[..., Task]) -> None:
    task = make(f"{BOTH}{TEMPLATE}\nchoices: labels\n", train=rows(100), test=rows(30, 500))
    splits = task.splits
    assert task.verbalizer is not None
    assert task.verbalizer.words == {"cooking": ("cooking",), "law": ("law",), "sport": ("sport",)}
    assert task.metrics == ("accuracy", "macro_f1")
    assert (len(splits.train) + len(splits.validation), len(splits.test)) == (100, 30)
    assert 1 <= len(splits.validation) <= 25
    assert (splits.bad, splits.warnings) == ([], [])
    first = splits.test[0]
    assert task.gold(first) == task.answer(first) == first.fields["label"]
    assert task.template.prompt(first.fields) == f"Text: {first.fields['text']}\nTopic:"


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ("[sport, cooking, law]", {"sport": ("sport",), "cooking": ("cooking",), "law": ("law",)}),
        ("{sport: [' sports ', football], cooking: food, law: [law]}",
         {"sport": ("sports", "football"), "cooking": ("food",), "law": ("law",)}),
    ],
)  # fmt: skip
def test_choices_as_a_list_and_as_words(make: Callable[..., Task], choices: str, expected: dict[str, tuple[str, ...]]) -> None:
    task = make(f"{BOTH}{TEMPLATE}\nchoices: {choices}\n", train=rows(30), test=rows(9, 50))
    assert task.verbalizer is not None
    assert task.verbalizer.words == expected
    assert {task.answer(e) for e in task.splits.test} == {words[0] for words in expected.values()}


@pytest.mark.parametrize(
    ("labels", "choices"),
    [
        (("yes", "no"), "{yes: [Yes], no: [No]}"),
        ((True, False), "{true: [Yes], false: [No]}"),
        ((1, 0), "{1: [good], 0: [bad]}"),
        ((1.0, 2.0), "{1: [bad], 2.0: [good]}"),
        (("007", "12:30"), "[007, 12:30]"),
        (("ja bitte", "nein danke"), "[ja bitte, nein danke]"),
        (("褒める", "けなす"), "labels"),
        ((1, 2), "labels"),
    ],
)
def test_labels_of_any_kind_meet_their_choices(make: Callable[..., Task], labels: tuple[Any, Any], choices: str) -> None:
    content = [{"text": f"t {i}", "label": labels[i % 2]} for i in range(40)]
    task = make(f"{BOTH}{TEMPLATE}\nchoices: {choices}\n", train=content[:30], test=content[30:])
    assert task.verbalizer is not None
    assert len(task.verbalizer.labels) == 2
    assert {task.gold(e) for e in task.splits.test} == set(task.verbalizer.labels)


def test_a_generation_task_has_no_choices(make: Callable[..., Task]) -> None:
    content = [{"question": f"{i}+1?", "answer": i + 1, "unit": "m"} for i in range(30)]
    yaml = BOTH + 'template: "Q: {question}\\nA: {answer}"\nanswer: answer\n'
    task = make(yaml, train=[{**r, "context": "x"} for r in content[:20]], test=[{**r, "context": "x"} for r in content[20:]])
    assert (task.verbalizer, task.metrics) == (None, ("exact_match",))
    assert {task.gold(e) for e in task.splits.test} == {str(i + 1) for i in range(20, 30)}


def test_columns_are_renamed_by_the_map(make: Callable[..., Task]) -> None:
    content = [{"utterance_raw": r["text"], "intent_name": r["label"], "id": i} for i, r in enumerate(rows(40))]
    yaml = "data: {train: train.jsonl, map: {text: utterance_raw, label: intent_name}}\n" + TEMPLATE + "\nchoices: labels\n"
    task = make(yaml, train=content)
    assert task.splits.test[0].fields["text"].startswith("Text number")
    assert task.verbalizer is not None
    assert task.verbalizer.labels == ["cooking", "law", "sport"]
    wrong = yaml.replace("utterance_raw", "utterance")
    assert "there is no column 'utterance' to use as 'text'\n  Did you mean 'utterance_raw'?" in error_of(
        lambda: make(wrong, train=content)
    )


def test_without_a_test_file_a_share_is_set_aside_and_said(make: Callable[..., Task]) -> None:
    yaml = f"data: {{train: train.jsonl}}\n{TEMPLATE}\nchoices: labels\n"
    task = make(yaml, train=rows(1000))
    splits = task.splits
    assert 160 <= len(splits.test) <= 240
    assert 50 <= len(splits.validation) <= 110
    parts = [texts(part) for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1000
    assert splits.warnings == [f"no test file: {len(splits.test)} of the training rows were set aside for testing"]
    # Neither the order of rows nor new rows move an old one to another side.
    again = make(yaml, train=rows(1300)[::-1]).splits
    assert texts(splits.test) <= texts(again.test)
    assert texts(splits.train) <= texts(again.train)
    assert [e.id for e in make(yaml, train=rows(1000)[::-1]).splits.train] == [e.id for e in splits.train]


def test_equal_rows_are_on_one_side_whatever_else_they_carry(make: Callable[..., Task]) -> None:
    content = [
        {"text": f"{space}Text {i % 50}".upper() if i % 2 else f"Text  {i % 50}", "label": TOPICS[i % 3], "id": i}
        for i in range(300)
        for space in " "
    ]
    splits = make(f"data: {{train: train.jsonl}}\n{TEMPLATE}\nchoices: labels\n", train=content).splits

    def items(part: list[Any]) -> set[str]:
        return {" ".join(e.fields["text"].split()).casefold() for e in part}

    parts = [items(part) for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == 50
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 300


def test_rows_order_does_not_follow_the_file(make: Callable[..., Task]) -> None:
    content = sorted(rows(90), key=lambda r: r["label"])
    train = make(f"{BOTH}{TEMPLATE}\nchoices: labels\n", train=content, test=rows(9, 500)).splits.train
    assert len({e.fields["label"] for e in train[:10]}) == 3


def test_training_rows_that_stand_in_the_test_are_left_out(make: Callable[..., Task]) -> None:
    leaked = [{"text": f"  TEXT   number {i}", "label": "law", "id": i} for i in range(3)]
    task = make(f"{BOTH}{TEMPLATE}\nchoices: labels\n", train=rows(60), test=[*leaked, *rows(9, 500)])
    assert not {"Text number 0", "Text number 1", "Text number 2"} & texts([*task.splits.train, *task.splits.validation])
    assert len(task.splits.test) == 12
    assert task.splits.warnings == ["3 training rows also stand in the test and were left out of training"]


def test_validation_rows_stand_in_neither_train_nor_test(make: Callable[..., Task]) -> None:
    yaml = "data: {train: train.jsonl, validation: dev.jsonl, test: test.jsonl}\n" + TEMPLATE + "\nchoices: labels\n"
    dev = [*rows(2), *rows(1, 500), *rows(4, 900)]
    splits = make(yaml, train=rows(30), dev=dev, test=rows(9, 500)).splits
    assert texts(splits.validation) == {f"Text number {i}" for i in range(900, 904)}
    assert (len(splits.train), len(splits.test)) == (30, 9)
    assert splits.warnings == ["3 validation rows also stand in train or test and were left out of validation"]


def test_a_test_file_that_is_the_train_file_leaves_nothing_and_says_why(make: Callable[..., Task]) -> None:
    text = error_of(lambda: make(f"{BOTH}{TEMPLATE}\nchoices: labels\n", train=rows(30), test=rows(30)))
    assert text.startswith("task 'mine' has no train rows\n  30 training rows also stand in the test")


@pytest.mark.parametrize("start", range(0, 200, 10))
def test_a_handful_of_rows_still_makes_a_test(make: Callable[..., Task], start: int) -> None:
    yaml = f"data: {{train: train.jsonl}}\n{TEMPLATE}\nchoices: [sport, cooking, law]\n"
    splits = make(yaml, train=rows(10, start)).splits
    assert 1 <= len(splits.test) <= 6
    assert splits.train


def test_a_rare_label_that_is_only_in_the_rows_set_aside_is_a_choice(make: Callable[..., Task]) -> None:
    # Each of the 40 labels stands in one row, so some of them are in the test part alone.
    content = [{"text": f"t {i}", "label": f"label {i}"} for i in range(40)]
    task = make(f"data: {{train: train.jsonl}}\n{TEMPLATE}\nchoices: labels\n", train=content)
    assert task.verbalizer is not None
    assert len(task.verbalizer.labels) == 40


def test_a_label_that_is_no_choice_is_named_with_its_row(make: Callable[..., Task]) -> None:
    test = rows(9, 500)
    test[4]["label"] = "sports"
    yaml = f"{BOTH}{TEMPLATE}\nchoices: labels\n"
    text = error_of(lambda: make(yaml, train=rows(30), test=test))
    assert text == (
        "test.jsonl:5: label 'sports' is not one of the task's choices: cooking, law, sport\n"
        "  Correct the rows, or go on without them: --skip_bad_rows."
    )
    task = make(yaml, skip_bad_rows=True, train=rows(30), test=test)
    assert (len(task.splits.test), [row.where for row in task.splits.bad]) == (8, ["test.jsonl:5"])
    assert task.splits.warnings == [
        "1 unusable rows were left out; the first: "
        "test.jsonl:5: label 'sports' is not one of the task's choices: cooking, law, sport"
    ]


def test_broken_lines_are_named_or_left_out(make: Callable[..., Task], tmp_path: Path) -> None:
    yaml = f"{BOTH}{TEMPLATE}\nchoices: labels\n"
    make(yaml, train=rows(200), test=rows(50, 500))
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    lines[16], lines[99] = lines[16][:-5], '{"text": "no label"}'
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    text = error_of(lambda: load_task(str(tmp_path / "mine.yaml")))
    assert "2 of 200 rows" in text
    assert "train.jsonl:17: " in text
    task = load_task(str(tmp_path / "mine.yaml"), skip_bad_rows=True)
    assert len(task.splits.train) + len(task.splits.validation) == 198
    assert [row.where for row in task.splits.bad] == ["train.jsonl:17", "train.jsonl:100"]
    assert task.splits.warnings[0].startswith("2 unusable rows were left out; the first: train.jsonl:17: ")


def test_what_the_reader_of_a_file_warns_of_is_passed_on(make: Callable[..., Task]) -> None:
    content = [{"sentence": r["text"], "text": None if i % 2 else 5, "label": r["label"]} for i, r in enumerate(rows(40))]
    yaml = 'data: {train: train.jsonl}\ntemplate: "{text}: {answer}"\nchoices: labels\n'
    task = make(yaml, train=content)
    assert task.splits.warnings[0].startswith("train.jsonl: the column 'text' is not used, because 'sentence' is read as 'text'")


@pytest.mark.parametrize("value", [None, "", ["a", "b"], {"a": 1}])
def test_an_answer_that_is_no_text_is_a_bad_row(make: Callable[..., Task], value: Any) -> None:
    content = [{"q": f"question {i}", "reply": f"reply {i}", "z": 1} for i in range(30)]
    yaml = BOTH + 'template: "{q} {answer}"\nanswer: reply\n'
    assert make(yaml, train=content[:20], test=content[20:]).splits.bad == []
    content[22]["reply"] = value
    text = error_of(lambda: make(yaml, train=content[:20], test=content[20:]))
    assert text.startswith("test.jsonl:3: 'reply': the answer ")
    assert len(make(yaml, skip_bad_rows=True, train=content[:20], test=content[20:]).splits.test) == 9


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("{TEMPLATE}\n", "task mine.yaml: 'data' is missing"),
        ("{BOTH}{TEMPLATE}\nchoice: labels\n", "task mine.yaml: unknown key 'choice'\n  Did you mean 'choices'?"),
        ("data: {{tran: train.jsonl}}\n{TEMPLATE}\n", "task mine.yaml: unknown key 'data.tran'\n  Did you mean 'train'?"),
        ("{BOTH}{TEMPLATE}\nmetrics: [acuracy]\nchoices: labels\n", "unknown metric 'acuracy'\n  Did you mean 'accuracy'?"),
        ("{BOTH}{TEMPLATE}\nchoices: [sport]\n", "a task needs at least two choices, and this one has 1"),
        ("{BOTH}{TEMPLATE}\nchoices: {{a: [x], b: [y, x]}}\n", "the word 'x' stands twice among the choices"),
        ("{BOTH}{TEMPLATE}\nchoices: {{a: [x], b: []}}\n", "every choice needs at least one word"),
        ("{BOTH}{TEMPLATE}\nchoices: {{a: [x], b: [[y]]}}\n", "task mine.yaml: choices: a choice must be a word or a number"),
        ("{BOTH}{TEMPLATE}\nchoices: [a, null]\n", "task mine.yaml: choices: a choice must be a word or a number"),
        ("{BOTH}{TEMPLATE}\nchoices: labels\naggregate: median\n", "Input should be 'max', 'mean' or 'sum' (got 'median')"),
        ("{BOTH}template: '{{txt}} {{answer}}'\nchoices: labels\n",
         "train.jsonl:1: the template uses {txt}, which the row does not have. Did you mean 'text'? (and 29 more rows)"),
        ("{BOTH}{TEMPLATE}\nchoices: labels\nanswer: lable\n", "train.jsonl:1: the row has no field 'lable' with the answer"),
        ("{BOTH}{TEMPLATE}\nanswer: lable\n",
         "train.jsonl:1: the row has no field 'lable' with the answer. Set 'answer:' to one of text, label (and 29 more rows)"),
        ("data: {{source: hutto_movies, test: test.jsonl}}\n{TEMPLATE}\n", "task 'mine' names a source and files"),
        ("data: {{source: hutto_moves}}\n{TEMPLATE}\n", "unknown data source 'hutto_moves'\n  Did you mean 'hutto-movies'?"),
        ("data: {{test: test.jsonl}}\n{TEMPLATE}\n", "task 'mine' has no data"),
        ("data: {{train: nowhere.jsonl}}\n{TEMPLATE}\n", "nowhere.jsonl"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_task_file_is_said(make: Callable[..., Task], yaml: str, said: str) -> None:
    text = error_of(lambda: make(yaml.format(BOTH=BOTH, TEMPLATE=TEMPLATE), train=rows(30), test=rows(9, 500)))
    assert said in text


def test_a_plain_file_of_texts_and_labels_is_a_task(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("review,sentiment\n" + "".join(f"film {i},{'good' if i % 2 else 'bad'}\n" for i in range(50)))
    task = load_task(str(path))
    assert task.name == "reviews"
    assert task.verbalizer is not None
    assert task.verbalizer.labels == ["bad", "good"]
    (tmp_path / "chats.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    )
    assert "holds messages rows, not text and label" in error_of(lambda: load_task(str(tmp_path / "chats.jsonl")))


def test_a_task_that_does_not_exist_has_a_near_miss() -> None:
    assert error_of(lambda: load_task("moves")) == "unknown task 'moves'\n  Did you mean 'movies'?"
    assert error_of(lambda: load_task("nowhere/mine.yaml")).startswith("there is no task file 'nowhere/mine.yaml'")
    assert error_of(lambda: load_task("mine.jsonl")).startswith("there is no file 'mine.jsonl'")


def test_the_template_hash_follows_from_what_shapes_a_prompt(make: Callable[..., Task]) -> None:
    yaml = f"{BOTH}{TEMPLATE}\nchoices: labels\n"
    files = {"train": rows(30), "test": rows(9, 500)}
    before = make(yaml, **files).template_hash
    assert make(yaml + "metrics: [accuracy]\ndescription: x\n", **files).template_hash == before
    for change in ("instruction: Say it.\n", "chat: true\n", "aggregate: sum\n", "separator: '\\n'\n"):
        assert make(yaml + change, **files).template_hash != before


def test_the_embedded_tasks_load() -> None:
    assert embedded_tasks() == ["editorials", "movies", "products", "tweets"]
    task = load_task("movies")
    assert task.verbalizer is not None
    assert task.verbalizer.labels == ["negative", "positive"]
    assert task.splits.warnings == []


def test_a_task_has_cloze_patterns_of_its_own_or_its_template(make: Callable[..., Task]) -> None:
    yaml = f"{BOTH}{TEMPLATE}\nchoices: labels\n"
    files = {"train": rows(30), "test": rows(9, 500)}
    plain = make(yaml, **files)
    assert [p.text for p in plain.patterns] == [f"{plain.template.text}."]
    own = make(yaml + "patterns: ['Just {answer}! {text}', '{text} It was {answer}.']\n", **files)
    assert [p.text for p in own.patterns] == ["Just {answer}! {text}", "{text} It was {answer}."]
    assert own.template_hash != plain.template_hash
    wrong = error_of(lambda: make(yaml + "patterns: ['{txt} It was {answer}.']\n", **files))
    assert wrong == "the pattern '{txt} It was {answer}.' uses {txt}, which the row does not have\n  Did you mean 'text'?"
    assert "needs the slot {answer} exactly once" in error_of(lambda: make(yaml + "patterns: ['{text}']\n", **files))


def test_the_embedded_tasks_have_several_patterns() -> None:
    for name in embedded_tasks():
        task = load_task(name)
        assert len({p.text for p in task.patterns}) >= 4
        for pattern in task.patterns:
            pattern.check(task.splits.test[0].fields)
