"""`medfm register` and `medfm evaluate register`: one scan onto another, and how well that goes."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfm.cli.app import app, evaluate, read_scan, written_to

if TYPE_CHECKING:
    from medfm.registrar import Registrar
    from medfm.scan import Alignment, Mask, Scan

__all__ = ["evaluate_register", "register"]


class Way(StrEnum):
    """How the alignment is found."""

    network = "network"
    structures = "structures"
    rigid = "rigid"
    affine = "affine"
    bspline = "bspline"
    demons = "demons"


class Contrast(StrEnum):
    """What the two scans share."""

    any = "any"
    same = "same"


How = Annotated[Way, typer.Option("--method", help="A trained network, the structures of two brains, or a search.")]
Model = Annotated[
    str, typer.Option(help="A registration model from `medfm models`, or a folder.", metavar="NAME")
]  # fmt: skip
Optimise = Annotated[bool, typer.Option("--optimise", help="Go on from the network's field on this very pair.")]
Same = Annotated[Contrast, typer.Option(help="Searches compare scans of the same contrast by correlation.")]
_DEFAULT = "hippocampus-registration"


@app.command()
def register(
    moving: Annotated[Path, typer.Argument(help="The scan that is brought: file, folder or zip.", metavar="MOVING")],
    fixed: Annotated[Path, typer.Argument(help="The scan it is brought onto.", metavar="FIXED")],
    output: Annotated[Path, written_to("Folder for transform, field, warped scan, overlays.")],
    method: How = Way.affine,
    model: Model = _DEFAULT,
    optimise: Optimise = False,
    contrast: Same = Contrast.any,
    moving_series: Annotated[str | None, typer.Option(help="Which series of MOVING, if there are several.")] = None,
    fixed_series: Annotated[str | None, typer.Option(help="Which series of FIXED, if there are several.")] = None,
    mask: Annotated[
        list[Path] | None, typer.Option(help="A mask of the moving scan to bring along.", metavar="FILE")
    ] = None,
    volume: Annotated[
        list[Path] | None, typer.Option(help="Another scan in its space to bring along.", metavar="FILE")
    ] = None,
    points: Annotated[
        Path | None, typer.Option(help="x,y,z a line, RAS mm of the moving scan, to bring along.", metavar="CSV")
    ] = None,
) -> None:
    """Bring one scan onto another: a prior onto the current one, or one patient onto another."""
    import numpy as np

    import medfm
    from medfm.cli import show
    from medfm.data.pairs import read_table
    from medfm.export.alignment import save_alignment
    from medfm.predict import likeness
    from medfm.scan import Alignment

    table = None if points is None else read_table(points, columns=3)  # told before the work is done
    a, b = (read_scan(f, series=s, frame=None) for f, s in ((moving, moving_series), (fixed, fixed_series)))
    masks, volumes = ({path: medfm.Scan.read(path) for path in files or []} for files in (mask, volume))
    show.scan(a)
    show.scan(b)
    with show.waiting("registering"):
        found = _aligner(method, model, optimise, contrast)(a, b)
    about = save_alignment(found, a, b, output)
    for path, scan in masks.items():
        found.warp_mask(_mask(scan, path), b).write(_beside(output, path))
    for path, scan in volumes.items():
        found.warp(scan, b).write(_beside(output, path))
    if table is not None:
        rows = [",".join(f"{v:.3f}" for v in row) for row in found.points_back(table)]
        (output / "points_warped.csv").write_text("\n".join(["x,y,z", *rows]) + "\n")
    before, after = (likeness(way.warp(a, b), b) for way in (Alignment(np.eye(4)), found))
    typer.echo(f"correlation\t{before['correlation']:.3f} -> {after['correlation']:.3f}")
    typer.echo(f"mutual information\t{before['nmi']:.3f} -> {after['nmi']:.3f}")
    typer.echo(f"folded voxels\t{about['folding_percent']:.3f} %")
    if all(after[key] < before[key] for key in after):
        show.note("warning: the scans are less alike than before; look at the overlays before you use it")
    show.note(f"written: {output}")
    show.disclaimer()


@evaluate.command("register")
def evaluate_register(
    pairs: Annotated[Path, typer.Argument(help="JSON lines of moving, fixed, labels, points.", metavar="PAIRS.jsonl")],
    output: Annotated[Path, written_to("Folder for cases.jsonl and metrics.json.")],
    method: How = Way.network,
    model: Model = _DEFAULT,
    optimise: Optimise = False,
    contrast: Same = Contrast.any,
    transforms: Annotated[
        Path | None, typer.Option(help="0000.h5, ... of another program, instead of a method.", metavar="DIR")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="VALUE=NAME of a label to compare.", metavar="VALUE=NAME")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N pairs.", metavar="N")] = None,
) -> None:
    """Dice before and after, Hausdorff distance, folding, smoothness, target error and seconds of a registration."""
    from medfm.cli import show
    from medfm.cli.segmenting import named_labels
    from medfm.data.pairs import read_pairs
    from medfm.evaluate.register import alignment_table, read_alignments
    from medfm.evaluate.register import evaluate_register as run

    count = len(read_pairs(pairs)[:limit])
    name = method.value if method != Way.network else Path(model).name + (", optimised" if optimise else "")
    metrics = run(
        _aligner(method, model, optimise, contrast) if transforms is None else read_alignments(transforms, count),
        pairs, output=output, name=name if transforms is None else transforms.resolve().name,
        labels=named_labels(label or []), limit=limit,
    )  # fmt: skip
    show.figures(alignment_table(metrics), output)


def _aligner(method: Way, model: str, optimise: bool, contrast: Contrast) -> Callable[[Scan, Scan], Alignment]:
    """The verb with all but its scans; the network is loaded once."""
    import medfm

    network: Registrar | None = medfm.load_registrar(model) if method == Way.network else None

    def align(moving: Scan, fixed: Scan) -> Alignment:
        return medfm.register(
            moving, fixed, model=network, method=method.value, optimise=optimise, contrast=contrast.value
        )

    return align


def _mask(scan: Scan, path: Path) -> Mask:
    import numpy as np

    from medfm.errors import DataError

    values = np.unique(scan.data)
    if len(scan.data) > 1 or values.min() < 0 or values.max() > 255 or (values != values.round()).any():
        raise DataError(
            f"--mask {path.name}: expected whole numbers from 0 to 255; found others. Bring it along with --volume"
        )
    return scan.mask(scan.data[0].astype(np.uint8), {})


def _beside(output: Path, path: Path) -> Path:
    from medfm.data.sets import stem

    return output / f"{stem(path)}_warped.nii.gz"
