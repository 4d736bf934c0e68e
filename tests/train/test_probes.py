"""Each mistake that would train happily and teach nothing is refused before the first step, and the row is named."""

import pytest

from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded
from tunesmith.data.encoded_rows import EncodedRows
from tunesmith.models import toy
from tunesmith.train.probes import check_training_data, within_length

TOKENIZER = toy.byte_tokenizer()
END = TOKENIZER.eos_token_id
STOPS = frozenset({END})


def row(mask: str, last: int = END, name: str = "rows.jsonl:1", first: int = 9) -> Encoded:
    """A row whose mask is written as 0 and 1."""
    ids = (first, *range(10, 8 + len(mask)), last)[: len(mask)] if len(mask) > 1 else (last,)
    return Encoded(ids, tuple(c == "1" for c in mask), name)


GOOD = row("00011")


def refused(rows: list[Encoded], tokenizer: object = TOKENIZER) -> str:
    """What a person is told."""
    with pytest.raises(UserError) as caught:
        check_training_data(rows, tokenizer, STOPS)
    return str(caught.value)


def test_good_rows_pass() -> None:
    check_training_data([GOOD, row("01")], TOKENIZER, STOPS)
    check_training_data([row("11")], TOKENIZER, STOPS)  # one row alone may be all answer


def test_rows_without_targets() -> None:
    assert refused([row("0000"), row("000")]).startswith("none of the 7 training tokens counts")
    assert refused([GOOD, row("000", name="rows.jsonl:8")]).startswith("row rows.jsonl:8 has no token that counts")


def test_a_first_token_is_no_target_because_nothing_predicts_it() -> None:
    assert refused([GOOD, row("1", name="rows.jsonl:3")]).startswith("row rows.jsonl:3 has no token that counts")


def test_rows_that_are_all_target() -> None:
    assert refused([row("111"), row("1111")]).startswith("every training token counts, the prompts included")


def test_an_answer_must_end_in_a_stop_token_that_counts() -> None:
    message = refused([GOOD, row("0011", last=77, name="rows.jsonl:5")])
    assert message.startswith("row rows.jsonl:5 does not end in a stop token that counts")
    # The stop token is there and does not count: the mistake of collators that mask padding by its id.
    assert "never learn to stop" in refused([GOOD, row("0110", name="rows.jsonl:6")])


def test_two_opening_tokens() -> None:
    opened = toy.byte_tokenizer()
    opened.bos_token = "<|mask|>"
    bos = opened.bos_token_id
    once, twice = Encoded((bos, 9, END), (False, False, True), "a:1"), Encoded((bos, bos, END), (False, False, True), "a:2")
    check_training_data([once], opened, STOPS)
    assert refused([once, twice], opened).startswith("row a:2 begins with two opening tokens")


def test_long_rows_stop_the_run_or_are_dropped_and_never_cut() -> None:
    rows = EncodedRows(row("0" * (n - 1) + "1", name=f"rows.jsonl:{n}") for n in (3, 9, 5, 12))
    assert within_length(rows, 12, drop=False).tolist() == [True] * 4
    with pytest.raises(UserError) as caught:
        within_length(rows, 8, drop=False)
    assert str(caught.value) == (
        "2 of 4 rows are longer than max_length = 8 tokens (the longest, rows.jsonl:12, has 12)\n"
        "  Set --max_length 12, or --over_long drop to leave them out."
    )
    assert within_length(rows, 8, drop=True).tolist() == [True, False, True, False]
    with pytest.raises(UserError, match="all 4 rows are longer than max_length = 2 tokens"):
        within_length(rows, 2, drop=True)
