"""From scans and turns to what the page draws: files for the viewer, and JSON whose every string is shown as text."""

from __future__ import annotations

import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from chat_sessions import Session

import medfm
from medfm.assistant import Call, Turn
from medfm.assistant.evidence import Which
from medfm.assistant.suggestions import suggestions
from medfm.assistant.words import about_scan
from medfm.errors import MedfmError
from medfm.image.display import grey_range
from medfm.scan.orientation import display

COLOURS = ((255, 176, 0), (80, 200, 255), (255, 90, 120), (120, 230, 120), (200, 130, 255), (255, 230, 90))
MOST = 2**28  # bytes of voxels sent to a browser; a larger volume is thinned out for the eye, never for the model


def view_of(session: Session, scan: medfm.Scan, which: str) -> dict[str, Any]:
    """Write the scan where the viewer can fetch it, and say how to show it."""
    name = f"{which}-{scan.content_hash[:16]}"
    base = f"medfm/view/{session.token}/{name}"
    if scan.frame == "image" or (min(scan.data.shape[1:]) == 1 and scan.units != "HU"):  # HU want their windows
        return {**_picture(scan, session.folder / f"{name}.png"), "url": f"{base}.png"}
    return {**_volume(scan, session.folder / f"{name}.nii"), "url": f"{base}.nii"}


