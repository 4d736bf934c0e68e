"""An index finds what was put in, is the same however it came about, and says when it cannot be trusted."""

import json
from pathlib import Path

import numpy as np
import pytest

from tunesmith.core.errors import UserError
from tunesmith.core.files import write_manifest
from tunesmith.core.registry import RETRIEVERS
from tunesmith.models import embed
from tunesmith.retrieval.chunk import Chunking, Document
from tunesmith.retrieval.index import Index, is_index

DOCUMENTS = [
    Document("leave", "Leave", "Everyone has thirty days of leave. New colleagues wait for three months.", "h:1"),
    Document("coffee", "", "The coffee machine is cleaned on Fridays.", "h:2"),
    Document("parking", "", "Cars stand behind the house. Keys are at the desk.", "h:3"),
    Document("nothing", "", " \n ", "h:4"),
]
SMALL = Chunking(words=6)


def document(id: str, text: str) -> Document:
    """A document without a title."""
    return Document(id, "", text, id)


@pytest.mark.parametrize("name", RETRIEVERS.names())
def test_what_is_found_says_where_it_stands(name: str, tmp_path: Path) -> None:
    index = Index.build(DOCUMENTS, name, SMALL)
    assert (index.documents, index.blank, len(index.passages)) == (4, 1, 6)
    hits = index.search(["On which day is the coffee machine cleaned?"], 2)[0]
    assert hits[0].passage.document == "coffee"
    source = {d.id: d.text for d in DOCUMENTS}
    assert all(source[h.passage.document][h.passage.start : h.passage.end] == h.passage.text for h in hits)
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
    prior = np.exp(index.log_prior(hits))
    assert prior.sum() == pytest.approx(1.0)
    assert prior[0] == prior.max()
    assert index.log_prior([]) == []
    index.save(tmp_path / "index")
    again = Index.load(tmp_path / "index")
    assert again.passages == index.passages
    assert (again.retriever, again.chunking, again.encoder) == (index.retriever, index.chunking, index.encoder)
    queries = ["keys of the car", "leave", "zzz"]
    assert again.search(queries, 3) == index.search(queries, 3)


def test_bm25_finds_nothing_where_no_word_is_shared_and_dense_always_something() -> None:
    assert Index.build(DOCUMENTS, "bm25").search(["zebra"], 3) == [[]]
    assert len(Index.build(DOCUMENTS, "dense").search(["zebra"], 3)[0]) == 3


def test_equal_passages_are_found_in_the_order_of_the_corpus() -> None:
    index = Index.build([document(str(i), "same words") for i in range(9)], "bm25")
    assert [h.passage.document for h in index.search(["same"], 4)[0]] == ["0", "1", "2", "3"]
    assert len(index.search(["same"], 100)[0]) == 9


def test_the_prior_is_the_retrievers_own_softmax_over_what_was_found() -> None:
    index = Index.build(DOCUMENTS, "dense")
    hits = index.search(["coffee"], 2)[0]
    weights = np.exp([20 * hit.score for hit in hits])
    assert np.exp(index.log_prior(hits)) == pytest.approx(weights / weights.sum())
    index = Index.build(DOCUMENTS, "hybrid")
    hits = index.search(["coffee"], 3)[0]
    scores = np.array([hit.score for hit in hits])
    assert np.exp(index.log_prior(hits)) == pytest.approx(scores / scores.sum())


