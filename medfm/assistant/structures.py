"""Structures outlined, measured and compared: by a model trained for it where one fits, else by the eye's own map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import log, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from medfm.assistant.evidence import Which, box_extent, box_item, items_of, mask_items
from medfm.assistant.routing import both_sides, named
from medfm.errors import MedfmError

if TYPE_CHECKING:
    from medfm.assistant.conversation import Conversation, Turn
    from medfm.model import MedFM
    from medfm.scan import Box, Mask, Scan
    from medfm.segmenter import Segmenter

__all__ = ["compare", "measure", "segment", "structures"]

_AIRY = (
    "No model is behind this outline. Lung without air (collapsed, filled, a mass) and its thinnest edges are missing."
)

_SLICES = (
    "The model knows single slices and outlines each without looking at the others: look through them before you "
    "believe the volume."
)


def structures(model: MedFM) -> list[str]:
    """Names that the model's eye can point at; somebody else's model has no eye of ours and points at nothing."""
    return [] if model.vision is None else list(model.vision.structures.labels)


def measure(talk: Conversation, model: MedFM, turn: Turn, *, structure: str = "") -> Iterator[None]:
    """Say how large a structure is: in ml where a model outlines it, else the sides of a box, in mm if lengths are
    known."""
    scan, lines = talk.opened, []
    found = _fitting(structure, scan)
    if (mask := _lungs(structure, scan, found)) is not None:
        turn.evidence, turn.note = items_of(scan, [mask], keep=talk.keep), _AIRY
        turn.text = "\n".join(f"{item.label}: {item.number} of air and vessels" for item in turn.evidence)
        return
    if found is not None:
        yield
        mask = _outlined(found, scan, structure)
        if mask is None:
            _unseen(turn, structure)
            return
        turn.evidence = items_of(scan, [mask], keep=talk.keep)
        turn.text = "\n".join(f"{item.label}: {item.number}" for item in turn.evidence)
        turn.text += f"\nBy the outline of the model {found.name}; see whether it fits."
        return
    names = _structures(model, structure, scan)
    for name in names:
        box = _box(model, scan, name)
        yield
        if box is None:
            continue
        extent = box_extent(scan, box)
        lines.append(f"{name}: {_in_words(extent)}")
        turn.evidence.append(box_item(scan, box, number=_short(extent)))
        turn.confidence = min(filter(None, (turn.confidence, box.score)), default=None)
    if not lines:
        _unseen(turn, " or the ".join(names))
        return
    turn.text = "\n".join([*lines, "By the box that the model drew; its edges are no finer than the model's."])


def compare(talk: Conversation, model: MedFM, turn: Turn, *, structure: str = "") -> Iterator[None]:
    """Measure a structure in the current and in the prior scan and say what changed."""
    if talk.prior is None:
        raise MedfmError("There is no prior scan. Open one as prior first, then ask again.")
    found = _fitting(structure, talk.opened)
    if found is not None and found is _fitting(structure, talk.prior):
        yield from _compared(talk, found, turn, structure)
        return
    lines, unseen, scores = [], [], []
    sides: tuple[Which, ...] = ("current", "prior")
    for name in _structures(model, structure, talk.opened):
        lines.append(name)
        for which in sides:
            scan = talk.scan_of(which)
            assert scan is not None
            box = _box(model, scan, name)
            yield
            if box is None:
                lines.append(f"{which}: not seen")
                unseen.append(name.lower())
                continue
            extent = box_extent(scan, box)
            lines.append(f"{which}: {_in_words(extent)}")
            scores.append(box.score)
            turn.evidence.append(box_item(scan, box, which=which, number=_short(extent)))
    turn.text = "\n".join(lines)
    turn.confidence = min((score for score in scores if score is not None), default=None)
    if unseen:
        turn.decline(f"the {' and the '.join(dict.fromkeys(unseen))} was not seen in both scans")


def segment(
    talk: Conversation, model: MedFM, turn: Turn, *, structure: str = "", point: list[float] | None = None,
    box: list[float] | None = None,
) -> Iterator[None]:  # fmt: skip
    """Outline structures: by a model trained for it where there is one, else roughly by the eye's own map; or what lies
    at a point or in a box: by a prompted model where there is one, else by its brightness."""
    from medfm.predict.outlining import outline

    scan = talk.opened
    yield
    if point or box:
        _marked(talk, turn, scan, point, box)
        return
    found = _fitting(structure, scan)
    if (mask := _lungs(structure, scan, found)) is not None:
        turn.text, turn.note = "Told by its air, below -400 HU.", _AIRY
    elif (found := found or _fitting(structure, scan, least=True)) is not None:
        mask = _outlined(found, scan, structure)
        turn.text = f"Outlined by the model {found.name}."
        turn.note = _SLICES if scan.data.shape[1] > 1 and found.patch[0] == 1 else None
    else:
        names = _structures(model, structure, scan)
        mask = outline(model, scan, names)
        turn.text = "A rough outline from the map behind the answers: good enough to point, too coarse to measure by."
        unseen = [] if mask is None else [mask.labels[v] for v in mask.labels if not (mask.array == v).any()]
        if unseen:
            turn.text += f" Not seen: {', '.join(unseen)}."
    if mask is None:
        _unseen(turn, structure)
        return
    turn.evidence = items_of(scan, [mask], keep=talk.keep)
    if found is None and turn.note is None:
        turn.evidence = [replace(item, number=f"roughly {item.number}") for item in turn.evidence]


def _compared(talk: Conversation, found: Segmenter, turn: Turn, structure: str) -> Iterator[None]:
    """Millilitres now and before, from one model's outlines of both scans."""
    from medfm.predict import growth

    sizes: dict[Which, dict[str, float]] = {"current": {}, "prior": {}}
    for which, ml in sizes.items():
        scan = talk.scan_of(which)
        assert scan is not None
        mask = _outlined(found, scan, structure)
        yield
        if mask is None:
            continue
        turn.evidence += mask_items(mask, talk.keep(mask, which), which=which, measured=scan.spacing_known)
        ml.update({about["name"]: about["ml"] for about in mask.to_dict()["labels"].values() if about["voxels"]})
    known = all(scan is not None and scan.spacing_known for scan in (talk.current, talk.prior))
    both = [name for name in sizes["current"] if name in sizes["prior"]]
    if not both or not known:
        turn.decline(
            f"the model {found.name} does not see the {structure.lower()} in both scans" if known
            else "one of the scans does not say how large its voxels are"
        )  # fmt: skip
        return
    lines = [f"{name}: {growth(sizes['current'][name], sizes['prior'][name])}" for name in both]
    turn.text = "\n".join([*lines, f"By the outlines of the model {found.name} in both scans; see whether they fit."])


