"""Reports: plain JSON, a reader's decisions, and the line that says draft."""

from __future__ import annotations

import json

import pytest
from report_builders import small_report

from medfm.errors import DataError
from medfm.scan import Sentence


def test_a_report_is_plain_json() -> None:
    plain = json.loads(json.dumps(small_report().to_dict()))
    found = plain["findings"][0]["sentences"][0]["findings"][0]
    assert (found["finding"], found["side"], found["present"]) == ("effusion", "left", True)
    assert found["evidence"][1] == {"kind": "measurement", "label": "effusion", "value": 31.0, "unit": "mm"}
    assert "not for diagnosis" in plain["watermark"]


def test_only_a_reader_makes_it_final() -> None:
    report = small_report()
    assert not report.final
    for number, section in enumerate(report.sections):
        for index, sentence in enumerate(section.sentences):
            report = report.changed(number, index, sentence.accept())
    assert report.final
    assert not any(sentence.abstained for sentence in report.sentences())


def test_a_change_touches_one_sentence() -> None:
    before = small_report()
    after = before.changed(1, 0, before.findings[0].sentences[0].edit("No effusion."))
    assert [s.text for s in after.sentences()] == ["X-ray.", "No effusion.", "The heart may be enlarged.",
                                                   "There is a left pleural effusion."]  # fmt: skip
    assert after.findings[0].sentences[0].confidence is None
    assert before.findings[0].sentences[0].state == "draft"


def test_a_state_is_one_of_four() -> None:
    with pytest.raises(DataError, match="accepted"):
        Sentence("x", state="signed")  # type: ignore[arg-type]
