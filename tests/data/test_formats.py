"""Every convention in every container, and everything that can be wrong with a file."""

import contextlib
import csv
import gzip
import io
import json
import tracemalloc
from pathlib import Path

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tunesmith.core.errors import UserError
from tunesmith.core.records import BadRow, Example
from tunesmith.data import _readers, formats
from tunesmith.data.formats import label_text, read, rows, sniff

USER, ANSWER = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4, «vier»\nand 四"}
WORSE = {"role": "assistant", "content": "5"}
# Per convention: rows as people write them, and the canonical fields of the first.
SAMPLES = {
    "messages": ({"messages": [USER, ANSWER]}, {"messages": [USER, ANSWER]}),
    "sharegpt": (
        {
            "conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": ANSWER["content"]}],
            "system": "Be short.",
        },
        {"messages": [{"role": "system", "content": "Be short."}, USER, ANSWER]},
    ),
    "alpaca": (
        {"instruction": "Add.", "input": "2+2", "output": "4", "system": "", "history": [["Hi", "Hello"]]},
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
                {"role": "user", "content": "Add.\n2+2"},
                {"role": "assistant", "content": "4"},
            ]
        },
    ),
    "prompt_completion": ({"prompt": "2+2=", "completion": " 4"}, {"prompt": "2+2=", "completion": " 4"}),
    "preference": (
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]},
    ),
    "text_label": (
        {"sentence": 'A "good", film\nindeed', "sentiment": "pos", "id": "r1"},
        {"text": 'A "good", film\nindeed', "label": "pos", "id": "r1"},
    ),
    "text": ({"text": "Once upon a time, «四»"}, {"text": "Once upon a time, «四»"}),
    "columns": ({"premise": "a", "hypothesis": "b, c"}, {"premise": "a", "hypothesis": "b, c"}),
}


def write(path: Path, records: list[dict]) -> Path:
    """Write rows as the container that the name asks for."""
    suffix = path.name.partition(".")[2]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if suffix == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif suffix in ("csv", "tsv"):
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, records[0], delimiter="\t" if suffix == "tsv" else ",")
            writer.writeheader()
            for record in records:
                writer.writerow({k: v if isinstance(v, str) else json.dumps(v) for k, v in record.items()})
    else:
        text = {"json": json.dumps(records, indent=1), "data.json": json.dumps({"n": 1, "data": records})}.get(suffix, lines)
        path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "json", "data.json", "csv", "tsv", "parquet"])
@pytest.mark.parametrize("convention", SAMPLES)
def test_every_convention_reads_the_same_from_every_container(tmp_path: Path, convention: str, suffix: str) -> None:
    raw, expected = SAMPLES[convention]
    path = write(tmp_path / f"rows.{suffix}", [raw, raw])
    examples, bad, sniffed = read(path)
    assert (sniffed.convention, bad) == (convention, [])
    assert [dict(example.fields) for example in examples] == [expected, expected]
    reference = read(write(tmp_path / "reference.jsonl", [raw]))[0][0]
    assert examples[0].id == examples[1].id == reference.id
    assert sniffed.container == suffix.replace("data.", "")


def test_the_id_depends_on_the_content_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "x", "label": 1}, {"label": 1.0, "text": "x"}, {"text": "x", "label": 2}])
    first, again, other = read(path)[0]
    assert first.id == again.id != other.id
    assert [e.where for e in (first, again, other)] == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"]


