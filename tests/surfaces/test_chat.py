"""The chat page through its own interface, without a browser; a fake model behind it."""

from __future__ import annotations

import json
import socket
import threading
import time
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import nibabel
import numpy as np
import pytest

import medfm
from medfm.assistant import Intake

BRIGHT = "is the picture bright?"


class Tab:
    """A client of the page: one session."""

    def __init__(self, address: str) -> None:
        from gradio_client import Client

        self.client = Client(address, verbose=False, download_files=False)

    def open(self, *files: Path, role: str = "current") -> tuple[Any, ...]:
        """Upload; returns facts, viewer, conversation, series, role, report and nothing."""
        from gradio_client import handle_file

        return self.client.predict([handle_file(file) for file in files], role, api_name="/open")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A CT of 20 slices as NIfTI, stored as most are: to the left and to the back."""
    rng = np.random.default_rng(0)
    data = rng.integers(-900, 400, (20, 40, 48)).astype(np.int16)
    scan = medfm.Scan.from_array(data, affine=np.diag([-2.0, -2.0, 5.0, 1.0]), modality="CT", units="HU")
    scan.write(tmp_path / "ct.nii.gz")
    return tmp_path / "ct.nii.gz"


def session_of(chat: Any) -> Any:
    """The only session that is open."""
    (session,) = chat.parts.sessions._open.values()
    return session


def ask(chat: Any, session: Any, question: str) -> dict[str, Any]:
    """One question through the page's own generator; the last turn."""
    session.talk.turns.append(chat.page.Turn("person", question))
    last = list(chat.page.reply(chat.parts, session, "fake"))[-1][0]
    turn: dict[str, Any] = last["turns"][-1]
    return turn


def test_a_scan_is_read_and_asked_about(chat: Any, pictures: Path) -> None:
    tab = Tab(chat.address)
    facts, viewer, *_ = tab.open(pictures / "bright.png")
    assert "32 x 24" in facts["facts"][0]
    assert viewer["current"]["kind"] == "picture"
    session = session_of(chat)
    turn = ask(chat, session, BRIGHT)
    assert (turn["text"], turn["confidence"], turn["abstained"]) == ("Yes", 0.8, False)
    assert turn["evidence"][0]["label"] == "bright"
    declined = ask(chat, session, "is there a nodule?")
    assert declined["abstained"]
    assert "below" in declined["reason"]


def test_an_upload_lives_in_its_session_and_ends_with_it(chat: Any, pictures: Path) -> None:
    Tab(chat.address).open(pictures / "bright.png")
    session = session_of(chat)
    assert not list(chat.folder.rglob("uploads/**/bright.png")), "an upload stays where other sessions' uploads are"
    assert Path(session.files[0]).is_relative_to(session.folder)
    chat.parts.sessions.idle = 0.0
    time.sleep(0.01)
    chat.parts.sessions.sweep()
    assert not list((chat.folder / "sessions").iterdir())
    assert session.talk.current is None


def test_two_tabs_do_not_share_a_scan(chat: Any, pictures: Path) -> None:
    one, two = Tab(chat.address), Tab(chat.address)
    one.open(pictures / "bright.png")
    two.open(pictures / "dark.png")
    first, second = chat.parts.sessions._open.values()
    assert ask(chat, first, BRIGHT)["text"] == "Yes"
    assert ask(chat, second, BRIGHT)["text"] == "No"
    assert len(first.talk.turns) == len(second.talk.turns) == 2


def test_the_viewer_gets_a_file_only_with_token_and_cookie(chat: Any, volume: Path) -> None:
    with httpx.Client() as browser:
        browser.get(chat.address)
        cookie = browser.cookies["medfm-browser"]
        session = chat.parts.sessions.get((cookie, "tab"))
        chat.page.show(chat.parts, session, lambda: medfm.Scan.read(volume), role="current")
        url = chat.address + session.views["current"]["url"]
        answer = browser.get(url)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        assert len(answer.content) > 20 * 40 * 48 * 2
        shown = nibabel.Nifti1Image.from_bytes(answer.content)
        assert nibabel.aff2axcodes(shown.affine) == ("R", "A", "S"), "as the page counts slices"
        assert httpx.get(url).status_code == 404, "another browser"
        assert httpx.get(url, cookies={"medfm-browser": "made up"}).status_code == 404
        for name in ("..%2Fupload%2F0%2Fct.nii.gz", "../../x", "current-0.exe"):
            assert browser.get(url.rsplit("/", 1)[0] + "/" + name).status_code == 404


