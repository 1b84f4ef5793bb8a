"""A registration as files: transform, field and Jacobian for other programs, overlays for the eye, figures as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm.image.display import slice_picture
from medfm.image.overlays import checkerboard, difference
from medfm.scan import Alignment, Scan

__all__ = ["folding", "save_alignment"]


def folding(alignment: Alignment) -> dict[str, float]:
    """Share of folded voxels in %, and the standard deviation of the logarithm of the Jacobian (0: all alike)."""
    determinant = alignment.jacobian()
    return {
        "folding_percent": float(100 * (determinant <= 0).mean()),
        "sd_log_jacobian": float(np.log(np.clip(determinant, 1e-9, None)).std()),
    }


def save_alignment(alignment: Alignment, moving: Scan, fixed: Scan, folder: Path) -> dict[str, Any]:
    """Write all there is to see of `alignment` into `folder`; returns what `registration.json` holds.

    transform.h5: for ITK, ANTs and Slicer. field.nii.gz: from each voxel of the fixed scan to its place in the moving
    one, vectors in mm as ITK writes them. warped.nii.gz: the moving scan on the fixed one's grid. jacobian.nii.gz:
    local enlargement. checkerboard.png, difference.png and difference_before.png: the middle slice of both; what the
    moving scan does not reach is black in the differences.
    """
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    still = Alignment(np.eye(4))
    warped, before = (way.warp(moving, fixed) for way in (alignment, still))
    alignment.write(folder / "transform.h5")
    alignment.write_field(folder / "field.nii.gz", fixed)
    warped.write(folder / "warped.nii.gz")
    determinant = alignment.jacobian()
    if alignment.affine is not None:
        from medfm.scan.volumes import write_nifti

        write_nifti(folder / "jacobian.nii.gz", determinant[None], alignment.affine)
    plane = fixed.best_plane
    middle = fixed.slices(plane)[0].shape[1] // 2
    mine, theirs, unmoved = (slice_picture(scan, middle, plane=plane) for scan in (warped, fixed, before))
    reached, reached_before = (_reached(way, moving, fixed, middle, plane) for way in (alignment, still))
    for name, picture in (
        ("checkerboard", checkerboard(mine, theirs)), ("difference", difference(mine, theirs, known=reached)),
        ("difference_before", difference(unmoved, theirs, known=reached_before)),
    ):  # fmt: skip
        Image.fromarray(picture).save(folder / f"{name}.png")
    about = {
        "method": alignment.method,
        "matrix": alignment.matrix.tolist(),
        "linear_volume_change": float(np.linalg.det(alignment.matrix[:3, :3])),
        **folding(alignment),
    }
    (folder / "registration.json").write_text(json.dumps(about, indent=1) + "\n")
    return about


def _reached(alignment: Alignment, moving: Scan, fixed: Scan, index: int, plane: str | None) -> NDArray[np.bool_]:
    """(rows, columns): where the picture of this slice shows something of `moving`, as `slice_picture` draws it."""
    all_of_it = moving.mask(np.full(moving.data.shape[1:], 255, dtype=np.uint8), {})
    there = replace(fixed, data=alignment.warp_mask(all_of_it, fixed).array[None], units="a.u.")
    shown: NDArray[np.bool_] = slice_picture(there, index, plane=plane)[..., 0] > 127
    return shown
