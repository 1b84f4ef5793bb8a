"""The state of a run on the disk: whole at every moment, so that a killed run or a full disk costs minutes at most."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError

from medfm.errors import ConfigError

__all__ = ["Checkpoint"]

_UNREADABLE = (RuntimeError, KeyError, ValueError, EOFError, OSError, SafetensorError)


class Checkpoint:
    """The last state of the run in `output`.

    A new one is written beside the one before and then takes its place: for that moment there must be room for two.
    recipe: kept with it, to tell what a resumed run does otherwise than the one that began.
    """

    def __init__(self, output: Path, recipe: dict[str, Any]) -> None:
        self.output, self.recipe = output, recipe
        self.folder, self.new, self.old = (output / f"checkpoint{end}" for end in ("", ".new", ".old"))

    def last(self) -> Path | None:
        """The folder of the last whole one; it is `old` if the run was killed while the two changed places."""
        return next((f for f in (self.folder, self.old) if (f / "progress.json").exists()), None)

    def save(self, accelerator: Accelerator, progress: dict[str, Any]) -> None:
        """Called by all processes. Raises OSError, saying what is left, where it cannot be written."""
        try:
            accelerator.save_state(str(self.new))
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                (self.new / "recipe.json").write_text(json.dumps(self.recipe, default=str))
                (self.new / "progress.json").write_text(json.dumps(progress))
                self._change_places()
        except (RuntimeError, OSError, SafetensorError) as error:  # a full disk, as torch, Python, safetensors say it
            raise self._unwritten(error) from error
        accelerator.wait_for_everyone()

    def _change_places(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.old, ignore_errors=True)
            self.folder.rename(self.old)
        self.new.rename(self.folder)
        shutil.rmtree(self.old, ignore_errors=True)

    def _unwritten(self, error: Exception) -> OSError:
        free = shutil.disk_usage(self.output).free / 1e6
        shutil.rmtree(self.new, ignore_errors=True)
        left = "nothing was kept yet"
        if last := self.last():
            at = json.loads((last / "progress.json").read_text())
            left = f"the one before, of epoch {at['epoch'] + 1}, step {at['step']}, is whole: go on with --resume"
        reason = str(error).splitlines()[0]
        text = f"the checkpoint could not be written ({free:.0f} MB are free; {reason}). Make room; {left}"
        return OSError(errno.ENOSPC, text, str(self.folder))

    def load(self, accelerator: Accelerator) -> tuple[dict[str, Any], list[str]]:
        """Put the last state back; where the run stood, and the keys of the recipe that now differ, as "key=old".

        Lines of `log.jsonl` that the run wrote after that state are dropped: their passes are done again.
        Raises ConfigError: it is of another network, or damaged.
        """
        last = self.last() or self.folder
        before = last / "recipe.json"  # runs of before it was kept have none
        changed = _changes(json.loads(before.read_text()), self.recipe) if before.exists() else []
        try:
            accelerator.load_state(str(last))
            progress: dict[str, Any] = json.loads((last / "progress.json").read_text())
        except _UNREADABLE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
            told = f"the run began with {', '.join(changed)}" if changed else "the recipe is the same"
            raise ConfigError(
                f"{last} cannot be gone on from ({reason}); {told}. Give --resume the command that the run began with, "
                f"or train into another folder"
            ) from error
        log = self.output / "log.jsonl"
        if accelerator.is_main_process and log.exists():
            lines = log.read_text().splitlines(keepends=True)
            log.write_text("".join(x for x in lines if json.loads(x)["epoch"] <= progress["epoch"]))
        return progress, changed


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What stood in `before` where `now` says something else; a key that only `now` has is "key unset"."""
    old, new = _flat(before), _flat(json.loads(json.dumps(now, default=str)))
    return [
        f"{key}={old[key]}" if key in old else f"{key} unset"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _flat(node: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(node, dict) or not node:
        return {path: node}
    return {k: v for key, value in node.items() for k, v in _flat(value, f"{path}.{key}" if path else str(key)).items()}
