"""`medfm finetune` and `medfm adapter`: an adapter of one's own from data to card, and what is done with it later."""

from __future__ import annotations

import math
import shlex
import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfm.cli.app import Adapter, app, written_to
from medfm.cli.data import Data, show_problems

if TYPE_CHECKING:
    from medfm.data.check import Checked
    from medfm.train.finetune import Cost

__all__ = ["Task", "finetune", "merge", "remove"]

_adapter = typer.Typer(help="Adapters of one's own; `medfm models` lists them.", no_args_is_help=True)
app.add_typer(_adapter, name="adapter")


class Task(StrEnum):
    """What the rows teach."""

    vqa = "vqa"
    report = "report"


@app.command()
def finetune(
    data: Data,
    name: Annotated[str, typer.Option(help="What the adapter will be called.", metavar="NAME")],
    task: Annotated[Task, typer.Option(help="Questions and answers, or reports.")] = Task.vqa,
    adapter: Adapter = "default",
    hold: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share held out, by patient.")] = 0.2,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="At most so long; 0 = as long as it gets better.", show_default="30")
    ] = None,
    passes: Annotated[
        int | None, typer.Option(min=1, help="At most so often over all cases.", show_default="20")
    ] = None,
    output: Annotated[Path | None, written_to("Another folder for the adapter.")] = None,
    licence: Annotated[
        str | None, typer.Option(help="Of the data, for the card.", metavar="TEXT", show_default="other")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out rows that the check finds unusable.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N scans.", metavar="N")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Scans a step.")] = 3,
    accumulate: Annotated[int, typer.Option(min=1, help="Steps before the weights change.")] = 1,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Less memory, a third slower.")] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run of this name, with the options it began with; --minutes and "
            "--passes may be others.",
        ),
    ] = False,
) -> None:
    """Train an adapter on your own cases: checked, split by patient, the best pass kept, measured, with a card."""
    import json

    from medfm.cli import show
    from medfm.data.check import check
    from medfm.train.finetune import finetune as run
    from medfm.train.finetune import own_recipe, places

    folder, work = places(name, output, resume=resume)
    found = check(data)
    show_problems(found)
    changes = {key: value for key, value in (("budget", minutes), ("epochs", passes)) if value is not None}
    recipe = own_recipe(
        data, found, task=task.value, adapter=adapter, hold=hold, minutes=changes.get("budget", 30),
        passes=int(changes.get("epochs", 20)), skip_bad=skip_bad, limit=limit, batch=batch, accumulate=accumulate,
        checkpointing=checkpointing,
    )  # fmt: skip
    words = [Path(word).name if word == data or Path(word).is_absolute() else word for word in sys.argv[1:]]
    typed = shlex.join(["medfm", *words])  # for the card, which holds no path
    recipe["made"] = {"licence": licence or "other", "command": typed}
    if unused := len(found.reports if task is Task.vqa else found.questions):
        show.note(
            f"{unused} rows are {'reports' if task is Task.vqa else 'questions'}: not used for --task {task.value}"
        )
    costs: list[Cost] = []

    def announce(objective: Any) -> None:
        from medfm.train.finetune import cost

        costs.append(cost(objective))
        options = json.loads((work / "recipe.json").read_text())["train"]
        show.note(_announced(costs[0], options["budget"], options["epochs"]))

    show.note("reading every scan and looking at it, then training ...")  # minutes, and a log file shows no bar
    run(recipe, folder=folder, run=work, resume=resume, changes=changes, before=announce)
    if costs:  # the first of several processes
        kept = json.loads((work / "recipe.json").read_text())  # a resumed run goes by what it began with
        adapter = kept["objective"].get("adapter") or kept["objective"]["model"]
        begun = kept.get("made", recipe["made"])
        command = typed if typed == begun["command"] else f"{begun['command']}\n{typed}"
        _measure(
            folder, work, costs[0], adapter=adapter, task=task, licence=licence or begun["licence"], found=found,
            command=command,
        )  # fmt: skip
        show.note(f"written: {folder}; try it: medfm ask SCAN --adapter {name if output is None else folder}")


