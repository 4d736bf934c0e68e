"""`tunesmith merge`: what is written behaves as the adapters on their base, and what cannot be merged is refused in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith import cli
from tunesmith.core.files import verify_manifest
from tunesmith.peft import lora, prompt_tuning
from tunesmith.peft._files import save_adapter
from tunesmith.recipes import _models, merge

PEFT_WARNS = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
IDS = torch.tensor([[10, 20, 30, 40, 50, 60, 7, 8]])
MADE: dict[str, dict[str, Any]] = {
    "a": {"rank": 3}, "b": {"rank": 2, "targets": ["q_proj", "down_proj"], "alpha": 3.0},
    "c": {"rank": 4, "targets": ["q_proj"]}, "d": {"rank": 4, "targets": ["q_proj"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of toy-llama that do something, each in a folder of its own."""
    folder = tmp_path_factory.mktemp("saved")
    for seed, (name, values) in enumerate(MADE.items()):
        lm, parameters = _models.load("toy-llama", dtype="fp32"), lora.Parameters(**values)
        chance = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in lora.attach(lm.model, parameters, seed).values():
                p.add_(0.2 * torch.randn(p.shape, generator=chance))
        save_adapter(folder / name, lm, lora, parameters, [(5, 6, 7), (9, 8)], "A card.")
    soft, virtual = _models.load("toy-llama", dtype="fp32"), prompt_tuning.Parameters(tokens=2, init="random")
    prompt_tuning.attach(soft.model, virtual, 0)
    save_adapter(folder / "soft", soft, prompt_tuning, virtual, [(5, 6)], "A card.")
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    """Work in a folder that has the adapters."""
    for folder in saved.iterdir():
        shutil.copytree(folder, tmp_path / folder.name)
    monkeypatch.chdir(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Merge; exit code, stdout, stderr."""
    code = cli.main(["merge", *words, "--threads", "1"])
    out, err = capsys.readouterr()
    return code, out, err


def merged(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Merge, which must succeed; the report."""
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


def logits(model: str, adapter: str | None = None) -> torch.Tensor:
    """All logits of the test's tokens, in float32."""
    with torch.inference_mode():
        return _models.load(model, adapter, "fp32").model(input_ids=IDS).logits.clone()


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference."""
    return float((a - b).abs().max())


def test_a_merged_model_is_the_adapter_on_its_base(capsys: pytest.CaptureFixture[str]) -> None:
    before = logits("toy-llama")
    report = merged(capsys, "a")
    assert (report["run_dir"], report["artefact"]) == ("runs/merge-a", "runs/merge-a/model")
    found = logits(report["artefact"])
    assert apart(found, logits("toy-llama", "a")) < 1e-5
    assert apart(found, before) > 0.1
    assert report["difference"] < 1e-5 < report["effect"]
    assert torch.equal(logits("toy-llama"), before)
    assert verify_manifest(Path("runs/merge-a")) == verify_manifest(Path("runs/merge-a/model")) == ""
    assert "base_model: toy-llama" in Path("runs/merge-a/model/README.md").read_text()
    record = json.loads(Path("runs/merge-a/run.json").read_text())
    assert record["parents"] == ["a"]
    assert record["inputs"]["model_identity"] == report["base_identity"]


def test_the_documented_keys_are_those_in_the_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    returns = (merge.run.__doc__ or "").partition("Returns:")[2].partition("Raises:")[0]
    named = {word.split("(")[0].strip(" .\n") for word in returns.replace("\n", " ").split(",")}
    assert {word for word in named if " " not in word} == set(merged(capsys, "c"))


@PEFT_WARNS  # PEFT asks transformers by its older name
def test_merged_as_peft_merges(capsys: pytest.CaptureFixture[str]) -> None:
    from peft import PeftModel

    report = merged(capsys, "b")
    theirs = PeftModel.from_pretrained(_models.load("toy-llama", dtype="fp32").model, "b").merge_and_unload()  # type: ignore[operator]
    with torch.inference_mode():
        assert apart(logits(report["artefact"]), theirs(input_ids=IDS).logits) < 1e-5


@PEFT_WARNS
@pytest.mark.parametrize(
    ("words", "combination"),
    [
        (["--weights", "0.7,0.3"], {"combination_type": "cat"}),
        (["--method", "ties", "--weights", "1,0.5", "--density", "0.4"], {"combination_type": "ties_svd", "density": 0.4}),
    ],
    ids=["linear", "ties"],
)
def test_combined_as_peft_combines(words: list[str], combination: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    from peft import PeftModel

    base = _models.load("toy-llama", dtype="fp32").model
    full_rank = max(base.model.layers[0].self_attn.q_proj.weight.shape)
    theirs = PeftModel.from_pretrained(base, "c", adapter_name="c")
    theirs.load_adapter("d", "d")
    svd = {"svd_rank": full_rank} if "svd" in combination["combination_type"] else {}
    weights = [float(w) for w in words[words.index("--weights") + 1].split(",")]
    theirs.add_weighted_adapter(["c", "d"], weights, "both", **combination, **svd)
    theirs.set_adapter("both")
    found = logits(merged(capsys, "c", "d", *words)["artefact"])
    with torch.inference_mode():
        assert apart(found, theirs(input_ids=IDS).logits) < 1e-4
    assert apart(found, logits("toy-llama", "c")) > 0.01


def test_a_sum_of_loras_is_one_lora(capsys: pytest.CaptureFixture[str]) -> None:
    # Other layers, ranks and scales: [w1 s1 B1, w2 s2 B2] [A1; A2].
    model = merged(capsys, "a", "b", "--weights", "0.7,0.3", "--run_dir", "m")
    one = merged(capsys, "a", "b", "--weights", "0.7,0.3", "--into", "adapter", "--run_dir", "o")
    assert one["artefact"] == "o/adapter"
    config = json.loads(Path("o/adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (5, 5)
    assert apart(logits("toy-llama", "o/adapter"), logits("m/model")) < 1e-5
    assert apart(logits("m/model"), logits("toy-llama", "a")) > 0.05
    assert model["weights"] == [0.7, 0.3]


def test_dare_follows_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    found = [
        logits(merged(capsys, "a", "b", "--method", "dare", "--density", "0.3", "--seed", s, "--run_dir", f"d{i}")["artefact"])
        for i, s in enumerate(("1", "1", "2"))
    ]
    assert torch.equal(found[0], found[1])
    assert apart(found[0], found[2]) > 1e-3


def test_bf16_is_written_within_its_tolerance_or_not_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    report = merged(capsys, "a", "--dtype", "bf16")
    assert 1e-5 < report["difference"] < 0.5
    code, _, err = run(capsys, "a", "--dtype", "bf16", "--tolerance", "1e-6", "--run_dir", "strict")
    assert code == 1
    assert "gives other logits than the adapter on its base" in err
    assert "--dtype fp32" in err
    assert not Path("strict/model").exists()


def rewrite(folder: str, file: str, **values: Any) -> None:
    """Change a JSON file of an adapter, whose manifest is then of no use."""
    path = Path(folder) / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    (Path(folder) / "MANIFEST.json").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("words", "said", "fix"),
    [
        (["nowhere"], "there is no adapter directory 'nowhere'", "adapter_config.json"),
        (["a", "b", "--weights", "0.5"], "1 weights for 2 adapters", "one for each"),
        (["a", "b", "--method", "ties", "--density", "0"], "greater than 0", ""),
        (["a", "b", "--method", "ties", "--density", "1.5"], "less than or equal to 1", ""),
        (["a", "b", "--density", "0.5"], "density is for the methods ties and dare", ""),
        (["a", "b", "--method", "ties", "--seed", "3"], "seed is for the method dare", ""),
        (["a", "b", "--method", "ties", "--into", "adapter"], "no adapter holds it", "into=model"),
        (["soft"], "soft: a soft prompt or prefix cannot be merged into the weights", "Use it as --adapter"),
        (["a", "soft"], "soft: a soft prompt or prefix cannot be merged", ""),
        (["a", "other"], "a was made for toy-llama and other for smollm2", "trained on the same model"),
        (["a", "twin"], "changes of different bases do not add up", "trained on the same model"),
        (["shape"], "the adapter does not fit this model", ""),
    ],
)
def test_what_cannot_be_merged_is_one_line(words: list[str], said: str, fix: str, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("b", "other")
    rewrite("other", "adapter_config.json", base_model_name_or_path="smollm2")
    shutil.copytree("b", "twin")
    rewrite("twin", "probe.json", base_identity="of another file")
    shutil.copytree("a", "shape")
    rewrite("shape", "adapter_config.json", r=7)
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert said in err
    assert fix in err
    assert "Traceback" not in err
    assert not Path("runs").exists()
