"""Prompts: the same ids in training, scoring and serving, as plain text and in a chat."""

from pathlib import Path
from typing import Any

import pytest

from tunesmith.core.errors import UserError
from tunesmith.data.prompts import Prompts
from tunesmith.data.task import load_task
from tunesmith.models import toy
from tunesmith.models.load import load_tokenizer

TOKENIZERS = {"toy": toy.byte_tokenizer(), "smollm2": load_tokenizer("smollm2")}
HARD = ["plain", "ends in space ", "<|im_end|> and <|end|>", "zwölf 四", "{text} {answer}"]


@pytest.fixture(params=[(name, chat) for name in TOKENIZERS for chat in (False, True)], ids=lambda p: f"{p[0]}-chat={p[1]}")
def prompts(request: pytest.FixtureRequest, tmp_path: Path) -> Prompts:
    """A task with an instruction, for both tokenizers, in a chat and as plain text."""
    name, chat = request.param
    rows = "".join(f'{{"text": "{text} {i}", "label": "{"ab"[i % 2]}"}}\n' for i, text in enumerate(HARD * 4))
    (tmp_path / "rows.jsonl").write_text(rows)
    (tmp_path / "mine.yaml").write_text(
        "name: mine\ndata: {train: rows.jsonl, test: rows2.jsonl}\ninstruction: Say good or bad.\n"
        f'template: "Review: {{text}}\\nSentiment: {{answer}}"\nchoices: {{a: [good, fine], b: [really bad]}}\nchat: {chat}\n'
    )
    (tmp_path / "rows2.jsonl").write_text(rows.replace('": "', '": "test ').replace("test a", "a").replace("test b", "b"))
    return Prompts(load_task(str(tmp_path / "mine.yaml")), TOKENIZERS[name])


def counted(prompts: Prompts, encoded: Any) -> str:
    """The text of the tokens that count."""
    return prompts.tokenizer.decode([i for i, counts in zip(encoded.ids, encoded.loss_mask, strict=True) if counts])


def test_training_rows_are_the_prompt_the_answer_and_its_end(prompts: Prompts) -> None:
    task, lead = prompts.task, "" if prompts.task.file.chat else " "
    for example in [*task.splits.train, *task.splits.test]:
        _, ids = prompts.prompt(example)
        encoded = prompts.training(example)
        answer = prompts.answer(task.answer(example), closed=True)
        assert encoded.ids[: len(ids) + len(answer)] == ids + answer
        assert encoded.loss_mask[: len(ids) + len(answer)] == (False,) * len(ids) + (True,) * len(answer)
        assert counted(prompts, encoded) == lead + task.answer(example) + prompts.tokenizer.eos_token
        assert encoded.example_id == example.id


def test_a_prompt_shows_instruction_demonstrations_and_item(prompts: Prompts) -> None:
    item, one, two = prompts.task.splits.train[:3]
    text, ids = prompts.prompt(item, [one, two])
    places = [text.index(part) for part in ("Say good or bad.", one.fields["text"], two.fields["text"], item.fields["text"])]
    assert places == sorted(places)
    assert prompts.tokenizer.decode(list(ids)) == text
    for shown in (one, two):
        answer, rendered = prompts.task.answer(shown), f"Review: {shown.fields['text']}\nSentiment:"
        if prompts.task.file.chat:
            assert (
                text.split(rendered)[1]
                .partition(prompts.tokenizer.eos_token)[2]
                .lstrip()
                .removeprefix("<|im_start|>assistant\n")
                .removeprefix("<|assistant|>")
                .startswith(answer + prompts.tokenizer.eos_token)
            )
        else:
            assert f"{rendered} {answer}\n\n" in text
    if not prompts.task.file.chat:
        assert text.endswith(f"Review: {item.fields['text']}\nSentiment:")


def test_a_prompt_without_content_has_everything_but_the_item(prompts: Prompts) -> None:
    item, shown = prompts.task.splits.train[:2]
    with_item = prompts.prompt(item, [shown])[0]
    without = prompts.tokenizer.decode(list(prompts.content_free("N/A", [shown])))
    assert without == with_item.replace(f"Review: {item.fields['text']}\n", "Review: N/A\n")


def test_closed_answers_end_and_empty_ones_are_refused(prompts: Prompts) -> None:
    assert prompts.answer("good", closed=True) == (*prompts.answer("good"), prompts.tokenizer.eos_token_id)
    assert len(prompts.answer("really bad")) > 1
    if prompts.task.file.chat:
        with pytest.raises(UserError, match="the answer '' has no tokens"):
            prompts.answer("")
