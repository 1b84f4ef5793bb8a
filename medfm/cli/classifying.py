"""`medfm classify` and `medfm evaluate classify`: what a scan shows as a whole, and how often that is right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfm.cli.app import Frame, HeldOut, Series, app, evaluate, read_scan, written_to

__all__ = ["classify", "evaluate_classify"]

Models = Annotated[
    list[str], typer.Option("--task", help="A classifier or its folder; several are averaged.", metavar="NAME")
]


@app.command()
def classify(
    file: Annotated[Path, typer.Argument(help="A scan: file, folder or zip.", metavar="SCAN")],
    task: Models,
    series: Series = None,
    frame: Frame = None,
    heat: Annotated[
        Path | None, typer.Option(help="Write where the likeliest label was seen, as NIfTI.", metavar="HEAT.nii.gz")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The probabilities as one JSON object.")] = False,
) -> None:
    """Say how probable each label of a classifier is, and what holds at its two operating points."""
    import json
    from dataclasses import replace

    import medfm
    from medfm.cli import show
    from medfm.errors import ScanError
    from medfm.predict import explain

    if heat is not None and not heat.name.endswith((".nii", ".nii.gz")):  # told before the work is done
        raise ScanError(f"--heat {heat.name}: maps are written as NIfTI; end the name in .nii or .nii.gz")
    scan = read_scan(file, series=series, frame=frame)
    show.scan(scan)
    models = [medfm.load_classifier(name) for name in task]
    with show.waiting("classifying"):
        scores = medfm.classify(models, scan)
    if as_json:
        typer.echo(json.dumps({"task": task, **scores.to_dict()}))
    else:
        sensitive, specific = scores.present("sensitive"), scores.present("specific")
        for name, p in sorted(scores.probabilities.items(), key=lambda item: -item[1]):
            called = "present" if specific.get(name) else "cannot be ruled out" if sensitive.get(name) else ""
            typer.echo(f"{name}\t{100 * p:.1f} %\t{called}".rstrip())
    if heat is not None:
        replace(scan, data=explain(models[0], scan, scores.best)[None]).write(heat)
        show.note(f"written: {heat}, where {scores.best!r} was seen")
    show.disclaimer()


@evaluate.command("classify")
def evaluate_classify(
    data: Annotated[
        Path, typer.Argument(help="HAM10000 folder, MedMNIST .npz, a folder a class, or .jsonl.", metavar="DATASET")
    ],
    output: Annotated[Path, written_to("Folder for cases.jsonl and metrics.json.")],
    model: Annotated[
        list[str] | None, typer.Option(help="A classifier or its folder; several are averaged.", metavar="NAME")
    ] = None,
    prediction: Annotated[
        Path | None,
        typer.Option(
            help="Probabilities of another program, a column `case` and one a label, instead of a model.",
            metavar="FILE.csv|.jsonl",
        ),
    ] = None,
    held_out: HeldOut = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N scans.", metavar="N")] = None,
) -> None:
    """AUC, balanced accuracy, calibration and operating points of a classifier, beside the nearest thumbnail."""
    from medfm.classifier import load_classifier
    from medfm.cli.show import figures
    from medfm.evaluate.classify import classification_table
    from medfm.evaluate.classify import evaluate_classify as run

    if (not model) == (prediction is None):
        raise typer.BadParameter("give a model, or a file of predictions", param_hint="--model, --prediction")
    if prediction is not None:
        from medfm.evaluate.predictions import evaluate_predicted_labels

        if held_out:
            raise typer.BadParameter("of predictions nobody knows who was held out", param_hint="--held-out")
        figures(classification_table(evaluate_predicted_labels(prediction, data, output=output, limit=limit)), output)
        return
    assert model is not None
    metrics = run([load_classifier(name) for name in model], data, output=output, held_out=held_out, limit=limit)
    figures(classification_table(metrics), output)
