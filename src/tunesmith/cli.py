"""The command line: one verb a recipe, every flag a key of its configuration.

    tunesmith VERB [WHAT] [--key value] [--part.key value] [--config FILE.yaml] [--set key=value]

Flags come from the recipe's `Config`, so nothing can be a flag without being a key, and a wrong one is refused with its
near miss. Exit codes: 0 done, 1 the work failed, 2 wrong usage or bad input, 130 interrupted, 143 after SIGTERM.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from tunesmith import __version__
from tunesmith.core.errors import TunesmithError, UserError, near_miss
from tunesmith.core.registry import RECIPES

_SWITCHES = ("json", "debug")
_YES_OR_NO = ("true", "false", "yes", "no", "on", "off", "1", "0")
_WIDTH, _COLUMN = 80, 24
_SECONDS_TO_END = 5.0
_asked_again: list[threading.Timer] = []
# Spellings of Hugging Face's trainers, so that nobody has to look a flag up twice.
_ALIASES = {
    "num_train_epochs": "epochs", "per_device_train_batch_size": "batch_size", "output_dir": "run_dir",
    "resume_from_checkpoint": "resume", "overwrite_output_dir": "overwrite", "max_seq_length": "max_length",
    "lr_scheduler_type": "schedule", "warmup_ratio": "warmup", "max_grad_norm": "clip_norm", "model_name_or_path": "model",
    "optimization_epochs": "optimisation_epochs",
}  # fmt: skip
# A flag's name and what it was given: nothing, the text after "=", or the words after it.
Settings = list[tuple[str, Any]]


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug, as_json = "--debug" in words, "--json" in words
    try:
        before = signal.signal(signal.SIGTERM, _terminated)
    except ValueError:  # not the main thread
        return _guarded(words, debug, as_json)
    try:
        return _guarded(words, debug, as_json)
    finally:
        signal.signal(signal.SIGTERM, before)
        while _asked_again:
            _asked_again.pop().cancel()


def _terminated(number: int, frame: Any) -> None:
    # In the middle of an import or a destructor an exception may be swallowed; then it is raised again.
    again = threading.Timer(_SECONDS_TO_END, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()
    _asked_again.append(again)
    raise SystemExit(143)


def _guarded(words: list[str], debug: bool, as_json: bool) -> int:
    try:
        return _dispatch(words, as_json)
    except TunesmithError as error:
        return _fail(f"{'' if error.exit_code >= 128 else 'error: '}{error}", error.exit_code, as_json, debug)
    except KeyboardInterrupt:
        return _fail("stopped", 130, as_json, debug)
    except SystemExit as end:
        return _fail("stopped", int(end.code or 0), as_json, debug)
    except BrokenPipeError:  # `tunesmith ... | head` has read enough; nothing may be written at the interpreter's end either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"error: {where}{error.strerror or error}", 1, as_json, debug)
    except Exception as error:
        # The edge of the programme: whatever nobody foresaw still ends in one line and an exit code.
        origin = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(origin.filename).name}:{origin.lineno}"
        message = (
            f"error: {type(error).__name__}: {error} (at {place})\n  This should not happen; --debug shows where it came from."
        )
        return _fail(message, 1, as_json, debug)


def _fail(message: str, code: int, as_json: bool, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(message, file=sys.stderr)
    if as_json:
        status = "stopped" if code >= 128 else "failed"
        print(json.dumps({"status": status, "error": message.removeprefix("error: "), "exit_code": code}, ensure_ascii=False))
    return code


def _dispatch(words: list[str], as_json: bool) -> int:
    if words[:1] == ["help"] and len(words) > 1:
        words = [words[1], "--help"]
    if not words or words[0] in ("--help", "-h", "help"):
        print(_overview())
        return 0
    if words[0] in ("--version", "-V"):
        print(f"tunesmith {__version__}")
        return 0
    verb, rest = words[0], words[1:]
    if verb not in RECIPES.names():
        raise UserError(f"there is no command '{verb}'", near_miss(verb, RECIPES.names()))
    verb, recipe, rest = _resolved(verb, rest)
    if "--help" in rest or "-h" in rest:
        print(_help(verb, recipe, rest))
        return 0
    report = recipe.run(_configure(verb, recipe, rest))
    text = recipe.render(report)
    if text:
        print(text)
    if as_json:
        print(json.dumps(report, ensure_ascii=False, default=str))
    sys.stdout.flush()
    return 0


def _resolved(verb: str, rest: list[str]) -> tuple[str, Any, list[str]]:
    """Find the recipe; a verb about several others (`plan tune`) has a module for each, and without that word means its own."""
    recipe = RECIPES.get(verb)
    if rest and rest[0] in (about := getattr(recipe, "ABOUT", {})):
        return f"{verb} {rest[0]}", importlib.import_module(about[rest[0]]), rest[1:]
    return verb, recipe, rest


def _positionals(recipe: Any) -> tuple[str, ...]:
    return (recipe.POSITIONAL,) if isinstance(recipe.POSITIONAL, str) else recipe.POSITIONAL


def _configure(verb: str, recipe: Any, words: list[str]) -> Any:
    """Read the words after a verb into its configuration; a file's keys come first, so flags win."""
    from tunesmith.core.config import read_yaml, set_key, validate

    kinds = _kinds(recipe.Config)
    loose, flags = _split_words(words, lambda key: kinds.get(_canonical(key, kinds), ""))
    from_files: Settings = []
    given: Settings = _positional(verb, _positionals(recipe), loose, kinds)
    for key, value in flags:
        if key in ("config", "set") and not value:
            raise UserError(f"--{key} needs a value", f"Write it as --{key} {'FILE.yaml' if key == 'config' else 'key=value'}.")
        if key == "config":
            path = Path(value[0])
            from_files += [_setting(verb, kinds, name, setting, f"{path}: ") for name, setting in read_yaml(path).items()]
        elif key == "set":
            name, found, setting = value[0].partition("=")
            if not found:
                raise UserError(f"cannot read --set {name}", "Write it as --set key=value.")
            given.append(_setting(verb, kinds, name, [setting]))
        elif key not in _SWITCHES:
            given.append(_setting(verb, kinds, key, value))
    values: dict[str, Any] = {}
    for settings in (from_files, given):
        # A whole before its parts, in whatever order they were given.
        for name, setting in sorted(settings, key=lambda one: one[0].count(".")):
            set_key(values, name, setting)
    for name in _positionals(recipe):
        if name not in values and recipe.Config.model_fields[name].is_required():
            raise UserError(f"{verb} needs {name.upper()}", f"For example: {recipe.EXAMPLES[0]}")
    return validate(recipe.Config, values, verb)


