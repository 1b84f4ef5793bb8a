"""What can be done with a scan, as typed tools: the page routes to them by words, MCP lists them by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from medfm.assistant.evidence import Which, box_extent, box_item, items_of
from medfm.errors import MedfmError

if TYPE_CHECKING:
    from medfm.assistant.conversation import Conversation, Turn
    from medfm.model import MedFM
    from medfm.scan import Answer, Box, Mask, Scan
    from medfm.segmenter import Segmenter

__all__ = ["TOOLS", "Tool", "available"]

_TILES = 24
Run = Callable[..., Iterator[None]]


@dataclass(frozen=True)
class Tool:
    """A tool: its name, what it does, the JSON schema of its arguments, and a generator that fills a Turn.

    `run(conversation, model, turn, **arguments)` yields whenever there is more to show.
    """

    name: str
    description: str
    run: Run
    properties: dict[str, dict[str, Any]] = field(default_factory=dict)
    required: tuple[str, ...] = ()

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the arguments."""
        return {
            "type": "object",
            "properties": self.properties,
            "required": list(self.required),
            "additionalProperties": False,
        }


def ask(talk: Conversation, model: MedFM, turn: Turn, *, question: str) -> Iterator[None]:
    """Answer in words, streamed."""
    from medfm import predict
    from medfm.scan import Mask

    scan = _current(talk)
    pieces = predict.stream(model, scan, question)
    while True:
        try:
            turn.text += next(pieces)
        except StopIteration as end:
            answer: Answer = end.value
            break
        yield
    turn.text, turn.confidence = answer.text, answer.confidence
    turn.abstained, turn.reason = answer.abstained, answer.reason
    if scan.modality == "PHOTO" and model.name == "default":
        turn.note = "This model has learned from radiographs, CT and MR, not from photographs: take it as a guess."
    elif {"left", "right"} & set(answer.text.lower().replace(",", " ").split()):
        # the data sets that models learn from mean the picture's sides as often as the patient's
        turn.note = "Left and right in this answer may be those of the picture, not of the patient; see the image."
    turn.evidence = items_of(scan, answer.evidence, first=len(talk.masks))
    talk.masks += [("current", item) for item in answer.evidence if isinstance(item, Mask)]


def measure(talk: Conversation, model: MedFM, turn: Turn, *, structure: str = "") -> Iterator[None]:
    """Say how large a structure is, in mm where the scan knows its spacing."""
    scan, lines = _current(talk), []
    names = _structures(model, structure)
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
        _decline(turn, f"The model does not see the {' or the '.join(names).lower()} in this scan.")
        return
    turn.text = "\n".join([*lines, "By the box that the model drew; its edges are no finer than the model's."])


def compare(talk: Conversation, model: MedFM, turn: Turn, *, structure: str = "") -> Iterator[None]:
    """Measure a structure in the current and in the prior scan and say what changed."""
    if talk.prior is None:
        raise MedfmError("There is no prior scan. Open one as prior first, then ask again.")
    lines, unseen, scores = [], [], []
    sides: tuple[Which, ...] = ("current", "prior")
    for name in _structures(model, structure):
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
        _decline(turn, f"the {' and the '.join(dict.fromkeys(unseen))} was not seen in both scans")


def segment(
    talk: Conversation, model: MedFM, turn: Turn, *, structure: str = "", point: list[float] | None = None,
    box: list[float] | None = None,
) -> Iterator[None]:  # fmt: skip
    """Outline structures: by a model trained for it where there is one, else roughly by the eye's own map; or what lies
    at a point or in a box, by its brightness."""
    from medfm import predict
    from medfm.assistant.task_models import segmenter_for
    from medfm.predict.outlining import outline

    scan = _current(talk)
    yield
    if point or box:
        _marked(talk, turn, scan, point, box)
        return
    found = segmenter_for(structure) if structure else None
    if found is not None:
        if _wider(scan, found):  # minutes of work for outlines of what is not there
            raise MedfmError(
                f"The scan is several times larger than what the model {found.name} was trained on. Cut it to the "
                "region first."
            )
        mask: Mask | None = predict.segment(found, scan)
        turn.text = f"Outlined by the model {found.name}."
    else:
        names = _structures(model, structure)
        mask = outline(model, scan, names)
        turn.text = "A rough outline from the map behind the answers: good enough to point, too coarse to measure by."
        unseen = [] if mask is None else [mask.labels[v] for v in mask.labels if not (mask.array == v).any()]
        if unseen:
            turn.text += f" Not seen: {', '.join(unseen)}."
    if mask is None or not mask.array.any():
        turn.text = ""
        _decline(turn, f"The model does not see the {structure.lower()} in this scan.")
        return
    turn.evidence = items_of(scan, [mask], first=len(talk.masks))
    if found is None:
        turn.evidence = [replace(item, number=f"roughly {item.number}") for item in turn.evidence]
    talk.masks.append(("current", mask))