def test_openai_preferences_and_content_parts(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "4, «vier»"}, {"type": "text", "text": "\nand 四"}]
    row = {
        "input": {"messages": [USER], "tools": []},
        "preferred_output": [{"role": "assistant", "content": parts}],
        "non_preferred_output": [WORSE],
    }
    examples, _, sniffed = read(write(tmp_path / "p.jsonl", [row]))
    assert sniffed.mapping == {"prompt": "input", "chosen": "preferred_output", "rejected": "non_preferred_output"}
    assert dict(examples[0].fields) == {"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"chosen": "Q: why? A: because of the rain", "rejected": "Q: why? A: because"},
            {"prompt": "Q: why? A:", "chosen": " because of the rain", "rejected": " because"},
        ),
        (
            {"chosen": "\n\nHuman: Hi\n\nAssistant: I see you", "rejected": "\n\nHuman: Hi\n\nAssistant: I say no"},
            {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " I see you", "rejected": " I say no"},
        ),
        ({"chosen": [USER, ANSWER], "rejected": [USER, WORSE]}, {"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]}),
    ],
)
def test_an_implicit_prompt_is_the_common_beginning_and_is_announced(tmp_path: Path, row: dict, expected: dict) -> None:
    examples, _, sniffed = read(write(tmp_path / "p.jsonl", [row]))
    assert dict(examples[0].fields) == expected
    assert "no prompt column" in sniffed.warnings[0]


def test_ultrafeedback_repeats_its_prompt_inside_the_answers(tmp_path: Path) -> None:
    row = {"prompt": "2+2?", "chosen": [USER, ANSWER], "rejected": [USER, WORSE], "score_chosen": 9.0, "score_rejected": 2}
    examples, _, sniffed = read(write(tmp_path / "p.jsonl", [row]))
    assert dict(examples[0].fields) == {"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE], "ratings": [9.0, 2.0]}
    assert sniffed.warnings == ()


@pytest.mark.parametrize(
    ("row", "convention"),
    [
        ({"question": "q", "answer": "a"}, "prompt_completion"),
        ({"input": "q", "target": "a"}, "prompt_completion"),
        ({"instruction": "i", "context": "", "response": "r", "category": "qa"}, "alpaca"),
        ({"context": "c", "question": "q", "answer": "a"}, "columns"),
        ({"prompt": "p", "completion": "c", "label": True}, "unpaired"),
        ({"tokens": ["a"], "labels": [1]}, "columns"),
        ({"premise": "p", "hypothesis": "h", "label": 1}, "columns"),
        ({"text": "t", "summary": "s"}, "columns"),
        ({"text": "t", "url": "u"}, "text"),
        ({"Review": "t", " Stars ": 5}, "text_label"),
        ({"question": "q", "category": "c"}, "text_label"),
        ({"text": "t", "label": True}, "text_label"),
    ],
)
def test_precedence_of_conventions(tmp_path: Path, row: dict, convention: str) -> None:
    assert sniff(write(tmp_path / "r.jsonl", [row])).convention == convention


def test_the_mapping_overrides_the_guess(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [{"prompt": "p", "completion": "c", "kind": "k"}])
    assert sniff(path).convention == "prompt_completion"
    examples, _, sniffed = read(path, mapping={"text": "prompt", "label": "kind"})
    assert dict(examples[0].fields) == {"text": "p", "label": "k", "completion": "c"}
    assert sniffed.mapping == {"text": "prompt", "label": "kind"}
    assert dict(read(path, mapping={"premise": "prompt"})[0][0].fields)["premise"] == "p"
    assert sniff(path, convention="columns").convention == "columns"
    with pytest.raises(UserError, match=r"no column 'promt'.*\n.*'prompt'"):
        sniff(path, {"text": "promt"})
    with pytest.raises(UserError, match="'text_label' needs a column for 'label'"):
        sniff(path, convention="text_label")
    with pytest.raises(UserError, match=r"unknown convention 'alpacca'\n.*'alpaca'"):
        sniff(path, convention="alpacca")


def test_a_mapping_hides_no_column_silently(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [{"text": "long", "title": "short", "label": "k"}])
    examples, _, sniffed = read(path, mapping={"text": "title"})
    assert dict(examples[0].fields) == {"text": "short", "label": "k"}
    assert sniffed.warnings == ("the column 'text' is not used, because 'title' is read as 'text'",)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1.0, "1"),
        ("1.0", "1"),
        (-2.0, "-2"),
        (2.5, "2.5"),
        (True, "true"),
        ("False", "false"),
        (" p ", "p"),
        ("v1.0",) * 2,
    ],
)
def test_labels_are_the_same_text_from_every_container(value: object, text: str) -> None:
    assert label_text(value) == text


