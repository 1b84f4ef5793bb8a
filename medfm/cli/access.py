"""Who may open the chat page: names and passwords from a file, asked for wherever other machines can reach it."""

from __future__ import annotations

import ipaddress
import stat
import sys
from pathlib import Path

from medfm.errors import ConfigError

__all__ = ["logins"]


def logins(path: Path | None, host: str) -> list[tuple[str, str]] | None:
    """Names and passwords of the file; None without one, which only the loopback address may have.

    Raises ConfigError: no file though `host` is reachable from other machines, or one that others can read.
    """
    if path is None:
        if not _loopback(host):
            raise ConfigError(
                f"--host {host} lets other machines open the page; found no --auth, which is needed then. "
                "Write lines of NAME:PASSWORD into a file that only you can read and give it with --auth FILE; "
                "put a server with TLS in front, for gradio sends passwords as they are."
            )
        return None
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"--auth {path}: cannot be read ({error.strerror})") from None
    if sys.platform != "win32" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"--auth {path}: others can read it; chmod 600 {path}")
    found = [(name, password) for name, _, password in (line.partition(":") for line in lines)]
    if not found or not all(name and password for name, password in found):
        raise ConfigError(f"--auth {path}: expected a line NAME:PASSWORD for each person; found another kind of line")
    return found


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
