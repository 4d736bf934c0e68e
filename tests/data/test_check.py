"""The data x-ray counts what was put into the data, and nothing else."""

import json
import random
import time
from pathlib import Path

import pytest

from tunesmith.core.records import BadRow, Example
from tunesmith.data._overlap import NEAR, nearest, normalised
from tunesmith.data.check import DataCheck, as_dict, check, text_of
from tunesmith.data.check_text import render
from tunesmith.data.formats import read


def example(where: str, text: str, label: str | None = "a") -> Example:
    fields = {"text": text} | ({"label": label} if label is not None else {})
    return Example(json.dumps(fields), fields, where)


def split(name: str, *rows: tuple[str, str | None]) -> tuple[list[Example], list[BadRow], None]:
    return [example(f"{name}:{number}", text, label) for number, (text, label) in enumerate(rows, 1)], [], None


def sentences(seed: int, count: int, words: int = 20) -> list[str]:
    generator = random.Random(seed)
    vocabulary = [
        "".join(generator.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(generator.randint(2, 9))) for _ in range(4000)
    ]
    return [" ".join(generator.choice(vocabulary) for _ in range(words)) for _ in range(count)]


def test_duplicates_and_conflicts_ignore_case_and_white_space() -> None:
    checked = check("t", {"train": split("train", ("A  film", "x"), ("a film\n", "x"), ("a FILM", "y"), ("a filn", "x"))})
    train = checked.splits["train"]
    assert (train.rows, train.duplicates, train.conflicts) == (4, 1, 1)
    assert train.duplicate_rows == (("train:1", "train:2"),)
    assert train.conflict_rows == (("train:1", "train:3"),)
    assert train.labels == {"x": 3, "y": 1}
    assert "train: 1 text stands under more than one label." in checked.verdicts
    assert "train: 1 of 4 rows repeats an earlier row." in checked.verdicts


def test_a_prompt_with_two_answers_is_no_duplicate() -> None:
    def row(number: int, answer: str) -> Example:
        fields = {"prompt": "Name a colour.", "completion": answer}
        return Example(answer, fields, f"r:{number}")

    checked = check("t", {"train": ([row(1, "red"), row(2, "blue"), row(3, "red")], [], None)})
    assert checked.splits["train"].duplicate_rows == (("r:1", "r:3"),)
    assert checked.splits["train"].conflicts == 0


def test_clean_data_is_called_clean() -> None:
    texts = sentences(0, 60)
    checked = check(
        "t",
        {
            "train": split("train", *((t, "xy"[i % 2]) for i, t in enumerate(texts[:40]))),
            "test": split("test", *((t, "xy"[i % 2]) for i, t in enumerate(texts[40:]))),
        },
    )
    assert checked.verdicts == ()
    assert "Nothing was found wrong." in render(checked)


def test_leakage_between_train_and_test() -> None:
    texts = sentences(1, 300)
    train, test = texts[:200], texts[200:]
    test[3], test[50] = train[7].upper(), "  " + train[8].replace(" ", "\n")
    words = train[9].split()
    words[4] = "indeed"
    test[60] = " ".join(words)
    checked = check("t", {"train": split("train", *((t, "a") for t in train)), "test": split("test", *((t, "a") for t in test))})
    (overlap,) = checked.overlaps
    assert (overlap.split, overlap.other, overlap.rows, overlap.same, overlap.near) == ("test", "train", 100, 2, 1)
    assert [pair[:2] for pair in overlap.pairs] == [("test:4", "train:8"), ("test:51", "train:9"), ("test:61", "train:10")]
    assert overlap.pairs[2][2] >= NEAR
    assert checked.verdicts[0] == "2 of 100 test rows also stand in train and 1 more nearly does: their scores would be too good."


