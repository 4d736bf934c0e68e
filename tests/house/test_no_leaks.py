"""No file of the repository names a developer's machine or a package index, and no test reaches the network."""

import re
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from sources import REPOSITORY

MACHINE = re.compile(r"(?<![\w.~-])/(?:work|root|home|Users)/\w")
INDEX = re.compile("|".join(re.escape(".".join(host)) for host in (
    ("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"), ("deb", "debian", "org"), ("anaconda", "org"),
)))  # fmt: skip


def leaks(files: Iterable[Path]) -> list[str]:
    """List lines that hold an absolute path of somebody's machine or a package index's host, as "file:line: what"."""
    found = []
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # a picture or an archive
        for number, line in enumerate(lines, 1):
            found += [f"{file.name}:{number}: {match[0]}" for p in (MACHINE, INDEX) for match in p.finditer(line)]
    return found


def repository_files() -> list[Path]:
    """Every file that is, or is about to be, in the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [path for name in listed.split("\0") if name and (path := REPOSITORY / name).is_file()]


def test_no_file_names_a_machine_or_an_index() -> None:
    files = repository_files()
    assert len(files) > 20
    assert leaks(files) == []


def test_each_leak_is_seen(tmp_path: Path) -> None:
    bad = tmp_path / "notes.md"
    bad.write_text("see /" + "root/x\nfine: example.com/home/page, ~/work/x, homework/y\nfrom https://pypi." + "org/simple\n")
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"\x89PNG\xff")
    assert leaks([bad, picture]) == ["notes.md:1: /" + "root/x", "notes.md:3: pypi." + "org"]


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_a_connection_that_leaves_the_machine_is_refused(method: str) -> None:
    # 192.0.2.1 is reserved for documentation and routed nowhere.
    with socket.socket() as outside, pytest.raises(PermissionError, match="offline"):
        getattr(outside, method)(("192.0.2.1", 80))


def test_a_connection_to_this_machine_is_allowed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=5) as client:
        assert client.getpeername() == server.getsockname()