def _announced(costs: Cost, minutes: float, passes: int) -> str:
    whole = costs.seconds * costs.steps / 60
    most = f"at most {minutes:g} minutes" if minutes else f"at most {passes * whole:.0f} minutes"
    speed = f"{costs.seconds:.1f} s a step, {costs.steps} steps and {whole:.1f} minutes a pass"
    if math.isnan(costs.seconds):
        speed = "one step a pass"
    return (
        f"{costs.train_cases} scans to learn from ({costs.volumes} volumes), {costs.held_cases} held out\n"
        f"{costs.trainable / 1e6:.2f} of {costs.total / 1e6:.0f} million parameters are trained\n"
        f"about {costs.gigabytes:.1f} GB of memory; {speed}, {passes} passes at most, {most} of training; held-out "
        "questions are answered before and after it"
    )


def _measure(
    folder: Path, work: Path, costs: Cost, *, adapter: str, task: Task, licence: str, found: Checked, command: str
) -> None:
    """Figures on the held-out questions, of the parent too, and the card."""
    import json

    import medfm
    from medfm.evaluate import evaluate_vqa
    from medfm.evaluate.card import Made, write_card

    log = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    about = json.loads((folder / "medfm.json").read_text())
    metrics = before = None
    if (held := work / "held.jsonl").stat().st_size:
        before = evaluate_vqa(medfm.load(adapter), held, output=work / "before")
        metrics = evaluate_vqa(medfm.load(folder), held, output=work / "after")
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    from medfm.assets import hub_id

    made = Made(
        task=task.value, parent=Path(adapter).name, base=_shown(hub_id(about["language"])), licence=licence,
        command=command, train_cases=costs.train_cases, held_cases=costs.held_cases,
        volumes=costs.volumes, patients=found.patients, left_out=len(found.bad), passes=len(log),
        score=max(entry.get("score") or 0.0 for entry in log),
    )  # fmt: skip
    write_card(folder, made, metrics=metrics, before=before)
    if metrics is not None:
        from medfm.cli.show import figures
        from medfm.evaluate.score import table

        figures(table(metrics), work / "after", cases="predictions.jsonl")


def _shown(base: str) -> str:
    """A model's name on the hub; of a folder of this machine only the last part."""
    return Path(base).name if Path(base).is_absolute() else base.removeprefix("hf:")


Name = Annotated[str, typer.Argument(help="A name from `medfm models`, or a folder.", metavar="NAME")]


@_adapter.command("merge")
def merge(
    name: Name,
    output: Annotated[Path, written_to("Folder for the whole model.")],
) -> None:
    """Write the adapter as a model of its own: language model with the LoRA merged in, whole eye, nothing to fetch."""
    from medfm.cli import show
    from medfm.errors import ConfigError

    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty; choose another folder")
    from medfm.model import load, save_merged

    with show.waiting("merging"):
        save_merged(load(name), output)
    show.note(f"written: {output}; use it as any adapter: medfm ask SCAN --adapter {output}")


@_adapter.command("remove")
def remove(name: Name, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Delete an adapter of your own, with its run."""
    from medfm import assets
    from medfm.cli import show
    from medfm.errors import UnknownName

    kinds = ("adapters", "runs")  # a run that was cut short has no adapter yet
    here = [place for kind in kinds for place in (assets.home_dir() / kind).glob("*") if place.name == name]
    if not here:
        names = ", ".join(f.name for f in assets.own_adapters()) or "none"
        raise UnknownName(f"you have no adapter named {name!r}; yours are: {names}")
    if not yes:
        typer.confirm(f"Delete {' and '.join(map(str, here))}?", abort=True)
    for place in here:
        shutil.rmtree(place)
    show.note(f"removed: {name}")
