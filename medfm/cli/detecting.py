"""`medfm detect` and `medfm evaluate detect`: boxes with their sizes, and how well they agree with people's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfm.cli.app import Frame, HeldOut, Series, app, evaluate, picture_of, read_scan, written_to

__all__ = ["detect", "evaluate_detect"]


@app.command()
def detect(
    file: Annotated[Path, typer.Argument(help="A scan: file, folder or zip.", metavar="SCAN")],
    task: Annotated[str, typer.Option(help="A detector from `medfm models`, or a folder.", metavar="NAME")],
    series: Series = None,
    frame: Frame = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Lowest score shown (default: the model's own).")
    ] = None,
    picture: Annotated[Path | None, picture_of("Draw the boxes on the slice of the likeliest one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The boxes as one JSON object.")] = False,
) -> None:
    """Draw boxes around what a detector knows, and print the size of each in mm."""
    import json

    import medfm
    from medfm.cli import show
    from medfm.predict.detecting import box_size

    scan = read_scan(file, series=series, frame=frame)
    show.scan(scan)
    model = medfm.load_detector(task)
    with show.waiting("detecting"):
        boxes = medfm.detect(model, scan, threshold=threshold)
    rows = [(box, *box_size(scan, box)) for box in boxes]
    if as_json:
        found = [{**box.to_dict(), "size": list(sides), "unit": unit} for box, sides, unit in rows]
        typer.echo(json.dumps({"task": task, "frame": scan.frame, "boxes": found}))
    else:
        for box, sides, unit in rows:
            where = "" if box.slice is None else f"\tslice {box.slice + 1}"
            size = " x ".join(f"{side:.0f}" for side in sides)
            typer.echo(f"{box.label}\t{100 * (box.score or 0):.0f} %\t{size} {unit}{where}")
        if not rows:
            show.note("nothing was found; a lower --threshold shows less likely boxes")
    if model.caution:
        show.note(model.caution)
    if picture is not None:
        from medfm.image.marked import marked_picture

        show.picture(marked_picture(scan, boxes), picture)
    show.disclaimer()


@evaluate.command("detect")
def evaluate_detect(
    data: Annotated[
        Path, typer.Argument(help="VOC folder, COCO .json, SLAKE folder, or .jsonl of boxes.", metavar="DATASET")
    ],
    output: Annotated[Path, written_to("Folder for cases.jsonl and metrics.json.")],
    model: Annotated[str | None, typer.Option(help="A detector by name, or a folder.", metavar="NAME")] = None,
    prediction: Annotated[
        Path | None,
        typer.Option(help="Boxes of another program, as in cases.jsonl, instead of a model.", metavar="FILE.jsonl"),
    ] = None,
    held_out: HeldOut = False,
    least: Annotated[int, typer.Option(min=1, help="Only classes with N boxes or more in DATASET.", metavar="N")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N scans.", metavar="N")] = None,
) -> None:
    """AP and FROC of a detector on a data set with boxes, beside boxes at the mean place of each class."""
    from medfm.cli.show import figures
    from medfm.detector import load_detector
    from medfm.evaluate.detect import detection_table
    from medfm.evaluate.detect import evaluate_detect as run

    if (model is None) == (prediction is None):
        raise typer.BadParameter("give a model, or a file of predictions", param_hint="--model, --prediction")
    if prediction is not None:
        from medfm.evaluate.predictions import evaluate_predicted_boxes

        if held_out:
            raise typer.BadParameter("of predictions nobody knows who was held out", param_hint="--held-out")
        found = evaluate_predicted_boxes(prediction, data, output=output, least=least, limit=limit)
        figures(detection_table(found), output)
        return
    assert model is not None
    metrics = run(load_detector(model), data, output=output, held_out=held_out, least=least, limit=limit)
    figures(detection_table(metrics), output)