@pytest.mark.parametrize("name", RETRIEVERS.names())
def test_an_updated_index_equals_one_built_anew_and_embeds_only_what_changed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded: list[str] = []
    real = embed.embed_texts
    monkeypatch.setattr(embed, "embed_texts", lambda texts, title="": embedded.extend(texts) or real(texts, title))
    before = Index.build(DOCUMENTS, name, SMALL)
    # Moved, removed, changed in its second half, new.
    after = [
        DOCUMENTS[1],
        document("parking", "Cars stand behind the house. The keys hang there."),
        document("new", "Tea is free."),
    ]
    embedded.clear()
    updated = Index.build(after, name, SMALL, before)
    assert embedded == ([] if name == "bm25" else ["The keys hang there.", "Tea is free."])
    fresh = Index.build(after, name, SMALL)
    assert updated.passages == fresh.passages
    assert updated.arrays.keys() == fresh.arrays.keys()
    assert all(updated.arrays[key] == pytest.approx(fresh.arrays[key], abs=1e-6) for key in fresh.arrays)
    found = [[h.passage.id for h in index.search(["the keys"], 5)[0]] for index in (updated, fresh, before)]
    assert found[0] == found[1] != found[2]


def test_another_retriever_takes_over_vectors_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    words, vectors = Index.build(DOCUMENTS, "bm25"), Index.build(DOCUMENTS, "dense")
    assert Index.build(DOCUMENTS, "dense", before=words).arrays.keys() == {"vectors"}
    monkeypatch.setattr(embed, "embed_texts", lambda texts, title="": np.zeros((len(texts), 384)) if not texts else 1 / 0)
    both = Index.build(DOCUMENTS, "hybrid", before=vectors)
    assert np.array_equal(both.arrays["dense.vectors"], vectors.arrays["vectors"])


def test_passages_longer_than_the_encoder_reads_are_counted() -> None:
    text = "antidisestablishmentarianism " * 100
    assert Index.build([document("long", text), document("short", "a " * 100)], "dense").cut == 1
    assert Index.build([document("long", text)], "bm25").cut == 0


@pytest.mark.parametrize(
    ("documents", "says"),
    [
        ([], "the corpus is empty: it has no document"),
        ([document("a", ""), document("b", " \n")], "the corpus is empty: its 2 documents are blank"),
        ([Document("a", "", "x", "f:1"), Document("a", "", "y", "f:2")], "f:2: the id 'a' also stands at f:1"),
    ],
)
def test_a_corpus_that_cannot_be_indexed_is_refused(documents: list[Document], says: str) -> None:
    with pytest.raises(UserError) as refused:
        Index.build(documents, "bm25")
    assert refused.value.message == says


def test_there_is_one_generation_however_often_it_is_saved(tmp_path: Path) -> None:
    for text in ("one", "two", "three"):
        Index.build([document("a", text)], "bm25").save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["index-00000003"]
    assert Index.load(tmp_path).passages[0].text == "three"


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no index"):
        Index.build(DOCUMENTS, "bm25").save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    assert not is_index(tmp_path)
    with pytest.raises(UserError, match="there is no index in"):
        Index.load(tmp_path)


@pytest.mark.parametrize("name", ["passages.jsonl", "index.json", "arrays.safetensors"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_index_is_refused(name: str, how: str, tmp_path: Path) -> None:
    Index.build(DOCUMENTS, "bm25").save(tmp_path)
    path = tmp_path / "index-00000001" / name
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data if how == "flipped" else data[:-1])
    with pytest.raises(UserError) as refused:
        Index.load(tmp_path)
    assert refused.value.message.startswith(f"the index in {tmp_path} is damaged: {name} ")
    assert "--overwrite" in refused.value.fix


def test_an_index_of_another_encoder_or_another_version_is_refused(tmp_path: Path) -> None:
    Index.build(DOCUMENTS, "dense").save(tmp_path)
    folder = tmp_path / "index-00000001"
    about = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**about, "encoder": "minilm of last year"}))
    write_manifest(folder)
    with pytest.raises(UserError, match="was made with the encoder 'minilm of last year', and this is 'minilm "):
        Index.load(tmp_path)
    (folder / "index.json").write_text(json.dumps({**about, "colour": "blue"}))
    write_manifest(folder)
    with pytest.raises(UserError, match=r"cannot be read: .*colour"):
        Index.load(tmp_path)
