"""Base weights: a tiny fake wheel in a local folder stands for the registry; damage and malice end in WeightsError."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from medfm import assets
from medfm.assets import wheel as wheels
from medfm.errors import UnknownName, WeightsError

TENSORS = {"stem.weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(3)}


def saved(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


class Registry:
    """A folder that pip reads as a registry, and a medfm root whose configs/weights/ pins what lies in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.links, self.cache = folder, folder / "links", folder / "cache"
        self.links.mkdir()
        (folder / "configs" / "weights").mkdir(parents=True)

    def publish(self, inner: bytes, *, hostile: bool = False) -> Path:
        """Write the wheel tiny_weights-1.0 with `inner` in it and pin both."""
        path = self.links / "tiny_weights-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("tiny_weights/tiny.pth", inner)
            archive.writestr(
                "tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
            )
            archive.writestr(
                "tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr("tiny_weights-1.0.dist-info/RECORD", "")
            if hostile:
                for name in ("../../evil.txt", "/tmp/evil.txt", "tiny_weights/../../../evil.txt"):
                    archive.writestr(name, "evil")
        self.pin(path, member_sha256=hashlib.sha256(inner).hexdigest())
        return path

    def pin(
        self,
        path: Path,
        *,
        member: str = "tiny_weights/tiny.pth",
        member_sha256: str,
        package: str = "tiny-weights==1.0",
    ) -> None:
        data = path.read_bytes()
        node = {
            "license": "CC0-1.0", "convert": "torch-tensors",
            "wheel": {"package": package, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
            "member": {"path": member, "sha256": member_sha256},
        }  # fmt: skip
        (self.folder / "configs" / "weights" / "tiny.yaml").write_text(yaml.safe_dump(node))


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    made = Registry(tmp_path)
    monkeypatch.setattr("medfm.assets.weights.root", lambda: tmp_path)
    settings = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(made.links),
        "PIP_CONFIG_FILE": os.devnull,
        "MEDFM_CACHE": str(made.cache),
    }
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("MEDFM_WEIGHTS_TINY", raising=False)
    return made


def nothing_left(registry: Registry) -> bool:
    return not registry.cache.exists() or {p.name for p in registry.cache.iterdir()} <= {"tiny.lock"}


def test_a_wheel_becomes_a_folder_of_safetensors_once(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.publish(saved(TENSORS), hostile=True)
    folder = assets.base_weights("tiny")
    assert folder == registry.cache / "tiny"
    found = load_file(folder / "model.safetensors")
    assert found.keys() == TENSORS.keys() and all(torch.equal(found[n], TENSORS[n]) for n in TENSORS)
    assert json.loads((folder / "source.json").read_text())["source"].startswith("tiny-weights==1.0 (wheel sha256 ")
    assert sorted(p.name for p in folder.iterdir()) == ["model.safetensors", "source.json"]
    assert {p.name for p in registry.cache.iterdir()} == {"tiny", "tiny.lock"}, "scratch was left behind"
    assert not list(registry.folder.rglob("evil.txt")) and not Path("/tmp/evil.txt").exists()
    monkeypatch.setattr("medfm.assets.weights.download", lambda *a, **k: pytest.fail("fetched a second time"))
    assert assets.base_weights("tiny") == folder


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_shared_cache_is_readable_for_others(registry: Registry) -> None:
    registry.publish(saved(TENSORS))
    for path in assets.base_weights("tiny").iterdir():
        assert path.stat().st_mode & 0o044 == 0o044, path.name


def test_another_wheel_than_the_pinned_one_is_refused(registry: Registry) -> None:
    path = registry.publish(saved(TENSORS))
    pinned = (registry.folder / "configs" / "weights" / "tiny.yaml").read_text()
    registry.publish(saved({"stem.weight": torch.zeros(2, 3)}))
    (registry.folder / "configs" / "weights" / "tiny.yaml").write_text(pinned)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(WeightsError, match=f"damaged or was changed: found .* sha256 {found}, expected"):
        assets.base_weights("tiny")
    assert nothing_left(registry)


def test_a_truncated_wheel_is_refused(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    path = registry.publish(saved(TENSORS))
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2])
    with pytest.raises(WeightsError):  # pip itself may refuse it
        assets.base_weights("tiny")
    monkeypatch.setenv("MEDFM_WEIGHTS_TINY", str(path))
    with pytest.raises(WeightsError, match=f"found {size // 2} bytes .* expected {size} bytes"):
        assets.base_weights("tiny")
    assert nothing_left(registry)


@pytest.mark.parametrize("member", ["tiny_weights/other.pth", "../../evil.txt"])
def test_a_wheel_without_the_pinned_file_is_refused(registry: Registry, member: str) -> None:
    path = registry.publish(saved(TENSORS), hostile=True)
    registry.pin(path, member=member, member_sha256="0" * 64)
    with pytest.raises(WeightsError, match=r"holds no|has sha256"):
        assets.base_weights("tiny")
    assert nothing_left(registry)
    assert not list(registry.folder.rglob("evil.txt"))


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize(
    "inner",
    [
        saved({"weight": Bomb()}),
        pickle.dumps(Bomb()),
        saved({"weight": "text"}),
        saved([TENSORS]),
        saved({}),
        b"",
        b"PK\x03\x04",
    ],
    ids=["bomb", "bare bomb", "text", "list", "empty", "no bytes", "half a zip"],
)
def test_anything_but_tensors_is_refused_and_nothing_runs(
    registry: Registry, inner: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(registry.folder)
    registry.publish(inner)
    with pytest.raises(WeightsError, match="tensor"):
        assets.base_weights("tiny")
    assert not (registry.folder / "exploded").exists()
    assert nothing_left(registry)


def test_without_pip_the_error_says_what_to_do(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    path = registry.publish(saved(TENSORS))
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"(?s)has no pip.*uv pip install pip.*MEDFM_WEIGHTS_TINY.*PIP_INDEX_URL"):
        assets.base_weights("tiny")
    monkeypatch.setenv("MEDFM_WEIGHTS_TINY", str(path))
    assert assets.base_weights("tiny") == registry.cache / "tiny", "a wheel at hand needs no pip"


def test_folders_that_vanish_while_they_are_counted_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"1234")
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            folder = tmp_path / "pip-download"
            folder.mkdir()
            folder.rmdir()

    pip = threading.Thread(target=come_and_go)
    pip.start()
    try:
        assert {wheels._size(tmp_path) for _ in range(2000)} == {4}
    finally:
        done.set()
        pip.join()


def test_an_empty_registry_names_the_ways_out(registry: Registry) -> None:
    registry.publish(saved(TENSORS)).unlink()
    with pytest.raises(WeightsError, match=r"(?s)ERROR.*tiny-weights==1\.0.*MEDFM_WEIGHTS_TINY.*PIP_FIND_LINKS"):
        assets.base_weights("tiny")
    assert nothing_left(registry)


def test_a_source_archive_is_never_run(registry: Registry) -> None:
    registry.publish(saved(TENSORS)).unlink()
    import tarfile

    with tarfile.open(registry.links / "tiny_weights-1.0.tar.gz", "w:gz") as archive:
        for name, text in {
            "setup.py": f"open({str(registry.folder / 'ran')!r}, 'w')",
            "PKG-INFO": "Name: tiny-weights\nVersion: 1.0\n",
        }.items():
            about = tarfile.TarInfo(f"tiny_weights-1.0/{name}")
            about.size = len(text)
            archive.addfile(about, io.BytesIO(text.encode()))
    with pytest.raises(WeightsError, match="could not download"):
        assets.base_weights("tiny")
    assert not (registry.folder / "ran").exists()


def test_a_folder_called_pip_here_is_not_run(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.publish(saved(TENSORS))
    (registry.folder / "pip").mkdir()
    (registry.folder / "pip" / "__main__.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(registry.folder)
    assert assets.base_weights("tiny").is_dir()
    assert not (registry.folder / "ran").exists()


PROCESS = """
import sys, time
from pathlib import Path
from medfm.assets import weights
folder = Path(sys.argv[1])
weights.root = lambda: folder
fetch = weights.download
def slow(*args, **named):
    (folder / f"fetch-{sys.argv[2]}").touch()
    time.sleep(2)
    return fetch(*args, **named)
weights.download = slow
print(weights.base_weights("tiny"))
"""


def test_two_processes_at_once_fetch_once(registry: Registry) -> None:
    registry.publish(saved(TENSORS))
    command = [sys.executable, "-c", PROCESS, str(registry.folder)]
    root = str(Path(assets.__file__).parents[2])
    two = [
        subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root)
        for n in range(2)
    ]
    told = [process.communicate(timeout=120) for process in two]
    assert [process.returncode for process in two] == [0, 0], told
    assert len(list(registry.folder.glob("fetch-*"))) == 1
    assert sum("waiting for another process" in err for _, err in told) == 1
    assert (registry.cache / "tiny" / "model.safetensors").is_file()


def test_what_a_killed_process_left_is_swept(registry: Registry) -> None:
    registry.publish(saved(TENSORS))
    (registry.cache / ".tiny.partabc" / "made").mkdir(parents=True)
    assets.base_weights("tiny")
    assert {p.name for p in registry.cache.iterdir()} == {"tiny", "tiny.lock"}


def test_the_lock_is_released(registry: Registry) -> None:
    from filelock import FileLock

    registry.publish(saved(TENSORS))
    assets.base_weights("tiny")
    with FileLock(registry.cache / "tiny.lock").acquire(timeout=0) as lock:
        assert lock.is_locked


def test_a_folder_wins_over_everything(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    own.mkdir()
    registry.publish(saved(TENSORS))
    monkeypatch.setenv("MEDFM_WEIGHTS_TINY", str(own))
    for name in ("tiny", own, str(own)):
        with pytest.raises(WeightsError, match=r"no \*\.safetensors file is in it"):
            assets.base_weights(name)
    (own / "model.safetensors").touch()
    assert {assets.base_weights(name) for name in ("tiny", own, str(own))} == {own}


def test_wrong_names_and_paths(registry: Registry, tmp_path: Path) -> None:
    registry.publish(saved(TENSORS))
    with pytest.raises(
        UnknownName, match=r"no base weights are called 'tinny'; known are tiny\. Did you mean 'tiny'\?"
    ):
        assets.base_weights("tinny")
    with pytest.raises(WeightsError, match="there is no such folder"):
        assets.base_weights(tmp_path / "absent")
    start = time.monotonic()
    with pytest.raises(WeightsError, match="neither in the Hugging Face cache nor to be had from the hub"):
        assets.base_weights("organisation/model")
    assert time.monotonic() - start < 30


def test_a_cache_that_cannot_be_written_says_so(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.publish(saved(TENSORS))
    (registry.folder / "file").touch()
    monkeypatch.setenv("MEDFM_CACHE", str(registry.folder / "file" / "cache"))
    with pytest.raises(WeightsError, match=r"cannot be written.*MEDFM_CACHE"):
        assets.base_weights("tiny")


def test_every_shipped_pin_is_complete() -> None:
    from medfm.assets.convert import CONVERTERS
    from medfm.assets.weights import _spec

    for name in assets.weights_names():
        spec = _spec(name)
        assert spec.convert in CONVERTERS and "==" in spec.wheel.package
        assert len(spec.wheel.sha256) == len(spec.wheel.member_sha256) == 64


@pytest.mark.weights
def test_the_real_language_model_answers_and_reads_figures_one_by_one() -> None:
    from medfm.language.base import load_language

    model, tokenizer, _ = load_language("smollm2-135m-instruct", dtype=torch.float32)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    tokens = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**tokens, max_new_tokens=12, do_sample=False)[0, tokens["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    for text in ("12345 mm, 3.14", "  two  spaces\n\ttab", "Größe µm 肺 🫁 α±β", "<|im_start|>user\nhi<|im_end|>"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.tokenize("2047") == ["2", "0", "4", "7"]
    assert [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id] == [1, 2, 2]


def test_a_folder_that_is_no_language_model_says_so(tmp_path: Path) -> None:
    from medfm.language.base import load_language

    (tmp_path / "model.safetensors").touch()
    with pytest.raises(WeightsError, match="does not open as a causal language model"):
        load_language(str(tmp_path), dtype=torch.float32)


@pytest.mark.weights
def test_the_real_vision_weights_are_efficientnet_lite2() -> None:
    tensors = load_file(assets.base_weights("efficientnet-lite2") / "model.safetensors")
    assert len(tensors) == 386 and tensors["_conv_stem.weight"].shape == (32, 3, 3, 3)
    from medfm.encoders.hybrid import HybridEncoder

    x, found = torch.rand(1, 3, 1, 64, 64), []
    for levels in (5, 2):
        encoder = HybridEncoder(levels=levels).eval()
        encoder.load_imagenet(tensors)
        found.append(encoder(x)[:2])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
