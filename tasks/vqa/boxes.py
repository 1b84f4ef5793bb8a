"""More questions about SLAKE's training pictures, answered by the boxes that people drew on them.

python tasks/vqa/boxes.py slake/train.jsonl --output runs/slake/train.jsonl

Writes the rows of the file and beside them questions in its own words: which organs are in view, how many, what they
do, which is larger or outermost, where lesions lie. Asked only where the boxes tell: a picture with none but the
liver's says nothing about spleens, and no MR tells of organs that were drawn in CT alone. Organs of another part of the
body are left out: nobody needs a picture to deny them. What one asks of a disease (its cause, its treatment) has one
answer in SLAKE, which a question about one picture tells for all others with that disease.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

from PIL import Image

SIDE = re.compile(r"\b(?:upper |lower )?(?:left|right)\b")
Boxes = list[tuple[str, list[float]]]
Pair = tuple[str, str]

PAIRED = ("kidney", "lung", "eye", "ear", "mandible", "parotid", "temporal lobe", "femoral head")
SINGLE = (
    "liver", "spleen", "stomach", "heart", "colon", "small bowel", "duodenum", "esophagus", "spinal cord", "bladder",
    "rectum", "larynx", "trachea", "brain stem", "tooth",
)  # fmt: skip
PRESENT = (
    "Does the picture contain {}?", "Does the {} exist in this picture?", "Does the {} appear in the image?",
    "Does the {} appear in this image?", "Is there {} in this image?", "Is there a {} in the image?",
)  # fmt: skip
HEAD = {
    "eye", "ear", "mandible", "parotid", "temporal lobe", "brain stem", "tooth", "larynx",
}  # fmt: skip
THROUGH = {"spinal cord", "esophagus", "trachea"}  # head, neck and trunk
MANY = (
    "How many {}s are shown in this image?",
    "How many {}s have existed in this image?",
    "How many {}s in this image?",
)
DIGESTIVE = (
    "stomach",
    "colon",
    "small bowel",
    "duodenum",
    "esophagus",
    "rectum",
    "tooth",
    "parotid",
    "larynx",
    "liver",
)
DOES = {  # what a question asks for -> the organs that do it
    "absorb nutrients|absorbing nutrients": ("stomach", "small bowel", "duodenum"),
    "digest food|digesting food": ("stomach", "small bowel", "duodenum", "colon", "parotid"),
    "secrete enzymes|secreting enzymes": ("stomach", "small bowel", "duodenum", "parotid"),
    "detoxicate|detoxicating": ("liver",),
    "discharge waste|discharging waste": ("kidney",),
    "promote blood flow|promoting blood flow": ("heart",),
    "deliver food|delivering food": ("esophagus",),
    "excrete feces|excreting feces": ("rectum",),
    "excrete body waste|excreting body waste": ("colon",),
    "store urine|storing urine": ("bladder",),
    "improve the body's immunity|improving the body's immunity": ("spleen",),
    "adjust water and osmotic pressure balance|adjusting water and osmotic pressure balance": ("kidney",),
    "perceive things|sensing light": ("eye",),
    "breathe|breathing": ("lung",),
    "receive sound|receiving sound": ("ear",),
    "deliver gas|gas delivery": ("trachea",),
}
SYSTEMS = {
    "circulatory": ("heart",), "digestive": DIGESTIVE, "lymphatic": ("spleen",), "urinary": ("kidney", "bladder"),
    "respiratory": ("lung", "trachea", "larynx"), "nervous": ("brain stem", "temporal lobe", "spinal cord"),
}  # fmt: skip
WORK = {
    "lung": "Breathe", "liver": "Biotransformation, detoxification", "bladder": "Store urine",
    "rectum": "Store feces, excrete feces", "spleen": "Improve the body's immunity", "heart": "Promote blood flow",
    "small bowel": "Absorb nutrients, secrete enzymes, digest food", "brain stem": "Control heartbeat and breathing",
    "colon": "Absorb water, excrete body waste", "stomach": "Digest food, secrete enzymes", "trachea": "Gas delivery",
    "temporal lobe": "Participate in hearing, speech and memory", "larynx": "Ventilation, pronunciation",
}  # fmt: skip
DISEASES = {
    "Mass": "Pulmonary Mass", "Nodule": "Pulmonary Nodule", "Infiltrate": "Pulmonary Infiltration",
    "Effusion": "Pleural Effusion",
}  # fmt: skip


def organ(label: str) -> str:
    """ "Left Kidney" -> "kidney"."""
    side, _, rest = label.lower().partition(" ")
    return rest if side in ("left", "right") else label.lower()


def whole(boxes: Boxes) -> bool:
    """Whether all organs of the picture have boxes: where the liver alone has one, nobody drew the others."""
    return any(organ(label) in PAIRED + SINGLE and label != "Liver" for label, _ in boxes)


def of_organs(boxes: Boxes, known: set[str]) -> Iterator[Pair]:
    """Which of the `known` organs are there, how many, what they do."""
    there = [organ(label) for label, _ in boxes]
    head = bool(set(there) & (HEAD))
    near = [name for name in PAIRED + SINGLE if name in known and (name in THROUGH or (name in HEAD) == head)]
    for name in near:
        for words in PRESENT:
            yield words.format(name), "Yes" if name in there else "No"
    for name in (name for name in near if name in PAIRED or name == "heart"):
        for words in MANY:
            yield words.format(name), str(len({label for label, _ in boxes if organ(label) == name}))
    for does, organs in DOES.items():
        if not set(organs) & set(near):
            continue
        can, doing = does.split("|")
        answer = "Yes" if set(there) & set(organs) else "No"
        yield f"Are there organs in the picture that can {can}?", answer
        yield f"Does the picture contain the organ which has the effect of {doing}?", answer
        yield f"Does the picture contain the organ that could be used for {doing}?", answer
    for system, organs in SYSTEMS.items():
        if not set(organs) & set(near):
            continue
        answer = "Yes" if set(there) & set(organs) else "No"
        yield f"Do any of the organs in the picture belong to the {system} system?", answer


def of_places(boxes: Boxes, width: int, height: int) -> Iterator[Pair]:
    """Which organ is larger or outermost, and what the outermost does."""
    found = {label: box for label, box in boxes if organ(label) in PAIRED + SINGLE}
    if len(found) < 2:
        return
    area = {label: box[2] * box[3] for label, box in found.items()}
    for a, b in permutations(found, 2):
        if area[a] > 1.5 * area[b] and organ(a) != organ(b):
            first, second = sorted((a, b), key=lambda label: len(label))
            yield f"Which is bigger in this image, {first.lower()} or {second.lower()}?", a
            yield f"Which is smaller in this image,{second.lower()} or {first.lower()}?", b
    middle = {label: ((x + w / 2) / width, (y + h / 2) / height) for label, (x, y, w, h) in found.items()}
    for axis, (low, high) in enumerate((("left", "right"), ("top", "bottom"))):
        order = sorted(found, key=lambda label: middle[label][axis])
        for place, here, next_ in ((low, order[0], order[1]), (high, order[-1], order[-2])):
            if abs(middle[here][axis] - middle[next_][axis]) < 0.05:
                continue
            if axis == 0:
                yield f"What is the {place}most organ in this image?", here
                yield f"What is the organ on the {place} side of this image?", here
            else:
                yield f"What is the organ on the {place} of the body in this image?", here
            yield f"What organ is on the {place} of the image?", here
            if organ(here) in WORK:
                yield f"What is the effect of the organ on the {place} of this picture?", WORK[organ(here)]
                yield f"What is the function of the organ on the {place} of this image?", WORK[organ(here)]


def side_of(box: list[float], width: int) -> str:
    """The patient's side of a box in a picture as radiologists see it."""
    x, _, w, _ = box
    return "left" if x + w / 2 > width / 2 else "right"


