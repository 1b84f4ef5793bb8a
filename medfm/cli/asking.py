"""`medfm ask`: read a scan once, answer each question as it is typed, say how sure the answer is."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medfm.cli import show
from medfm.errors import ScanError

if TYPE_CHECKING:
    from medfm.model import MedFM
    from medfm.scan import Answer, Scan

__all__ = ["DEMO_QUESTIONS", "Request", "ask", "split_words"]

DEMO_QUESTIONS = (
    "What modality is used to take this image?",
    "Which part of the body does this image belong to?",
    "Does the picture contain liver?",
)


@dataclass(frozen=True)
class Request:
    """What to read and with which adapter."""

    file: Path
    series: int | str | None
    frame: int | None
    plane: str | None
    adapter: str
    as_json: bool


def split_words(words: Sequence[str], *, demo: bool) -> tuple[Path, list[str]]:
    """The file and the questions from what was typed; `demo` puts the shipped scan in the place of the file.

    Raises:
        ScanError: there is no file.
    """
    if demo:
        from medfm.assets import root

        return root() / "apps" / "chat" / "demo" / "abdomen_mr.dcm", list(words) or list(DEMO_QUESTIONS)
    if not words:
        raise ScanError(
            'No file was given. Type `medfm ask FILE "QUESTION"`, or `medfm ask --demo` to try a shipped scan.'
        )
    return Path(words[0]), list(words[1:])


def ask(request: Request, questions: Sequence[str]) -> None:
    """Answer `questions`, or, where there are none, each line of the standard input."""
    import medfm

    scan = medfm.Scan.read(request.file, series=request.series, frame=request.frame)
    if request.plane is not None and scan.frame == "image":
        raise ScanError(
            f"--plane {request.plane}: this {scan.source} is a flat picture; only a volume can be cut in another plane."
        )
    show.scan(scan)
    with show.waiting("loading the model"):
        model = medfm.load(request.adapter)
    for question in questions or _typed():
        if len(questions) > 1 and not request.as_json:
            show.question(question)
        if request.as_json:
            _answer_json(model, scan, question, plane=request.plane)
        else:
            _answer_text(model, scan, question, plane=request.plane)
    show.disclaimer()


def _typed() -> Iterator[str]:
    """Lines from the standard input, with a prompt when somebody is typing; an empty line or its end stops."""
    typing = sys.stdin.isatty()
    while True:
        if typing:
            show.prompt()
        line = sys.stdin.readline()
        if not line.strip():
            return
        yield line.strip()


def _answer_text(model: MedFM, scan: Scan, question: str, *, plane: str | None) -> None:
    """The answer goes to stdout, all that is said about it to stderr.

    A terminal sees words as they come; a pipe gets the finished answer, because only then it is known whether
    the model stands by it.
    """
    from medfm import predict

    terminal = sys.stdout.isatty()
    if terminal:
        answer = _written(predict.stream(model, scan, question, plane=plane))
    else:
        with show.waiting("looking"):
            answer = predict.ask(model, scan, question, plane=plane)
        print(f"not answered: {answer.reason}" if answer.abstained else answer.text, flush=True)
    show.about(answer, told=answer.abstained and not terminal)


def _written(pieces: Iterable[str]) -> Answer:
    """Write pieces as they come; the generator's return value is the answer."""
    running = iter(pieces)
    while True:
        try:
            piece = next(running)
        except StopIteration as end:
            sys.stdout.write("\n")
            answer: Answer = end.value
            return answer
        sys.stdout.write(show.printable(piece))
        sys.stdout.flush()


def _answer_json(model: MedFM, scan: Scan, question: str, *, plane: str | None) -> None:
    from medfm import predict

    about = {
        "modality": scan.modality,
        "body_part": scan.body_part,
        "plane": plane or scan.plane,
        "shape": list(scan.data.shape),
        "spacing_mm": list(scan.spacing) if scan.spacing_known else None,
        "estimated": sorted(scan.estimated),
        "notes": scan.notes,
        "sha256": scan.content_hash,
    }
    with show.waiting("looking"):
        answer = predict.ask(model, scan, question, plane=plane)
    print(json.dumps({"question": question, **answer.to_dict(), "scan": about}, ensure_ascii=False), flush=True)