def _lungs(structure: str, scan: Scan, found: Segmenter | None) -> Mask | None:
    """The lungs of a CT by their air, or the one that is asked for; None for another structure or scan, and where a
    model was `found` that was made for such scans: one of single pictures knows less of lungs than their air."""
    from medfm import predict
    from medfm.assistant.task_models import labels_for

    if not set(structure.lower().split()) & {"lung", "lungs"} or not (found is None or found.preparation.displayed):
        return None
    if (mask := predict.lungs(scan)) is None:
        return None
    return _only(mask, labels_for(structure, list(mask.labels.values())))


def _marked(talk: Conversation, turn: Turn, scan: Scan, point: list[float] | None, box: list[float] | None) -> None:
    """Outline what a person pointed at."""
    from medfm import predict
    from medfm.assistant.task_models import prompter

    half = len(box or ()) // 2
    corners = (box[:half], box[half:]) if box else None
    mask, model = None, prompter()
    if model is not None and not (point and _air(scan, point)):
        mask = predict.outline_marked(model, scan, box=corners, point=point)
        turn.text = f"Outlined by the model {model.name}" + (
            ", followed through the slices as far as it holds together." if scan.data.shape[1] > 1 else "."
        )
        turn.note = "It outlines what it takes for the thing that you meant, whatever that is; check its edge."
    if mask is None and corners is not None:
        mask = predict.enclose(scan, *corners)
        turn.text = "Told from its surroundings by brightness" + (
            ", in this slice only." if scan.data.shape[1] > 1 else "."
        )
        turn.note = "No model is behind this outline; check its edge."
    elif mask is None:
        assert point is not None
        mask = predict.grow(scan, point)
        turn.text = "Everything of like brightness that hangs together with the place you clicked on."
        turn.note = "No model is behind this outline; check its edge."
    if mask is None:
        turn.text, turn.note = "", None
        other = "" if box else " Drag a box around it instead."
        turn.decline(f"What you marked does not stand out from what is around it.{other}")
        return
    turn.evidence = items_of(scan, [mask], keep=talk.keep)


