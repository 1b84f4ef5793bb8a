"""DICOM slices to one volume: grouped into stacks, sorted by position, checked for gaps, repeats and tilt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfm.errors import ScanError, SeriesChoice
from medfm.scan import orientation
from medfm.scan.dicom_header import Slice, element, identity_of, number, read_header, slices_of, text_of
from medfm.scan.dicom_pixels import decode, fingerprint
from medfm.scan.dicom_words import body_part_of, modality_of, safe_description, units_of
from medfm.scan.raw import RawScan, Request, choose_frame
from medfm.scan.values import colour_or_grey

__all__ = ["read_dicom"]

_SAME_PLACE = 0.01  # mm: closer slices are at one position


def read_dicom(paths: Sequence[Path], request: Request, notes: list[str]) -> RawScan:
    """Read one scan out of DICOM files. Raises SeriesChoice when they hold several."""
    slices: list[Slice] = []
    refused: list[ScanError] = []
    for path in paths:
        try:
            slices += slices_of(read_header(path, request.shown), path, request)
        except ScanError as error:
            refused.append(error)
    if not slices:
        raise refused[0]
    if refused:
        notes.append(f"{len(refused)} DICOM files without readable pixels were skipped.")
    return _read_stack(_choose(_stacks(slices), request), request, notes)


def _stacks(slices: list[Slice]) -> list[list[Slice]]:
    """Slices that can be one volume: same series, size, colour, spacing and orientation."""
    groups: dict[tuple[object, ...], list[Slice]] = defaultdict(list)
    for item in slices:
        axes = None if item.orientation is None else tuple(np.round(item.orientation.ravel(), 2) + 0.0)
        spacing = None if item.spacing is None else tuple(round(v, 3) for v in item.spacing)
        samples = text_of(item.header, "SamplesPerPixel")
        uid = text_of(item.header, "SeriesInstanceUID")
        groups[(uid, item.rows, item.columns, samples, spacing, axes)].append(item)
    return sorted(groups.values(), key=_rank)


def _rank(stack: list[Slice]) -> tuple[object, ...]:
    """The place of a stack in the list: by what its headers say, so that a copy under other names has the same one."""
    header = stack[0].header
    names = [text_of(item.header, "SOPInstanceUID") for item in stack]
    return number(element(header, "SeriesNumber")) or 0.0, -len(stack), text_of(header, "SeriesInstanceUID"), min(names)


def _choose(stacks: list[list[Slice]], request: Request) -> list[Slice]:
    """The stack that the request names, or the only one."""
    wanted = request.series
    if wanted is None and len(stacks) == 1:
        return stacks[0]
    listed = [_describe(stack) for stack in stacks]
    if wanted is not None:
        if str(wanted).isdigit() and int(wanted) < len(stacks):
            return stacks[int(wanted)]
        matching = [n for n, stack in enumerate(stacks) if text_of(stack[0].header, "SeriesInstanceUID") == wanted]
        if len(matching) == 1:
            return stacks[matching[0]]
        if not matching:
            raise SeriesChoice(f"{request.shown}: there is no series {wanted!r}", listed)
    raise SeriesChoice(f"{request.shown}: {len(listed)} series (or sizes and orientations within one)", listed)


def _describe(stack: list[Slice]) -> str:
    """One line to choose by; nothing in it says who the patient is."""
    first = stack[0]
    count = f"{len(stack)} slice{'s' if len(stack) > 1 else ''}"
    parts = [modality_of(first.header), count, f"{first.columns} x {first.rows}"]
    if first.orientation is not None:
        parts.append(orientation.plane_of_direction(np.cross(*first.orientation)))
    if first.spacing:
        parts.append(f"{first.spacing[1]:.3g} x {first.spacing[0]:.3g} mm")
    description = safe_description(first.header)
    if description:
        parts.append(f'"{description}"')
    if (told := number(element(first.header, "SeriesNumber"))) is not None:  # what a workstation calls it
        parts.append(f"SeriesNumber {told:.0f}")
    uid = text_of(first.header, "SeriesInstanceUID")
    return ", ".join(parts) + (f" (UID {uid})" if uid else "")


def _read_stack(stack: list[Slice], request: Request, notes: list[str]) -> RawScan:
    """Sort, check, decode and place one stack."""
    first = stack[0]
    placed = all(item.position is not None and item.orientation is not None for item in stack)
    if placed:
        ordered, affine = _placed(stack, request, notes)
    else:
        ordered, affine = _unplaced(stack, request, notes)
    header = first.header
    units = units_of(header, notes)
    array = decode(ordered, request, notes, quantitative=units == "HU")
    if array.ndim == 4:
        d, h, w, _ = array.shape
        data = colour_or_grey(array.reshape(d * h, w, 3)).reshape(-1, d, h, w)
    else:
        data = array[None]
    part, guessed = body_part_of(header)
    if text_of(header, "BurnedInAnnotation").upper() == "YES":
        notes.append("The header says that text is burned into the pixels: they may show who the patient is.")
    if first.spacing and not text_of(header, "PixelSpacing") and text_of(header, "ImagerPixelSpacing"):
        notes.append("The pixel spacing is that of the detector: lengths in the patient are shorter.")
    files = len({item.path for item in ordered})
    return RawScan(
        data=data,
        affine=affine,
        source=f"DICOM ({files} file{'s' if files > 1 else ''})",
        frame="patient" if placed else "image",
        spacing_known=first.spacing is not None,
        modality=modality_of(header),
        body_part=part,
        plane=orientation.plane_of_direction(np.cross(*first.orientation))
        if placed and first.orientation is not None
        else None,
        units="RGB" if data.shape[0] == 3 else units,
        notes=notes,
        estimated={"body_part"} if guessed else set(),
        identity=identity_of(header),
    )


def _unplaced(stack: list[Slice], request: Request, notes: list[str]) -> tuple[list[Slice], NDArray[np.float64]]:
    """Pictures without patient geometry: one of them; only CT, MR and PET slices are stacked all the same."""
    first = stack[0]
    rows, columns = first.spacing or (1.0, 1.0)
    if (
        len(stack) > 1
        and request.frame is None
        and first.frames == 1
        and modality_of(first.header) in ("CT", "MR", "PT")
    ):
        notes.append("Slice positions are missing; the order is that of SliceLocation or InstanceNumber.")
        ordered = sorted(stack, key=_location)
        return ordered, orientation.diagonal_affine((columns, rows, first.thickness or 1.0))
    ordered = sorted(stack, key=lambda item: item.order)
    chosen = ordered[choose_frame(len(ordered), request, "frames or pictures without positions")]
    return [chosen], orientation.diagonal_affine((columns, rows, 1.0))


def _location(item: Slice) -> tuple[float, ...]:
    return (number(element(item.header, "SliceLocation")) or 0.0, *item.order)


def _placed(stack: list[Slice], request: Request, notes: list[str]) -> tuple[list[Slice], NDArray[np.float64]]:
    """Slices in the order of their positions along the normal, and the affine to RAS."""
    first = stack[0]
    assert first.orientation is not None
    normal = np.cross(first.orientation[0], first.orientation[1])
    ordered = _one_per_position(stack, normal, request, notes)
    places = np.stack([item.position for item in ordered if item.position is not None])
    step = _step(places, normal, first, notes) if len(ordered) > 1 else normal * (first.thickness or 1.0)
    if first.spacing is None:
        notes.append("The header gives no pixel spacing; 1 mm is assumed.")
    rows, columns = first.spacing or (1.0, 1.0)
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[0] * columns
    affine[:3, 1] = first.orientation[1] * rows
    affine[:3, 2] = step
    affine[:3, 3] = places[0]
    return ordered, orientation.lps_to_ras(affine)


def _one_per_position(
    stack: list[Slice], normal: NDArray[np.float64], request: Request, notes: list[str]
) -> list[Slice]:
    """Drop copies; take the chosen frame when every position was imaged several times."""
    along = [(float(item.position @ normal), item) for item in stack if item.position is not None]
    along.sort(key=lambda pair: (pair[0], pair[1].order))
    groups: list[list[Slice]] = []
    last = -np.inf
    for place, item in along:
        if place - last > _SAME_PLACE:
            groups.append([])
            last = place
        groups[-1].append(item)
    groups = [sorted(group, key=lambda item: item.order) for group in groups]
    kept = _without_copies(groups)
    dropped = len(stack) - sum(map(len, kept))
    if dropped:
        notes.append(f"{dropped} duplicate slices were left out.")
    counts = {len(group) for group in kept}
    if len(counts) == 1:
        chosen = choose_frame(counts.pop(), request, "frames (times, echoes or b-values) of every slice")
        return [group[chosen] for group in kept]
    chosen = 0
    if request.frame is not None:
        chosen = choose_frame(max(counts), request)
    extra = sum(len(group) - 1 for group in kept)
    notes.append(
        f"{extra} slices share a position with another but differ (no exact duplicates); one of each was kept."
    )
    return [group[min(chosen, len(group) - 1)] for group in kept]


def _without_copies(groups: list[list[Slice]]) -> list[list[Slice]]:
    """Keep one of the slices that are the same object, or have the same pixels.

    The same pixels prove nothing where all positions come equally often: a time series may have black border slices.
    """
    groups = [_first_of_each(group, _object) for group in groups]
    if all(len(group) == 1 for group in groups):
        return groups
    regular = len({len(group) for group in groups}) == 1
    if regular and any(len({fingerprint(item) for item in group}) > 1 for group in groups):
        return groups
    return [_first_of_each(group, fingerprint) if len(group) > 1 else group for group in groups]


def _first_of_each(group: list[Slice], key: Callable[[Slice], object]) -> list[Slice]:
    """The first slice with each key, in order."""
    seen: dict[object, Slice] = {}
    for item in group:
        seen.setdefault(key(item), item)
    return list(seen.values())


def _object(item: Slice) -> object:
    """What tells two slices apart without looking at pixels; many files have no UID, so the path stands in."""
    return (text_of(item.header, "SOPInstanceUID") or item.path, item.index)


def _step(
    places: NDArray[np.float64], normal: NDArray[np.float64], first: Slice, notes: list[str]
) -> NDArray[np.float64]:
    """Vector from one slice to the next; notes on gaps, uneven distances and tilt."""
    along = places @ normal
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    whole = places[-1] - places[0]
    step = whole / (len(places) - 1)
    if np.abs(gaps - usual).max() > max(0.1 * usual, 0.05):
        missing = int(sum(round(gap / usual) - 1 for gap in gaps if gap > 1.5 * usual))
        if missing:
            notes.append(
                f"About {missing} slices are missing ({int((gaps > 1.5 * usual).sum())} gaps): "
                "distances across a gap come out too short."
            )
        else:
            notes.append(
                f"Slice distances are uneven ({gaps.min():.3g} to {gaps.max():.3g} mm); {usual:.3g} mm is used."
            )
        step = whole * usual / float(along[-1] - along[0])
    tilt = float(np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1))))
    if tilt > 0.5:
        notes.append(f"Gantry tilt: slices are sheared by {tilt:.1f} degrees; the affine carries the shear.")
    else:
        _header_tilt(first, notes)
    strays = np.linalg.norm(places - places[0] - np.outer(along - along[0], step / (step @ normal)), axis=1)
    if strays.max() > 1.0:
        notes.append(f"Slices do not lie on one line (up to {strays.max():.1f} mm off); the volume is straightened.")
    return step


def _header_tilt(first: Slice, notes: list[str]) -> None:
    tilt = number(element(first.header, "GantryDetectorTilt")) or 0.0
    if abs(tilt) > 0.5:
        notes.append(f"Gantry tilt of {tilt:.1f} degrees in the header; the slices themselves are not sheared.")