def _split_words(words: Sequence[str], kind_of: Callable[[str], str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Part words into those that stand alone and flags with their values; a list takes all words up to the next flag."""
    loose: list[str] = []
    flags: list[tuple[str, list[str]]] = []
    at = 0
    while at < len(words):
        word, at = words[at], at + 1
        if not _is_flag(word):
            loose.append(word)
            continue
        key, equals, value = word[2:].partition("=")
        kind = "switch" if key in _SWITCHES else kind_of(key)
        end = at
        while not equals and end < len(words) and not _is_flag(words[end]) and _takes(kind, words[end], end - at):
            end += 1
        flags.append((key, [value] if equals else list(words[at:end])))
        at = end
    return loose, flags


def _is_flag(word: str) -> bool:
    return word.startswith("--") and len(word) > 2


def _takes(kind: str, word: str, already: int) -> bool:
    if kind == "bool":
        return already == 0 and word.lower() in _YES_OR_NO
    return kind == "list" or (kind != "switch" and already == 0)


def _positional(verb: str, names: tuple[str, ...], words: list[str], kinds: dict[str, str]) -> Settings:
    if kinds.get(names[-1]) == "list":
        return [(names[-1], words)] if words else []
    if len(words) > len(names):
        extra = f"'{words[len(names)]}' is one word too many for {verb}"
        raise UserError(extra, f"See 'tunesmith {verb} --help'; flags begin with --.")
    return list(zip(names, words, strict=False))


def _setting(verb: str, kinds: dict[str, str], key: str, value: Any, where: str = "") -> tuple[str, Any]:
    """Check a key and turn its words into a value; what comes from a file (`where`) has its type already."""
    from tunesmith.core.config import parse_value

    name = _canonical(str(key), kinds)
    if name in kinds or kinds.get(name.rpartition(".")[0]) == "entry":
        return name, value if where else _typed(key, kinds.get(name, ""), value)
    parts = [known for known in kinds if known.startswith(f"{name}.")]
    if parts and not where and value and value[0].startswith("{"):
        value = parse_value(value[0])
    if parts and isinstance(value, dict):
        return name, value
    spelled = "{}" if where else "--{}"
    if parts:
        raise UserError(
            f"{where}{spelled.format(key)} has parts of its own", f"Use {' or '.join(map(spelled.format, parts[:3]))}."
        )
    near = near_miss(name, kinds if where else [*kinds, "config", "set", *_SWITCHES])
    fix = near.replace("'", f"'{spelled[:-2]}", 1) if near.startswith("Did") else f"See 'tunesmith {verb} --help'."
    raise UserError(f"{where}{verb} has no key '{key}'" if where else f"{verb} has no flag --{key}", fix)


def _typed(key: str, kind: str, words: list[str]) -> Any:
    from tunesmith.core.config import parse_value

    if kind == "bool" and not words:
        return True
    if not words:
        raise UserError(f"--{key} needs a value")
    if kind == "list":
        if len(words) == 1 and words[0].startswith("["):
            return parse_value(words[0])
        pieces = [piece for word in words for piece in _split_list(word)]
        return [] if pieces == ["none"] else [p if ":" in p else parse_value(p) for p in pieces]
    if kind == "bool":
        return {"yes": True, "no": False, "on": True, "off": False}.get(words[0].lower(), parse_value(words[0]))
    return words[0] if kind == "str" else parse_value(words[0])


def _split_list(word: str) -> list[str]:
    """Split "zero-shot,lora:rank=4,alpha=8" at commas; "key=value" still belongs to the entry before it."""
    pieces: list[str] = []
    for piece in word.split(","):
        if pieces and "=" in piece and ":" not in piece:
            pieces[-1] += f",{piece}"
        elif piece.strip():
            pieces.append(piece.strip())
    return pieces


def _canonical(key: str, kinds: dict[str, str]) -> str:
    """Resolve spellings of other tools, and a part's key said without its part ("epochs" for "train.epochs")."""
    key = key.replace("-", "_")
    key = _ALIASES.get(key, key)
    inner = [name for name in kinds if name.endswith(f".{key}")]
    return inner[0] if key not in kinds and len(inner) == 1 else key


def _kinds(config: Any, prefix: str = "") -> dict[str, str]:
    """Return key -> kind ("str", "bool", "list", "entry" or "value") of a configuration and its parts."""
    found = {}
    for name, field in config.model_fields.items():
        if _is_part(field):
            found.update(_kinds(field.annotation, f"{prefix}{name}."))
            continue
        text = str(field.annotation)
        if text.startswith("list["):
            kind = "list"
        elif "dict[" in text:
            kind = "entry"
        else:
            kind = {"<class 'str'>": "str", "str | None": "str", "<class 'bool'>": "bool"}.get(text, "value")
        found[prefix + name] = kind
    return found


def _is_part(field: Any) -> bool:
    from tunesmith.core.config import Config

    return isinstance(field.annotation, type) and issubclass(field.annotation, Config)


def _overview() -> str:
    width = max(map(len, RECIPES.names())) + 4
    lines = [
        *_wrap("Tunesmith takes a language model to your task by every route, and proves which is worth its cost."), "",
        "  tunesmith ladder movies --quick   a first look in minutes",
        "  tunesmith ladder mine.yaml        your own task: a YAML file beside your rows", "",
        "Commands:", *(line for name in RECIPES.names() for line in _entry(name, RECIPES.summary(name), width)), "",
        *_wrap(
            "tunesmith COMMAND --help says what a command can be told. Everywhere: --config FILE.yaml, --set key=value, "
            "--json (one JSON object as the last line), --debug (tracebacks)."
        ),
    ]  # fmt: skip
    return "\n".join(lines)


def _help(verb: str, recipe: Any, words: Sequence[str]) -> str:
    fields = recipe.Config.model_fields
    names = [n.upper() if fields[n].is_required() else f"[{n.upper()}]" for n in _positionals(recipe)]
    summary = (recipe.__doc__ or "").split("\n", 1)[0]
    lines = [*_wrap(summary), "", f"Usage: tunesmith {verb} {' '.join(names)} [--key value ...]", "", "Examples:"]
    lines += [f"  {example}" for example in recipe.EXAMPLES]
    others = [f"{verb} {name}" for name, module in getattr(recipe, "ABOUT", {}).items() if module != recipe.__name__]
    lines += [f"  tunesmith {other} ...   (see tunesmith {other} --help)" for other in others]
    lines += ["", "Keys (flags, or keys of a --config file):"]
    return "\n".join([*lines, *_described(recipe.Config, ""), *_of_entries(recipe, words)])


def _of_entries(recipe: Any, words: Sequence[str]) -> list[str]:
    """Describe the own keys of each entry that the words name, of the recipe's first kind also the default's."""
    kinds = _kinds(recipe.Config)
    given = {_canonical(key, kinds): value[0] for key, value in _split_words(words, lambda key: "str")[1] if value}
    lines = []
    for at, (key, room) in enumerate(getattr(recipe, "ENTRIES", {}).items()):
        name = (given.get(key) or ("" if at else str(recipe.Config.model_fields[key].default))).partition(":")[0]
        if name.replace("_", "-") in room.names():
            own = _described(room.get(name).Parameters, f"{key}.")
            lines += ["", f"Keys of --{key} {name}:" if own else f"--{key} {name} has no keys of its own.", *own]
    return lines


def _described(config: Any, prefix: str) -> list[str]:
    lines = []
    for name, field in config.model_fields.items():
        if _is_part(field):
            lines += _described(field.annotation, f"{prefix}{name}.")
            continue
        options = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        default = "" if field.is_required() or field.default is None else _shown(field.default)
        facts = [", ".join(map(str, options)), f"default {default}" if default else ""]
        meaning = f"{field.description or ''} ({'; '.join(filter(None, facts))})" if any(facts) else field.description or ""
        lines += _entry(f"--{prefix}{name}", " ".join(meaning.split()), _COLUMN)
    return lines


def _entry(name: str, meaning: str, column: int) -> list[str]:
    """Lay out a name and its meaning in two columns; a long name stands on a line of its own."""
    lines = textwrap.wrap(meaning, _WIDTH - column, break_on_hyphens=False) or [""]
    head = f"  {name}".ljust(column)
    if len(head) > column or head[-1] != " ":
        return [head, *(" " * column + line for line in lines if line)]
    return [f"{head}{lines[0]}".rstrip(), *(" " * column + line for line in lines[1:])]


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