# One broken row each, with a word of the reason it must be given.
BROKEN_TEXT_LABEL = [
    (b"{oops}", "not valid JSON"),
    (b'{"text": "a", "label": "x"', "not valid JSON"),
    (b"[1, 2]", "a list"),
    (b"null", "null"),
    (b"7", "a number"),
    (b'{"text": "a"}', "no 'label'"),
    (b'{"text": "a", "label": null}', "label is empty"),
    (b'{"text": "a", "label": "  "}', "label is empty"),
    (b'{"text": "a", "label": ["x"]}', "a list"),
    (b'{"text": "", "label": "x"}', "'text' is empty"),
    (b'{"text": 3, "label": "x"}', "must be text, and is a number"),
    (b'{"text": null, "label": "x"}', "null"),
    (b'{"text": "a", "label": NaN}', "NaN"),
    (b'{"text": "a", "label": 1e999}', "infinite"),
    (b'{"text": "a", "text": "b", "label": "x"}', "stands twice"),
    (b'{"text": "a\\ud800", "label": "x"}', "surrogate"),
    (b'{"text": "caf\xe9", "label": "x"}', "not UTF-8"),
    (b'{"text": "a", "label": ' + b"9" * 5000 + b"}", "digits"),
    (b'{"text": "a", "label": "x", "more": ' + b"[" * 80 + b"]" * 80 + b"}", "nested"),
    (b"[" * 100_000, "nested"),
    ('{"text": "a", "label": "x"}'.encode("utf-16-le"), "not valid JSON"),
    (b'{"text": "' + b"a" * (17 << 20) + b'", "label": "x"}', "longer than 16 MB"),
]


@pytest.mark.parametrize(("line", "reason"), BROKEN_TEXT_LABEL, ids=[r for _, r in BROKEN_TEXT_LABEL])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_broken_line_is_reported_and_its_neighbours_are_kept(tmp_path: Path, line: bytes, reason: str, end: bytes) -> None:
    good = b'{"text": "fine", "label": "x"}'
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + end.join([good, b"  ", line, good, good]))
    kept, lost, good_again, last = rows(path)
    assert isinstance(lost, BadRow)
    assert lost.where == "r.jsonl:3"
    assert reason in lost.reason
    assert len(lost.excerpt) <= 120
    assert lost.excerpt.isprintable()
    assert [e.where for e in (kept, good_again, last)] == ["r.jsonl:1", "r.jsonl:4", "r.jsonl:5"]


@pytest.mark.parametrize(
    ("convention", "row", "reason"),
    [
        ("messages", {"messages": [USER]}, "no turn is the assistant's"),
        ("messages", {"messages": []}, "list of turns"),
        ("messages", {"messages": [USER, {"role": "robot", "content": "x"}]}, "turn 2 of 'messages' has the role 'robot'"),
        ("messages", {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [1]}]}, "tool calls"),
        ("messages", {"messages": [USER, {"role": "assistant", "content": " "}]}, "(assistant) is empty"),
        ("messages", {"messages": [USER, ANSWER | {"weight": 0}]}, "weight 0"),
        ("messages", {"messages": [USER, ANSWER | {"weight": 0.5}]}, "expected 0 or 1"),
        ("messages", {"messages": [USER, "hello"]}, "must be an object"),
        ("alpaca", {"instruction": "i", "input": "", "output": "", "history": []}, "'output' is empty"),
        ("alpaca", {"instruction": "i", "input": "", "output": "o", "history": [["a"]]}, "pairs"),
        ("prompt_completion", {"prompt": "p", "completion": ""}, "'completion' is empty"),
        ("prompt_completion", {"prompt": "p"}, "no 'completion'"),
        ("preference", {"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER]}, "the same"),
        ("preference", {"prompt": [USER], "chosen": [USER], "rejected": [ANSWER]}, "last turn of 'chosen'"),
        ("preference", {"chosen": [ANSWER], "rejected": [WORSE]}, "'prompt' is missing"),
    ],
)
def test_a_row_that_breaks_its_convention_says_what_was_expected(tmp_path: Path, convention: str, row: dict, reason: str) -> None:
    good = SAMPLES[convention][0]
    path = write(tmp_path / "r.jsonl", [good, row, good])
    examples, bad, sniffed = read(path, skip_bad_rows=True)
    assert (sniffed.convention, len(examples)) == (convention, 2)
    assert bad[0].where == "r.jsonl:2"
    assert reason in bad[0].reason


