"""The conventions: which parts each has, and the column names they go by."""

from __future__ import annotations

from dataclasses import dataclass

_TEXT, _TURNS, _OBJECT = frozenset({"text"}), frozenset({"turns", "rated turns"}), frozenset({"object"})
_SCALAR = frozenset({"text", "number", "truth"})
_LIST = frozenset({"list"})
_NUMBER = frozenset({"number", "text"})  # a CSV file has its numbers as text


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a convention: its canonical name, the column names it goes by (best first), and the kinds of value it takes."""

    name: str
    columns: tuple[str, ...]
    kinds: frozenset[str]
    required: bool = True


_PLAIN = (
    "text", "sentence", "review", "content", "comment", "tweet", "message", "document", "headline", "title", "body", "utterance",
    "snippet", "phrase", "question", "query", "prompt", "input",
)  # fmt: skip
_SYSTEM = Part("system", ("system", "system_prompt"), _TEXT, required=False)
_QUESTION = ("prompt", "question", "instruction", "query", "input")
_ANSWER = ("completion", "response", "answer", "output")
_ANSWERS = Part("completions", ("completions", "responses", "answers", "candidates"), _LIST)
_ASKED = Part("prompt", _QUESTION, _TEXT | _TURNS)
_JUDGE = Part("judge", ("judge", "annotator", "annotator_hash", "worker", "labeler", "rater", "user_id"), _SCALAR, required=False)
_GROUP = ("group", "group_id", "prompt_id", "ranking_id", "question_id")
# Judgements of completions, in order of precedence among themselves; `_judgements` says what each means.
JUDGEMENTS: dict[str, tuple[Part, ...]] = {
    "preference": (
        Part("prompt", _QUESTION, _TEXT | _TURNS | _OBJECT, required=False),
        Part("chosen", ("chosen", "preferred_output"), _TEXT | _TURNS),
        Part("rejected", ("rejected", "non_preferred_output"), _TEXT | _TURNS),
        Part("score_chosen", ("score_chosen", "chosen_score", "chosen_rating", "chosen-rating"), _NUMBER, False),
        Part("score_rejected", ("score_rejected", "rejected_score", "rejected_rating", "rejected-rating"), _NUMBER, False),
        _JUDGE,
    ),
    "arena": (
        Part("a", ("conversation_a",), _TURNS),
        Part("b", ("conversation_b",), _TURNS),
        Part("verdict", ("winner",), _TEXT),
        _JUDGE,
    ),
    "verdict": (
        _ASKED,
        Part("a", ("a", "completion_a", "response_a", "answer_a"), _TEXT | _TURNS),
        Part("b", ("b", "completion_b", "response_b", "answer_b"), _TEXT | _TURNS),
        Part("verdict", ("verdict", "judgement", "judgment", "winner", "preference"), _TEXT),
        _JUDGE,
    ),
    "ranking": (_ASKED, _ANSWERS, Part("ranks", ("ranks", "ranking", "rank"), _LIST), _JUDGE),
    "scores": (_ASKED, _ANSWERS, Part("scores", ("scores", "ratings", "rewards"), _LIST), _JUDGE),
    "best_of": (_ASKED, _ANSWERS, Part("best", ("best", "best_index"), _NUMBER), _JUDGE),
    "best_of_four": (
        _ASKED,
        *(Part(name, (name,), _TEXT) for name in ("sample0", "sample1", "sample2", "sample3")),
        Part("best", ("best",), _NUMBER),
        _JUDGE,
    ),
    "judged": (
        Part("prompt", (*_QUESTION, "text"), _TEXT | _TURNS),
        Part("completions", (*_ANSWERS.columns, "replies"), frozenset({"judged"})),
        _JUDGE,
    ),
    "named_ranking": (_ASKED, Part("ranks", ("ranking", "ranks", "rank"), frozenset({"named ranks"})), _JUDGE),
    "unpaired": (
        _ASKED,
        Part("input", ("input", "context"), _TEXT, required=False),
        Part("completion", _ANSWER, _TEXT | _TURNS),
        Part("label", ("kto_tag", "label"), _SCALAR),
        _JUDGE,
    ),
    "rated_chat": (
        Part("messages", ("messages", "conversations", "conversation"), _TURNS),
        Part("label", ("kto_tag", "label"), frozenset({"truth"})),
        _SYSTEM,
        _JUDGE,
    ),
    "rated_turns": (Part("messages", ("messages", "conversations", "conversation"), frozenset({"rated turns"})), _SYSTEM, _JUDGE),
    "ranked_row": (
        Part("group", _GROUP, _SCALAR),
        _ASKED,
        Part("completion", _ANSWER, _TEXT | _TURNS),
        Part("rank", ("rank",), _NUMBER),
        _JUDGE,
    ),
}  # fmt: skip
# Only where judgements are asked for: elsewhere a score beside an answer is a remark.
JUDGED_ROWS: dict[str, tuple[Part, ...]] = {
    "rated_row": (
        _ASKED,
        Part("completion", _ANSWER, _TEXT | _TURNS),
        Part("rating", ("rating", "score", "overall_score", "reward", "stars"), _NUMBER),
        Part("group", _GROUP, _SCALAR, required=False),
        _JUDGE,
    ),
}
# In order of precedence: the first convention whose required parts are all there is the file's.
CONVENTIONS: dict[str, tuple[Part, ...]] = {
    **JUDGEMENTS,
    "messages": (Part("messages", ("messages",), _TURNS), _SYSTEM),
    "sharegpt": (Part("messages", ("conversations", "conversation"), _TURNS), _SYSTEM),
    "alpaca": (
        Part("instruction", ("instruction",), _TEXT),
        Part("input", ("input", "context"), _TEXT, required=False),
        Part("output", ("output", "response"), _TEXT),
        _SYSTEM,
        Part("history", ("history",), frozenset({"list", "text"}), required=False),
    ),
    "prompt_completion": (
        Part("prompt", _QUESTION, _TEXT | _TURNS),
        Part("completion", ("completion", "response", "answer", "output", "target"), _TEXT | _TURNS),
    ),
    "token_tags": (Part("tokens", ("tokens", "words"), _LIST), Part("tags", ("tags", "ner_tags", "pos_tags"), _LIST)),
    "span_answers": (
        Part("context", ("context", "passage"), _TEXT),
        Part("question", ("question", "query"), _TEXT),
        Part("answers", ("answers",), frozenset({"answers"})),
    ),
    "text_label": (
        Part("text", _PLAIN, _TEXT),
        Part(
            "label",
            ("label", "labels", "category", "target", "class", "sentiment", "intent", "topic", "emotion", "label_text",
             "label_name", "gold", "polarity", "rating", "stars"),
            _SCALAR,
        ),
    ),
    "text_labels": (Part("text", _PLAIN, _TEXT), Part("labels", ("labels", "categories", "topics", "label"), _LIST)),
    "text": (Part("text", ("text", "content", "document"), _TEXT),),
    "columns": (),
    **JUDGED_ROWS,
}  # fmt: skip
# Beside a question and its answer these carry meaning that {prompt, completion} would lose.
EVIDENCE = {"context", "passage", "document", "text", "choices", "options", "article"}
# Beside a text these carry nothing to learn from.
ABOUT = {"id", "idx", "url", "source", "meta", "metadata", "date", "timestamp", "lang", "language"}
