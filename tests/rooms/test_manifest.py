"""Own data: every kind of source gives the same rows, and what is wrong with a row is found before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scan_builders import dicom

from medfm.data.check import check, identifiers
from medfm.data.manifest import REQUEST, parse, raw_rows
from medfm.data.questions import both_sides, read_cases, split_cases
from medfm.errors import DataError
from medfm.prepare import Prepare
from medfm.scan import Scan

PREPARE = Prepare(size=64, max_slices=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (48, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"p{number}.png")
    return tmp_path


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def about(source: str | Path) -> list[tuple[str, str, str]]:
    rows = [parse(raw) for raw in raw_rows(source)]
    return [(Path(row.images[0]).name, row.question, row.answer) for row in rows]


def test_every_source_gives_the_same_rows(folder: Path) -> None:
    from datasets import Dataset

    rows = [{"image": f"p{n}.png", "question": "Is it, say, noise?", "answer": "Yes"} for n in range(3)]
    write(folder / "manifest.jsonl", rows)
    lines = [f'{r["image"]},"{r["question"]}",{r["answer"]}' for r in rows]
    (folder / "rows.csv").write_text("image,question,answer\n" + "\n".join(lines) + "\n")
    (folder / "rows.tsv").write_text("image\tquestion\tanswer\n" + "\n".join("\t".join(r.values()) for r in rows))
    Dataset.from_list(rows).save_to_disk(str(folder / "saved"))
    expected = about(folder / "manifest.jsonl")
    assert [name for name, *_ in expected] == ["p0.png", "p1.png", "p2.png"]
    for source in (folder, folder / "rows.csv", folder / "rows.tsv", folder / "saved"):
        assert about(source) == expected, source


def test_pairs_of_scan_and_text(folder: Path) -> None:
    (folder / "p0.txt").write_text("The lungs are clear.\nNo effusion.\n")
    (folder / "p1.txt").write_text("Q: Is it noise?\nA: Yes\nQ: Which side?\nA: Left\n")
    (folder / "series").mkdir()
    for z in range(3):
        pixels = np.random.default_rng(z).integers(0, 999, (40, 40)).astype(np.uint16)
        ds = dicom(pixels, ImagePositionPatient=[0, 0, z], InstanceNumber=z + 1, SOPInstanceUID=f"1.2.3.{z}")
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.save_as(folder / "series" / f"{z}.dcm", enforce_file_format=True)
    (folder / "series.txt").write_text("A short series.")
    assert about(folder) == [
        ("p0.png", REQUEST, "The lungs are clear. No effusion."),
        ("p1.png", "Is it noise?", "Yes"),
        ("p1.png", "Which side?", "Left"),
        ("series", REQUEST, "A short series."),
    ]
    assert [c.prepared.x.shape[1] for c in read_cases([folder], PREPARE)] == [1, 1, 3]


def test_a_streamed_data_set_holds_its_own_pictures(folder: Path) -> None:
    rows = [{"file_name": f"p{n}.png", "question": q, "answer": "Yes"} for n in (0, 1) for q in ("Noise?", "Grey?")]
    write(folder / "metadata.jsonl", rows)
    for number in (2, 3):
        (folder / f"p{number}.png").unlink()
    cases = read_cases([f"hf:{folder}"], PREPARE)
    assert [len(c.questions) for c in cases] == [2, 2]  # rows of the same pixels are one case
    plain = [{"image": row["file_name"], **row} for row in rows]
    for case, other in zip(cases, read_cases([write(folder / "rows.jsonl", plain)], PREPARE), strict=True):
        assert np.array_equal(case.prepared.x, other.prepared.x)


def test_several_images_are_one_stack_and_context_is_told(folder: Path) -> None:
    rows = [
        {"images": ["p0.png", "p1.png"], "report": "Two views.", "indication": "cough", "prior": "p2.png"},
        {"image": "p3.png", "report": "One view.", "prior": "The lungs were clear."},
    ]
    stack, single = read_cases([write(folder / "rows.jsonl", rows)], PREPARE)
    assert stack.prepared.x.shape[1] == 3 and stack.prepared.facts == "indication: cough"
    assert single.prepared.facts == "prior: The lungs were clear."


def test_split_keeps_patients_and_pictures_on_one_side(folder: Path) -> None:
    Image.open(folder / "p0.png").save(folder / "copy.png")
    rows = [{"image": f"p{n}.png", "question": "?", "answer": "Yes", "patient": f"A{n // 2}"} for n in range(4)]
    rows.append({"image": "copy.png", "question": "?", "answer": "Yes", "patient": "B"})
    cases = read_cases([write(folder / "rows.jsonl", rows)], PREPARE)
    for seed in range(5):
        sides = split_cases(cases, share=0.5, seed=seed)
        names = [{c.path.name for c in side} for side in sides]
        assert {frozenset(n) for n in names} == {
            frozenset({"p0.png", "p1.png", "copy.png"}),
            frozenset({"p2.png", "p3.png"}),
        }


def test_a_split_that_the_rows_name_is_followed(folder: Path) -> None:
    sides = ("train", "train", "val", "test")
    rows = [{"image": f"p{n}.png", "question": "?", "answer": "Yes", "split": s} for n, s in enumerate(sides)]
    data = {"train": [write(folder / "rows.jsonl", rows)], "hold": 0.5}
    train, held = both_sides(data, PREPARE, seed=0)
    assert ([c.path.name for c in train], [c.path.name for c in held]) == (["p0.png", "p1.png"], ["p2.png"])


def test_every_kind_of_problem_is_found(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"not a picture")
    Image.fromarray(np.zeros((48, 40), np.uint8)).save(folder / "black.png")
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(folder / "mask.png")
    Image.open(folder / "p1.png").save(folder / "copy.png")
    ok = {"question": "Is it noise?", "answer": "Yes"}
    rows = [
        {"image": "p0.png", **ok, "patient": "A", "split": "train"},
        {"image": "p1.png", **ok, "patient": "A", "split": "validate"},
        {"image": "broken.png", **ok},
        {"image": "missing.png", **ok},
        {"image": "black.png", **ok},
        {"image": "p2.png", "question": "Is it noise?", "answer": " "},
        {"image": "p2.png", **ok, "box": {"label": "disk", "xywh": [30, 5, 20, 5]}},
        {"image": "p2.png", **ok, "mask": "mask.png"},
        {"image": "copy.png", **ok},
        {"image": "p3.png", "report": "Seen by Dr. Brown on 12.03.2021, MRN 445566."},
        {"image": "p3.png", "question": "Is it noise?"},
    ]
    found = check(write(folder / "rows.jsonl", rows))
    assert (found.rows, found.patients) == (11, 1)
    lines = {(int(p.where.rsplit(" ", 1)[1]), p.kind): p for p in found.problems}
    bad = {place for place, problem in lines.items() if problem.bad}
    assert bad == {
        (2, "both sides"), (3, "unreadable"), (4, "unreadable"), (5, "empty image"), (6, "row"), (7, "geometry"),
        (8, "geometry"), (10, "identifier"), (11, "row"),
    }  # fmt: skip
    copies = [p for p in found.problems if p.kind == "duplicate"]
    assert any("p1.png" in p.text for p in copies) and not any(p.bad for p in copies)
    assert "Brown" not in "".join(p.text for p in found.problems)
    usable = read_cases([folder / "rows.jsonl"], PREPARE, skip=found.bad)
    assert sorted(c.path.name for c in usable) == ["copy.png", "p0.png"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Compared with 3/14/2019.", "a date"), ("Since 14 March 2019.", "a date"), ("MRN: A12345", "a record number"),
        ("Call +49 711 123456.", "a telephone number"), ("Mail jo.doe@clinic.org", "an e-mail address"),
        ("Mrs. Miller has pain.", "a name"), ("Patient: John Smith", "a name"), ("SMITH^JOHN", "a name"),
    ],
)  # fmt: skip
def test_what_looks_like_a_person_is_told(text: str, kind: str) -> None:
    assert kind in [found for found, _ in identifiers(text)]


@pytest.mark.parametrize(
    "text",
    [
        "A 12 x 8 mm nodule at L4/5.", "T2-weighted MRI, slice 3/12, 1.5 T.", "HU of 40-60.", "Grade 2.1.3 lesion.",
        "The patient is rotated. May be artefact.", "MR Image of MS Plaques", "Dr. is not named.",
    ],
)  # fmt: skip
def test_findings_do_not_look_like_a_person(text: str) -> None:
    assert list(identifiers(text)) == []


def test_a_source_that_is_none_says_what_would_be(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "nothing", f"hf:{tmp_path}/nothing"):
        with pytest.raises(DataError, match=r"a \.jsonl, \.csv or \.tsv file"):
            list(raw_rows(source))


def test_what_the_eye_took_in_replaces_the_pixels_of_a_stream(folder: Path) -> None:
    rows = write(folder / "rows.jsonl", [{"image": "p0.png", "question": "?", "answer": "Yes"}])

    def look(case: Any) -> None:
        case.prepared.__dict__["x"] = case.prepared.x.to("meta")

    (case,) = read_cases([rows], PREPARE, look=look)
    assert case.prepared.x.is_meta and case.prepared.x.shape == (3, 1, 64, 64)


def test_a_volume_counts_as_one(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-900, 900, (5, 40, 40)).astype(np.int16)
    Scan.from_array(values, affine=np.diag([2, 2, 5, 1]), modality="CT", units="HU").write(tmp_path / "v.nii.gz")
    found = check(write(tmp_path / "rows.jsonl", [{"image": "v.nii.gz", "question": "?", "answer": "Yes"}]))
    assert (found.volumes, found.problems) == (1, [])


ROWS = [{"image": f"p{n}.png", "question": "Is it größer?", "answer": "Yes", "patient": f"A{n}"} for n in range(3)]


@pytest.mark.parametrize(("comma", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-16"), (",", "utf-8")])
def test_a_table_as_excel_writes_it_gives_the_same_rows(folder: Path, comma: str, encoding: str) -> None:
    lines = [comma.join(ROWS[0]).title(), *(comma.join(row.values()) for row in ROWS)]
    (folder / "rows.csv").write_bytes("\r\n".join(lines).encode(encoding))
    assert about(folder / "rows.csv") == about(write(folder / "rows.jsonl", ROWS))


def test_a_list_in_one_json_file_gives_the_same_rows(folder: Path) -> None:
    (folder / "rows.json").write_text(json.dumps(ROWS))
    assert about(folder / "rows.json") == about(write(folder / "rows.jsonl", ROWS))


def test_what_is_no_text_or_in_another_encoding_is_said_to_be(folder: Path) -> None:
    (folder / "rows.csv").write_bytes("image,question,answer\np0.png,größer?,Yes\n".encode("cp1252"))
    for source, message in ((folder / "rows.csv", "not in UTF-8 .*Excel"), (folder / "p0.png", "is not text")):
        with pytest.raises(DataError, match=message):
            list(raw_rows(source))
    (folder / "cases").mkdir()
    (folder / "rows.csv").rename(folder / "cases" / "my.csv")
    with pytest.raises(DataError, match=r"did you mean .*my\.csv"):
        list(raw_rows(folder / "cases"))


def test_paths_of_windows(folder: Path) -> None:
    (folder / "img").mkdir()
    (folder / "p0.png").rename(folder / "img" / "p0.png")
    rows = [{**ROWS[0], "image": path} for path in ("img\\p0.png", "C:\\data\\p0.png")]
    found = check(write(folder / "rows.jsonl", rows))
    assert found.images == 1 and ["path of Windows" in p.text for p in found.problems] == [True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": float("nan")}, "no answer"), ({"answer": "NaN"}, "no answer"), ({"answer": None}, "no answer"),
        ({"image": None, "image_path": "p0.png"}, "Should image_path be called image"),
        ({"box": [1, 2, 3, 4]}, "xywh"), ({"box": {"label": "x", "xyxy": [1, 2, 3, 4]}}, "xywh"),
        ({"split": "fold1"}, "expected train, validate or test"),
    ],
)  # fmt: skip
def test_a_wrong_row_says_what_to_write_instead(folder: Path, change: dict[str, Any], message: str) -> None:
    (raw,) = raw_rows(write(folder / "rows.jsonl", [ROWS[0] | change]))
    with pytest.raises(DataError, match=message):
        parse(raw)


@pytest.mark.parametrize("key", ["PatientID", "patient_id", "Subject_ID"])
def test_the_patient_is_known_by_its_usual_names(folder: Path, key: str) -> None:
    (raw,) = raw_rows(write(folder / "rows.jsonl", [{**ROWS[0], "patient": None, key: 7}]))
    assert parse(raw).patient == "7"


def test_the_same_problem_of_many_rows_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from medfm.cli.data import show_problems

    rows = [ROWS[0] | ({"image": "none.png"} if n in (1, 2, 5) else {}) for n in range(6)]
    found = check(write(folder / "rows.jsonl", rows))
    show_problems(found)
    first, *_ = capsys.readouterr().out.splitlines()
    assert "rows.jsonl, lines 2-3, 6: " in first and "no such file" in first and len(found.bad) == 3
