"""Files are the old ones or the new ones, and a manifest sees every change."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.core.errors import WorkFailed
from tunesmith.core.files import (
    canonical,
    sha256,
    text_hash,
    verify_manifest,
    write_bytes,
    write_checked,
    write_json,
    write_jsonl,
    write_manifest,
    write_text,
)  # fmt: skip


def test_what_is_written_is_there_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "a.txt", "ä\n")
    write_json(tmp_path / "deep" / "b.json", {"z": 1, "a": "ö", "path": Path("x")})
    write_jsonl(tmp_path / "deep" / "c.jsonl", [{"a": 1}, ["ü"]])
    assert (tmp_path / "deep" / "a.txt").read_bytes() == b"\xc3\xa4\n"
    assert (tmp_path / "deep" / "b.json").read_text() == '{\n  "z": 1,\n  "a": "ö",\n  "path": "x"\n}\n'
    assert (tmp_path / "deep" / "c.jsonl").read_text() == '{"a": 1}\n["ü"]\n'
    assert sorted(f.name for f in (tmp_path / "deep").iterdir()) == ["a.txt", "b.json", "c.jsonl"]


def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new_content(tmp_path: Path) -> None:
    path = tmp_path / "state"
    code = (
        "import itertools, sys, pathlib\nfrom tunesmith.core.files import write_bytes\n"
        "for i in itertools.count():\n    write_bytes(pathlib.Path(sys.argv[1]), bytes([i % 256]) * 3_000_000)\n"
    )
    seen = set()
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", code, str(path)]) as writer:
            before = path.stat().st_ino if path.exists() else None
            deadline = time.monotonic() + 20
            while (not path.exists() or path.stat().st_ino == before) and time.monotonic() < deadline:
                time.sleep(0.003)
            time.sleep(0.02)
            os.kill(writer.pid, signal.SIGKILL)
        content = path.read_bytes()
        assert len(content) == 3_000_000
        assert len(set(content)) == 1
        seen.add(writer.returncode)
    assert seen == {-signal.SIGKILL}


def test_a_write_that_fails_leaves_the_old_content_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_text(path, "old")
    code = (
        "import resource, sys, pathlib, signal\nfrom tunesmith.core.files import write_text\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from tunesmith.core.errors import WorkFailed\n"
        "try:\n    write_text(pathlib.Path(sys.argv[1]), 'new' * 10_000)\nexcept WorkFailed as error:\n    print(error)\n"
    )
    told = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True).stdout
    assert told == f"cannot write {path}: File too large\n  Free some space or choose another --run_dir.\n"
    assert path.read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["state"]


def test_what_is_written_and_read_back_has_the_hash_of_the_file(tmp_path: Path) -> None:
    pieces = [b"head", memoryview(bytes(range(256)) * 10_000), b""]
    entry = write_checked(tmp_path / "a", pieces)
    assert (tmp_path / "a").read_bytes() == b"".join(pieces)
    assert entry == {"bytes": 2_560_004, "sha256": sha256(tmp_path / "a")}
    with pytest.raises(FileExistsError):
        write_checked(tmp_path / "a", pieces)


def test_what_does_not_read_back_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in (0, 1_500_000, 2_999_999):
        real = os.fsync

        def lossy(descriptor: int, at: int = at, real: Callable[[int], None] = real) -> None:
            real(descriptor)
            os.pwrite(descriptor, b"?", at)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lossy)
            with pytest.raises(OSError, match="does not read back as written"):
                write_checked(tmp_path / str(at), [bytes(2_000_000), bytes(1_000_000)])


def test_a_place_that_cannot_hold_a_file_is_an_error(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "below", tmp_path / "folder"):
        with pytest.raises(WorkFailed, match="cannot write"):
            write_bytes(path, b"")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["file", "folder"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a manifest."""
    write_text(tmp_path / "a.txt", "a" * 100)
    write_text(tmp_path / "sub" / "b.txt", "b")
    write_text(tmp_path / ".hidden" / "c.txt", "c")
    write_manifest(tmp_path, {"licence": "MIT"})
    return tmp_path


def test_a_manifest_lists_files_with_their_hashes(folder: Path) -> None:
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    assert manifest["licence"] == "MIT"
    assert sorted(manifest["files"]) == ["a.txt", "sub/b.txt"]
    # SHA-256 of the one letter b.
    assert manifest["files"]["sub/b.txt"] == {
        "bytes": 1, "sha256": "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d",
    }  # fmt: skip
    assert verify_manifest(folder) == ""


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "a.txt").write_text("a" * 99 + "b"), "a.txt has changed since it was written"),
        (lambda f: (f / "a.txt").write_text("a" * 99), "a.txt has changed since it was written"),
        (lambda f: (f / "sub" / "b.txt").unlink(), "sub/b.txt is missing"),
        (lambda f: (f / "MANIFEST.json").unlink(), "it has no MANIFEST.json"),
        (lambda f: (f / "MANIFEST.json").write_text("{"), "its manifest cannot be read"),
        (lambda f: (f / "MANIFEST.json").write_bytes(b"\xff"), "its manifest cannot be read"),
        (lambda f: (f / "MANIFEST.json").write_text("[]"), "its manifest cannot be read"),
        (lambda f: (f / "MANIFEST.json").write_text('{"format": 1, "files": {"a.txt": 5}}'), "its manifest cannot be read"),
        (lambda f: (f / "MANIFEST.json").write_text('{"format": 2, "files": {}}'), "its manifest has format 2"),
    ],
)
def test_a_manifest_sees_what_has_changed(folder: Path, spoil, said: str) -> None:
    spoil(folder)
    assert verify_manifest(folder).startswith(said)


def test_every_single_flipped_bit_is_seen(folder: Path) -> None:
    original = (folder / "a.txt").read_bytes()
    for place in (0, 50, 99):
        flipped = bytearray(original)
        flipped[place] ^= 1
        (folder / "a.txt").write_bytes(bytes(flipped))
        assert verify_manifest(folder)
    (folder / "a.txt").write_bytes(original)
    assert verify_manifest(folder) == ""


def test_hashes_are_the_published_ones(tmp_path: Path) -> None:
    write_bytes(tmp_path / "abc", b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(st.lists(st.text(st.characters(), max_size=4), max_size=3), st.lists(st.text(st.characters(), max_size=4), max_size=3))
def test_texts_have_equal_hashes_only_if_they_are_equal(one: list[str], other: list[str]) -> None:
    assert (text_hash(*one) == text_hash(*other)) == (one == other)


def test_neighbouring_texts_do_not_run_together() -> None:
    assert text_hash("ab", "c") != text_hash("a", "bc")
    assert len(text_hash("a")) == 16


def test_equal_values_have_equal_canonical_json() -> None:
    assert canonical({"b": [1, "ä"], "a": Path("x")}) == canonical({"a": Path("x"), "b": (1, "ä")}) == '{"a":"x","b":[1,"ä"]}'