def test_weight_zero_is_kept_and_weight_one_is_the_default(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [{"messages": [USER, WORSE | {"weight": 0}, USER, ANSWER | {"weight": 1}]}])
    assert read(path)[0][0].fields["messages"] == [USER, WORSE | {"weight": 0}, USER, ANSWER]


def test_one_percent_broken_lines(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"row {i}", "label": i % 2}) for i in range(1000)]
    for i in range(0, 1000, 100):
        lines[i] = lines[i][: len(lines[i]) // 2]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"10 of 1,000 rows in {path} cannot be used\n  train.jsonl:1: not valid JSON")
    assert message.count("train.jsonl:") == 3
    assert "--skip_bad_rows" in caught.value.fix
    examples, bad, _ = read(path, skip_bad_rows=True)
    assert [row.where for row in bad] == [f"train.jsonl:{i + 1}" for i in range(0, 1000, 100)]
    assert len(examples) == 990


def test_csv_keeps_line_numbers_across_quoted_newlines_and_survives_stray_quotes(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(
        b'text,label\r\n"one ""1""\r\nmore",a\r\n\r\n5" pipe,b\r\n"open,c\r\nfine,d\r\n"quo, ted",e\r\n'
        b'one,two,three\r\ncaf\xe9,f\r\n,g\r\n"end,h\r\nlast,i'
    )
    found = list(rows(path))
    good = {row.where: dict(row.fields) for row in found if isinstance(row, Example)}
    assert good == {
        "r.csv:2": {"text": 'one "1"\r\nmore', "label": "a"},
        "r.csv:5": {"text": '5" pipe', "label": "b"},
        "r.csv:7": {"text": "fine", "label": "d"},
        "r.csv:8": {"text": "quo, ted", "label": "e"},
        "r.csv:13": {"text": "last", "label": "i"},
    }
    bad = {row.where: row.reason for row in found if isinstance(row, BadRow)}
    assert list(bad) == ["r.csv:6", "r.csv:9", "r.csv:10", "r.csv:11", "r.csv:12"]
    assert "quotation mark" in bad["r.csv:6"]
    assert bad["r.csv:9"] == "3 columns, and the header has 2 (text, label)"
    assert "0xe9" in bad["r.csv:10"]
    assert bad["r.csv:11"] == "'text' is empty"
    assert bad["r.csv:12"] == "a quotation mark is opened and never closed"


def test_tsv_without_quoting_loses_no_row(tmp_path: Path) -> None:
    path = tmp_path / "r.tsv"
    path.write_text('text\tlabel\n"open\t1\nfine\t2\n"q" x\t3\nclose"\t4\n"two\nlines"\t5\n')
    assert [(e.fields["text"], e.where) for e in read(path)[0]] == [
        ('"open', "r.tsv:2"),
        ("fine", "r.tsv:3"),
        ('"q" x', "r.tsv:4"),
        ('close"', "r.tsv:5"),
        ("two\nlines", "r.tsv:6"),
    ]


def test_a_csv_may_use_semicolons_and_texts_of_a_megabyte(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text(f"text;label\n{'a, b ' * 200_000};pos\n")
    assert len(read(path)[0][0].fields["text"]) == 1_000_000


def test_parquet_numbers_rows_and_reads_missing_values_as_null(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", None, "c"], "label": [1.0, 0.0, float("nan")]}), path)
    examples, bad, _ = read(path, skip_bad_rows=True)
    assert dict(examples[0].fields) == {"text": "a", "label": "1"}
    assert [(row.where, row.reason) for row in bad] == [
        ("r.parquet:row 2", "'text' is null"),
        ("r.parquet:row 3", "the label is empty"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.jsonl", b"", "is empty"),
        ("e.jsonl", b"\xef\xbb\xbf \n\n", "is empty"),
        ("e.jsonl.gz", gzip.compress(b"", mtime=0), "is empty"),
        ("e.json", b"[]", "no row"),
        ("h.csv", b"text,label\n", "no row"),
        ("u.jsonl", '{"text": "a"}'.encode("utf-16"), "UTF-16"),
        ("u.csv", "text,label\na,b\n".encode("utf-16-le"), "UTF-16"),
        ("l.csv", "texté,label\na,b\n".encode("latin-1"), "l.csv:1 should hold the column names"),
        ("t.csv", b"text,text\na,b\n", "two columns are named 'text'"),
        ("w.bin", b"x", r"\.bin files"),
        ("w.pt", b"x", r"\.pt files"),
        ("rows.jsonl", b"\x80\x04\x95rest", "pickle"),
        ("rows.csv", b"PK\x03\x04rest", "zip"),
        ("rows.txt", b"hello\n", "ends in '.txt'"),
        ("cut.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 5000, mtime=0)[:-20], "damaged"),
        ("cut.parquet", b"PAR1 and no more", "damaged"),
        ("no.parquet", b"hello", "not a Parquet file"),
        ("b.json", b'[{"text": "a"},\n {"text": ]', "b.json:2 is not valid JSON"),
        ("b.json", b'{"a": [1], "b": [2]}', "2 lists"),
        ("b.json", b"[" * 100_000, "nested"),
        ("all.jsonl", b"oops\nand more\n", r"(?s)no row that can be used.*all.jsonl:1: not valid JSON"),
    ],
)
def test_a_file_that_holds_no_rows_is_a_user_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path / name, skip_bad_rows=True)


def test_missing_files_have_a_near_miss_and_folders_are_no_files(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"text": "a"}])
    with pytest.raises(UserError, match=r"no file .*trian.jsonl'\n.*Did you mean '.*/train.jsonl'"):
        read(tmp_path / "trian.jsonl")
    with pytest.raises(UserError, match=r"folder .*nowhere' does not exist"):
        read(tmp_path / "nowhere" / "a.jsonl")
    with pytest.raises(UserError, match=r"is a directory\n.*train.jsonl"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "container"),
    [
        ("a.json", '{"text": "a"}\n{"text": "b"}\n', "jsonl"),
        ("a.jsonl", '[{"text": "a"}, {"text": "b"}]', "json"),
        ("a.jsonl", '[\n{"text": "a"},\n{"text": "b"}\n]', "json"),
        ("a", '{"text": "a"}\n{"text": "b"}\n', "jsonl"),
        ("a.ndjson", '\ufeff{"text": "a"}\r\n{"text": "b"}', "jsonl"),
    ],
)
def test_the_content_corrects_the_suffix(tmp_path: Path, name: str, text: str, container: str) -> None:
    (tmp_path / name).write_text(text, newline="")
    examples, _, sniffed = read(tmp_path / name)
    assert sniffed.container == container
    assert [e.fields["text"] for e in examples] == ["a", "b"]


GOOD = b'{"text": "good one", "label": 1}'
good_line = st.builds(lambda i: json.dumps({"text": f"good {i}", "label": i % 3}).encode(), st.integers(0, 10**30))
json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
noise = st.one_of(
    st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")),
    json_value.map(lambda v: json.dumps(v).encode()),
    st.dictionaries(st.sampled_from(["text", "label", "messages", "prompt"]), json_value).map(lambda v: json.dumps(v).encode()),
    st.sampled_from([line for line, _ in BROKEN_TEXT_LABEL[:-2]]),
    st.sampled_from([b"", b"\xef\xbb\xbf", b"\r", b"\xff\xfe", b"\x00", b"-0", b"1e400", b'{"text": "x", "label": Infinity}']),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.booleans(), good_line, noise), max_size=12), st.sampled_from([b"\n", b"\r\n"]))