def _air(scan: Scan, point: list[float]) -> bool:
    """Lung or gas in CT: it stands out by itself, and the model has seen little of it in HU."""
    from medfm.predict.marking import index_of

    return scan.units == "HU" and float(scan.data[(0, *index_of(scan, point))]) < -300


def _fitting(structure: str, scan: Scan, *, least: bool = False) -> Segmenter | None:
    """The model trained to outline `structure` that reads scans as large as this one; of several the one whose field of
    view is nearest in size: one for crops takes a whole head for a crop, and the other way round.

    least: raise MedfmError where all of them were trained on smaller fields of view, instead of None.
    """
    from medfm.assistant.task_models import segmenters_for
    from medfm.fitting import field_of, wider

    models = segmenters_for(structure, scan) if structure else []
    models = [one for one in models if not one.misfit(scan.extent)]
    fields = [(one, field_of(one.patch, one.preparation.to_dict(), scan)) for one in models]
    able = [(one, field) for one, field in fields if not wider(scan.extent, field)]
    volume = scan.data.shape[1] > 1  # of which a model that reads slice by slice knows less
    fitting = min(
        able, key=lambda p: (volume and p[0].patch[0] == 1, abs(log(prod(p[1]) / prod(scan.extent)))), default=(None,)
    )[0]
    if least and models and fitting is None:  # minutes of work for outlines of what is not there
        raise MedfmError(
            f"The scan is several times larger than what the model {models[0].name} was trained on. Cut it to the "
            "region first."
        )
    return fitting


def _outlined(model: Segmenter, scan: Scan, structure: str) -> Mask | None:
    """What `model` finds of `structure`; all it knows where that is the model's own name. None where it finds none."""
    from medfm import predict
    from medfm.assistant.task_models import labels_for

    mask = predict.segment(model, scan)
    return _only(mask, labels_for(structure, model.labels) or model.labels)


def _only(mask: Mask, wanted: Sequence[str]) -> Mask | None:
    """A mask without its other labels; None where nothing is left."""
    kept = [value for value, name in mask.labels.items() if name in wanted]
    only: Any = replace(
        mask, array=np.where(np.isin(mask.array, kept), mask.array, np.uint8(0)),
        labels={value: mask.labels[value] for value in kept},
    )  # fmt: skip
    return only if only.array.any() else None


def _structures(model: MedFM, name: str, scan: Scan) -> list[str]:
    """The model's names for a structure, both sides of a pair. Raises MedfmError that lists what there is."""
    known = structures(model)
    if both := both_sides(name, known):
        return both
    if (found := named(name, known)) is not None:
        return [found]
    from medfm.assistant.task_models import outlined_in

    asked = f"{name!r} is none of what this model can point at" if name else "Say of what"
    short = {one.removeprefix("Left ").removeprefix("Right ").lower() for one in known}
    short |= {one.lower() for one in outlined_in(scan)}
    listed = f" It knows: {', '.join(sorted(short))}." if short and scan.modality != "PHOTO" else ""
    raise MedfmError(f"{asked}. Press mark and click on it, or drag a box around it.{listed}")


def _box(model: MedFM, scan: Scan, name: str) -> Box | None:
    """The box around a structure, if the model sees it."""
    from medfm import predict
    from medfm.scan import Box

    answer = predict.ask(model, scan, f"Where is the {name.lower()}?")
    return next((item for item in answer.evidence if isinstance(item, Box) and item.label == name), None)


def _unseen(turn: Turn, structure: str) -> None:
    turn.text = ""
    turn.decline(f"The model does not see the {structure.lower()} in this scan. Press mark and drag a box around it.")


def _in_words(extent: list[tuple[str, float, str]]) -> str:
    return ", ".join(f"{length:.0f} {unit} {direction}" for direction, length, unit in extent)


def _short(extent: list[tuple[str, float, str]]) -> str:
    return " x ".join(f"{length:.0f}" for _, length, _ in extent) + f" {extent[0][2]}"
