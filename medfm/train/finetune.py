"""From a manifest to an adapter of one's own: the recipe, what it will cost, and the folder it ends in."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medfm import assets
from medfm.data.check import Checked
from medfm.errors import ConfigError, DataError
from medfm.language.foreign import is_foreign
from medfm.train.checkpoint import Checkpoint

__all__ = ["Cost", "cost", "finetune", "own_recipe", "places"]


@dataclass(frozen=True)
class Cost:
    """What a training will take here, by a few of its steps: parameters, GB, seconds a step, steps a pass, cases."""

    trainable: int
    total: int
    gigabytes: float
    seconds: float
    steps: int
    train_cases: int
    held_cases: int
    volumes: int


def places(name: str, output: Path | None, *, resume: bool = False) -> tuple[Path, Path]:
    """Where the adapter and where its run (checkpoints, held-out rows, log) go.

    They lie apart, for the run knows the patients' files and the adapter is what gets handed on. resume: an adapter
    without a card is there already, where the run was killed while it was measured.
    Raises ConfigError for a name that cannot be one, is taken, or has a run that was cut short and is to begin anew.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ConfigError(f"--name {name!r}: use letters, digits, - and _")
    if name in [folder.name for folder in assets.shipped_adapters()]:
        raise ConfigError(f"--name {name!r} is an adapter that comes with medfm; choose another name")
    folder = output or assets.home_dir() / "adapters" / name
    if (folder / ("README.md" if resume else "medfm.json")).exists():
        raise ConfigError(
            f"{folder} holds an adapter already; choose another name, or `medfm adapter remove {name}` first"
        )
    run = assets.home_dir() / "runs" / name
    if not resume and Checkpoint(run, {}).last():
        raise ConfigError(
            f"a run named {name!r} was cut short: go on with it by --resume, or `medfm adapter remove {name}` first"
        )
    return folder, run


def own_recipe(
    data: str, found: Checked, *, task: Literal["vqa", "report"], adapter: str, hold: float = 0.2,
    minutes: float = 30, passes: int = 20, skip_bad: bool = False, limit: int | None = None, batch: int = 3,
    accumulate: int = 1, checkpointing: bool = False, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The recipe of a fine-tuning: the best pass is kept, and three without a better one end it.

    Raises DataError: rows are bad and `skip_bad` was not asked for, or none is of this task.
    """
    if found.bad and not skip_bad:
        raise DataError(
            f"{len(found.bad)} of {found.rows} rows cannot or must not be used, the first: {found.bad[0]}. "
            "Mend them (`medfm data check` lists them), or leave them out with --skip-bad"
        )
    if len(found.bad) == found.rows:
        raise DataError(f"none of the {found.rows} rows can be used; the first: {found.problems[0].text}")
    wanted, other = (found.questions, found.reports) if task == "vqa" else (found.reports, found.questions)
    if not set(wanted) - set(found.bad):
        raise DataError(f"found {len(other)} rows of the other task and none for --task {task}")
    if is_foreign(adapter):
        objective = {"name": "foreign", "model": adapter, "checkpointing": checkpointing}
        accumulate *= batch  # it takes one question a step
    else:
        about = json.loads((assets.adapter_folder(adapter) / "medfm.json").read_text())
        if "language" not in about:
            raise ConfigError(
                f"adapter {adapter!r} is of kind {about.get('kind')!r}; expected one that answers questions"
            )
        objective = {"name": "own", "adapter": adapter, "batch": batch, "checkpointing": checkpointing}
    rows = {"train": [data], "hold": hold, "skip": [*found.bad, *other]} | ({"limit": limit} if limit else {})
    options = {
        "epochs": passes, "budget": minutes, "rate": 3e-4, "decay": 0.01, "average": 0.98, "accumulate": accumulate,
        "patience": 3, "best": True, "minutes": 5, "seed": seed,
    }  # fmt: skip
    return {"objective": objective, "data": rows, "train": options}


def cost(objective: Any, *, steps: int = 3) -> Cost:
    """Run a few steps without changing anything, and count."""
    import psutil
    import torch

    rows = [batch for batch, _ in zip(objective.batches, range(steps), strict=False)]
    objective.train()
    with torch.random.fork_rng():
        for number, row in enumerate(rows):
            if number == 1:  # the first one also warms up
                start = time.perf_counter()
            objective(objective.collate(row))["loss"].backward()
        seconds = (time.perf_counter() - start) / (len(rows) - 1) if len(rows) > 1 else math.nan
    trained = [p for p in objective.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = None
    trainable = sum(p.numel() for p in trained)
    return Cost(
        trainable=trainable, total=sum(p.numel() for p in objective.parameters()),
        gigabytes=(psutil.Process().memory_info().rss + 12 * trainable) / 1e9,  # and two moments, and the average
        seconds=seconds, steps=len(objective.batches), train_cases=len(objective.cases),
        held_cases=len(objective.held),
        volumes=sum(c.prepared.x.shape[1] > 1 for c in objective.cases),
    )  # fmt: skip


def finetune(
    recipe: dict[str, Any], *, folder: Path, run: Path, resume: bool = False,
    changes: Mapping[str, Any] | None = None, before: Callable[[Any], None] | None = None,
) -> Path:  # fmt: skip
    """Train as `own_recipe` says and leave the adapter in `folder`; what names patients' files stays in `run`.

    `run/held.jsonl` gets the held-out questions as `medfm evaluate vqa` reads them. A resumed run goes by the recipe
    it began with (`run/recipe.json`); changes: keys of its `train` that are now others. before: called with the
    objective when all is read and nothing trained. Under several processes, the first writes.

    Raises ConfigError: a resumed run began with other data.
    """
    from medfm.train.loop import train

    kept = run / "recipe.json"
    if resume and kept.exists():
        begun = json.loads(kept.read_text())
        if begun["data"]["train"] != recipe["data"]["train"]:
            raise ConfigError(f"the run in {run} began with {begun['data']['train'][0]}; give that to go on with it")
        recipe = {**begun, "train": {**begun["train"], **(changes or {})}}

    def started(objective: Any) -> None:
        _write_held(objective, run / "held.jsonl")
        kept.write_text(json.dumps(recipe, indent=1))
        if before is not None:
            before(objective)

    train(recipe, output=run, resume=resume, before=started)
    if int(os.environ.get("RANK", "0")):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("adapter_config.json", "adapter_model.safetensors", "vision.safetensors"):
        if (run / name).exists():  # somebody else's model has no eye of ours
            shutil.copy(run / name, folder / name)
    about = json.loads((run / "medfm.json").read_text())
    if about.get("kind") == "foreign":
        shutil.copy(run / "medfm.json", folder / "medfm.json")
        return folder
    parent = json.loads((assets.adapter_folder(recipe["objective"]["adapter"]) / "medfm.json").read_text())
    kept_keys = {key: parent[key] for key in parent.keys() - about.keys() - {"parent"}}  # say, a report's limits
    (folder / "medfm.json").write_text(json.dumps({**kept_keys, **about}, indent=1) + "\n")
    return folder


def _write_held(objective: Any, file: Path) -> None:
    """Held-out questions about single files; pictures that a data set holds itself have no path to name."""
    lines = []
    for case in objective.held:
        if not case.path.exists() or " " in case.content:
            continue
        for question, answer in zip(case.questions, case.answers, strict=True):
            closed = answer.strip(" .").lower() in ("yes", "no")
            row = {
                "image": str(case.path.resolve()), "question": question, "answer": answer,
                "answer_type": "CLOSED" if closed else "OPEN",
            }  # fmt: skip
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(lines))