@pytest.mark.parametrize(
    ("same", "near", "sentence"),
    [
        (12, 0, "12 of 20 test rows also stand in train: their scores would be too good."),
        (1, 0, "1 of 20 test rows also stands in train: its score would be too good."),
        (0, 3, "3 of 20 test rows nearly stand in train: their scores would be too good."),
        (2, 2, "2 of 20 test rows also stand in train and 2 more nearly do: their scores would be too good."),
    ],
)
def test_the_leakage_sentence(same: int, near: int, sentence: str) -> None:
    texts = sentences(2, 40)
    train, test = texts[:20], texts[20:]
    test[:same] = train[:same]
    test[same : same + near] = [text + " x" for text in train[same : same + near]]
    checked = check("t", {"train": split("train", *((t, "a") for t in train)), "test": split("test", *((t, "a") for t in test))})
    assert checked.verdicts[0] == sentence


def brute_force(texts: list[str], references: list[str]) -> list[float]:
    """Best Jaccard of character 5-gram sets, by trying every pair."""

    def grams(text: str) -> set[str]:
        return {text[at : at + 5] for at in range(max(1, len(text) - 4))} if text else set()

    sets = [grams(reference) for reference in references]
    return [max((len(grams(t) & s) / len(grams(t) | s) for s in sets if s), default=0.0) if t else 0.0 for t in texts]


def test_near_duplicates_agree_with_brute_force() -> None:
    generator = random.Random(3)
    references = [text for words in (1, 2, 4, 8, 16, 30) for text in sentences(words, 40, words)]
    asked = []
    for _ in range(400):
        words = generator.choice(references).split()
        for _ in range(generator.randint(0, 3)):
            words[generator.randrange(len(words))] = generator.choice(["indeed", "x", "film"])
        asked.append(" ".join(words))
    asked += ["", "a", "abcd"]
    expected, found = brute_force(asked, references), nearest(asked, references)
    assert 100 < sum(best >= NEAR for best in expected) < 390
    for best, match in zip(expected, found, strict=True):
        assert (match is not None) == (best >= NEAR)
        assert match is None or match[1] == pytest.approx(best, abs=1e-12)


def test_a_hand_counted_similarity() -> None:
    # "abcdefghij" has the six 5-grams abcde..fghij; one letter more adds ghijk: 6 shared of 7.
    assert nearest(["abcdefghijk"], ["zzzzzzzzzz", "abcdefghij"]) == [(1, pytest.approx(6 / 7))]
    assert nearest(["abcdefghijk"], ["abcdefghij"], threshold=0.86) == [None]
    assert nearest(["anything"], []) == [None]


def test_unrelated_texts_are_not_near() -> None:
    assert nearest(sentences(5, 200), sentences(6, 500)) == [None] * 200


def test_ten_thousand_against_a_thousand_is_a_matter_of_seconds() -> None:
    references, asked = sentences(7, 10_000), sentences(8, 1000)
    asked[10] = references[77] + " x"
    start = time.process_time()
    found = nearest(asked, references)
    assert time.process_time() - start < 8
    assert [at for at, match in enumerate(found) if match] == [10]


def test_normalisation() -> None:
    assert normalised("  Straße\tＡ\n ") == "strasse a"
    assert normalised("a b") != normalised("ab")


def test_lengths_are_nearest_rank_quantiles_in_the_given_unit() -> None:
    rows = split("train", *(("w " * n, "a" if n % 2 else "b") for n in range(1, 101)))
    lengths = (
        check("t", {"train": rows}, tokens_of=lambda e: len(e.fields["text"].split()), max_length=90).splits["train"].lengths
    )
    assert lengths is not None
    assert (lengths.unit, lengths.minimum, lengths.median, lengths.p95, lengths.p99, lengths.maximum) == (
        "tokens",
        1,
        50,
        95,
        99,
        100,
    )
    assert (lengths.limit, lengths.over, lengths.over_rows[0], len(lengths.over_rows)) == (90, 10, "train:91", 10)
    assert sum(lengths.bins) == 100
    # 100 lengths in at most 24 bins of equal whole width: 20 bins of 5.
    assert lengths.bins == (5,) * 20
    letters = check("t", {"train": rows}, max_length=90).splits["train"].lengths
    assert letters is not None
    assert (letters.unit, letters.maximum, letters.limit, letters.over) == ("characters", 200, None, 0)


