"""What can be done with a scan, as typed tools: the page routes to them by words, MCP lists them by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medfm.assistant.evidence import box_item, items_of
from medfm.assistant.structures import compare, measure, segment
from medfm.errors import MedfmError

if TYPE_CHECKING:
    from medfm.assistant.conversation import Conversation, Turn
    from medfm.model import MedFM
    from medfm.scan import Answer, Scan

__all__ = ["TOOLS", "Tool", "available"]

Run = Callable[..., Iterator[None]]
_OWN_KIND = "Each model knows only its own labels and its own kind of picture; for others its numbers mean nothing."


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

    scan = talk.opened
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
    if answer.reason and not answer.abstained:
        turn.note = f"{answer.reason[0].upper()}{answer.reason[1:]}."
    elif scan.modality == "PHOTO" and model.name == "default":
        turn.note = "This model has learned from radiographs, CT and MR, not from photographs: take it as a guess."
    elif {"left", "right"} & set(answer.text.lower().replace(",", " ").split()):
        # the data sets that models learn from mean the picture's sides as often as the patient's
        turn.note = "Left and right in this answer may be those of the picture, not of the patient; see the image."
    turn.evidence = items_of(scan, answer.evidence, keep=talk.keep)


def detect(talk: Conversation, model: MedFM, turn: Turn, *, structure: str = "") -> Iterator[None]:
    """Find every one of something, by the models trained for it."""
    from medfm import predict
    from medfm.assistant.task_models import detectors_for

    scan = talk.opened
    yield
    models = detectors_for(structure, scan)
    if not models:
        raise MedfmError(
            f"No model that finds {structure or 'things'} in such a scan is installed; see `medfm models`."
        )
    for found in models:
        for box in predict.detect(found, scan):
            sides, unit = predict.box_size(scan, box)
            size = " x ".join(f"{side:.0f}" for side in sides) + f" {unit}"
            turn.evidence.append(box_item(scan, box, number=f"{size}, score {box.score or 0:.2f}"))
        yield
    names = ", ".join(found.name for found in models)
    if not turn.evidence:
        turn.decline(f"Nothing found by {names}. That does not say that nothing is there.")
        return
    turn.text = f"{len(turn.evidence)} found by {names}; the likeliest first."
    cautions = [found.caution for found in models if found.caution]
    turn.note = " ".join([*cautions, _OWN_KIND])


def classify(talk: Conversation, model: MedFM, turn: Turn) -> Iterator[None]:
    """Say what the scan shows as a whole, by the models trained for it."""
    from medfm import predict
    from medfm.assistant.task_models import classifiers

    scan, lines = talk.opened, []
    yield
    for found in classifiers(scan):
        scores = predict.classify(found, scan)
        listed = sorted(scores.probabilities.items(), key=lambda one: -one[1])[:3]
        lines.append(f"{found.name}: " + ", ".join(f"{name} {p:.0%}" for name, p in listed))
        yield
    if not lines:
        raise MedfmError("No model that classifies such scans is installed; see `medfm models`.")
    turn.text = "\n".join(lines)
    turn.note = _OWN_KIND


def denoise(talk: Conversation, model: MedFM, turn: Turn) -> Iterator[None]:
    """Make a less noisy picture and lay it beside the scan; answers and measures go on to be of the scan itself."""
    from medfm import predict
    from medfm.assistant.task_models import denoisers_for

    scan = talk.opened
    if talk.prior is not None:
        raise MedfmError("The result is shown in the prior's place, and that is taken. Open the scan without a prior.")
    if scan.data[0].size > _MOST:
        raise MedfmError("The scan is too large to do it here; `medfm reconstruct FILE --denoise --output DIR` can.")
    yield
    models = denoisers_for(scan)[:1]
    if not models:
        raise MedfmError("No model that takes noise out of such scans is installed; see `medfm models`.")
    found = predict.denoise(scan, models=models)
    assert found.unexplained is not None
    unit = f" {scan.units}" if scan.units else ""
    talk.replace_prior(found.scan)
    turn.text = (
        f"The picture with less noise, by {models[0].name}, lies beside the scan, in the prior's place. What was taken "
        f"away has a standard deviation of {float(found.unexplained.data.std()):.3g}{unit}. Answers and measures go on "
        "to be of the scan as it was read."
    )
    turn.note = " ".join(found.warnings) or None


def align(talk: Conversation, model: MedFM, turn: Turn) -> Iterator[None]:
    """Turn and shift the prior scan until it lies on the current one, and put it in its place."""
    from medfm import predict

    scan, prior = talk.opened, talk.prior
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


def report(
    talk: Conversation, model: MedFM, turn: Turn, *, indication: str = "", history: str = "", labs: str = "",
    prior: str = "",
) -> Iterator[None]:  # fmt: skip
    """Draft a report; it waits for a reader's word on every sentence. An earlier report counts before a prior scan.

    A draft that a reader has begun to decide on is lost only when a new one is asked for twice.
    """
    from medfm import predict
    from medfm.scan import Mask

    before = talk.report
    read = sum(sentence.state != "draft" for sentence in before.sentences()) if before else 0
    if read and talk.given_up is not before:
        talk.given_up = before
        raise MedfmError(
            f"A new draft takes the place of this one, with your word on {read} "
            f"{'sentence' if read == 1 else 'sentences'}. Ask for it once more if you mean that."
        )
    yield
    talk.report = predict.report(
        model, talk.opened, indication=indication or None, history=history or None, labs=labs or None,
        prior=prior or talk.prior,
    )  # fmt: skip
    said = list(talk.report.sentences())
    lesions = [f for sentence in said if not sentence.abstained for f in sentence.findings if f.finding != "in view"]
    drawn = {id(item): item for found in lesions for item in found.evidence if isinstance(item, Mask)}
    for mask in drawn.values():  # all structures would hide it
        talk.keep(mask)
    declined = sum(sentence.abstained for sentence in said)
    turn.text = f"A draft of {len(said)} sentences is under Report" + (
        f"; {declined} of them are guesses that the model does not stand by." if declined else "."
    )


def _on_grid(prior: Scan, scan: Scan) -> Scan:
    """The prior where its header puts it, on the grid of the current scan."""
    import numpy as np

    from medfm.scan import Alignment

    return Alignment(np.eye(4)).warp(prior, scan)


_STRUCTURE = {"structure": {"type": "string", "description": "Name of an organ or finding, in English."}}
_CONTEXT = {
    "indication": {"type": "string", "description": "Why the examination was made."},
    "history": {"type": "string", "description": "What is known of the patient."},
    "labs": {"type": "string", "description": "Laboratory values."},
    "prior": {"type": "string", "description": "Text of an earlier report, to compare with."},
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
    Tool("measure", "Size of a structure in the scan, in ml or mm.", measure, _STRUCTURE, ("structure",)),
    Tool("segment", "Outline a structure in the scan and give its volume.", segment, _MARKS),
    Tool("detect", "Find every one of something, with box, size and score.", detect, _STRUCTURE),
    Tool("classify", "What the scan shows as a whole, by models trained for it.", classify),
    Tool("report", "Draft a report of the scan, for a reader to accept, edit or reject.", report, _CONTEXT),
    Tool("denoise", "Lay a picture with less noise beside the scan, by a model trained for it.", denoise),
    Tool("align", "Lay the prior scan onto the current one, as a rigid body.", align),
    Tool("compare", "Size of a structure in the scan and in the prior one.", compare, _STRUCTURE, ("structure",)),
)
TOOLS = {tool.name: tool for tool in _TOOLS}
_NEEDED = {"detect": "detect", "classify": "classify", "denoise": "reconstruct"}  # nothing without a model of the kind
_MOST = 2**25  # voxels that are denoised while somebody waits: 128 slices of 512 x 512


def available() -> list[str]:
    """Names of the tools that can run with what is installed and shipped."""
    from medfm.assistant.task_models import kinds

    trained = kinds()
    return [name for name in TOOLS if _NEEDED.get(name) in {None, *trained}]
