"""Rounds sampled by a server: each round the adapter of the moment is written, and the server is told to load it from there."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from tunesmith.core.errors import TunesmithError, UserError
from tunesmith.core.files import text_hash
from tunesmith.core.records import Completion
from tunesmith.models.adapter_server import AdapterServer
from tunesmith.models.generate import Sampling
from tunesmith.models.load import LM
from tunesmith.peft import lora
from tunesmith.peft._files import save_adapter


class Pushed:
    """A server that samples rounds. Inside the with-block it has one adapter of this run, the newest, and none behind it.

    Args:
        url: of the server. method: peft entry and its parameters. folder: of the run, which the server must see.

    Raises:
        UserError: no address of a server, or the method is not LoRA.
    """

    def __init__(self, url: str, method: tuple[ModuleType, Any], folder: Path) -> None:
        if method[0] is not lora:
            raise UserError("a server that loads adapters loads LoRA only", "Use --peft lora, or sample here or on Ray workers.")
        self._server, self._method = AdapterServer.at(url), method
        self._folder = folder.resolve() / "pushed"
        # Of this run and nobody else's, so that what a killed process left behind is known again.
        self._begin = f"tunesmith-{text_hash(str(self._folder))[:12]}-"

    def __enter__(self) -> Pushed:
        self._server.unload(self._begin)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._server.unload(self._begin)
        except TunesmithError:
            # What went wrong before is what is to be said, and all that is left behind is an adapter that nobody asks.
            if kind is None:
                raise
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def complete(self, lm: LM, prompts: Sequence[tuple[int, ...]], how: Sampling, seed: int) -> list[Completion]:
        """Write the policy's adapter, let the server load it, and continue prompts.

        Raises:
            UserError: the server does not load adapters, or gives no token ids.
            WorkFailed: it does not answer, or answers what cannot be.
        """
        entry, parameters = self._method
        self._server.unload(self._begin)
        shutil.rmtree(self._folder, ignore_errors=True)
        # A name is never used twice, by no process: a server may keep keys and values of prompts under it.
        name = f"{self._begin}{secrets.token_hex(4)}"
        save_adapter(
            self._folder / name, lm, entry, parameters, [], f"# {name}\n\nThe policy of one round; the next replaces it.\n"
        )
        self._server.load(name, self._folder / name)
        return self._server.complete(name, lm, prompts, how, seed)
