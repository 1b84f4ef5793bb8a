"""Asking, training and looking after: the commands of every day; the work is imported when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfm.cli.app import Adapter, Frame, Plane, Series, app, chosen_series, evaluate, written_to

__all__ = ["app"]


def _version(wanted: bool) -> None:
    if wanted:
        import medfm

        typer.echo(medfm.__version__)
        raise typer.Exit


@app.callback()
def _medfm(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    pass


@app.command()
def ask(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE [QUESTION]...", help="A scan (file, folder or zip) and what you want to know."),
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Ask about the scan that ships with medfm; leave FILE out.")
    ] = False,
    series: Series = None,
    frame: Frame = None,
    plane: Annotated[Plane | None, typer.Option(help="Look at a volume in this plane.")] = None,
    adapter: Adapter = "default",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per answer and line.")] = False,
) -> None:
    """Ask about a scan. Without a question, ask one after another: the scan is read only once."""
    from medfm.cli import asking

    file, questions = asking.split_words(words or [], demo=demo)
    request = asking.Request(file, chosen_series(series), frame, plane.value if plane else None, adapter, as_json)
    asking.ask(request, questions)


@app.command()
def chat(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    host: Annotated[str, typer.Option(help="Other machines reach the page only if you change this.")] = "127.0.0.1",
    adapter: Adapter = "default",
    auth: Annotated[
        Path | None, typer.Option(help="Lines of NAME:PASSWORD in a file only you can read.", metavar="FILE")
    ] = None,
    folder: Annotated[
        list[Path] | None, typer.Option(help="Scans below DIR may be opened by path; may be repeated.", metavar="DIR")
    ] = None,
    audit: Annotated[
        Path | None, typer.Option(help="One line for each action, without patients' identity.", metavar="FILE")
    ] = None,
    mcp: Annotated[
        bool, typer.Option("--mcp", help="No page: offer the tools to another program over standard input and output.")
    ] = False,
) -> None:
    """Serve the chat page: see a scan, ask about it, click on what an answer rests on."""
    import runpy

    from medfm.assets import root
    from medfm.cli.access import logins

    if mcp:
        if not folder:
            raise typer.BadParameter("give the folder below which scans may be opened", param_hint="--folder")
        from functools import partial

        import medfm
        from medfm.assistant import Audit, Conversation, Intake
        from medfm.assistant.mcp import serve

        serve(partial(medfm.load, adapter), Intake(tuple(folder or ())), talk=Conversation("mcp", audit=Audit(audit)))
        return
    who = logins(auth, host)  # told before gradio is imported
    # apps/ holds scripts, not packages, so the page is run as one and not imported
    page = runpy.run_path(str(root() / "apps" / "chat"))
    page["launch"](adapter, host=host, port=port, auth=who, folders=tuple(folder or ()), audit=audit)


@evaluate.command("vqa")
def evaluate_vqa(
    data: Annotated[
        Path, typer.Argument(help="JSON lines: image, question, answer, answer_type.", metavar="DATA.jsonl")
    ],
    output: Annotated[Path, written_to("Folder for predictions.jsonl and metrics.json.")],
    adapter: Adapter = "default",
    baseline_data: Annotated[
        Path | None, typer.Option(help="Where the most frequent answers are learned.", metavar="TRAIN.jsonl")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N questions.", metavar="N")] = None,
) -> None:
    """Exact match on questions about images, beside a blank image and the most frequent answer."""
    from medfm.cli.show import figures
    from medfm.evaluate.rows import read_rows
    from medfm.evaluate.score import table

    read_rows(data, limit=1)  # a wrong path is told before the model loads
    import medfm
    from medfm.evaluate import evaluate_vqa as run

    metrics = run(medfm.load(adapter), data, output=output, baseline_data=baseline_data, limit=limit)
    figures(table(metrics), output, cases="predictions.jsonl")


_TRY = {  # by the kind of what was trained
    "segment": "segment SCAN --task {} --output mask.nii.gz",
    "prompt": "segment SCAN --task {} --box L,T,R,B --output mask.nii.gz",
    "detect": "detect SCAN --task {}",
    "classify": "classify SCAN --task {}",
    "register": "register MOVING FIXED --method network --model {} --output DIR",
    "reconstruct": "reconstruct FILE --model {} --output DIR",
    "translate": "synthesize SCAN --model {} --output other.nii.gz",
    "sample": "synthesize --model {} --output slices.nii.gz",
    "answers": 'ask SCAN "..." --adapter {}',
}


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe of tasks/ by name, or a YAML file.", metavar="RECIPE")],
    output: Annotated[Path, written_to("Folder for the trained adapter.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to the recipe.", metavar="[KEY=VALUE]...")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in DIR.")] = False,
    folds: Annotated[
        int, typer.Option(min=0, help="Cross-validate a segmentation recipe: that many models, one ensemble.")
    ] = 0,
) -> None:
    """Train or fine-tune as a recipe says."""
    from medfm.config import load_recipe

    chosen = load_recipe(recipe, overrides or [])
    if folds:
        from medfm.cli.show import figures
        from medfm.evaluate.folds import cross_validate
        from medfm.evaluate.overlap import overlap_table

        figures(overlap_table(cross_validate(chosen, output=output, folds=folds, resume=resume)), output)
        return
    from medfm.assets import kind_of
    from medfm.cli.show import note
    from medfm.train.loop import train as run

    made = run(chosen, output=output, resume=resume)
    kind = kind_of(made) if (made / "medfm.json").exists() else ""  # an eye or a second look alone has no command
    use = "" if kind == "answers" and not (made / "adapter_config.json").exists() else _TRY.get(kind, "")
    note(f"trained: {made}" + (f"; try it: medfm {use.format(made)}" if use else ""))


@app.command()
def models() -> None:
    """List the trained adapters that are here, and whether the base weights are."""
    from medfm.cli.show import adapters

    adapters()


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False) -> None:
    """Check this machine: what is installed, what is missing, what to do. Code 1 if questions cannot be answered."""
    from medfm.cli.doctor import examine
    from medfm.cli.show import findings

    if not findings(examine(), as_json=as_json):
        raise typer.Exit(1)
