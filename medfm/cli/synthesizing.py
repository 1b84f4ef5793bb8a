"""`medfm synthesize`: pictures that no scanner took, by a translator between two kinds of scans or from noise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfm.cli.app import Frame, Series, app, read_scan, written_to

__all__ = ["synthesize"]


@app.command()
def synthesize(
    model: Annotated[str, typer.Option(help="A folder that training left.", metavar="NAME")],
    output: Annotated[Path, written_to("NIfTI to write.", "FILE.nii.gz")],
    file: Annotated[Path | None, typer.Argument(help="A scan to translate, or to compare.", metavar="[SCAN]")] = None,
    series: Series = None,
    frame: Frame = None,
    back: Annotated[bool, typer.Option("--back", help="From the model's second kind of scan to its first.")] = False,
    count: Annotated[int, typer.Option(min=1, help="Slices from noise.", metavar="N")] = 8,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
) -> None:
    """Translate a scan into another kind, or make slices from noise; with a scan, show what looks unlike them."""
    import medfm
    from medfm.cli import show

    scan = None if file is None else read_scan(file, series=series, frame=frame)
    with show.waiting("making"):
        made = medfm.synthesize(medfm.load_synthesizer(model), scan, back=back, count=count, seed=seed)
    made.write(output)
    show.note(f"written: {output}; synthetic, no measurement of anybody")
    show.disclaimer()
