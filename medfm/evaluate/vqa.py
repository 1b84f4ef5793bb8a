"""Every question of a data set asked, asked again of a blank image, and what blind guessing gets."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfm.errors import MedfmError
from medfm.evaluate.rows import Row, file_hash, most_frequent_answers, read_records, read_rows, write_records
from medfm.evaluate.score import score
from medfm.metrics import exact_match, token_f1

if TYPE_CHECKING:
    from rich.progress import Progress

    from medfm.model import MedFM
    from medfm.scan import Answer, Scan

__all__ = ["blank_like", "evaluate_vqa", "model_hash", "progress"]

_AIR = -1024  # HU; 0 HU would be a grey image of water


def evaluate_vqa(
    model: MedFM,
    data: Path,
    *,
    output: Path,
    baseline_data: Path | None = None,
    limit: int | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Ask every question of `data`, write `output/predictions.jsonl` and `output/metrics.json`, return the metrics.

    data: JSON lines with image (relative to the file), question, answer and answer_type. baseline_data: rows on which
    the most frequent answers are learned; without it they are learned on `data` itself, leaving one image out.
    An interrupted run goes on where it stopped, if the model is the same. An image that cannot be read counts as
    wrong for all its questions and is listed.

    Raises:
        DataError: `data` or `baseline_data` is not such a file.
    """
    rows = read_rows(data, limit=limit)
    learned_on = None if baseline_data is None else read_rows(baseline_data)
    output.mkdir(parents=True, exist_ok=True)
    digest = model_hash(model)
    records = _predict(model, rows, data.parent, output / "predictions.jsonl", digest)
    for record, guess, row in zip(records, most_frequent_answers(rows, learned_on=learned_on), rows, strict=True):
        record.update(most_frequent=guess, most_frequent_correct=exact_match(guess, row.answer))
    write_records(output / "predictions.jsonl", records)

    metrics = score(records, resamples=resamples, seed=seed)
    metrics["most_frequent"]["learned_on"] = "the evaluated file, leaving one image out"
    if baseline_data is not None:
        metrics["most_frequent"]["learned_on"] = {"file": baseline_data.name, "sha256": file_hash(baseline_data)}
    metrics["model"] = {"name": model.name, "hash": digest}
    metrics["data"] = {
        "file": f"{data.resolve().parent.name}/{data.name}",
        "sha256": file_hash(data),
        "questions": len(rows),
        "images": len({row.image for row in rows}),
        "limit": limit,
    }
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return metrics


def blank_like(scan: Scan) -> Scan:
    """The same scan with nothing in it: black everywhere (air where values are HU); shape, affine and header kept.

    What was estimated from the pixels is forgotten with them.
    """
    import numpy as np

    unknown = {"modality": "UNKNOWN", "body_part": None, "plane": None}
    forgotten = {name: value for name, value in unknown.items() if name in scan.estimated}
    data = np.full_like(scan.data, _AIR if scan.units == "HU" else 0)
    return replace(scan, data=data, estimated=scan.estimated - set(forgotten), notes=[], **forgotten)  # type: ignore[arg-type]


def model_hash(model: MedFM) -> str:
    """sha256 of the configuration and of all weights, so that a resumed evaluation cannot mix two models."""
    import hashlib

    settings = json.dumps(_settings(model.config.to_dict()), sort_keys=True, default=str)
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).numpy()).cast("B"))
    return digest.hexdigest()


def _settings(value: Any) -> Any:
    """A configuration without what is not the model: where its files lay, and the version that wrote it."""
    if not isinstance(value, dict):
        return value
    return {k: _settings(v) for k, v in value.items() if k not in ("_name_or_path", "transformers_version")}


def _predict(model: MedFM, rows: Sequence[Row], root: Path, path: Path, digest: str) -> list[dict[str, Any]]:
    """One record per row, in row order; those already in `path` for the same model and row are taken from there."""
    done = {
        record["row"]: record
        for record in read_records(path)
        if record["model"] == digest and record["row"] < len(rows) and _same(record, rows[record["row"]])
    }
    write_records(path, done.values())
    waiting: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.number not in done:
            waiting[row.image].append(row)
    blank_answers: dict[tuple[str, str], Answer] = {}
    with progress() as bar, path.open("a", encoding="utf-8") as file:
        task = bar.add_task("questions", total=len(rows), completed=len(done))
        for image, group in waiting.items():
            for record in _ask_about(model, root, image, group, blank_answers):
                record["model"] = digest
                done[record["row"]] = record
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
            file.flush()
            bar.advance(task, len(group))
    return [done[row.number] for row in rows]


def _same(record: dict[str, Any], row: Row) -> bool:
    known = (record["image"], record["question"], record["answer"]) == (row.image, row.question, row.answer)
    return known and record["error"] is None  # an unreadable image gets another chance


def _ask_about(
    model: MedFM, root: Path, image: str, rows: Sequence[Row], blank_answers: dict[tuple[str, str], Answer]
) -> Iterator[dict[str, Any]]:
    """Read and encode one image once, ask all its questions, then ask them again with a blank one."""
    from medfm import predict
    from medfm.scan import Scan

    try:
        scan = Scan.read(root / image)
    except (MedfmError, OSError) as error:
        message = str(error).replace(f"{root}/", "")  # no path of this machine in the output
        yield from (_record(row, None, None, message) for row in rows)
        return
    answers = predict.ask_many(model, scan, [row.question for row in rows])
    blank = blank_like(scan)
    # blank images of one shape are one image, so each question is asked of it once in the whole run
    new = list(dict.fromkeys(row.question for row in rows if (blank.content_hash, row.question) not in blank_answers))
    if new:
        for question, answer in zip(new, predict.ask_many(model, blank, new), strict=True):
            blank_answers[blank.content_hash, question] = answer
    for row, answer in zip(rows, answers, strict=True):
        yield _record(row, answer, blank_answers[blank.content_hash, row.question], None)


def _record(row: Row, answer: Answer | None, blank: Answer | None, error: str | None) -> dict[str, Any]:
    said = "" if answer is None else answer.text
    said_blank = "" if blank is None else blank.text
    return {
        **row.extra,
        "row": row.number,
        "image": row.image,
        "question": row.question,
        "answer": row.answer,
        "answer_type": row.answer_type,
        "prediction": said,
        "confidence": None if answer is None else answer.confidence,
        "abstained": answer is not None and answer.abstained,
        "correct": 0.0 if answer is None else exact_match(said, row.answer),
        "token_f1": 0.0 if answer is None else token_f1(said, row.answer),
        "blank_prediction": said_blank,
        "blank_correct": 0.0 if blank is None else exact_match(said_blank, row.answer),
        "error": error,
    }


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar with the time left, on the standard error."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stderr)) as bar:
        yield bar
