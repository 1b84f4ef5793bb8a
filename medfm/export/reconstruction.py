"""A reconstruction as files: NIfTI of the picture and of what speaks against it, an overview, figures as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medfm.image.display import grey_range, slice_picture

if TYPE_CHECKING:
    from medfm.scan import Reconstructed, Scan

__all__ = ["save_reconstruction"]


def save_reconstruction(result: Reconstructed, output: Path) -> dict[str, Any]:
    """Write `reconstruction`, `start`, `unexplained` and `uncertainty` (.nii.gz), `overview.png` and `about.json`.

    Returns what `about.json` holds: method, residuals, warnings.
    """
    output.mkdir(parents=True, exist_ok=True)
    parts = {
        "start": result.start, "reconstruction": result.scan, "unexplained": result.unexplained,
        "uncertainty": result.uncertainty,
    }  # fmt: skip
    present = {name: scan for name, scan in parts.items() if scan is not None}
    for name, scan in present.items():
        scan.write(output / f"{name}.nii.gz")
    _overview(present, output / "overview.png")
    about = result.to_dict()
    (output / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    return about


def _overview(parts: dict[str, Scan], path: Path) -> None:
    """The middle slice of each part in a row: pictures under one window, differences under their own."""
    from PIL import Image

    low, high = grey_range(parts["reconstruction"])
    row = []
    for name, scan in parts.items():
        values = scan.data.astype(np.float64)
        if name in ("unexplained", "uncertainty"):
            top = max(float(np.percentile(np.abs(values), 99.5)), 1e-9)
            shown = np.abs(values) / top
        else:
            shown = (values - low) / (high - low)
        grey = replace(scan, data=(np.clip(shown[:1], 0, 1) * 255).astype(np.uint8), units="")
        row.append(slice_picture(grey, grey.slices()[0].shape[1] // 2, size=480))
    Image.fromarray(np.concatenate(row, 1)).save(path)