def of_lesions(boxes: Boxes, width: int, height: int, *, part: str) -> Iterator[Pair]:
    """On which side lesions lie, as seen from the patient, and which; part: "lung" or "brain"."""
    sides = defaultdict(set)
    for label, box in boxes:
        side, up = side_of(box, width), (box[1] + box[3] / 2) / height
        sides[side].add(label)
        if part == "lung" and label != "Cardiomegaly":
            for kind in ("Pneumonia", "Atelectasis", "Mass", "Nodule", "Infiltrate", "Pneumothorax"):
                said = "infiltration" if kind == "Infiltrate" else kind.lower()
                level = "lower" if up > 0.5 else "upper"
                yield f"Can {said} be observed on the {side} lung in this picture?", "Yes" if kind == label else "No"
                if kind == label:
                    other = "left" if side == "right" else "right"
                    yield f"Can {said} be observed on the {level} {side} lung in this picture?", "Yes"
                    yield f"Can {said} be observed on the {level} {other} lung in this picture?", "No"
    answer = "Both" if len(sides) == 2 else next(iter(sides)).capitalize()
    kinds = {label for label, _ in boxes}
    if part == "brain":
        lobes = f"{answer} Lobe" if answer != "Both" else "Both"
        yield "Where is the brain tumor?", lobes
        yield "Where are the abnormalities in this image?", lobes
        yield "Which lobe is abnormal in this image?", answer
        if answer != "Both":
            normal = "Right" if answer == "Left" else "Left"
            for words in ("lobe", "hemisphere"):
                yield f"Which {words} is abnormal,left or right?", answer
                yield f"Which {words} is normal in this image?", normal
            yield "Which hemisphere is normal?", normal
    elif kinds == {"Cardiomegaly"}:
        yield "Which organ is abnormal, heart or lung?", "Heart"
        yield "Where is the abnormality in this image?", "Heart"
    elif "Cardiomegaly" not in kinds:
        yield "Which organ is abnormal, heart or lung?", "Lung"
        yield "Which side of lung is abnormal in this image,left or right?", answer
        yield "Which side of lung is abnormal in this image?", answer
        top, bottom = min(y for _, (_, y, _, _) in boxes) / height, max(y + h for _, (_, y, _, h) in boxes) / height
        level = "" if answer == "Both" or bottom - top > 0.42 else "Lower " if top + bottom > 0.94 else "Upper "
        yield "Where is the abnormality in this image?", f"{level}{answer} Lung"
        yield "Where is/are the abnormality located in this picture?", f"{level}{answer} Lung"
        for label in sorted(kinds):
            yield f"What disease is/are shown on the {answer.lower()} of lung?", DISEASES.get(label, label)
            for words in ("Where is the {} in the lung?", "Where is/are the {} located?", "Where is the {}?"):
                yield words.format(DISEASES.get(label, label).lower()), f"{level}{answer} Lung"


