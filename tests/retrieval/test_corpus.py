"""Documents come from rows, texts, folders and tasks, each with an id to cite."""

import gzip
import json
from pathlib import Path

import pytest

from tunesmith.core.errors import UserError
from tunesmith.data.task import load_task
from tunesmith.retrieval.corpus import read_corpus


@pytest.fixture
def handbook(tmp_path: Path) -> Path:
    """A folder with files of several kinds."""
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "leave.md").write_text("# Leave\n\nThirty days.\n", encoding="utf-8")
    (tmp_path / "sub" / "leave.md").write_text("Überstunden", encoding="utf-8-sig")
    (tmp_path / ".hidden" / "no.md").write_text("hidden")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "faq.csv").write_text('id,title,text\n7,Tea,"In the second drawer."\n,,"Ask the desk."\n')
    with gzip.open(tmp_path / "more.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": "First."}) + "\n" + json.dumps({"text": "Second.", "id": 12}) + "\n")
    return tmp_path


def test_a_folder_is_searched_through(handbook: Path) -> None:
    found = [(d.id, d.title, d.text) for d in read_corpus(str(handbook))]
    assert found == [
        ("7", "Tea", "In the second drawer."),
        ("faq.csv:3", "", "Ask the desk."),
        ("leave.md", "", "# Leave\n\nThirty days.\n"),
        ("more.jsonl.gz:1", "", "First."),
        ("12", "", "Second."),
        ("sub/leave.md", "", "Überstunden"),
    ]


def test_a_file_may_stand_alone(handbook: Path) -> None:
    assert [d.id for d in read_corpus(str(handbook / "faq.csv"))] == ["7", "faq.csv:3"]
    assert [d.id for d in read_corpus(str(handbook / "sub" / "leave.md"))] == ["leave.md"]


def test_a_task_gives_its_training_rows_with_their_answers() -> None:
    task, found = load_task("movies"), read_corpus("task:movies")
    assert len(found) == len({row.id for row in task.splits.train})
    row, document = task.splits.train[0], found[0]
    assert document.id == row.id
    assert document.whole
    assert document.text == task.template.prompt(row.fields) + task.template.lead + task.answer(row)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.jsonl", b'{"question": "?", "reply": "!"}\n', "rows.jsonl:1: a document needs a text, and this row has"),
        ("rows.jsonl", b"", "rows.jsonl is empty"),
        ("latin.txt", "Caf\xe9".encode("latin-1"), "is not UTF-8 text (at byte 4)"),
    ],
)
def test_a_file_without_texts_is_refused(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_corpus(str(tmp_path / name))
    assert says in refused.value.message


def test_a_corpus_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no corpus 'nowhere'"):
        read_corpus("nowhere")
    with pytest.raises(UserError, match=r"the corpus is empty: .* has no file that ends in \.md"):
        read_corpus(str(tmp_path))
    with pytest.raises(UserError, match="unknown task 'movie'"):
        read_corpus("task:movie")


def test_bad_rows_stop_the_reading_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "good"}\n{"text": \n')
    with pytest.raises(UserError, match=r"rows\.jsonl:2"):
        read_corpus(str(path))
    assert [d.text for d in read_corpus(str(path), skip_bad_rows=True)] == ["good"]