def test_every_answer_of_the_server_forbids_other_hosts(chat: Any) -> None:
    for path in ("", "medfm/static/viewer.js", "config"):
        headers = httpx.get(chat.address + path).headers
        assert "connect-src 'self'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"


def test_a_file_that_is_no_scan_is_refused_in_words(chat: Any, pictures: Path) -> None:
    facts, *_ = Tab(chat.address).open(pictures / "broken.png")
    assert "broken.png" in facts["error"]
    assert str(chat.folder) not in facts["error"]
    assert session_of(chat).token not in facts["error"]


def test_bombs_and_names_that_leave_the_folder_are_refused(chat: Any, tmp_path: Path) -> None:
    bomb, climbing = tmp_path / "bomb.zip", tmp_path / "climbing.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.dcm", bytes(200 * 2**20))
    with zipfile.ZipFile(climbing, "w") as archive:
        archive.writestr("../../evil.dcm", b"x" * 200)
    tab = Tab(chat.address)
    assert "bomb" in tab.open(bomb)[0]["error"]
    assert "outside" in tab.open(climbing)[0]["error"]


def test_series_are_offered_and_one_can_be_the_prior_of_another(chat: Any, tmp_path: Path) -> None:
    for name, level in (("a", 100), ("b", -200)):
        data = np.full((8, 16, 16), level, dtype=np.int16)
        data[2:5, 4:9, 4:9] = 300
        medfm.Scan.from_array(data, affine=np.eye(4) * 2, modality="CT", units="HU").write(tmp_path / f"{name}.nii.gz")
    both = tmp_path / "study.zip"
    with zipfile.ZipFile(both, "w") as archive:
        for name in ("a.nii.gz", "b.nii.gz"):
            archive.write(tmp_path / name, name)
    tab = Tab(chat.address)
    facts, _, _, series, *_ = tab.open(both)
    assert "choose one" in facts["error"]
    assert len(series["choices"]) == 2
    names = [choice[0] for choice in series["choices"]]
    tab.client.predict(names[0], "current", api_name="/series")
    _, viewer, *_ = tab.client.predict(names[1], "prior", api_name="/series")
    assert viewer["current"]["url"] != viewer["prior"]["url"]
    session = session_of(chat)
    compared = ask(chat, session, "compare the liver with the prior")
    assert compared["tool"] == "compare"
    assert {item["which"] for item in compared["evidence"]} == {"current", "prior"}


def test_folders_open_only_below_the_roots(chat: Any, volume: Path, tmp_path: Path) -> None:
    root = tmp_path / "open"
    root.mkdir()
    (root / "ct.nii.gz").write_bytes(volume.read_bytes())
    (root / "link.nii.gz").symlink_to(volume)
    intake = Intake((root,))
    assert intake.read_path(str(root / "ct.nii.gz")).data.shape[1] == 20
    assert intake.read_path("ct.nii.gz").data.shape[1] == 20
    outside = (Path("/etc/passwd"), Path("../ct.nii.gz"), root / ".." / "ct.nii.gz")
    for path in (volume, *outside, root / "link.nii.gz", root / "missing"):
        with pytest.raises(medfm.errors.ScanError, match="no such file or folder below"):
            intake.read_path(str(path))
    with pytest.raises(medfm.errors.ScanError, match="--folder"):
        Intake().read_path(str(root))


