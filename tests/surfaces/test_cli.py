"""The command line from end to end, with a fake model behind it: what goes to which stream, codes, errors."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from scan_builders import phantom, ras_affine, series

from medfm.cli import main

BRIGHT = "is the picture bright?"


class Result(NamedTuple):
    """Code and the two streams."""

    code: int
    out: str
    err: str


@pytest.fixture
def medfm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Type a command."""

    def run(*words: str, typed: str = "") -> Result:
        monkeypatch.setattr(sys, "argv", ["medfm", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return Result(int(end.value.code or 0), captured.out, captured.err)

    return run


def test_help_names_every_command(medfm: Any) -> None:
    result = medfm("--help")
    assert result.code == 0
    listed = re.findall(r"^│ ([a-z]+) ", result.out, re.MULTILINE)
    assert listed[:4] == ["ask", "report", "chat", "segment"] and listed[-1] == "doctor" and len(listed) == 17
    for command in (["ask"], ["chat"], ["evaluate", "vqa"], ["train"], ["models"], ["doctor"]):
        assert medfm(*command, "--help").code == 0


def test_only_the_answer_is_on_stdout(medfm: Any, pictures: Path, fake_verbs: Any) -> None:
    result = medfm("ask", str(pictures / "bright.png"), BRIGHT)
    assert (result.code, result.out) == (0, "Yes\n")
    assert "confidence moderate (0.80)" in result.err
    assert "evidence: bright: (1, 2) to (5, 6) px, slice 1, score 0.80" in result.err
    assert "does not diagnose" in result.err


def test_several_questions_encode_the_scan_once(medfm: Any, pictures: Path, fake_verbs: Any) -> None:
    result = medfm("ask", str(pictures / "bright.png"), BRIGHT, "what modality is this?")
    assert result.out == "Yes\nMRI\n"
    assert len(fake_verbs.encoded) == 1


def test_without_a_question_each_line_is_one(medfm: Any, pictures: Path, fake_verbs: Any) -> None:
    result = medfm("ask", str(pictures / "dark.png"), typed=f"{BRIGHT}\nwhat modality is this?\n\nnever asked\n")
    assert result.out == "No\nMRI\n"
    assert len(fake_verbs.encoded) == 1


def test_an_abstention_is_not_an_answer(medfm: Any, pictures: Path, fake_verbs: Any) -> None:
    result = medfm("ask", str(pictures / "dark.png"), "is there a nodule?")
    assert result.out.startswith("not answered")
    assert "below 0.50" in result.out and "as a guess" in result.err
    assert "confidence" not in result.out.removeprefix("not answered: confidence")


def test_a_prior_that_is_not_there_is_not_taken_for_the_text_of_a_report(medfm: Any, pictures: Path) -> None:
    for wrong in ("2024.nii.gz", "old/report.txt"):
        result = medfm("report", str(pictures / "dark.png"), "--prior", wrong)
        assert result.code == 2 and f"--prior {wrong}: there is no such file" in result.err


def test_an_empty_argument_is_not_the_current_folder(
    medfm: Any, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures)
    result = medfm("ask", "", BRIGHT)
    assert result.code == 2 and "an argument is empty" in result.err and not result.out


def test_a_name_nearly_right_is_proposed(medfm: Any, pictures: Path) -> None:
    result = medfm("detect", str(pictures / "dark.png"), "--task", "nodule")
    assert result.code == 2 and "Did you mean 'nodules'?" in result.err


def test_toy_data_can_be_read_and_are_not_written_over(medfm: Any, tmp_path: Path) -> None:
    from medfm.data.boxes import find_boxes
    from medfm.data.labels import find_labels
    from medfm.data.volumes import find_pairs
    from medfm.scan import Scan

    result = medfm("data", "toy", str(tmp_path / "toy"))
    made = dict(line.split("\t") for line in result.out.splitlines())
    assert result.code == 0 and set(made) == {"volumes", "boxes", "labels", "body"}
    assert len(find_pairs(made["volumes"]).pairs) == 12 and find_pairs(made["volumes"]).labels == {1: "ball", 2: "core"}
    assert len(find_boxes(made["boxes"]).scans) == 60 and len(find_labels(made["labels"]).scans) == 80
    assert Scan.read(made["body"]).data.shape == (1, 96, 64, 64)
    assert medfm("data", "toy", str(tmp_path / "toy")).code == 2


def test_an_output_that_cannot_be_written_is_told_before_the_work(medfm: Any, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for command in ("segment", "report"):
        result = medfm(command, str(pictures / "dark.png"), "-o", str(tmp_path / "file" / "x.json"))
        assert result.code == 2 and "is a file" in result.err


def test_words_stream_to_a_terminal(
    medfm: Any, pictures: Path, fake_verbs: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    result = medfm("ask", str(pictures / "dark.png"), "anything else")
    assert result.out == "I do not know that one\n"


def test_json_is_one_object_per_line(medfm: Any, pictures: Path, fake_verbs: Any) -> None:
    result = medfm("ask", str(pictures / "bright.png"), BRIGHT, "is there a nodule?", "--json")
    first, second = map(json.loads, result.out.splitlines())
    assert (first["text"], first["question"], first["evidence"][0]["kind"]) == ("Yes", BRIGHT, "box")
    assert first["scan"]["shape"] == [1, 1, 24, 32]
    assert second["abstained"]
    assert str(pictures) not in result.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ask"], "No file was given"),
        (["ask", "/nowhere/scan.dcm", "q"], "scan.dcm"),
        (["ask", "{pictures}/broken.png", "q"], "broken.png"),
        (["ask", "{pictures}/dark.png", "q", "--plane", "axial"], "flat picture"),
        (["evaluate", "vqa", "/nowhere.jsonl", "--output", "{pictures}/out"], "no such file"),
        (["evaluate", "segment", "--prediction", "/a", "--truth", "/b", "--output", "/c"], "/a: there is no"),
        (["segment", "{pictures}/dark.png", "--output", "{pictures}/mask.dcm"], "write NIfTI"),
        (["segment", "{pictures}/dark.png", "--output", "{pictures}/mask.nii"], "organ-outlines for other CT"),
        (["detect", "{pictures}/dark.png", "--task", "cells", "--picture", "boxes.txt"], "PNG or JPEG"),
        (["train", "segmentation/unet", "--output", "{pictures}/out"], "data.train=PATH"),
        (["train", "segmentation/unet", "data.train=/a", "data.hld=0.2", "--output", "{pictures}/out"], "mean 'hold'"),
        (["plan", "/nowhere", "--output", "{pictures}/plan.yaml"], "/nowhere: there is no such file"),
        (["chat", "--host", "0.0.0.0"], "--auth"),
        (["chat", "--mcp"], "--folder"),
    ],
)
def test_a_mistake_is_one_message_and_code_2(
    medfm: Any, pictures: Path, fake_verbs: Any, words: list[str], expected: str
) -> None:
    result = medfm(*(word.format(pictures=pictures) for word in words))
    assert result.code == 2
    assert expected in result.err
    assert "Traceback" not in result.err
    assert result.out == ""


def test_an_unexpected_error_keeps_its_traceback(
    medfm: Any, pictures: Path, fake_verbs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import medfm as package

    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(package.predict, "ask", broken)
    monkeypatch.setattr(sys, "argv", ["medfm", "ask", str(pictures / "dark.png"), "q"])
    with pytest.raises(ZeroDivisionError):
        main()


def test_a_file_that_cannot_be_written_is_one_message(
    medfm: Any, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import medfm as package

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "mask.nii.gz")

    monkeypatch.setattr(package.Scan, "read", full)
    result = medfm("ask", str(pictures / "dark.png"), "q")
    assert (result.code, result.out) == (2, "") and "mask.nii.gz: No space left on device" in result.err


def test_several_series_become_a_numbered_table(
    medfm: Any, fake_verbs: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from medfm.errors import SeriesChoice
    from medfm.scan import Scan

    def read(*_: Any, **__: Any) -> Scan:
        raise SeriesChoice("2 series were found", ["MR, 20 slices, t1 [bold]", "MR, 1 slice, localiser"])

    monkeypatch.setattr(Scan, "read", read)
    result = medfm("ask", str(tmp_path), "q")
    assert result.code == 2
    assert "localiser" in result.err
    assert "[bold]" in result.err  # a header's text is shown, not obeyed
    assert "--series" in result.err


def test_register_takes_a_series_of_each_folder(medfm: Any, tmp_path: Path) -> None:
    volume, affine = phantom((12, 16, 16)), ras_affine((2.0, 2.0, 2.0))
    for folder in ("prior", "current"):
        for k in (0, 1):
            series(tmp_path / folder / str(k), volume[: 12 - 4 * k], affine, uid=f"1.2.3.{k}", SeriesNumber=k)
    paths = ["register", str(tmp_path / "prior"), str(tmp_path / "current"), "--method", "rigid", "--output"]
    refused = medfm(*paths, str(tmp_path / "none"))
    assert refused.code == 2 and "--moving-series" in refused.err and not (tmp_path / "none").exists()
    done = medfm(*paths, str(tmp_path / "out"), "--moving-series", "0", "--fixed-series", "1")
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "transform.h5").is_file()


def test_a_header_cannot_steer_the_terminal() -> None:
    from medfm.cli.show import printable

    assert printable("a\x1b[2Jb\x07c\u202e") == "a[2Jbc"


def test_evaluate_writes_and_shows_the_figures(medfm: Any, pictures: Path, fake_verbs: Any, tmp_path: Path) -> None:
    row = {"image": "bright.png", "question": BRIGHT, "answer": "yes", "answer_type": "CLOSED"}
    (pictures / "rows.jsonl").write_text(json.dumps(row))
    result = medfm("evaluate", "vqa", str(pictures / "rows.jsonl"), "--output", str(tmp_path / "out"))
    assert result.code == 0
    assert "same model, blank image" in result.err
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["model"]["name"] == "default"


def test_models_lists_cards(medfm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medfm.assets import places

    card = tmp_path / "adapters" / "mine"
    card.mkdir(parents=True)
    (card / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# mine\n")
    (card / "medfm.json").write_text('{"language": "some-base"}')
    monkeypatch.setattr(places, "root", lambda: tmp_path)
    result = medfm("models")
    assert result.code == 0
    for cell in ("mine", "some-base", "cc-by-4.0", "not measured"):
        assert cell in result.out


def test_doctor_says_what_to_do(medfm: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from medfm.assets import places

    monkeypatch.setattr(places, "root", lambda: tmp_path)  # nothing is shipped here
    result = medfm("doctor")
    assert result.code == 1
    assert "reinstall medfm" in result.out
    report = json.loads(medfm("doctor", "--json").out)
    assert not report["healthy"]
    assert {"what", "found", "state", "advice"} == set(report["findings"][0])
