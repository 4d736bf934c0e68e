"""An index on disk is the old one or the new one: after every kill, and after every write, flush or rename that fails."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from forkserver import Server
from trouble import CALLS, KINDS, Disk

from tunesmith.core.errors import WorkFailed
from tunesmith.retrieval.chunk import Document
from tunesmith.retrieval.index import Index

EVERY = [(call, kind) for call in CALLS for kind in KINDS if kind != "short" or call == "write"]


def index_of(word: str) -> Index:
    """An index of three documents in which one word tells which it is."""
    return Index.build([Document(str(i), "", f"{word} {i}", str(i)) for i in range(3)], "bm25")


def held(folder: Path) -> str:
    """The word of the index on disk, after searching it."""
    index = Index.load(folder)
    words = {p.text.split()[0] for p in index.passages}
    (word,) = words
    assert len(index.search([word], 5)[0]) == 3
    return word


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize(("call", "kind"), EVERY)
def test_every_call_of_a_save_fails_in_turn(tmp_path: Path, call: str, kind: str, lasting: bool) -> None:
    new, at, survived = index_of("new"), 0, 0
    while True:
        at += 1
        folder = tmp_path / str(at) / "index"
        index_of("old").save(folder)
        with Disk(str(folder), call, at, kind, lasting).between() as disk:
            try:
                new.save(folder)
                failed = None
            except WorkFailed as error:
                failed = error
        if not disk.failed:
            break
        if failed:
            assert f"the index could not be written to {folder}: " in failed.message
            assert os.strerror(KINDS[kind]) in failed.message
            # A disk on which nothing opens any more cannot take back what is whole already.
            assert held(folder) == "old" or (call == "open" and lasting)
        else:
            assert held(folder) == "new"
        survived += bool(failed)
        new.save(folder)
        assert held(folder) == "new"
        assert len(list(folder.iterdir())) == 1
    assert survived or kind == "short" or call == "mkdir"


def test_killed_at_any_file_operation_the_index_is_whole(server: Server, tmp_path: Path, full: bool) -> None:
    command = ("index", "corpus.txt", "--run_dir", "run", "--retriever", "bm25", "--threads", "1")

    def at_work(folder: Path, word: str, **how: int) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        (folder / "corpus.txt").write_text(word)
        return server.run(folder, *command, **how)

    assert at_work(tmp_path / "old", "old")["code"] == 0
    shutil.copytree(tmp_path / "old", tmp_path / "straight")
    operations = at_work(tmp_path / "straight", "new")["operations"]
    assert operations > 10
    seen, orphans = set(), 0
    for die_at in range(1, operations + 1, 1 if full else operations // 8):
        folder = tmp_path / str(die_at)
        shutil.copytree(tmp_path / "old", folder)
        assert at_work(folder, "new", die_at=die_at)["code"] == -9
        seen.add(Index.load(folder / "run").passages[0].text)
        orphans += len(list((folder / "run").glob(".index-*")))
    assert seen == {"old", "new"}
    assert orphans, "no kill fell into a save"
    # The next save sweeps up.
    assert at_work(folder, "newer")["code"] == 0
    assert [path.name for path in (folder / "run").iterdir()] == ["index-00000003"]
