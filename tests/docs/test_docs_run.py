"""The documentation is true: its blocks run, its commands are accepted, its flags exist and its links lead somewhere.

A fenced block of README.md or docs/ is run, in order and in one empty folder a page, unless its first line says `no-run`:

    bash       by bash, which stops at the first failure
    console    each line after "$ " by bash; the lines below it must be found, in order, in what it prints ("..." = anything)
    python     by a fresh interpreter

A block whose first line names a file ("```yaml mine.yaml") is written to that file instead. Commands and flags in
`no-run` blocks and in the text are checked against the command line without being run.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tunesmith import cli
from tunesmith.core.errors import UserError
from tunesmith.core.registry import ALIGNERS, BASELINES, DEMONSTRATIONS, METRICS, PEFT, RECIPES, ROUTES, TRACKERS, TUNINGS
from tunesmith.data.task import DataSection, TaskFile
from tunesmith.recipes._align.health import RULES

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```[ ]*$", re.M | re.S)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, the other words of its first line, and its text."""

    where: str
    language: str
    words: tuple[str, ...]
    text: str

    @property
    def file(self) -> str | None:
        """Name of the file the block is, None for something to run."""
        return next((word for word in self.words if "." in word), None)

    @property
    def runs(self) -> bool:
        """Whether the block is to be run."""
        return self.language in ("bash", "console", "python") and not self.file and "no-run" not in self.words

    @property
    def shell(self) -> str:
        """The shell commands of the block."""
        if self.language == "console":
            return "\n".join(line[2:] for line in self.text.splitlines() if line.startswith("$ "))
        return self.text if self.language == "bash" else ""


def blocks(page: Path) -> list[Block]:
    """List the fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        language, *words = match[1].split() or [""]
        found.append(Block(f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}", language, tuple(words), match[2]))
    return found


def run_page(page: Path, folder: Path) -> int:
    """Run a page's blocks in an empty folder; fails at the first one that is not as the page says. Returns how many ran."""
    (folder / "bin").mkdir()
    command = folder / "bin" / "tunesmith"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m tunesmith "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    (folder / "here").mkdir()
    ran = 0
    for block in blocks(page):
        if block.file:
            (folder / "here" / block.file).write_text(block.text, encoding="utf-8")
        elif block.runs:
            run_block(block, folder)
            ran += 1
    return ran


def run_block(block: Block, folder: Path) -> None:
    """Run one block and compare what it shows with what it prints."""
    if block.language == "python":
        execute([sys.executable, "-c", block.text], block.where, folder)
    elif block.language == "bash":
        execute(["bash", "-euo", "pipefail", "-c", block.text], block.where, folder)
    else:
        for line, shown in sessions(block.text):
            printed = execute(["bash", "-c", line], f"{block.where}: {line}", folder)
            missing = not_printed(shown, printed)
            assert missing is None, f"{block.where}: {line}\ndoes not print\n{missing}\nbut\n{printed}"