def test_ten_sessions_wait_in_line_and_are_all_answered(chat: Any, pictures: Path) -> None:
    scan = medfm.Scan.read(pictures / "bright.png")
    places: list[int] = []
    answers: list[str] = []

    def one(number: int) -> None:
        session = chat.parts.sessions.get(("browser", f"tab {number}"))
        session.talk.open(scan)
        session.talk.turns.append(chat.page.Turn("person", "slow question"))
        for now, *_ in chat.page.reply(chat.parts, session, "fake"):
            places.append(sum(turn["state"] == "waiting" for turn in now["turns"]))
        answers.append(now["turns"][-1]["text"])

    threads = [threading.Thread(target=one, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert answers == ["I do not know that one"] * 10
    assert max(places) == 1, "nobody saw that others come first"


def test_a_failed_load_is_said(chat: Any, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medfm.errors import WeightsError

    def load(name: str) -> Any:
        raise WeightsError("no weights; three ways to get them")

    chat.parts.models = chat.models.Models(load)
    session = chat.parts.sessions.get(("browser", "tab"))
    session.talk.open(medfm.Scan.read(pictures / "dark.png"))
    assert "three ways" in ask(chat, session, BRIGHT)["text"]


def test_the_audit_log_says_what_was_done_and_not_to_whom(chat: Any, pictures: Path) -> None:
    secret = pictures / "Jane^Doe.png"
    secret.write_bytes((pictures / "bright.png").read_bytes())
    Tab(chat.address).open(secret)
    ask(chat, session_of(chat), "does Jane Doe have a nodule?")
    login = SimpleNamespace(cookies={}, session_hash="tab", username="ann")
    chat.parts.session(login).talk.log("close")
    text = (chat.folder / "audit.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["action"] for line in lines] == ["open", "tool", "close"]
    assert "user" not in lines[1] and lines[2]["user"] == "ann"
    assert lines[1]["tool"] == "ask"
    assert lines[1]["outcome"] == "done"
    assert "Doe" not in text
    assert "nodule" not in text


def test_a_draft_is_decided_on_and_taken_along(chat: Any, tmp_path: Path) -> None:
    from scan_builders import phantom, ras_affine, series

    folder = series(tmp_path / "ct", phantom(), ras_affine())
    session = chat.parts.sessions.get(("browser", "tab"))
    chat.page.show(chat.parts, session, lambda: medfm.Scan.read(folder), role="current")
    session.origin = ([str(folder)], None)
    *_, shown = chat.page.report_part.__globals__["drafting"](
        chat.parts, session, "fake", {"indication": "cough", "history": " ", "labs": "CRP 40", "prior": None}
    )  # fmt: skip
    assert (shown["left"], shown["context"]) == (4, {"indication": "cough", "labs": "CRP 40"})
    assert shown["sections"][1]["sentences"][0]["evidence"][0]["place"] is not None
    attempt, write = (chat.page.report_part.__globals__[name] for name in ("attempt", "write_file"))
    decide = attempt.__globals__["decide"]
    attempt(session, lambda: decide(session.talk, 1, 0, "edit", "A <b>small</b> effusion."))
    attempt(session, lambda: decide(session.talk, 2, 0, "reject"))
    assert "empty" in attempt(session, lambda: decide(session.talk, 0, 0, "edit", " "))["error"]
    assert "no such sentence" in attempt(session, lambda: decide(session.talk, 9, 0, "accept"))["error"]
    now = attempt(session, lambda: decide(session.talk, 0, 0, "accept"))
    assert (now["left"], now["final"]) == (1, False)
    text = (session.folder / write(session, "Markdown")).read_text()
    assert "\\<b\\>small" in text
    assert "may be enlarged" not in text, "a rejected sentence left"
    ask(chat, session, "segment the liver")
    names = {form: write(session, form) for form in attempt(session, lambda: None)["forms"]}
    assert len(names) == 6
    assert (session.folder / names["DICOM SR"]).read_bytes()[128:132] == b"DICM"
    with zipfile.ZipFile(session.folder / names["DICOM SEG"]) as archive:
        assert archive.read("mask-1.dcm")[128:132] == b"DICM"
    with httpx.Client(cookies={"medfm-browser": "browser"}) as browser:
        answer = browser.get(f"{chat.address}medfm/view/{session.token}/report.pdf")
    assert answer.content.startswith(b"%PDF")
    assert answer.headers["content-disposition"].startswith("attachment")


def test_the_same_request_again_does_not_lay_its_mask_twice(chat: Any, volume: Path) -> None:
    session = chat.parts.sessions.get(("browser", "tab"))
    chat.page.show(chat.parts, session, lambda: medfm.Scan.read(volume), role="current")
    turns = [ask(chat, session, request) for request in ("segment the liver", "segment the heart", "segment the liver")]
    assert [turn["evidence"][0]["mask"] for turn in turns] == [0, 1, 0]
    shown = chat.page.viewer_of(session)["masks"]
    assert [(mask["labels"], mask["first"]) for mask in shown] == [(["Liver"], 0), (["Heart"], 1)]


def test_another_prior_takes_the_masks_of_the_one_before_away(chat: Any, volume: Path) -> None:
    session = chat.parts.sessions.get(("browser", "tab"))
    scan = medfm.Scan.read(volume)
    for role in ("current", "prior"):
        chat.page.show(chat.parts, session, lambda: scan, role=role)
    mask = medfm.scan.Mask((scan.data[0] > 0).astype(np.uint8), scan.affine, {1: "Liver"})
    session.talk.keep(mask, "prior")
    assert [one["which"] for one in chat.page.viewer_of(session)["masks"]] == ["prior"]
    _, viewer, *_ = chat.page.show(chat.parts, session, lambda: scan, role="prior")
    assert viewer["masks"] == []


def test_masks_of_a_draft_reach_the_viewer(chat: Any, volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tab = Tab(chat.address)
    tab.open(volume)
    session = session_of(chat)
    scan = session.talk.current
    session.talk.keep(medfm.scan.Mask((scan.data[0] > 0).astype(np.uint8), scan.affine, {1: "Lesion"}))
    *_, viewer = tab.client.predict("fake", "", "", "", "", api_name="/draft")
    assert [mask["labels"] for mask in viewer["masks"]] == [["Lesion"]]


def test_an_answer_about_the_scan_before_does_not_reach_the_next_one(chat: Any, volume: Path, pictures: Path) -> None:
    session = chat.parts.sessions.get(("browser", "tab"))
    chat.page.show(chat.parts, session, lambda: medfm.Scan.read(volume), role="current")
    session.talk.turns.append(chat.page.Turn("person", "slow question of many words"))
    replies = chat.page.reply(chat.parts, session, "fake")
    next(replies)
    chat.page.show(chat.parts, session, lambda: medfm.Scan.read(pictures / "dark.png"), role="current")
    assert list(replies) == []
    assert session.talk.turns == [] and session.talk.masks == []
    assert ask(chat, session, BRIGHT)["text"] == "No", "the old question is still in the way"


def test_a_refused_upload_leaves_the_files_of_the_open_scan(chat: Any, volume: Path, pictures: Path) -> None:
    tab = Tab(chat.address)
    tab.open(volume)
    session = session_of(chat)
    facts = tab.open(pictures / "broken.png")[0]
    assert "broken.png" in facts["error"] and "still open" in facts["facts"][0]
    assert Path(session.origin[0][0]).is_file(), "exports refer to it"
    tab.open(pictures / "bright.png")
    assert [path.name for path in session.folder.rglob("*.*") if path.parent != session.folder] == ["bright.png"]


def test_nothing_is_looked_up_outside(chat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = socket.getaddrinfo

    def lookup(host: Any, *rest: Any, **more: Any) -> Any:
        asked.append(str(host))
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    main: ModuleType = chat.main
    page = main.build(chat.parts)
    page.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True,
        app_kwargs=main.app_arguments(chat.parts.sessions), **main.SWITCHES,
    )  # fmt: skip
    page.close()
    assert set(asked) <= {"127.0.0.1", "localhost", "::1", "None"}
    assert page.analytics_enabled is False
    assert page.run_history is False
    assert page.share is False