def test_fuzzed_lines_are_kept_or_reported_each_with_its_number(
    tmp_path: Path, plan: list[tuple[bool, bytes, bytes]], end: bytes
) -> None:
    lines = [GOOD] * 8 + [good if keep else bad for keep, good, bad in plan]
    path = tmp_path / "fuzz.jsonl"
    path.write_bytes(end.join(lines))
    examples, bad, _ = read(path, skip_bad_rows=True)
    kept, lost = {e.where for e in examples}, {row.where for row in bad}
    texts = [line.decode("utf-8", "replace").lstrip("\ufeff") for line in lines]
    blank = {f"fuzz.jsonl:{n}" for n, text in enumerate(texts, 1) if not text.strip()}
    assert kept.isdisjoint(lost)
    assert kept | lost | blank == {f"fuzz.jsonl:{n}" for n in range(1, len(lines) + 1)}
    assert {f"fuzz.jsonl:{n}" for n, (keep, _, _) in enumerate(plan, 9) if keep} <= kept
    assert all(row.reason and len(row.excerpt) <= 120 and row.excerpt.isprintable() for row in bad)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz", "a", "a.txt"]))
def test_random_bytes_never_raise_anything_but_a_user_error(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    examples: list[Example] = []
    with contextlib.suppress(UserError):
        examples, _, _ = read(tmp_path / name, skip_bad_rows=True)
    assert all(example.fields and example.where.startswith(f"{name}:") for example in examples)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text('ab",;\t\r\n é', max_size=12), max_size=8), st.sampled_from(["csv", "tsv"]))