def test_labels_are_judged() -> None:
    texts = sentences(9, 120)
    train = split("train", *((t, "common" if i < 96 else "rare" if i < 99 else "other") for i, t in enumerate(texts[:110])))
    test = split("test", *((t, label) for t, label in zip(texts[110:], ["common", "new", None, *["common"] * 7], strict=True)))
    said = check("t", {"train": train, "test": test}).verdicts
    assert "train: always answering 'common' would be right in 87% of the rows; judge by macro-F1." in said
    assert "train: there are fewer than 10 rows for 'rare'." in said
    assert "test: the training rows never show 'new'." in said
    assert "test: 1 of 10 rows has no label." in said
    assert not any("fewer than 10" in sentence for sentence in said if sentence.startswith("test"))
    one = check("t", {"train": split("train", *((t, "a") for t in texts))}).verdicts
    assert one == ("train: every row has the label 'a', so there is nothing to tell apart.",)


def test_the_text_of_a_row() -> None:
    turns = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}, {"role": "user", "content": "sure?"}]
    assert text_of(Example("", {"messages": [*turns, {"role": "assistant", "content": "yes"}]}, "")) == "2+2?\n4\nsure?"
    assert text_of(Example("", {"prompt": turns[:1], "completion": turns[1:2]}, "")) == "2+2?"
    assert text_of(Example("", {"prompt": "p", "chosen": "c", "rejected": "r"}, "")) == "p"
    assert text_of(Example("", {"premise": "p", "label": "1"}, "")) == '{"premise":"p"}'


@pytest.fixture
def movies(tmp_path: Path) -> DataCheck:
    texts = sentences(11, 60)
    lines = [json.dumps({"review": t, "sentiment": ["good", "中立的な評価", "very " * 20][i % 3]}) for i, t in enumerate(texts)]
    (tmp_path / "train.jsonl").write_text("\n".join([*lines[:50], "{broken \x1b[31m", '{"review": ""}']), encoding="utf-8")
    (tmp_path / "test.jsonl").write_text("\n".join([*lines[50:], lines[0]]), encoding="utf-8")
    return check("movies", {s: read(tmp_path / f"{s}.jsonl", skip_bad_rows=True) for s in ("train", "test")}, max_length=5)


def test_rendering_fits_a_terminal(movies: DataCheck) -> None:
    from unicodedata import east_asian_width

    text = render(movies)
    for line in text.splitlines():
        assert sum(2 if east_asian_width(c) in "WF" else 1 for c in line) <= 80 or "/" in line, line
        assert line.isprintable(), line
    assert "train.jsonl:51: not valid JSON" in text
    assert "text is 'review', label is 'sentiment'" in text
    assert "test.jsonl:11 = train.jsonl:1" in text
    assert "1 of 11 test rows also stands in train: its score would be too good." in text.replace("\n    ", " ")
    assert "█" in text


def test_many_labels_are_cut_to_the_largest() -> None:
    rows = [(f"text {i} {j}", f"label {i:02}") for i in range(30) for j in range(i + 1)]
    text = render(check("t", {"train": split("train", *rows)}))
    assert "label 29" in text
    assert "label 17" not in text
    assert "and 18 more labels of 1 to 18 rows each" in text


def test_the_dictionary_is_json_and_holds_everything(movies: DataCheck) -> None:
    values = json.loads(json.dumps(as_dict(movies)))
    assert values["splits"]["train"]["bad"] == 2
    assert values["splits"]["train"]["bad_rows"][0]["where"] == "train.jsonl:51"
    assert values["overlaps"][0]["same"] == 1
    assert values["verdicts"] == list(movies.verdicts)
    assert values["splits"]["test"]["mapping"] == {"text": "review", "label": "sentiment"}


def test_no_rows_at_all() -> None:
    checked = check("t", {"train": ([], [], None), "test": split("test", ("a", None))})
    assert checked.splits["train"].lengths is None
    assert render(checked).startswith("t: 0 train + 1 test rows\n")
