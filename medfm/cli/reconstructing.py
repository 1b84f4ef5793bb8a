"""`medfm reconstruct` and `medfm evaluate reconstruct`: raw data to pictures, and how near they come to the truth."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfm.cli.app import Frame, Series, app, evaluate, read_scan, written_to

if TYPE_CHECKING:
    from medfm.scan import Reconstructed, Scan

__all__ = ["evaluate_reconstruct", "reconstruct"]


class How(StrEnum):
    """Reconstructions that need no training."""

    direct = "direct"
    sense = "sense"
    grappa = "grappa"
    wavelet = "wavelet"
    tv = "tv"
    bregman = "bregman"
    least_squares = "least-squares"


class Window(StrEnum):
    """What tames the ramp of filtered back-projection."""

    ramp = "ramp"
    shepp_logan = "shepp-logan"
    cosine = "cosine"
    hann = "hann"


Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="A trained network; several: an ensemble. Default: a shipped one that fits, if any."),
]


@app.command()
def reconstruct(
    file: Annotated[Path, typer.Argument(help="fastMRI or ISMRMRD HDF5, twix, NPY, NPZ; a scan with --denoise.")],
    output: Annotated[Path, written_to("Folder for NIfTI, overview and figures.")],
    model: Models = None,
    method: Annotated[How | None, typer.Option(help="No network, but this.")] = None,
    denoise: Annotated[bool, typer.Option("--denoise", help="The file is a noisy picture, not raw data.")] = False,
    sinogram: Annotated[bool, typer.Option("--sinogram", help="The NPY holds line integrals (cells, views).")] = False,
    samples: Annotated[int, typer.Option(min=0, help="Dropout samples for the uncertainty.", metavar="N")] = 0,
    window: Annotated[Window, typer.Option(help="Of filtered back-projection.")] = Window.hann,
    pixel: Annotated[float, typer.Option(help="mm of a sinogram's pixels, where the file does not say.")] = 1.0,
    spacing: Annotated[str | None, typer.Option(help="mm of k-space's voxels, W,H,D.", metavar="MM,MM,MM")] = None,
    series: Series = None,
    frame: Frame = None,
) -> None:
    """Make a picture of raw data, or a better one of a noisy picture, and say how far it can be believed."""
    from medfm.cli import show
    from medfm.export.reconstruction import save_reconstruction

    with show.waiting("reconstructing"):
        if denoise:
            result = _denoised(read_scan(file, series=series, frame=frame), model or [], samples)
        else:
            result = _made(file, model or [], method, sinogram, samples, window, pixel, spacing)
    about = save_reconstruction(result, output)
    typer.echo(f"method\t{about['method']}")
    for key, words in (
        ("residual", "measured data that the picture does not explain"),
        ("start_residual", "the same of start.nii.gz, the plain reconstruction"),
        ("filled", "energy of the picture that was not measured but filled in"),
    ):
        if about[key] is not None:
            typer.echo(f"{words}\t{about[key]:.2%}")
    for warning in about["warnings"]:
        show.note(f"warning: {warning}")
    show.note(f"written: {output}")
    show.disclaimer()


def _denoised(scan: Scan, model: list[str], samples: int) -> Reconstructed:
    import medfm
    from medfm.reconstructor import denoisers

    chosen = model or denoisers(hounsfield=scan.units == "HU")[:1]
    return medfm.denoise(scan, models=[medfm.load_reconstructor(m) for m in chosen], samples=samples)


def _made(
    file: Path, model: list[str], method: How | None, sinogram: bool, samples: int, window: Window, pixel: float,
    spacing: str | None,
) -> Reconstructed:  # fmt: skip
    import medfm
    from medfm.predict.reconstructing import fitting

    raw = medfm.RawData.read(file, sinogram=sinogram, pixel=pixel, spacing=_three(spacing))
    chosen = model if model or method else fitting(raw)[:1]
    return medfm.reconstruct(
        raw, models=[medfm.load_reconstructor(m) for m in chosen], method=method.value if method else None,
        samples=samples, window=window.value,
    )  # fmt: skip


def _three(text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        w, h, d = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--spacing {text}: expected three numbers, say 1.0,1.0,5.0") from None
    return (w, h, d)


@evaluate.command("reconstruct")
def evaluate_reconstruct(
    data: Annotated[list[Path], typer.Argument(help="Scans whose measurement is simulated.", metavar="SCAN...")],
    output: Annotated[Path, written_to("Folder for cases.jsonl and metrics.json.")],
    model: Annotated[
        str | None, typer.Option(help="A reconstruction model by name, or a folder.", metavar="NAME")
    ] = None,
    prediction: Annotated[
        Path | None,
        typer.Option(help="SCAN made by another program, or a folder of such, instead of a model.", metavar="SCAN"),
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Only what was held out of the training, with --segmenter of its.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only N slices, evenly spread.", metavar="N")] = None,
    segmenter: Annotated[
        str, typer.Option(help="SCAN is a labelled data set: Dice of this model's outlines instead.", metavar="NAME")
    ] = "",
) -> None:
    """PSNR and SSIM of a network beside the direct and the best classical reconstruction of the same data."""
    from medfm.cli import show
    from medfm.evaluate.reconstruct import evaluate_reconstruct as run
    from medfm.evaluate.reconstruct import fidelity_table
    from medfm.reconstructor import load_reconstructor

    if (model is None) == (prediction is None):
        raise typer.BadParameter("give a model, or a scan of another program", param_hint="--model, --prediction")
    if prediction is not None:
        from medfm.evaluate.predictions import evaluate_predicted_pictures

        if held_out or segmenter:
            raise typer.BadParameter("goes with --model alone", param_hint="--held-out, --segmenter")
        show.figures(fidelity_table(evaluate_predicted_pictures(prediction, data, output=output, limit=limit)), output)
        return
    assert model is not None
    if segmenter:
        from medfm.evaluate.outlines import evaluate_outlines
        from medfm.segmenter import load_segmenter

        found = evaluate_outlines(
            load_reconstructor(model), data[0], segmenter=load_segmenter(segmenter), output=output, held_out=held_out,
            limit=limit,
        )  # fmt: skip
        for name in ("full", "start", "classical", "network"):
            if name not in found:  # nothing classical is tried in 3D
                continue
            dice, psnr = found[name]["dice"], found[name]["psnr"]
            typer.echo(
                f"{name}\tDice {dice['value']:.3f} ({dice['low']:.3f} to {dice['high']:.3f})\t{psnr['value']:.1f} dB"
            )
        return
    metrics = run(load_reconstructor(model), data, output=output, held_out=held_out, limit=limit)
    show.figures(fidelity_table(metrics), output)
