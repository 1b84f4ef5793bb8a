"""`medfm report` and `medfm evaluate report`: a draft on screen or in files, and how good such drafts are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfm.cli.app import Adapter, Frame, Plane, Series, app, dicom_files, evaluate, read_scan, written_to

if TYPE_CHECKING:
    from medfm.scan import Scan

__all__ = ["evaluate_report", "report"]


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="A scan: file, folder or zip.", metavar="SCAN")],
    output: Annotated[
        list[Path] | None,
        written_to(".md .pdf .json .fhir.json .dcm; may be given again.", "FILE"),
    ] = None,
    indication: Annotated[str | None, typer.Option(help="Why the examination was made.", metavar="TEXT")] = None,
    history: Annotated[str | None, typer.Option(help="What is known of the patient.", metavar="TEXT")] = None,
    labs: Annotated[str | None, typer.Option(help="Laboratory values.", metavar="TEXT")] = None,
    prior: Annotated[
        str | None,
        typer.Option(help="An earlier scan, or a report: .txt, .md or the text.", metavar="PRIOR"),
    ] = None,
    series: Series = None,
    frame: Frame = None,
    plane: Annotated[Plane | None, typer.Option(help="Look at a volume in this plane.")] = None,
    adapter: Adapter = "default",
    as_json: Annotated[bool, typer.Option("--json", help="The report as one JSON object on stdout.")] = False,
) -> None:
    """Draft a report: technique, findings by region, impression, each sentence with what it rests on."""
    from medfm.cli import show
    from medfm.export import FORMATS, save_report

    for wanted in output or []:  # a wrong ending is told before the model loads
        if not wanted.name.lower().endswith(FORMATS):
            raise typer.BadParameter(f"{wanted.name}: choose one of {', '.join(FORMATS)}", param_hint="-o")
    import medfm
    from medfm.export.markdown import markdown
    from medfm.predict import report as draft

    image = read_scan(file, series=series, frame=frame)
    if any(wanted.name.lower().endswith(".dcm") for wanted in output or []) and not image.series_uid:
        raise typer.BadParameter(f"a DICOM SR refers to DICOM images; {file.name} is none", param_hint="-o")
    before = _prior(prior)
    show.scan(image)
    with show.waiting("loading the model"):
        model = medfm.load(adapter)
    with show.waiting("looking"):
        made = draft(
            model, image, indication=indication, history=history, labs=labs, prior=before,
            plane=plane.value if plane else None,
        )  # fmt: skip
    for wanted in output or []:
        if wanted.name.lower().endswith(".dcm"):
            with dicom_files(file, image) as source:
                save_report(made, wanted, scan=image, source=source)
        else:
            save_report(made, wanted, scan=image)
        show.note(f"written: {wanted}")
    if as_json:
        print(json.dumps(made.to_dict(), ensure_ascii=False))
    elif not output:
        print(show.printable(markdown(made)))
    show.disclaimer()


def _prior(given: str | None) -> Scan | str | None:
    """A file is read, as text or as a scan by its ending; anything else is the text itself.

    Raises ScanError: one word that looks like the name of a file, and none is there.
    """
    if given is None:
        return None
    path = Path(given)
    if len(given) > 250 or not path.exists():
        if len(given.split()) == 1 and (path.suffix or len(path.parts) > 1):
            from medfm.errors import ScanError

            raise ScanError(f"--prior {given}: there is no such file or folder.")
        return given
    if path.suffix.lower() in (".txt", ".md"):
        return path.read_text(encoding="utf-8", errors="replace")
    import medfm

    return medfm.Scan.read(path)


@evaluate.command("report")
def evaluate_report(
    data: Annotated[
        Path,
        typer.Argument(help="JSON lines of questions, boxes.json beside images.", metavar="DATA.jsonl"),
    ],
    output: Annotated[Path, written_to("Folder for predictions.jsonl and metrics.json.")],
    adapter: Adapter = "default",
    baseline_data: Annotated[
        Path | None, typer.Option(help="Where the most frequent reports are learned.", metavar="TRAIN.jsonl")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.", metavar="N")] = None,
) -> None:
    """Facts of drafted reports against the truth, beside blank images, other images and the most frequent report."""
    from medfm.cli import show
    from medfm.evaluate.report import evaluate_report as run
    from medfm.evaluate.report import read_items
    from medfm.evaluate.score_report import report_table

    read_items(data, limit=1)
    import medfm

    metrics = run(medfm.load(adapter), data, output=output, baseline_data=baseline_data, limit=limit)
    show.figures(report_table(metrics), output, cases="predictions.jsonl")
