"""What can be done with a scan, as typed tools: the page routes to them by words, MCP lists them by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medfm.assistant.evidence import Which, box_extent, box_item, items_of
from medfm.errors import MedfmError

if TYPE_CHECKING:
    from medfm.assistant.conversation import Conversation, Turn
    from medfm.model import MedFM
    from medfm.scan import Answer, Box, Scan

__all__ = ["TOOLS", "Tool", "available"]

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
    turn.evidence = items_of(scan, answer.evidence, first=len(talk.masks))
    talk.masks += [("current", item) for item in answer.evidence if isinstance(item, Mask)]


def measure(talk: Conversation, model: MedFM, turn: Turn, *, structure: str = "") -> Iterator[None]:
    """Say how large a structure is, in mm where the scan knows its spacing."""
    name = _structure(model, structure)
    box = _box(model, _current(talk), name)
    yield
    if box is None:
        _decline(turn, f"The model does not see the {name.lower()} in this scan.")
        return
    scan = _current(talk)
    extent = box_extent(scan, box)
    turn.text = f"{name}: {_in_words(extent)}, by the box that the model drew; its edges are no finer than the model's."
    turn.confidence = box.score
    turn.evidence = [box_item(scan, box, number=_short(extent))]


def compare(talk: Conversation, model: MedFM, turn: Turn, *, structure: str = "") -> Iterator[None]:
    """Measure a structure in the current and in the prior scan and say what changed."""
    if talk.prior is None:
        raise MedfmError("There is no prior scan. Open one as prior first, then ask again.")
    name = _structure(model, structure)
    boxes: dict[Which, Box | None] = {}
    sides: tuple[Which, ...] = ("current", "prior")
    for which in sides:
        scan = talk.scan_of(which)
        assert scan is not None
        boxes[which] = _box(model, scan, name)
        yield
    lines = []
    for which, box in boxes.items():
        scan = talk.scan_of(which)
        assert scan is not None
        if box is None:
            lines.append(f"{which}: not seen")
            continue
        extent = box_extent(scan, box)
        lines.append(f"{which}: {_in_words(extent)}")
        turn.evidence.append(box_item(scan, box, which=which, number=_short(extent)))
    turn.text = f"{name}\n" + "\n".join(lines)
    scores = [box.score for box in boxes.values() if box is not None and box.score is not None]
    turn.confidence = min(scores, default=None)
    if None in boxes.values():
        turn.abstained, turn.reason = True, f"the {name.lower()} was not seen in both scans"


def _current(talk: Conversation) -> Scan:
    assert talk.current is not None  # Conversation.run has made sure
    return talk.current


def _structure(model: MedFM, name: str) -> str:
    """The model's own name for a structure. Raises MedfmError that lists what there is."""
    from medfm.assistant.conversation import structures
    from medfm.assistant.routing import named

    known = structures(model)
    found = named(name, known)
    if found is None:
        asked = f"{name!r} is none of what this model can point at" if name else "Say of what"
        raise MedfmError(f"{asked}. It knows: {', '.join(sorted(known, key=str.lower))}.")
    return found


def _box(model: MedFM, scan: Scan, name: str) -> Box | None:
    """The box around a structure, if the model sees it."""
    from medfm import predict
    from medfm.scan import Box

    answer = predict.ask(model, scan, f"Where is the {name.lower()}?")
    return next((item for item in answer.evidence if isinstance(item, Box) and item.label == name), None)


def _decline(turn: Turn, reason: str) -> None:
    turn.abstained, turn.reason = True, reason


def _in_words(extent: list[tuple[str, float, str]]) -> str:
    return ", ".join(f"{length:.0f} {unit} {direction}" for direction, length, unit in extent)


def _short(extent: list[tuple[str, float, str]]) -> str:
    return " x ".join(f"{length:.0f}" for _, length, _ in extent) + f" {extent[0][2]}"


_STRUCTURE = {"structure": {"type": "string", "description": "Name of an organ or finding, in English."}}
_QUESTION = {"question": {"type": "string", "description": "A short question about the open scan, in English."}}

_TOOLS = (
    Tool("ask", "Answer a question about the scan, with confidence and evidence.", ask, _QUESTION, ("question",)),
    Tool("measure", "Size of a structure in the scan, in mm.", measure, _STRUCTURE, ("structure",)),
    Tool("compare", "Size of a structure in the scan and in the prior one.", compare, _STRUCTURE, ("structure",)),
)
TOOLS = {tool.name: tool for tool in _TOOLS}


def available() -> list[str]:
    """Names of the tools that can run with what is installed and shipped."""
    return list(TOOLS)
