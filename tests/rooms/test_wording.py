"""What is written can be read back: every finding, on every side, present or not, in every way of saying it."""

from __future__ import annotations

import random

import pytest

from medfm.language.vocabulary import LESIONS, ORGANS, PAIRED, term_of
from medfm.language.wording import facts_of, read, write
from medfm.scan import Finding

LESION_FINDINGS = [
    Finding(name, lesion.organ, side, present)
    for name, lesion in LESIONS.items()
    for side in (("left", "right", "midline", None) if lesion.sided else (None,))
    for present in (True, False)
]
ORGAN_FINDINGS = [
    Finding(kind, organ, side, present)
    for kind in ("in view", "abnormality")
    for organ in ORGANS
    if organ != "pleura"
    for side in (("left", "right", None) if organ in PAIRED else (None,))
    for present in (True, False)
]


@pytest.mark.parametrize("finding", LESION_FINDINGS + ORGAN_FINDINGS, ids=lambda f: "-".join(map(str, f.fact)))
def test_one_finding_comes_back(finding: Finding) -> None:
    for seed in range(6):
        ((text, stated),) = write([finding], choose=random.Random(seed))
        assert stated == (finding,)
        assert facts_of(read(text)) == {finding.fact}, text


def test_a_whole_report_comes_back() -> None:
    for seed in range(40):
        drawn = random.Random(seed)
        sided = {f.finding for f in LESION_FINDINGS if f.side}
        known = [f for f in LESION_FINDINGS if f.side in ("left", "right") or f.finding not in sided]
        findings = drawn.sample(known + [f for f in ORGAN_FINDINGS if f.side or f.organ not in PAIRED], 12)
        findings = list({(f.finding, f.organ, f.side): f for f in findings}.values())
        text = " ".join(sentence for sentence, _ in write(findings, choose=drawn))
        assert facts_of(read(text)) == facts_of(findings), text


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("Both kidneys and the liver are in view.", {("in view", "kidney", "left", True),
         ("in view", "kidney", "right", True), ("in view", "liver", None, True)}),
        ("There is a left pleural effusion with atelectasis in the right lung, measuring up to 31 mm.",
         {("effusion", "pleura", "left", True), ("atelectasis", "lung", "right", True)}),
        ("An effusion and atelectasis on the left.", {("effusion", "pleura", "left", True),
         ("atelectasis", "lung", "left", True)}),
        ("No effusion or pneumothorax.", {("effusion", "pleura", None, False),
         ("pneumothorax", "pleura", None, False)}),
        ("No abnormality is seen, but there are nodules in both lungs.", {("abnormality", None, None, False),
         ("nodule", "lung", "left", True), ("nodule", "lung", "right", True)}),
        ("Non-enhancing brain tumour across the midline.", {("brain non-enhancing tumor", "brain", "midline", True)}),
        ("The weather is fine.", set()),
    ],
)  # fmt: skip
def test_words_of_others(text: str, facts: set[tuple[object, ...]]) -> None:
    assert facts_of(read(text)) == facts


def test_sizes_are_read() -> None:
    (found,) = read("There is a pulmonary nodule in the left lung, measuring up to 12 mm.")
    assert found.size_mm == 12


def test_labels_of_structures() -> None:
    assert term_of("Left Kidney") == ("in view", "kidney", "left")
    assert term_of("Brain Edema") == ("brain edema", "brain", None)
    assert term_of("Spinal Cord") == ("in view", "spinal cord", None)
