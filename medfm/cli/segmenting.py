"""`medfm segment`, `plan`, `evaluate segment | lesions`: outlines, millilitres, and how well they agree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfm.cli.app import Frame, HeldOut, Series, app, dicom_files, evaluate, picture_of, read_scan, written_to

if TYPE_CHECKING:
    from medfm.scan import Mask, Scan

__all__ = ["evaluate_lesions", "evaluate_segment", "named_labels", "plan", "segment"]

Labels = Annotated[
    list[str] | None, typer.Option(help="VALUE=NAME of a label, where the data does not say.", metavar="VALUE=NAME")
]
Flip = Annotated[
    bool | None,
    typer.Option(
        "--flip/--no-flip",
        help="Look at the mirrored scan too, where the model was trained so.",
        show_default="as its card",
    ),
]


@app.command()
def segment(
    file: Annotated[Path, typer.Argument(help="A scan: file, folder or zip.", metavar="SCAN")],
    output: Annotated[Path, written_to("NIfTI (.nii.gz), or DICOM SEG of a DICOM series (.dcm).", "MASK")],
    task: Annotated[
        str,
        typer.Option(help="A model from `medfm models`, or a folder (default: one that fits).", metavar="NAME"),
    ] = "",
    series: Series = None,
    frame: Frame = None,
    flip: Flip = None,
    as_json: Annotated[bool, typer.Option("--json", help="The volumes as one JSON object.")] = False,
    box: Annotated[
        str | None,
        typer.Option(help="Outline what is in this box of a slice, in pixels as displayed.", metavar="L,T,R,B"),
    ] = None,
    point: Annotated[
        list[str] | None, typer.Option(help="Outline what is at this pixel; X,Y,0: leave it out.", metavar="X,Y")
    ] = None,
    index: Annotated[
        int | None,
        typer.Option(
            "--slice", min=1, help="Where the box or point is, from 1, as reports number slices.", metavar="N"
        ),
    ] = None,
    through: Annotated[bool, typer.Option("--through", help="Follow the thing through the other slices.")] = False,
    picture: Annotated[Path | None, picture_of("Draw the outlines on the slice that shows most of them.")] = None,
) -> None:
    """Outline the structures that a model knows, or what a box or a point shows, and print millilitres.

    Told as well: structures of the model that were not found, and those that the scan's border may cut. With --task
    totalsegmentator: 117 structures of the body in CT, where that package and its weights are here.
    """
    import medfm
    from medfm.cli import show
    from medfm.errors import ScanError

    if not output.name.endswith((".nii", ".nii.gz", ".dcm")):  # told before the work is done
        raise ScanError(f"--output {output.name}: masks are NIfTI or DICOM SEG; end the name in .nii, .nii.gz or .dcm")
    scan = read_scan(file, series=series, frame=frame)
    if output.suffix == ".dcm" and not (scan.series_uid and scan.frame == "patient"):
        raise ScanError(
            f"--output {output.name}: a DICOM SEG refers to DICOM images that say how they lie in the patient, and "
            f"{file.name} holds none; write NIfTI"
        )
    from medfm.predict.whole_body import WHOLE_BODY, outline_whole_body

    show.scan(scan)
    marked = box is not None or bool(point)
    task = task or ("prompt" if marked else _fitting(scan))
    with show.waiting("segmenting"):
        if marked:
            mask = _outlined(task, scan, box=box, points=point or [], index=index, through=through)
        elif task == WHOLE_BODY:
            mask = outline_whole_body(scan)
        else:
            model = medfm.load_segmenter(task)
            mask = medfm.segment(model, scan, flip=flip)
    if output.suffix == ".dcm":
        _write_seg(mask, output, file, scan, task)
    else:
        mask.write(output)
    _tell(mask, scan, task, as_json=as_json)
    show.note(f"written: {output}")
    if picture is not None:
        from medfm.image.marked import outlined_picture

        drawn, number = outlined_picture(scan, mask)
        show.picture(drawn, picture, more=f", slice {number + 1}")
    show.disclaimer()


def _fitting(scan: Scan) -> str:
    """The model that outlines such scans where none is named, told on stderr."""
    from medfm.cli import show
    from medfm.errors import ScanError
    from medfm.predict.segmenting import fitting

    task = fitting(scan)
    if task is None:
        raise ScanError(
            "no shipped model outlines such a scan as a whole: brain is for MR of a head, organ-outlines for other CT "
            "and MR. Name one with --task (`medfm models` lists them), or mark what you mean with --box or --point"
        )
    show.note(f"model: {task}")
    return task


def _outlined(task: str, scan: Scan, *, box: str | None, points: list[str], index: int | None, through: bool) -> Mask:
    """What lies in the box or at the points of a slice, counted from 1."""
    from medfm.predict.prompting import outline_seen
    from medfm.prompter import load_prompter

    sides, marks = (_numbers(box, 4) if box else None), [_numbers(word, 2, 3) for word in points]
    depth = scan.slices()[0].shape[1]
    if index is None and depth > 1:
        raise typer.BadParameter(
            f"the scan has {depth} slices: give the one of the box or point, 1 to {depth}", param_hint="--slice"
        )
    try:
        return outline_seen(
            load_prompter(task), scan, box=sides, points=[(*m, 1.0)[:3] for m in marks], index=(index or 1) - 1,
            through=through,
        )  # fmt: skip
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--box, --point, --slice") from error


def _tell(mask: Mask, scan: Scan, task: str, *, as_json: bool) -> None:
    """Millilitres on stdout; what is missing, or may be cut by the border, as notes."""
    import json

    from medfm.cli import show
    from medfm.predict.segmenting import asymmetry, cut_off, volumes

    found = volumes(mask)
    uneven, cut = asymmetry(found), cut_off(mask)
    missing = [name for name, ml in found.items() if not ml]
    if as_json:
        told = {"task": task, "ml": found, "left_over_right_percent": uneven, "spacing_known": scan.spacing_known}
        typer.echo(json.dumps({**told, "not_found": missing, "cut_by_border": cut}))
    else:
        for name, ml in found.items():
            if ml:
                count = 1000 * ml / mask.voxel_volume
                typer.echo(f"{name}\t{ml:.2f} ml" if scan.spacing_known else f"{name}\t{count:.0f} voxels")
        for name, percent in uneven.items():
            typer.echo(f"{name}, left over right\t{percent:+.1f} %")
    if missing:
        show.note(f"not found, {len(missing)} of {len(found)}: {', '.join(missing)}")
    if cut:
        show.note(f"at the border of the scan, perhaps cut by it: {', '.join(cut)}")


@app.command()
def plan(
    data: Annotated[Path, typer.Argument(help="A labelled data set: dataset.json or its folder, ...", metavar="DATA")],
    output: Annotated[Path, written_to("Where the recipe is written.", "PLAN.yaml")],
    memory: Annotated[float, typer.Option(min=0.1, help="GB of the graphics card, as nnU-Net counts them.")] = 8.0,
    configuration: Annotated[
        str, typer.Option(help="2d, 3d_fullres or 3d_lowres (default: 3d_fullres, 2d for pictures).", metavar="NAME")
    ] = "",
    channel: Annotated[
        str, typer.Option(help="CT, or anything else for z-scores, where dataset.json does not say.", metavar="WORD")
    ] = "",
    label: Labels = None,
) -> None:
    """Plan patch, batch, spacing and network for a data set as nnU-Net does; `medfm train PLAN.yaml` follows it."""
    from medfm.cli import show
    from medfm.data.planning import planned

    if output.suffix not in (".yaml", ".yml"):
        raise typer.BadParameter(f"--output {output.name}: a plan is YAML; end its name in .yaml")
    found = planned(data, memory=memory, configuration=configuration, channel=channel, labels=named_labels(label or []))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(found.text, encoding="utf-8")
    typer.echo(found.summary)
    show.note(f"written: {output}; edit it, then: medfm train {output} --output DIR")


@evaluate.command("segment")
def evaluate_segment(
    output: Annotated[Path, written_to("Folder for cases.jsonl and metrics.json.")],
    data: Annotated[
        Path | None, typer.Argument(help="A data set: dataset.json or its folder, ...", metavar="[DATASET]")
    ] = None,
    model: Annotated[str, typer.Option(help="A model by name, or a folder; also a prompted one.", metavar="NAME")] = "",
    prediction: Annotated[
        Path | None, typer.Option(help="A folder of masks, instead of a model.", metavar="DIR")
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="What `--prediction` is held against.", metavar="DIR")] = None,
    label: Labels = None,
    held_out: HeldOut = False,
    flip: Flip = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Maps leave out what is there: count a class where it is drawn only.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N scans.", metavar="N")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Of NSD, in mm.")] = 1.0,
    least: Annotated[int, typer.Option(min=1, help="Pixels of what a prompted model is asked for.")] = 16,
) -> None:
    """Dice, surface Dice and Hausdorff distance of a model on a data set, or of masks in a folder.

    A prompted model is given a box, and a click, for every label of every slice; the filled box stands beside it.
    """
    from medfm import assets
    from medfm.cli.show import figures
    from medfm.evaluate.overlap import overlap_table
    from medfm.evaluate.segment import compare_masks
    from medfm.evaluate.segment import evaluate_segment as run

    labels = named_labels(label or [])
    if prediction is not None and truth is not None:
        metrics = compare_masks(
            prediction, truth, output=output, labels=labels, partial=partial, tolerance=tolerance
        )  # fmt: skip
    elif data is not None and model and assets.kind_of(model) == "prompt":
        from medfm.evaluate.prompts import evaluate_prompts, prompt_table
        from medfm.prompter import load_prompter

        metrics = evaluate_prompts(
            load_prompter(model), data, output=output, held_out=held_out, labels=labels, least=least, limit=limit
        )
        figures(prompt_table(metrics), output)
        return
    elif data is not None and model:
        from medfm.segmenter import load_segmenter

        metrics = run(
            load_segmenter(model), data, output=output, held_out=held_out, labels=labels, flip=flip,
            partial=partial, limit=limit, tolerance=tolerance,
        )  # fmt: skip
    else:
        raise typer.BadParameter("give DATASET and --model NAME, or --prediction DIR and --truth DIR")
    figures(overlap_table(metrics), output)


@evaluate.command("lesions")
def evaluate_lesions(
    maps: Annotated[
        list[Path], typer.Argument(help="Label maps of heads of people unseen in training.", metavar="MAP")
    ],
    output: Annotated[Path, written_to("Folder for cases.jsonl and metrics.json.")],
    model: Annotated[str, typer.Option(help="A model of brain lesions by name, or a folder.", metavar="NAME")],
    images: Annotated[
        int, typer.Option(min=2, help="Scans painted of each head; half have a lesion.", metavar="N")
    ] = 30,
    seed: Annotated[int, typer.Option(help="Other numbers paint other scans.")] = 0,
) -> None:
    """Lesions present or absent, their side and volume, on painted scans of heads (synthetic)."""
    from medfm.cli import show
    from medfm.evaluate.lesions import evaluate_lesions as run
    from medfm.evaluate.lesions import lesion_table
    from medfm.finder import load_finder

    metrics = run(load_finder(model), [str(path) for path in maps], output=output, images=images, seed=seed)
    show.figures(lesion_table(metrics), output)


def _write_seg(mask: Mask, output: Path, file: Path, scan: Scan, task: str) -> None:
    from importlib.metadata import version

    from medfm.export.masks import mask_seg

    with dicom_files(file, scan) as source:
        made = mask_seg(
            mask, source, watermark=f"Draft by medfm, model {task}; not for diagnosis.", adapter=Path(task).name,
            version=version("medfm"),
        )  # fmt: skip
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(made)


def _numbers(word: str, *counts: int) -> list[float]:
    try:
        numbers = [float(part) for part in word.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{word}: expected numbers with commas between") from error
    if len(numbers) not in counts:
        raise typer.BadParameter(f"{word}: found {len(numbers)} numbers, expected {' or '.join(map(str, counts))}")
    return numbers


def named_labels(words: list[str]) -> dict[int, str] | None:
    """VALUE=NAME of the command line as value -> name; None for none."""
    pairs = [word.partition("=") for word in words]
    for value, _, name in pairs:
        if not value.isdecimal() or not name:
            raise typer.BadParameter(f"--label {value}: expected VALUE=NAME, say --label 1=liver")
    return {int(value): name for value, _, name in pairs} or None