def test_fuzzed_tables_keep_every_row_that_was_written_properly(tmp_path: Path, texts: list[str], suffix: str) -> None:
    # A cell with tabs and newlines at once reads, in a TSV, as rows that never quote; those are far more common.
    texts = ["first", *(text.replace("\t", " ") if suffix == "tsv" else text for text in texts)]
    path = write(tmp_path / f"t.{suffix}", [{"text": text, "label": "x"} for text in texts])
    examples, bad, _ = read(path, skip_bad_rows=True)
    assert [e.fields["text"] for e in examples] == [text for text in texts if text.strip()]
    assert len(examples) + len(bad) == len(texts)


def test_lines_do_not_depend_on_how_the_bytes_arrive() -> None:
    data = b'{"a": 1}\r\n\n\xff\xfe x\n' + b"y" * 5000 + b"\nlast"
    reference = list(_readers.lines(io.BytesIO(data)))
    assert [number for number, _, _ in reference] == [1, 2, 3, 4, 5]
    for size in (1, 2, 7, 4096):
        assert list(_readers.lines(io.BufferedReader(io.BytesIO(data), size))) == reference  # type: ignore[arg-type]


def test_rows_of_two_files_are_the_rows_of_their_concatenation(tmp_path: Path) -> None:
    lines = [GOOD + b"\n"] * 5 + [b"broken\n", b'{"text": "", "label": 1}\n'] + [GOOD + b"\n"] * 5
    path = tmp_path / "whole.jsonl"
    path.write_bytes(b"".join(lines))
    sniffed = sniff(path)
    whole = [type(row) for row in rows(path, sniffed)]
    for cut in range(1, len(lines)):
        halves = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
        halves[0].write_bytes(b"".join(lines[:cut]))
        halves[1].write_bytes(b"".join(lines[cut:]))
        assert [type(row) for half in halves for row in rows(half, sniffed)] == whole


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_reading_streams(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"big.{suffix}", [{"text": f"row {i} " + "word " * 80, "label": "x"} for i in range(12_000)])
    assert path.stat().st_size > 4_500_000
    sniffed = sniff(path)
    tracemalloc.start()
    count = sum(1 for _ in rows(path, sniffed))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 12_000
    assert peak < 500_000


def test_sniffing_reads_the_beginning_only(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes((GOOD + b"\n") * 200 + b'{"prompt": "p", "completion": "c"}\n' * 1000)
    assert formats.sniff(path).convention == "text_label"
