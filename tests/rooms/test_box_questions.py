"""tasks/vqa/boxes.py: what it asks about pictures, and that the boxes answer it rightly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "tasks" / "vqa" / "boxes.py"
PICTURES: dict[str, tuple[str, str, list[tuple[str, list[int]]]]] = {
    "abdomen": ("CT", "Abdomen", [("Liver", [5, 20, 40, 40]), ("Spleen", [75, 30, 15, 20]), ("Heart", [50, 0, 9, 9])]),
    "liver": ("CT", "Abdomen", [("Liver", [5, 20, 40, 40])]),
    "chest": ("X-Ray", "Lung", [("Pneumonia", [10, 60, 20, 20])]),
    "brain": ("MRI", "Brain_Tissue", [("Brain Edema", [70, 30, 10, 10])]),
}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Question -> answer of each picture, after the script has been run on a file with one row a picture."""
    folder = tmp_path_factory.mktemp("slake")
    rows: list[dict[str, Any]] = []
    for name, (modality, location, boxes) in PICTURES.items():
        (folder / name).mkdir()
        Image.fromarray(np.zeros((100, 100), np.uint8)).save(folder / name / "image.jpg")
        beside = [{"label": label, "xywh": box} for label, box in boxes]
        (folder / name / "boxes.json").write_text(json.dumps(beside))
        about = {"image": f"{name}/image.jpg", "modality": modality, "location": location}
        rows.append(about | {"question": "What is it?", "answer": "A picture"})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = [sys.executable, str(SCRIPT), str(folder / "train.jsonl"), "--output", str(folder / "out.jsonl")]
    subprocess.run([*done, "--each", "1000"], check=True, capture_output=True)
    found: dict[str, dict[str, str]] = {name: {} for name in PICTURES}
    for line in (folder / "out.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert Path(row["image"]).is_file()
        found[Path(row["image"]).parent.name][row["question"]] = row["answer"]
    return found


def test_organs_that_are_drawn_are_there_and_others_of_that_kind_are_not(asked: dict[str, dict[str, str]]) -> None:
    abdomen = asked["abdomen"]
    assert abdomen["Does the picture contain spleen?"] == "Yes"
    assert abdomen["What is the leftmost organ in this image?"] == "Liver"
    assert abdomen["Which is bigger in this image, liver or spleen?"] == "Liver"
    assert not any("kidney" in question for question in abdomen)  # drawn in no CT of the file
    assert abdomen["Do any of the organs in the picture belong to the circulatory system?"] == "Yes"


def test_a_liver_alone_says_nothing_about_other_organs(asked: dict[str, dict[str, str]]) -> None:
    assert list(asked["liver"]) == ["What is it?"]


def test_sides_are_the_patients(asked: dict[str, dict[str, str]]) -> None:
    assert asked["chest"]["Which side of lung is abnormal in this image,left or right?"] == "Right"
    assert asked["chest"]["Can pneumonia be observed on the lower right lung in this picture?"] == "Yes"
    assert asked["chest"]["Can pneumonia be observed on the lower left lung in this picture?"] == "No"
    assert asked["brain"]["Which hemisphere is normal?"] == "Right"