def _volume(scan: medfm.Scan, path: Path) -> dict[str, Any]:
    shown, step = scan, 1
    while shown.data.nbytes > MOST:
        step *= 2
        affine = scan.affine @ np.diag([step, step, step, 1.0])
        shown = medfm.Scan.from_array(scan.data[:, ::step, ::step, ::step], affine=affine, modality=scan.modality)
    replace(shown, axes="RAS").write(path)  # as the page counts slices, and as its overlays lie
    low, high = grey_range(scan)
    _, depth, height, width = scan.data.shape
    middle = scan.affine[:3] @ (width // 2, height // 2, depth // 2, 1)
    plane = scan.best_plane or "axial"
    mm = np.array([width, height, depth]) * scan.spacing
    flat = min(width, height, depth) < 8 or mm.min() < mm.max() / 4
    return {
        "kind": "volume",
        "hu": scan.units == "HU",
        "range": [low, high],
        "plane": plane,
        "layout": plane if flat else "all",
        "middle": middle.tolist(),
        "thinned": step if step > 1 else None,
    }


def _picture(scan: medfm.Scan, path: Path) -> dict[str, Any]:
    """All pixels, in colour or in 8 bits of grey; a single slice of a volume is shown as a radiologist sees it."""
    from PIL import Image

    array, (_, row_mm, column_mm) = scan.slices()
    pixels = array[:, 0].astype(np.float32)
    low, high = grey_range(scan)
    grey = (np.clip((pixels - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)
    Image.fromarray(grey[0] if len(grey) == 1 else np.ascontiguousarray(grey.transpose(1, 2, 0))).save(path)
    rows, columns = grey.shape[1:]
    return {
        "kind": "picture",
        "width": columns,
        "height": rows,
        "letters": _LETTERS.get(scan.best_plane or ""),
        "spacing": [column_mm, row_mm] if scan.spacing_known else None,
    }


_LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}  # left, right, top, bottom of a displayed slice


def facts_of(scan: medfm.Scan, view: dict[str, Any]) -> dict[str, Any]:
    """What was read, and the warnings."""
    notes = list(scan.notes)
    if view.get("thinned"):
        notes.append(f"Shown with every {view['thinned']}. voxel; the model reads all of them.")
    return {"facts": [about_scan(scan)], "notes": notes, "error": None}


def viewer_of(session: Session) -> dict[str, Any]:
    """What is on the screen."""
    known = {id(mask): shown for mask, shown in session.masks}  # held there, so that no other mask gets its id
    shown: list[tuple[Any, dict[str, Any]]] = []
    for which, mask in session.talk.masks:
        colours = sum(len(one["labels"]) for _, one in shown)
        shown.append((mask, known.get(id(mask)) or _overlay(session, which, mask, first=colours)))
    session.masks = shown
    return {**session.views, "masks": [one for _, one in shown]}


def _overlay(session: Session, which: Which, mask: medfm.scan.Mask, *, first: int) -> dict[str, Any]:
    """Write a mask where the viewer can fetch it. first: the number of its first colour."""
    scan, number = session.talk.scan_of(which), next(session.numbers)
    labels = [mask.labels.get(value, str(value)) for value in range(1, int(mask.array.max(initial=1)) + 1)]
    flat = session.views[which]["kind"] == "picture" and scan is not None
    name = f"mask-{number}.{'png' if flat else 'nii'}"
    if flat:
        _layer(scan, mask, session.folder / name, first=first)
    else:
        medfm.Scan.from_array(mask.array, affine=mask.affine).write(session.folder / name)
    return {"which": which, "url": f"medfm/view/{session.token}/{name}", "labels": labels, "first": first}


def _layer(scan: medfm.Scan, mask: medfm.scan.Mask, path: Path, *, first: int) -> None:
    """A mask of a picture in colours, transparent where there is nothing."""
    from PIL import Image

    values = mask.array[None]
    if scan.frame != "image":
        values, _ = display(values, scan.spacing, scan.best_plane or "axial")
    colours = np.zeros((256, 4), np.uint8)
    for value in range(1, 256):
        colours[value] = (*COLOURS[(first + value - 1) % len(COLOURS)], 255)
    Image.fromarray(colours[values[0, 0]]).save(path)


def talk_of(session: Session, *, waiting: int = 0, stopping: bool = False) -> dict[str, Any]:
    """The conversation; `waiting`: how many requests of others come before the last one. `stopping`: it was told to."""
    turns = [_turn(turn, session) for turn in session.talk.turns]
    if waiting and turns and turns[-1]["role"] == "person":
        text = f"In line: {waiting} {'question' if waiting == 1 else 'questions'} of others first."
        turns.append({**Turn("medfm", text, state="waiting").to_dict()})
    if stopping and turns and turns[-1]["state"] == "running" and not turns[-1]["text"]:
        turns[-1] |= {"state": "waiting", "text": "Stopping after this step ..."}
    return {"turns": turns, "suggestions": suggestions(session.talk), "open": session.talk.current is not None}


def _turn(turn: Turn, session: Session) -> dict[str, Any]:
    """Places in a slice that is shown as a picture are in its pixels."""
    values = turn.to_dict()
    for item in values["evidence"]:
        scan = session.talk.scan_of(item["which"])
        view = session.views.get(item["which"])
        if scan is None or view is None or item["place"] is None:
            continue
        if view["kind"] == "picture" and len(item["place"]) == 3:
            _on_slice(item, scan)
    return values


_ORDER = {  # axes of a volume (w, h, d) that run across and down its slices
    "axial": (0, 1, 2),
    "coronal": (0, 2, 1),
    "sagittal": (1, 2, 0),
}


def _on_slice(item: dict[str, Any], scan: medfm.Scan) -> None:
    """RAS mm to (column, row) of the only slice of a volume, in radiological display."""
    inverse = np.linalg.inv(scan.affine)
    size = scan.data.shape[:0:-1]
    across, down, _ = _ORDER[scan.best_plane or "axial"]

    def pixel(mm: tuple[float, ...]) -> tuple[float, float]:
        index = inverse[:3] @ (*mm, 1)  # display runs against both axes: left is on the right, superior on top
        return (size[across] - 0.5 - float(index[across]), size[down] - 0.5 - float(index[down]))

    item["place"] = pixel(item["place"])
    if item["low"] is not None:
        corners = np.array([pixel(item["low"]), pixel(item["high"])])
        item["low"], item["high"] = tuple(corners.min(0).tolist()), tuple(corners.max(0).tolist())


def marked_call(session: Session, *, point: Any = None, box: Any = None) -> Call:
    """What was pointed at in the viewer as a call of the tool that outlines it, in the scan's own space."""
    scan = session.talk.current
    assert scan is not None
    numbers = [float(value) for value in (box or point or [])][:6]
    step = len(numbers) // 2 if box else len(numbers)
    ends = [numbers[at : at + step] for at in range(0, len(numbers), step or 1)]
    if step == 2 and scan.frame != "image":
        ends = [_off_slice(end, scan) for end in ends]
    return Call("segment", {"box" if box else "point": [value for end in ends for value in end]})


def _off_slice(pixel: list[float], scan: medfm.Scan) -> list[float]:
    """(column, row) of a volume's only slice in radiological display to RAS mm."""
    size = scan.data.shape[:0:-1]
    across, down, _ = _ORDER[scan.best_plane or "axial"]
    index = np.zeros(3)
    index[across], index[down] = size[across] - 0.5 - pixel[0], size[down] - 0.5 - pixel[1]
    place: list[float] = (scan.affine[:3] @ (*index, 1)).tolist()
    return place


def failed(error: BaseException | None) -> Turn:
    """A turn that says what went wrong; what nobody foresaw is told to the server's terminal, not to the page."""
    if error is None:
        return Turn("medfm", "", state="stopped")
    if isinstance(error, MedfmError):
        return Turn("medfm", str(error), state="failed")
    traceback.print_exception(error)
    return Turn(
        "medfm", "This did not work, by a fault of the program. The server's terminal says more.", state="failed"
    )
