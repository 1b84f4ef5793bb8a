"""Every picture of a data set reported; facts and words compared with the truth, with controls that do not look."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfm.data.truths import Truth, true_findings
from medfm.errors import DataError, MedfmError
from medfm.evaluate.facts import Fact, count, judge
from medfm.evaluate.rows import Row, file_hash, read_records, read_rows, write_records
from medfm.evaluate.score_report import check_libraries, score_reports
from medfm.evaluate.vqa import blank_like, model_hash, progress
from medfm.language.wording import facts_of, read, write
from medfm.scan import Report, Scan

if TYPE_CHECKING:
    from medfm.model import MedFM

__all__ = ["Item", "evaluate_report", "read_items", "text_of"]

_KIND = ("modality", "location")  # what a header may tell of a row: the most frequent report is that of its kind


class Item:
    """One picture of the data: its rows, and what is truly in it."""

    def __init__(self, image: str, rows: Sequence[Row], root: Path) -> None:
        self.image, self.path = image, root / image
        self.kind = tuple(str(rows[0].extra.get(key, "")) for key in _KIND)
        self.written = next((str(row.extra["report"]) for row in rows if row.extra.get("report")), None)
        self.truth = self._truth(rows)
        self.reference = self.written or " ".join(text for text, _ in write(self.truth.findings))

    def _truth(self, rows: Sequence[Row]) -> Truth:
        if self.written is not None:
            return Truth(tuple(read(self.written)), False)
        from PIL import Image

        boxes = self.path.parent / "boxes.json"
        drawn = json.loads(boxes.read_text()) if boxes.exists() else []
        with Image.open(self.path) as picture:
            width = picture.width
        said = [{"question": row.question, "answer": row.answer} for row in rows]
        return true_findings(said, [(box["label"], box["xywh"]) for box in drawn], width=width)


def read_items(data: Path, *, limit: int | None = None) -> list[Item]:
    """The pictures of a JSONL file in order, with what is true of them.

    Raises:
        DataError: not such a file, or nothing is known of any picture.
    """
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in read_rows(data):
        rows[row.image].append(row)
    items = [Item(image, own, data.parent) for image, own in list(rows.items())[:limit]]
    if not any(item.truth.findings for item in items):
        raise DataError(
            f"{data}: found no fact about any image; expected boxes.json beside the images, answers that name "
            "findings, or rows with a report."
        )
    return items


def evaluate_report(
    model: MedFM, data: Path, *, output: Path, baseline_data: Path | None = None, limit: int | None = None,
    resamples: int = 2000, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Report every picture of `data`, write `output/predictions.jsonl` and `output/metrics.json`, return the metrics.

    data: rows as for `evaluate_vqa`; the true facts come from the answers and from boxes.json beside each image, or
    from a row's `report`. Beside each figure: the same model on a blank image, the report of another picture of the
    same kind, and the most frequent report of the kind (learned on `baseline_data`, else on the other pictures).
    An interrupted run goes on where it stopped. limit: pictures.

    Raises:
        DataError: `data` or `baseline_data` is not such a file. MedfmError: a library that compares words is missing.
    """
    check_libraries()
    items = read_items(data, limit=limit)
    learned_on = items if baseline_data is None else read_items(baseline_data)
    output.mkdir(parents=True, exist_ok=True)
    digest = model_hash(model)
    records = _reports(model, items, output / "predictions.jsonl", digest)
    _controls(records, items, learned_on, leave_out=baseline_data is None)
    write_records(output / "predictions.jsonl", records)
    metrics = score_reports(records, resamples=resamples, seed=seed)
    metrics["most_frequent"]["learned_on"] = data.name if baseline_data is None else baseline_data.name
    metrics["model"] = {"name": model.name, "hash": digest}
    metrics["data"] = {
        "file": f"{data.resolve().parent.name}/{data.name}", "sha256": file_hash(data), "images": len(items),
        "facts": sum(len(item.truth.findings) for item in items), "limit": limit,
    }  # fmt: skip
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return metrics


def text_of(report: Report) -> str:
    """What the report says: every sentence that was neither declined nor rejected."""
    return " ".join(s.text for s in report.sentences() if not s.abstained and s.state != "rejected")