def detect(talk: Conversation, model: MedFM, turn: Turn, *, structure: str = "") -> Iterator[None]:
    """Find every one of something, by the models trained for it."""
    from medfm import predict
    from medfm.assistant.task_models import detectors_for

    scan = _current(talk)
    yield
    models = detectors_for(structure)
    if not models:
        raise MedfmError(f"No model that finds {structure or 'things'} is installed; see `medfm models`.")
    for found in models:
        for box in predict.detect(found, scan):
            sides, unit = predict.box_size(scan, box)
            size = " x ".join(f"{side:.0f}" for side in sides) + f" {unit}"
            turn.evidence.append(box_item(scan, box, number=f"{size}, score {box.score or 0:.2f}"))
        yield
    names = ", ".join(found.name for found in models)
    if not turn.evidence:
        _decline(turn, f"Nothing found by {names}. That does not say that nothing is there.")
        return
    turn.text = f"{len(turn.evidence)} found by {names}; the likeliest first."


def classify(talk: Conversation, model: MedFM, turn: Turn) -> Iterator[None]:
    """Say what the scan shows as a whole, by the models trained for it."""
    from medfm import predict
    from medfm.assistant.task_models import classifiers

    scan, lines = _current(talk), []
    yield
    for found in classifiers():
        scores = predict.classify(found, scan)
        listed = sorted(scores.probabilities.items(), key=lambda one: -one[1])[:3]
        lines.append(f"{found.name}: " + ", ".join(f"{name} {p:.0%}" for name, p in listed))
        yield
    if not lines:
        raise MedfmError("No model that classifies scans is installed; see `medfm models`.")
    turn.text = "\n".join(lines)
    turn.note = "Each model knows only its own labels and its own kind of picture; for others its numbers mean nothing."


def _marked(talk: Conversation, turn: Turn, scan: Scan, point: list[float] | None, box: list[float] | None) -> None:
    """Outline what a person pointed at."""
    from medfm import predict

    if box:
        half = len(box) // 2
        mask = predict.enclose(scan, box[:half], box[half:])
        turn.text = "Told from its surroundings by brightness, in this slice only."
    else:
        assert point is not None
        mask = predict.grow(scan, point)
        turn.text = "Everything of like brightness that hangs together with the place you clicked on."
    turn.note = "No model is behind this outline; check its edge."
    if mask is None:
        turn.text, turn.note = "", None
        other = "" if box else " Drag a box around it instead."
        _decline(turn, f"What you marked does not stand out from what is around it.{other}")
        return
    turn.evidence = items_of(scan, [mask], first=len(talk.masks))
    talk.masks.append(("current", mask))


def align(talk: Conversation, model: MedFM, turn: Turn) -> Iterator[None]:
    """Turn and shift the prior scan until it lies on the current one, and put it in its place."""
    from medfm import predict

    scan, prior = _current(talk), talk.prior
    if prior is None:
        raise MedfmError("There is no prior scan. Open one as prior first, then ask again.")
    yield
    found = predict.register(prior, scan, method="rigid")
    moved = found.warp(prior, scan)
    before, after = (predict.likeness(one, scan)["nmi"] for one in (_on_grid(prior, scan), moved))
    talk.replace_prior(moved)
    turn.text = (
        f"The prior now lies on the grid of the current scan, turned and shifted as a whole. "
        f"Normalised mutual information {before:.3f} before, {after:.3f} after (1 is none); look whether edges agree."
    )


def report(talk: Conversation, model: MedFM, turn: Turn, *, indication: str = "", history: str = "") -> Iterator[None]:
    """Draft a report; it waits for a reader's word on every sentence."""
    from medfm import predict

    yield
    talk.report = predict.report(
        model, _current(talk), indication=indication or None, history=history or None, prior=talk.prior
    )
    said = list(talk.report.sentences())
    declined = sum(sentence.abstained for sentence in said)
    turn.text = f"A draft of {len(said)} sentences is under Report" + (
        f"; {declined} of them are guesses that the model does not stand by." if declined else "."
    )


def _current(talk: Conversation) -> Scan:
    assert talk.current is not None  # Conversation.run has made sure
    return talk.current


