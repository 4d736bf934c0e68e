"""The command line: one verb a recipe, every flag a key of its configuration.

    tunesmith VERB [WHAT] [--key value] [--part.key value] [--config FILE.yaml] [--set key=value]

Flags come from the recipe's `Config`, so nothing can be a flag without being a key, and a wrong one is refused with its
near miss. Exit codes: 0 done, 1 the work failed, 2 wrong usage or bad input, 130 interrupted, 143 after SIGTERM.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

from tunesmith import __version__
from tunesmith.core.errors import TunesmithError, UserError, near_miss
from tunesmith.core.registry import RECIPES

_SWITCHES = ("json", "debug", "help")
# Spellings of Hugging Face's trainers, so that nobody has to look a flag up twice.
_ALIASES = {
    "num_train_epochs": "epochs", "per_device_train_batch_size": "batch_size", "output_dir": "run_dir",
    "resume_from_checkpoint": "resume", "overwrite_output_dir": "overwrite", "max_seq_length": "max_length",
    "lr_scheduler_type": "schedule", "warmup_ratio": "warmup", "max_grad_norm": "clip_norm", "model_name_or_path": "model",
    "learning_rate": "learning_rate", "optimization_epochs": "optimisation_epochs",
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug, as_json = "--debug" in words, "--json" in words
    try:
        return _dispatch(words, as_json)
    except TunesmithError as error:
        if debug:
            traceback.print_exc()
        return _fail(f"error: {error}", error.exit_code, as_json)
    except KeyboardInterrupt:
        return _fail("interrupted", 130, as_json)
    except BrokenPipeError:  # `tunesmith ... | head`
        return 0
    except Exception as error:
        # The edge of the programme: whatever nobody foresaw still ends in one line and an exit code.
        if debug:
            traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        message = (
            f"error: {type(error).__name__}: {error} (at {place})\n  This should not happen; --debug shows where it came from."
        )
        return _fail(message, 1, as_json)


def _fail(message: str, code: int, as_json: bool) -> int:
    print(message, file=sys.stderr)
    if as_json:
        print(json.dumps({"status": "failed", "error": message.removeprefix("error: "), "exit_code": code}))
    return code


def _dispatch(words: list[str], as_json: bool) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        print(_overview())
        return 0
    if words[0] in ("--version", "-V"):
        print(f"tunesmith {__version__}")
        return 0
    verb, rest = words[0], words[1:]
    if verb not in RECIPES.names():
        raise UserError(f"there is no command '{verb}'", near_miss(verb, RECIPES.names()))
    recipe = RECIPES.get(verb)
    if "--help" in rest or "-h" in rest:
        print(_help(verb, recipe))
        return 0
    report = recipe.run(_configure(verb, recipe, rest))
    text = recipe.render(report)
    if text:
        print(text)
    if as_json:
        print(json.dumps(report, ensure_ascii=False, default=str))
    return 0


def _overview() -> str:
    width = max(map(len, RECIPES.names()))
    verbs = [f"  {name:<{width}}  {RECIPES.summary(name)}" for name in RECIPES.names()]
    return "\n".join([
        "Tunesmith takes a language model to your task by every route, and proves which is worth its cost.", "",
        "  tunesmith ladder movies --quick      a first look in minutes",
        "  tunesmith ladder mine.yaml           your own task: one YAML file beside your rows", "",
        "Commands:", *verbs, "",
        "tunesmith COMMAND --help says what a command can be told. Everywhere: --config FILE.yaml, --set key=value,",
        "--json (one JSON object as the last line), --debug (tracebacks).",
    ])  # fmt: skip


def _configure(verb: str, recipe: Any, words: list[str]) -> Any:
    from tunesmith.core.config import parse_value, read_yaml, set_key, validate

    names = (recipe.POSITIONAL,) if isinstance(recipe.POSITIONAL, str) else recipe.POSITIONAL
    known = _keys(recipe.Config)
    values: dict[str, Any] = {}
    settings: list[tuple[str, Any]] = []
    position, at = 0, 0
    while at < len(words):
        word = words[at]
        at += 1
        if not word.startswith("--") or word == "--":
            _positional(verb, names, position, word, settings, known)
            position += 1
            continue
        key, equals, value = word[2:].partition("=")
        if key in _SWITCHES:
            continue
        following = [] if equals else _values(words, at, many=known.get(_canonical(key, known), "") == "list")
        at += len(following)
        if key in ("config", "set") and not (equals or following):
            raise UserError(f"--{key} needs a value")
        text = value if equals else " ".join(following) if len(following) == 1 else following
        if key == "config":
            values = {**read_yaml(Path(str(text))), **values}
        elif key == "set":
            name, found, setting = str(text).partition("=")
            if not found:
                raise UserError(f"cannot read --set {text}", "Write it as --set key=value.")
            settings.append((name, parse_value(setting)))
        else:
            settings.append((_check(verb, key, known), _typed(known.get(_canonical(key, known), ""), text, parse_value)))
    for name, setting in settings:
        set_key(values, name, setting)
    return validate(recipe.Config, values, verb)


def _values(words: list[str], at: int, many: bool) -> list[str]:
    end = at
    while end < len(words) and not _is_flag(words[end]) and (many or end == at):
        end += 1
    return words[at:end]


def _is_flag(word: str) -> bool:
    return word.startswith("--") and len(word) > 2


def _positional(
    verb: str, names: tuple[str, ...], position: int, word: str, settings: list[tuple[str, Any]], known: dict[str, str]
) -> None:
    is_list = known.get(names[-1]) == "list"
    if position >= len(names) and not is_list:
        raise UserError(f"'{word}' is one word too many for {verb}", f"See 'tunesmith {verb} --help'; flags begin with --.")
    name = names[min(position, len(names) - 1)]
    if is_list:
        before = [value for key, value in settings if key == name]
        settings[:] = [(k, v) for k, v in settings if k != name]
        settings.append((name, [*(before[0] if before else []), word]))
    else:
        settings.append((name, word))


def _typed(kind: str, text: Any, parse_value: Any) -> Any:
    if kind == "list":
        words = [text] if isinstance(text, str) else text
        return [w if ":" in w else parse_value(w) for word in words for w in _split(word)]
    if kind == "bool" and text == []:
        return True
    if text == []:
        raise UserError("a flag needs a value")
    return text if kind == "str" else parse_value(text)


def _split(word: str) -> list[str]:
    """Split "zero-shot,lora:rank=4,alpha=8" at commas; "key=value" still belongs to the entry before it."""
    pieces: list[str] = []
    for piece in word.split(","):
        if pieces and "=" in piece and ":" not in piece:
            pieces[-1] += f",{piece}"
        elif piece:
            pieces.append(piece)
    return pieces


def _canonical(key: str, known: dict[str, str]) -> str:
    """Resolve spellings of other tools, and a part's key said without its part ("epochs" for "train.epochs")."""
    key = key.replace("-", "_")
    key = _ALIASES.get(key, key)
    inner = [name for name in known if name.endswith(f".{key}")]
    return inner[0] if key not in known and len(inner) == 1 else key


