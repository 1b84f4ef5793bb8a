"""Who reaches the chat page: names and passwords, and no page for other machines without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from medfm.cli.access import logins
from medfm.errors import ConfigError


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    file = tmp_path / "logins"
    file.write_text("ann:se:cret\n\nbob:other\n")
    file.chmod(0o600)
    return file


def test_names_and_passwords_are_read_from_a_private_file(secrets: Path) -> None:
    assert logins(secrets, "0.0.0.0") == [("ann", "se:cret"), ("bob", "other")]
    secrets.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        logins(secrets, "127.0.0.1")
    secrets.chmod(0o600)
    secrets.write_text("ann\n")
    with pytest.raises(ConfigError, match="NAME:PASSWORD") as told:
        logins(secrets, "127.0.0.1")
    assert "ann" not in str(told.value).replace(str(secrets), "")


def test_other_machines_need_a_password() -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        assert logins(None, host) is None
    for host in ("0.0.0.0", "::", "hospital.example"):
        with pytest.raises(ConfigError, match="--auth FILE"):
            logins(None, host)


def test_nothing_of_a_session_is_served_before_the_login(chat: Any) -> None:
    page = chat.main.build(chat.parts)
    _, address, _ = page.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, auth=[("ann", "secret")],
        app_kwargs=chat.main.app_arguments(chat.parts.sessions), **chat.main.SWITCHES,
    )  # fmt: skip
    try:
        with httpx.Client() as browser:
            for path in ("config", "gradio_api/info"):
                assert browser.get(address + path).status_code == 401
            assert browser.post(address + "gradio_api/upload", files={"files": b"x"}).status_code == 401
            assert browser.post(address + "gradio_api/queue/join", json={"fn_index": 0, "data": []}).status_code == 401
            wrong = browser.post(address + "login", data={"username": "ann", "password": "guess"})
            assert wrong.status_code == 400
            assert browser.post(address + "login", data={"username": "ann", "password": "secret"}).status_code == 200
            assert browser.get(address + "config").status_code == 200
    finally:
        page.close()
