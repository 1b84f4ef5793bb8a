"""TotalSegmentator behind the verb `segment`: 117 structures in CT, 50 in MR, where package and weights lie here."""

from __future__ import annotations

import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from medfm.errors import ScanError, WeightsError
from medfm.scan import Mask, Scan

__all__ = ["WHOLE_BODY", "outline_whole_body"]

WHOLE_BODY = "totalsegmentator"  # the name that stands for it among the models


def outline_whole_body(scan: Scan) -> Mask:
    """What TotalSegmentator (Wasserthal et al., Radiology: AI 2023) outlines, on the scan's own grid: (D, H, W).

    Its network for 3 mm without a graphics card, for 1.5 mm with one; CT or MR. All its structures are in `labels`,
    those that it did not find too. The package would fetch weights and send what was run to its makers: here it does
    neither.

    Raises:
        WeightsError: the package or the weights are not here. ScanError: the scan is neither CT in HU nor MR, or flat.
    """
    if not (scan.units == "HU" or scan.modality == "MR") or min(scan.data.shape[1:]) < 2:
        raise ScanError(f"found {scan.modality} in {scan.units}; TotalSegmentator takes volumes of CT in HU, or of MR")
    try:
        from totalsegmentator import config, map_to_binary, python_api
    except ImportError as error:
        raise WeightsError("TotalSegmentator is not here: pip install 'medfm[body]', and copy its weights") from error
    config.setup_totalseg()
    config.set_config_key("send_usage_stats", False)
    python_api.download_pretrained_weights = _present
    task, card = ("total" if scan.units == "HU" else "total_mr"), torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:  # nothing of the scan stays
        image, found = Path(folder, "scan.nii.gz"), Path(folder, "found.nii.gz")
        scan.write(image)
        with redirect_stdout(sys.stderr):  # it tells its progress there, quiet or not
            python_api.totalsegmentator(
                image, found, ml=True, task=task, fast=not card, device="gpu" if card else "cpu", quiet=True
            )
        labels = Scan.read(found).data[0].round().astype("uint8")
    return scan.mask(labels, {int(value): str(name) for value, name in map_to_binary.class_map[task].items()})


def _present(task: int, *_: Any, **__: Any) -> None:
    """In place of the package's download: the weights of a task are there, or the user is told where to put them."""
    from totalsegmentator.config import get_weights_dir

    folder = Path(get_weights_dir())
    if not any(folder.glob(f"Dataset{task:03d}_*")):
        raise WeightsError(
            f"found no Dataset{task:03d}_... in {folder}; run `totalseg_download_weights` of the package on a machine "
            "with a network and copy that folder, or set TOTALSEG_WEIGHTS_PATH"
        )
