"""The conventions: which parts each has, and the column names they go by."""

from __future__ import annotations

from dataclasses import dataclass

_TEXT, _TURNS, _OBJECT = frozenset({"text"}), frozenset({"turns"}), frozenset({"object"})
_SCALAR = frozenset({"text", "number", "truth"})
_LIST = frozenset({"list"})


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
# In order of precedence: the first convention whose required parts are all there is the file's.
CONVENTIONS: dict[str, tuple[Part, ...]] = {
    "messages": (Part("messages", ("messages",), _TURNS), _SYSTEM),
    "sharegpt": (Part("messages", ("conversations", "conversation"), _TURNS), _SYSTEM),
    "preference": (
        Part("prompt", _QUESTION, _TEXT | _TURNS | _OBJECT, required=False),
        Part("chosen", ("chosen", "preferred_output"), _TEXT | _TURNS),
        Part("rejected", ("rejected", "non_preferred_output"), _TEXT | _TURNS),
    ),
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
}  # fmt: skip
# Beside a question and its answer these carry meaning that {prompt, completion} would lose.
EVIDENCE = {"context", "passage", "document", "text", "choices", "options", "article"}
# Beside a text these carry nothing to learn from.
ABOUT = {"id", "idx", "url", "source", "meta", "metadata", "date", "timestamp", "lang", "language"}