def _reports(model: MedFM, items: Sequence[Item], path: Path, digest: str) -> list[dict[str, Any]]:
    """One record an item, in order; those already in `path` for the same model are taken from there."""
    kept = [r for r in read_records(path) if r["model"] == digest and r["error"] is None]
    done = {record["image"]: record for record in kept}
    write_records(path, done.values())
    blanks: dict[str, str] = {}
    with progress() as bar, path.open("a", encoding="utf-8") as file:
        task = bar.add_task("reports", total=len(items))
        for item in items:
            if item.image not in done:
                done[item.image] = {**_report(model, item, blanks), "model": digest}
                file.write(json.dumps(done[item.image], ensure_ascii=False) + "\n")
                file.flush()
            bar.advance(task)
    return [done[item.image] for item in items]


def _report(model: MedFM, item: Item, blanks: dict[str, str]) -> dict[str, Any]:
    from medfm.predict.evidence import look
    from medfm.predict.reporting import report, write_up

    record: dict[str, Any] = {
        "image": item.image, "kind": list(item.kind), "reference": item.reference, "text": "", "blank": "",
        "sentences": [], "candidates": [], "error": None,
        "truth": [list(f.fact) for f in item.truth.findings],
    }  # fmt: skip
    try:
        scan = Scan.read(item.path)
    except (MedfmError, OSError) as error:
        return {**record, "error": str(error).replace(f"{item.path.parent}/", "")}
    blank = blank_like(scan)
    seen = None if model.vision is None else look(model, scan)  # somebody else's model weighs no candidates
    drafted = report(model, scan) if seen is None else write_up(model, scan, seen)
    if blank.content_hash not in blanks:  # blank pictures of one shape are one picture
        blanks[blank.content_hash] = text_of(report(model, blank))
    candidates = [
        {"group": c.group, "score": c.score, "said": c.said, "confidence": c.finding.confidence,
         "fact": list(c.finding.fact), "verdict": judge(c.finding.fact, item.truth).verdict}
        for c in (seen.candidates if seen else ())
    ]  # fmt: skip
    sentences = [
        {"text": s.text, "confidence": s.confidence, "abstained": s.abstained, "evidence": len(s.evidence),
         "verdict": _verdict(s.text, item.truth)}
        for s in drafted.sentences()
    ]  # fmt: skip
    return {**record, "text": text_of(drafted), "blank": blanks[blank.content_hash], "sentences": sentences,
            "candidates": candidates}  # fmt: skip


def _verdict(text: str, truth: Truth) -> str:
    """Wrong if one of its facts is; unknown if none of them is decided."""
    verdicts = {judge(fact, truth).verdict for fact in facts_of(read(text))}
    return next((v for v in ("wrong", "right") if v in verdicts), "unknown")


def _controls(
    records: list[dict[str, Any]], items: Sequence[Item], learned_on: Sequence[Item], *, leave_out: bool
) -> None:
    """Add to each record the reports that did not look at its picture, and the counts of all of them."""
    frequent = _most_frequent(learned_on, leave_out=leave_out)
    for number, (record, item) in enumerate(zip(records, items, strict=True)):
        around = [*range(number + 1, len(items)), *range(number)]
        same = [n for n in around if items[n].kind == item.kind] or around
        record["other"] = records[same[0]]["text"] if same else ""
        record["most_frequent"] = " ".join(text for text, _ in write(frequent(item)))
        for name in ("text", "blank", "other", "most_frequent"):
            facts: set[Fact] = set(facts_of(read(record[name])))
            record[f"{name}_facts"] = sorted((list(fact) for fact in facts), key=str)
            record[f"{name}_count"] = count(facts, item.truth)


def _most_frequent(learned_on: Sequence[Item], *, leave_out: bool) -> Callable[[Item], Sequence[Any]]:
    """What somebody would write who knows the kind of picture and never looks: the commonest findings of its kind."""
    reports: Mapping[tuple[str, ...], list[tuple[str, tuple[Any, ...]]]] = defaultdict(list)
    for other in learned_on:
        findings = tuple(replace(f, evidence=(), confidence=None) for f in other.truth.findings)
        for kind in (other.kind, other.kind[:1], ()):
            reports[kind].append((other.image, tuple(sorted(findings, key=str))))

    def commonest(item: Item) -> Sequence[Any]:
        for kind in (item.kind, item.kind[:1], ()):
            counted = Counter(
                found for image, found in reports.get(kind, []) if not (leave_out and image == item.image)
            )
            if counted:
                return min(counted, key=lambda found: (-counted[found], str(found)))
        return ()

    return commonest
