"""Indexing, asking an index, and the route `retrieval`, as a user runs them."""

import json
from pathlib import Path
from typing import Any

import pytest
from tickets import climb_here, write_rows, write_task

from tunesmith import cli
from tunesmith.core.errors import UserError
from tunesmith.core.registry import ROUTES
from tunesmith.data.task import load_task
from tunesmith.recipes import index, retrieve
from tunesmith.retrieval.index import Index


@pytest.fixture(scope="module")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task(tmp_path_factory.mktemp("task"))


@pytest.fixture
def handbook(tmp_path: Path) -> Path:
    """A corpus of three documents."""
    folder = tmp_path / "handbook"
    folder.mkdir()
    (folder / "leave.md").write_text("# Leave\n\nWe have thirty days of leave. Ask early.\n\n# Pay\n\nPay comes on Fridays.\n")
    (folder / "tea.txt").write_text("Tea is in the second drawer.")
    (folder / "blank.txt").write_text("\n")
    return folder


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A task of free answers about the handbook, whose rows name the document that answers them."""
    rows = [
        {"question": "Where is the tea?", "answer": "the second drawer", "from": "tea.txt"},
        {"question": "How many days of leave are there?", "answer": "thirty", "from": ["leave.md"]},
        {"question": "Who is the boss of all this?", "answer": "nobody", "from": "tea.txt"},
    ]
    write_rows(tmp_path / "train.jsonl", [{"question": f"{i}?", "answer": str(i)} for i in range(4)])
    write_rows(tmp_path / "test.jsonl", rows)
    (tmp_path / "ask.yaml").write_text(
        "name: ask\ndata: {train: train.jsonl, test: test.jsonl}\ntemplate: '{question}\n\n{answer}'\n", encoding="utf-8"
    )
    return tmp_path / "ask.yaml"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Run a command that must succeed; returns its JSON."""
    assert cli.main([*words, "--threads", "1", "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_corpus_is_indexed_once_and_asked(handbook: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(tmp_path / "made")
    command = ("index", str(handbook), "--run_dir", place, "--retriever", "bm25:k1=1.5", "--chunk.words", "10")
    made = run(capsys, *command)
    assert (made["documents"], made["passages"], made["new_passages"]) == (3, 3, 3)
    assert made["retriever"] == {"name": "bm25", "k1": 1.5, "b": 0.75}
    assert made["warnings"] == ["1 documents without a word have no passage"]
    (handbook / "tea.txt").write_text("Tea is free.")
    (handbook / "blank.txt").unlink()
    made = run(capsys, *command)
    assert (made["documents"], made["passages"], made["new_passages"], made["warnings"]) == (2, 3, 1, [])
    found = run(capsys, "retrieve", place, "When does pay come?", "--k", "1")
    (hit,) = found["hits"]
    text = (handbook / "leave.md").read_text()
    assert hit["passage"] == f"leave.md#{hit['start']}-{hit['end']}"
    assert hit["text"] == text[hit["start"] : hit["end"]] == "# Pay\n\nPay comes on Fridays."
    assert hit["p"] == pytest.approx(1.0)
    assert found["milliseconds"] > 0
    assert retrieve.render(found).startswith("1. leave.md#")
    none = run(capsys, "retrieve", place, "zebra")
    assert none["hits"] == []
    assert retrieve.render(none) == "nothing found: no passage has a word of the question"


def test_an_index_of_other_settings_or_a_damaged_one_is_only_replaced_by_request(handbook: Path, tmp_path: Path) -> None:
    made = {"corpus": str(handbook), "run_dir": str(tmp_path / "made"), "retriever": "bm25", "threads": 1}
    index.run(index.Config(**made))
    for other, says in (({"retriever": "bm25:b=0.5"}, "b was 0.75, now 0.5"), ({"chunk": {"words": 7}}, "words was 100, now 7")):
        with pytest.raises(UserError) as refused:
            index.run(index.Config(**{**made, **other}))
        assert says in refused.value.message
    (tmp_path / "made" / "index-00000001" / "passages.jsonl").write_text("")
    with pytest.raises(UserError, match=r"is damaged: passages\.jsonl has changed"):
        index.run(index.Config(**made))
    assert index.run(index.Config(**made, overwrite=True))["new_passages"] == 2
    assert Index.load(tmp_path / "made").documents == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("index", "nowhere"), "there is no corpus 'nowhere'"),
        (("index", "task:movies", "--retriever", "bm52"), "unknown retriever 'bm52'\n  Did you mean 'bm25'?"),
        (("retrieve", "nowhere", "tea?"), "there is no index in nowhere"),
        (("retrieve", "nowhere", " "), "the question is empty"),
        (("retrieve", "nowhere"), "retrieve needs QUESTION"),
    ],
)
def test_wrong_usage_is_said(words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("combine", ["stuff", "sequence", "token"])
def test_the_route_reads_training_rows_and_cites_them(tickets: Path, tmp_path: Path, combine: str) -> None:
    result, predictions = climb_here(tickets, tmp_path, f"retrieval:retriever=bm25,k=3,combine={combine}")
    train = {row.id: row for row in load_task(str(tickets)).splits.train}
    by_id = {p.id: p for p in Index.load(next(tmp_path.rglob("index"))).passages}
    held = 0
    for p in predictions:
        assert len(p.sources) == 3
        shown = [by_id[source] for source in p.sources]
        read = [f"Ticket: {train[s.document].fields['text']}\nTipo: {train[s.document].fields['label']}" for s in shown]
        assert [s.text for s in shown] == read
        first = read[::-1] if combine == "stuff" else read[:1]
        assert p.prompt == "\n\n".join([*first, f"Ticket: {p.text}\nTipo:"])
        held += any(train[s.document].fields["label"] == p.gold for s in shown)
    assert result.metrics["answer_recall@3"] == pytest.approx(held / len(predictions))
    assert result.value == result.metrics["accuracy"] == sum(p.correct for p in predictions) / len(predictions)
    assert "passages of" in result.notes[0]
    assert "built in" in result.notes[0]
    assert "a search takes" in result.notes[0]
    assert "answer recall@3" in result.notes[1]


def test_too_much_to_read_is_left_out_and_counted(tickets: Path, tmp_path: Path) -> None:
    result, predictions = climb_here(tickets, tmp_path, "retrieval:retriever=bm25,k=100", test_rows=4)
    left_out = sum(len(hits) for hits in _found(tmp_path, predictions, 100)) - sum(len(p.sources) for p in predictions)
    assert left_out > 0
    assert any(note.startswith(f"{left_out} of ") and "exceed the model's context" in note for note in result.notes)


def _found(folder: Path, predictions: list[Any], k: int) -> list[list[Any]]:
    return Index.load(next(folder.rglob("index"))).search([p.text for p in predictions], k)


def test_recall_and_answers_are_two_matters(handbook: Path, questions: Path, tmp_path: Path) -> None:
    route = {"name": "retrieval", "corpus": str(handbook), "retriever": "bm25", "k": 1, "words": 10}
    asked = {"test_rows": 3, "draws": 1}
    by_answer, predictions = climb_here(questions, tmp_path / "a", route, **asked)
    # "the second drawer" and "thirty" are in the passages found, "nobody" is not; a toy answers nothing right.
    assert by_answer.metrics["answer_recall@1"] == pytest.approx(2 / 3)
    assert by_answer.value == 0.0
    assert {p.gold: p.sources[0].partition("#")[0] for p in predictions}["thirty"] == "leave.md"
    named, _ = climb_here(questions, tmp_path / "b", {**route, "relevant": "from"}, **asked)
    found = {p.gold: p.sources[0].partition("#")[0] for p in predictions}
    wanted = {"the second drawer": "tea.txt", "thirty": "leave.md", "nobody": "tea.txt"}
    assert named.metrics["recall@1"] == pytest.approx(sum(found[gold] == wanted[gold] for gold in wanted) / 3)
    assert any("1 documents without a word" in note for note in named.notes)
    mixed, _ = climb_here(questions, tmp_path / "c", {**route, "combine": "token", "k": 2}, **asked)
    assert mixed.n == 3


def test_an_index_made_before_is_a_corpus(handbook: Path, questions: Path, tmp_path: Path) -> None:
    index.run(index.Config(corpus=str(handbook), run_dir=str(tmp_path / "made"), retriever="bm25", threads=1))
    route = {"name": "retrieval", "corpus": str(tmp_path / "made"), "retriever": "bm25", "k": 2}
    result, predictions = climb_here(questions, tmp_path / "run", route, draws=1)
    assert "index of 2 passages of 3 documents" in result.notes[0]
    assert {source.partition("#")[0] for p in predictions for source in p.sources} <= {"leave.md", "tea.txt"}
    other = "was made with retriever bm25, and the route says dense"
    for wrong, says in (({"retriever": "dense"}, other), ({"words": 7}, "was made with words 100, and the route says 7")):
        with pytest.raises(AssertionError, match=says):
            climb_here(questions, tmp_path / f"run{len(says)}", {**route, **wrong}, draws=1)


def test_an_item_with_nothing_in_common_is_asked_alone_and_counted(handbook: Path, questions: Path, tmp_path: Path) -> None:
    write_rows(questions.parent / "test.jsonl", [{"question": "Zebra?", "answer": "no"}, {"question": "Tea?", "answer": "yes"}])
    route = {"name": "retrieval", "corpus": str(handbook), "retriever": "bm25"}
    result, predictions = climb_here(questions, tmp_path / "run", route, draws=1)
    assert sorted(len(p.sources) for p in predictions) == [0, 1]
    assert "1 items have nothing in common with any passage and were asked without" in result.notes


def test_labels_tell_routes_apart_and_wrong_retrievers_are_refused_at_once() -> None:
    specs = ("retrieval", "retrieval:retriever=bm25", "retrieval:k=3,combine=token")
    labels = [ROUTES.get("retrieval").label(ROUTES.parameters(spec)[1]) for spec in specs]
    assert labels == ["retrieval k=5", "retrieval bm25 k=5", "retrieval token k=3"]
    with pytest.raises(UserError, match="unknown retriever 'bm52'"):
        ROUTES.parameters("retrieval:retriever=bm52")
