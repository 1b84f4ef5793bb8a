"""What a reader of one file kind hands over, and the request it works on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medfm.errors import ScanError

__all__ = ["Identity", "RawScan", "Request", "choose_frame"]


@dataclass(frozen=True)
class Request:
    """What the caller asked for. `shown` is the path as the user typed it: the only name an error may repeat."""

    shown: str
    series: int | str | None = None
    frame: int | None = None
    spacing: tuple[float, float, float] | None = None


class Identity(dict[str, Any]):
    """Who the scan belongs to; never printed."""

    def __repr__(self) -> str:
        return "<identity hidden>"

    __str__ = __repr__


@dataclass
class RawScan:
    """A scan in file order: data (C, D, H, W) and the affine from its (W, H, D) index to RAS mm."""

    data: NDArray
    affine: NDArray[np.float64]
    source: str
    frame: Literal["patient", "image"] = "patient"
    spacing_known: bool = True
    modality: str = "UNKNOWN"
    body_part: str | None = None
    plane: str | None = None
    units: str | None = None
    notes: list[str] = field(default_factory=list)
    estimated: set[str] = field(default_factory=set)
    identity: Identity = field(default_factory=Identity)


def choose_frame(count: int, request: Request, what: str = "frames") -> int:
    """Return the frame to read out of `count`; ScanError when several are there and none or a wrong one was chosen."""
    if request.frame is None:
        if count == 1:
            return 0
        raise ScanError(
            f"{request.shown}: {count} {what}, but one is needed. Choose with frame=0 ... frame={count - 1} (--frame "
            "on the command line)."
        )
    if not 0 <= request.frame < count:
        raise ScanError(f"{request.shown}: frame={request.frame} does not exist; there are {count}, counted from 0.")
    return request.frame
