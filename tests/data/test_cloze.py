"""Cloze patterns: the mask stands where the answer belongs, and only what a row brought is ever shortened."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import byte_pairs, wordpiece

from tunesmith.core.errors import UserError
from tunesmith.data.cloze import Pattern
from tunesmith.models.toy import byte_tokenizer

BERT = wordpiece()
BYTES = byte_pairs()


def tokens(ids: tuple[int, ...], tokenizer: object = BERT) -> str:
    """Ids as their tokens, spaces between."""
    return " ".join(tokenizer.convert_ids_to_tokens(list(ids)))


def error_of(work: Callable[[], object]) -> str:
    """What a person reads."""
    with pytest.raises(UserError) as caught:
        work()
    return str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "read", "text"),
    [
        ("{text} It was {answer}.", "[CLS] the film it was [MASK] . [SEP]", "The film It was [MASK]."),
        ("Just {answer}! {text}", "[CLS] just [MASK] ! the film [SEP]", "Just [MASK]! The film"),
        ("{answer}: {text}", "[CLS] [MASK] : the film [SEP]", "[MASK]: The film"),
        ("{text} was\n{answer}", "[CLS] the film was [MASK] [SEP]", "The film was [MASK]"),
        ("{text}. {answer}, {text}", "[CLS] the film . [MASK] , the film [SEP]", "The film. [MASK], The film"),
    ],
)
def test_the_mask_stands_where_the_answer_belongs(pattern: str, read: str, text: str) -> None:
    cloze = Pattern(pattern).render(BERT, {"text": "The film", "label": "x"}, 32)
    assert tokens(cloze.ids) == read
    assert cloze.text == text
    assert [cloze.ids[i] for i in cloze.at] == [BERT.mask_token_id]
    assert cloze.shortened == 0


def test_a_mask_that_a_row_brings_is_text() -> None:
    cloze = Pattern("{text} It was {answer}.").render(BERT, {"text": "so [MASK]"}, 32)
    assert tokens(cloze.ids) == "[CLS] so [ mask ] it was [MASK] . [SEP]"
    assert cloze.at == (7,)


@given(
    st.lists(st.sampled_from(["film", "plot", "unfavorable", "so", "films"]), max_size=20).map(" ".join),
    st.lists(st.sampled_from(["good", "bad", "it"]), max_size=20).map(" ".join),
    st.integers(10, 40),
    st.integers(1, 3),
)
def test_only_fields_are_shortened_and_no_more_than_they_must(first: str, second: str, longest: int, masks: int) -> None:
    pattern = Pattern("{a} all {answer}. {b} the sum")
    whole = pattern.render(BERT, {"a": first, "b": second}, 10_000, masks)
    cloze = pattern.render(BERT, {"a": first, "b": second}, longest, masks)
    assert len(cloze.ids) == min(longest, len(whole.ids))
    assert cloze.shortened == len(whole.ids) - len(cloze.ids)
    left, gap, right = tokens(cloze.ids).partition(" ".join(["[MASK]"] * masks))
    assert gap
    assert left.endswith("all ")
    assert left.startswith("[CLS] ")
    assert right.startswith(" .")
    assert right.endswith("the sum [SEP]")
    assert [cloze.ids[i] for i in cloze.at] == [BERT.mask_token_id] * masks
    # The text is what was read: its own tokens are the ids, unless a word was cut inside.
    if not any(token.startswith("##") for token in tokens(whole.ids).split()):
        assert tuple(BERT(cloze.text).input_ids) == cloze.ids
    # The longest field gives first, so afterwards no field is longer than another that gave.
    a, b = len(left.split()) - 2, len(right.split()) - 4
    if cloze.shortened and min(len(BERT.tokenize(first)), len(BERT.tokenize(second))) >= max(a, b):
        assert abs(a - b) <= 1


def test_bytes_of_one_character_stay_together() -> None:
    tokenizer = byte_tokenizer()
    pattern = Pattern("{text} It is {answer}.")
    cloze = pattern.render(tokenizer, {"text": "abcdefgh"}, 14)
    assert (cloze.text, len(cloze.ids), cloze.at, cloze.shortened) == ("abcdef It is <|mask|>.", 14, (12,), 2)
    cloze = pattern.render(tokenizer, {"text": "abcdeéf"}, 14)  # é is two bytes, of which only one would fit
    assert (cloze.text, len(cloze.ids), cloze.shortened) == ("abcde It is <|mask|>.", 13, 3)


def test_a_pattern_that_does_not_fit_is_an_error() -> None:
    message = error_of(lambda: Pattern("{text} It was {answer}.").render(BERT, {"text": "film"}, 5))
    assert message.startswith("the pattern '{text} It was {answer}.' has more tokens by itself than the 5 that the model reads")


def test_a_word_is_read_as_it_stands_in_the_gap() -> None:
    after_space, at_start = Pattern("{text} is {answer}"), Pattern("{answer}: {text}")
    assert tokens(after_space.word_ids(BYTES, ["great"])[0], BYTES) == "Ġgreat"
    assert tokens(at_start.word_ids(BYTES, ["great"])[0], BYTES) == "gr eat"
    assert after_space.single_ids(BYTES, ["great"]) == [BYTES.convert_tokens_to_ids("Ġgreat")]
    cloze = after_space.render(BYTES, {"text": "so"}, 20)
    # The mask takes the space before it with it, as it does in this family's own training.
    assert tuple(BYTES(cloze.text).input_ids) == cloze.ids


def test_words_that_one_mask_cannot_hold_are_named_with_their_pieces() -> None:
    pattern = Pattern("{text} It was {answer}.")
    message = error_of(lambda: pattern.single_ids(BERT, ["good", "unfavorable"]))
    assert message == (
        "the word 'unfavorable' is 4 tokens (un ##fav ##or ##able) to this model, and a mask holds one\n  Choose another word."
    )
    assert [len(ids) for ids in pattern.word_ids(BERT, ["good", "unfavorable"])] == [1, 4]
    assert pattern.single_ids(BYTES, ["great", "gr"]) == [BYTES.convert_tokens_to_ids(t) for t in ("Ġgreat", "Ġgr")]
    only_alone = error_of(lambda: pattern.single_ids(BYTES, ["eat"]))
    assert only_alone.startswith("the word 'eat' is 2 tokens after a space (Ġ eat) to this model")


def test_words_that_cannot_be_told_apart_or_are_not_known_are_errors() -> None:
    pattern = Pattern("{text} It was {answer}.")
    assert error_of(lambda: pattern.word_ids(BERT, ["Good", "good"])).startswith(
        "the words 'Good' and 'good' are the same to this model (good)"
    )
    assert error_of(lambda: pattern.word_ids(BERT, ["éclair"])).startswith("the word 'éclair' is not in the vocabulary")


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.mask_token = None
    message = error_of(lambda: Pattern("{text} is {answer}").render(tokenizer, {"text": "a"}, 9))
    assert message.startswith("this model's tokenizer has no mask token")


@pytest.mark.parametrize(
    ("pattern", "fields", "message"),
    [
        ("{text} is", None, "the pattern '{text} is' needs the slot {answer} exactly once"),
        ("{answer} {text} {answer}", None, "the pattern '{answer} {text} {answer}' needs the slot {answer} exactly once"),
        ("It is {answer}.", None, "the pattern 'It is {answer}.' needs a {field} of the rows"),
        ("{txt} {answer}", {"text": "a"}, "the pattern '{txt} {answer}' uses {txt}, which the row does not have"),
        ("{text} {answer}", {"text": None}, "'text' is null"),
    ],
)
def test_a_wrong_pattern_is_one_clear_line(pattern: str, fields: dict | None, message: str) -> None:
    assert error_of(lambda: Pattern(pattern).render(BERT, fields or {}, 9)).startswith(message)