def _check(verb: str, key: str, known: dict[str, str]) -> str:
    name = _canonical(key, known)
    if name not in known and known.get(name.rpartition(".")[0]) != "entry":
        raise UserError(f"{verb} has no flag --{key}", near_miss(name, [*known, "config", "set", "json", "debug"]))
    return name


def _keys(config: Any, prefix: str = "") -> dict[str, str]:
    """Return flag -> kind ("str", "bool", "list", "entry" or "value") of a configuration and its parts."""
    from tunesmith.core.config import Config

    found = {}
    for name, field in config.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Config):
            found.update(_keys(annotation, f"{prefix}{name}."))
            continue
        text = str(annotation)
        if text.startswith("list["):
            kind = "list"
        elif "dict[" in text:
            kind = "entry"
        else:
            kind = {"<class 'str'>": "str", "str | None": "str", "<class 'bool'>": "bool"}.get(text, "value")
        found[prefix + name] = kind
    return found


def _help(verb: str, recipe: Any) -> str:
    names = (recipe.POSITIONAL,) if isinstance(recipe.POSITIONAL, str) else recipe.POSITIONAL
    usage = f"tunesmith {verb} " + " ".join(f"[{n.upper()}]" for n in names) + " [--key value ...]"
    lines = [RECIPES.summary(verb), "", f"Usage: {usage}", ""]
    lines += ["Examples:", *(f"  {e}" for e in recipe.EXAMPLES), "", "Keys (flags, or keys of a --config file):"]
    return "\n".join([*lines, *_described(recipe.Config, "")])


def _described(config: Any, prefix: str) -> list[str]:
    from tunesmith.core.config import Config

    lines = []
    for name, field in config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            lines += _described(field.annotation, f"{prefix}{name}.")
            continue
        default = "" if field.is_required() else f" (default {_shown(field.default)})"
        meaning = " ".join((field.description or "").split())
        lines.append(f"  --{prefix}{name:<{max(26 - len(prefix), 1)}} {meaning}{default}".rstrip())
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return (
        {None: "none", True: "yes", False: "no"}.get(value, str(value))
        if not isinstance(value, (int, float)) or isinstance(value, bool)
        else f"{value:g}"
    )