def _on_grid(prior: Scan, scan: Scan) -> Scan:
    """The prior where its header puts it, on the grid of the current scan."""
    import numpy as np

    from medfm.scan import Alignment

    return Alignment(np.eye(4)).warp(prior, scan)


def _structure(model: MedFM, name: str) -> str:
    """The model's own name for a structure. Raises MedfmError that lists what there is."""
    from medfm.assistant.conversation import structures
    from medfm.assistant.routing import named

    known = structures(model)
    found = named(name, known)
    if found is None:
        asked = f"{name!r} is none of what this model can point at" if name else "Say of what"
        short = {one.removeprefix("Left ").removeprefix("Right ").lower() for one in known}
        raise MedfmError(
            f"{asked}. Press mark and click on it, or drag a box around it. It knows: {', '.join(sorted(short))}."
        )
    return found


def _structures(model: MedFM, name: str) -> list[str]:
    """The model's names for a structure, both sides of a pair. Raises MedfmError that lists what there is."""
    from medfm.assistant.conversation import structures
    from medfm.assistant.routing import both_sides

    return both_sides(name, structures(model)) or [_structure(model, name)]


def _box(model: MedFM, scan: Scan, name: str) -> Box | None:
    """The box around a structure, if the model sees it."""
    from medfm import predict
    from medfm.scan import Box

    answer = predict.ask(model, scan, f"Where is the {name.lower()}?")
    return next((item for item in answer.evidence if isinstance(item, Box) and item.label == name), None)


def _wider(scan: Scan, model: Segmenter) -> bool:
    """The scan holds more than `_TILES` times what the model reads at once; 1 mm where it has no spacing of its own.

    A model whose tile is a whole organ has seen nothing else; one trained on whole scans reads tiles in the dozens.
    """
    spacing = model.preparation.spacing or tuple(reversed(scan.spacing))
    field = [voxels * mm for voxels, mm in zip(model.patch, spacing, strict=True)]
    sides = [count * mm for count, mm in zip(scan.data.shape[1:], reversed(scan.spacing), strict=True)]
    tiles = 1.0
    for side, seen in zip(sides, field, strict=True):
        tiles *= max(1.0, side / seen)
    return tiles > _TILES


def _decline(turn: Turn, reason: str) -> None:
    turn.abstained, turn.reason = True, reason


def _in_words(extent: list[tuple[str, float, str]]) -> str:
    return ", ".join(f"{length:.0f} {unit} {direction}" for direction, length, unit in extent)


def _short(extent: list[tuple[str, float, str]]) -> str:
    return " x ".join(f"{length:.0f}" for _, length, _ in extent) + f" {extent[0][2]}"


_STRUCTURE = {"structure": {"type": "string", "description": "Name of an organ or finding, in English."}}
_CONTEXT = {
    "indication": {"type": "string", "description": "Why the examination was made."},
    "history": {"type": "string", "description": "What is known of the patient."},
}
_QUESTION = {"question": {"type": "string", "description": "A short question about the open scan, in English."}}

_MARKS: dict[str, dict[str, Any]] = {
    **_STRUCTURE,
    "point": {
        "type": "array", "items": {"type": "number"},
        "description": "Instead of a name: a place on it, (x, y, z) in RAS mm, or (column, row) of a picture.",
    },
    "box": {
        "type": "array", "items": {"type": "number"},
        "description": "Instead of a name: corners around it in one slice, low then high, in the same space.",
    },
}  # fmt: skip

_TOOLS = (
    Tool("ask", "Answer a question about the scan, with confidence and evidence.", ask, _QUESTION, ("question",)),
    Tool("measure", "Size of a structure in the scan, in mm.", measure, _STRUCTURE, ("structure",)),
    Tool("segment", "Outline a structure in the scan and give its volume.", segment, _MARKS),
    Tool("detect", "Find every one of something, with box, size and score.", detect, _STRUCTURE),
    Tool("classify", "What the scan shows as a whole, by models trained for it.", classify),
    Tool("report", "Draft a report of the scan, for a reader to accept, edit or reject.", report, _CONTEXT),
    Tool("align", "Lay the prior scan onto the current one, as a rigid body.", align),
    Tool("compare", "Size of a structure in the scan and in the prior one.", compare, _STRUCTURE, ("structure",)),
)
TOOLS = {tool.name: tool for tool in _TOOLS}
_NEEDED = ("detect", "classify")  # tools that are nothing without a model of their kind


def available() -> list[str]:
    """Names of the tools that can run with what is installed and shipped."""
    from medfm.assistant.task_models import kinds

    trained = kinds()
    return [name for name in TOOLS if name not in _NEEDED or name in trained]
