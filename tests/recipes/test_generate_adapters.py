"""`tunesmith generate --adapters.NAME DIR`: rows of a file name the adapter that continues them."""

import json
from pathlib import Path

import pytest
import torch

from tunesmith import cli
from tunesmith.peft import lora
from tunesmith.peft._files import save_adapter
from tunesmith.recipes import _models

PLAIN = ["--model", "toy-llama", "--dtype", "fp32", "--threads", "1", "--max_new_tokens", "6", "--json"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with two adapters."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("m", "p")):
        lm, parameters = _models.load("toy-llama", dtype="fp32"), lora.Parameters(rank=2)
        chance = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in lora.attach(lm.model, parameters, seed).values():
                p.add_(0.3 * torch.randn(p.shape, generator=chance))
        save_adapter(tmp_path / name, lm, lora, parameters, [(5, 6, 7)], "A card.")


def texts(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """Continue; the first completion of each prompt."""
    code = cli.main(["generate", *words, *PLAIN])
    out, err = capsys.readouterr()
    assert code == 0, err
    return [a["completions"][0]["text"] for a in json.loads(out.splitlines()[-1])["answers"]]


def test_each_row_is_continued_by_its_adapter(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "The film", "adapter": n} for n in ("m", "p", "base")] + [{"prompt": "The film"}]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mixed = texts(capsys, "--prompts", "rows.jsonl", "--adapters.m", "m", "--adapters.p", "p")
    alone = [texts(capsys, "The film", *which)[0] for which in (["--adapter", "m"], ["--adapter", "p"], [])]
    assert mixed == [*alone, alone[2]]
    assert len({*alone}) == 3


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"prompt": "a", "adapter": "q"}', "rows.jsonl:1: there is no adapter 'q'"),
        ('{"prompt": 3}', "rows.jsonl:1 is no row of a prompt"),
        ("The film", "rows.jsonl:1 is not JSON"),
        ('{"prompt": "a", "adaptr": "m"}', "rows.jsonl:1 is no row of a prompt"),
    ],
)
def test_mistakes_are_one_line(row: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.jsonl").write_text(row + "\n")
    code = cli.main(["generate", "--prompts", "rows.jsonl", "--adapters.m", "m", *PLAIN])
    assert code == 2
    assert said in capsys.readouterr().err


def test_one_adapter_or_several(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "x", "--adapter", "m", "--adapters.p", "p", *PLAIN]) == 2
    assert "adapter and adapters exclude each other" in capsys.readouterr().err