def taught(rows: list[dict[str, Any]], drawn_on: dict[str, Boxes]) -> dict[frozenset[str], dict[str, str]]:
    """Diseases of a picture -> what was asked of them, {} for the side, and the answer."""
    found: dict[frozenset[str], dict[str, str]] = defaultdict(dict)
    for row in rows:
        kinds = frozenset(label for label, _ in drawn_on[row["image"]])
        if (
            row.get("content_type") == "KG"
            and "disease" in row["question"]
            and row["modality"] in ("X-Ray", "MRI")
            and kinds
        ):
            found[kinds][SIDE.sub("{}", row["question"])] = row["answer"]
    return found


def questions(
    boxes: Boxes, size: tuple[int, int], *, modality: str, location: str, known: set[str]
) -> list[list[Pair]]:
    """What the boxes answer, in groups of which each is worth the same."""
    if modality in ("CT", "MRI") and whole(boxes):
        return [list(of_organs(boxes, known)), list(of_places(boxes, *size))]
    if boxes and (modality, location) == ("X-Ray", "Lung"):
        return [list(of_lesions(boxes, *size, part="lung"))]
    if boxes and location == "Brain_Tissue" and modality == "MRI":
        return [list(of_lesions(boxes, *size, part="brain"))]
    return []


def drawn(pairs: list[Pair], count: int, draw: random.Random) -> list[Pair]:
    """So many of them, as many "No" as "Yes"."""
    draw.shuffle(pairs)
    yes, no, rest = (
        [p for p in pairs if f(p[1])] for f in ("Yes".__eq__, "No".__eq__, lambda a: a not in ("Yes", "No"))
    )
    return (yes[: count // 3] + no[: count // 3] + rest[: count - 2 * (count // 3)])[:count]


def read_boxes(picture: Path) -> Boxes:
    """Those of `boxes.json` beside a picture."""
    beside = picture.with_name("boxes.json")
    return [(box["label"], box["xywh"]) for box in json.loads(beside.read_text())] if beside.exists() else []


def main() -> None:
    """Read the command line and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--each", type=int, default=12, help="questions of a group a picture")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.data.read_text().splitlines()]
    kinds = {row["image"]: (row["modality"], row["location"]) for row in rows}
    drawn_on = {image: read_boxes(options.data.parent / image) for image in kinds}
    known, said = defaultdict(set), defaultdict(set)
    for image, (modality, _) in kinds.items():
        known[modality] |= {organ(label) for label, _ in drawn_on[image]}
    for row in rows:
        said[row["image"]].add(row["question"].lower())
    draw, more, told = random.Random(options.seed), [], taught(rows, drawn_on)
    for image, (modality, location) in kinds.items():
        with Image.open(options.data.parent / image) as picture:
            size = picture.size
        boxes = drawn_on[image]
        groups = questions(boxes, size, modality=modality, location=location, known=known[modality])
        if boxes and modality in ("X-Ray", "MRI"):
            asked = told[frozenset(label for label, _ in boxes)]
            side = side_of(boxes[0][1], size[0])
            groups.append([(words.format(side), answer) for words, answer in asked.items()])
        for group in groups:
            about = {"image": image, "modality": modality, "location": location}
            new = [(question, answer) for question, answer in group if question.lower() not in said[image]]
            more += [about | {"question": q, "answer": a} for q, a in drawn(new, options.each, draw)]
    rows = [
        row | {"image": str((options.data.parent / row["image"]).resolve())} for row in rows + more if row["answer"]
    ]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{len(kinds)} pictures, {len(rows) - len(more)} questions and {len(more)} more: {options.output}")


if __name__ == "__main__":
    main()