def execute(arguments: list[str], where: str, folder: Path) -> str:
    """Run a command, which must succeed, and return all it printed."""
    environment = {
        **os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY / "src"), "NO_COLOR": "1",
    }  # fmt: skip
    done = subprocess.run(
        arguments, cwd=folder / "here", env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, f"{where} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def no_python(text: str) -> str:
    """Say why a text is no Python; "" if it is."""
    try:
        compile(text, "", "exec")
    except SyntaxError as error:
        return str(error)
    return ""


def sessions(text: str) -> Iterator[tuple[str, list[str]]]:
    """Part a console block into commands and the lines shown below each."""
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        line, *shown = part.rstrip("\n").split("\n")
        yield line, [s for s in shown if s.strip()]


def not_printed(shown: list[str], printed: str) -> str | None:
    """Return the first shown line that is not printed after those before it, None where all are."""
    lines = iter(printed.splitlines())
    for line in shown:
        pattern = re.compile(".*".join(map(re.escape, line.strip().split("..."))))
        if line.strip() != "..." and not any(pattern.fullmatch(other.strip()) for other in lines):
            return line
    return None


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every `tunesmith ...` and `make ...` on a page that is not run anyway, as (place, words)."""
    texts = [(block.where, block.shell.replace("\\\n", " ")) for block in blocks(page) if not block.runs]
    texts += [(page.name, text) for text in INLINE.findall(FENCE.sub("", page.read_text(encoding="utf-8")))]
    for where, text in texts:
        for line in text.splitlines():
            try:
                words = shlex.split(line.replace(";", " ; "), comments=True)
            except ValueError:  # half a sentence, no command
                continue
            end = next((at for at, word in enumerate(words) if word in ("|", "||", "&&", ";", ">", "2>", "&")), len(words))
            if words[:1] in (["tunesmith"], ["make"]):
                yield where, words[:end]


def refused(words: list[str]) -> str:
    """Say why a command of the documentation would not be accepted; "" if it would."""
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.M)
    if words[0] == "make":
        wrong = [word for word in words[1:] if "=" not in word and word not in targets]
        return f"make has no target {wrong[0]}" if wrong else ""
    if len(words) == 1 or words[1] in ("--help", "--version", "help") or words[1].isupper() or "..." in words:
        return ""
    verb, rest = words[1], words[2:]
    if verb not in RECIPES.names():
        return f"there is no command {verb}"
    if not rest or "--help" in rest:
        return ""
    try:
        cli._configure(*cli._resolved(verb, rest))
    except UserError as error:
        return str(error)
    return ""


def flags_in_text(page: Path) -> set[str]:
    """Return the flags of tunesmith named in a page's text, without their dashes."""
    inline = INLINE.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    inline = [text for text in inline if not re.match(r"pytest |(python )?\S+\.py ", text)]
    return {flag.replace("-", "_") for text in inline for flag in re.findall(r"(?<![\w-])--([a-z][a-z0-9_.-]*)", text)}


def known_flags() -> set[str]:
    """Every flag of every command, in every spelling."""
    known = {"config", "set", "help", "version", *cli._SWITCHES, *cli._ALIASES}
    for verb in RECIPES.names():
        kinds = cli._kinds(RECIPES.get(verb).Config)
        known |= {*kinds, *(name.rpartition(".")[2] for name in kinds)}
    for part, room in (("peft", PEFT), ("method", ROUTES), ("method", ALIGNERS), ("objective", TUNINGS)):
        known |= {f"{part}.{key}" for name in room.names() for key in room.get(name).Parameters.model_fields}
    return known


def broken_links(page: Path) -> list[str]:
    """List the links of a page that lead nowhere in the repository; those to the web are not followed."""
    broken = []
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / path) if path else page
        if not file.exists() or (
            anchor and anchor not in map(_slug, HEADING.findall(FENCE.sub("", file.read_text(encoding="utf-8"))))
        ):
            broken.append(target)
    return broken


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def named(page: Path) -> str:
    """How a test calls a page."""
    return str(page.relative_to(REPOSITORY))


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if any(b.runs for b in blocks(p))], ids=named)
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    assert run_page(page, tmp_path) == sum(block.runs for block in blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_is_accepted(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        if block.file:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
    assert {f"{where}: {shlex.join(words)}": problem for where, words in commands(page) if (problem := refused(words))} == {}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_flag_and_link_exists(page: Path) -> None:
    assert flags_in_text(page) - known_flags() == set()
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_that_is_not_run_is_python(page: Path) -> None:
    assert {b.where: problem for b in blocks(page) if b.language == "python" and (problem := no_python(b.text))} == {}


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("docs/cli.md", RECIPES.names()),
        ("docs/ladder.md", [*ROUTES.names(), *BASELINES.names()]),
        ("docs/tasks.md", [*TaskFile.model_fields, *DataSection.model_fields, *METRICS.names()]),
        ("docs/methods/prompting.md", DEMONSTRATIONS.names()),
        ("docs/tracking.md", TRACKERS.names()),
        ("docs/methods/align.md", ALIGNERS.names()),
    ],
)
def test_a_reference_page_leaves_nothing_out(page: str, names: list[str]) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8").replace("-", "_")
    assert [name for name in names if f"`{name.replace('-', '_')}`" not in text] == []


def test_the_page_of_align_has_every_parameter_and_every_rule() -> None:
    text = (REPOSITORY / "docs/methods/align.md").read_text(encoding="utf-8")
    rows = []
    for name in ALIGNERS.names():
        for key, field in ALIGNERS.get(name).Parameters.model_fields.items():
            rows.append(f"| `{name}` | `{key}` | {'absent' if field.default is None else cli._shown(field.default)} | ")
    rows += [f"| `{rule}` | " for rule in RULES]
    assert [row for row in rows if f"\n{row}" not in text] == []


BAD = """
# A page
[gone](nowhere.md) [there](#a-page) [not there](#b-page) [web](https://example.com) `--routs` `--routes`
`tunesmith lader movies` `tunesmith ladder movies --ranks x` `make tea` `make test`

```console
$ printf 'one\\ntwo 2.5 s\\n'
two ... s
one
```
"""


def test_what_is_wrong_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(BAD, encoding="utf-8")
    assert broken_links(page) == ["nowhere.md", "#b-page"]
    assert flags_in_text(page) - known_flags() == {"routs"}
    assert [bool(refused(words)) for _, words in commands(page)] == [True, True, True, False]
    with pytest.raises(AssertionError, match=r"does not print\s+one\s+but"):
        run_page(page, tmp_path)


def test_a_block_that_fails_is_seen_and_one_marked_so_is_not_run(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```bash no-run\nexit 3\n```\n```yaml a.yaml\nkey: 1\n```\n```bash\ncat a.yaml\nexit 4\n```\n", encoding="utf-8"
    )
    with pytest.raises(AssertionError, match=r"page.md:7 ended with 4:\s+key: 1"):
        run_page(page, tmp_path)
