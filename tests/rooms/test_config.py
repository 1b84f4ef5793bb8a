"""Configuration: what YAML means, how files are merged, and that the constructor's signature is the schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medfm import assets, config, registry
from medfm.errors import ConfigError, UnknownName


class Part:
    def __init__(
        self,
        width: int,
        *,
        rate: float = 0.1,
        name_of: str | None = None,
        sizes: tuple[int, ...] = (),
        flag: bool = False,
    ) -> None:
        self.given = {"width": width, "rate": rate, "name_of": name_of, "sizes": sizes, "flag": flag}


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "resolve", lambda kind, name: Part)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_yaml_reads_words_and_numbers_as_people_mean_them(tmp_path: Path) -> None:
    text = "answers: [yes, no, on]\nrate: 1e-4\nsigned: -2.5E+3\nflag: true\ncount: 12\nversion: '1e4'\ndate: word\n"
    node = config.read(write(tmp_path / "a.yaml", text))
    assert node["answers"] == ["yes", "no", "on"]
    assert node["rate"] == 1e-4 and node["signed"] == -2500.0
    assert node["flag"] is True and node["count"] == 12 and node["version"] == "1e4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "'a' is there twice"),
        ("a: [1\n", "not valid YAML"),
        ("- 1\n", "expected a mapping"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("extends: nowhere.yaml\n", "extends 'nowhere.yaml', which is not at"),
        ("extends: a.yaml\n", "extends itself"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.read(write(tmp_path / "a.yaml", text))


def test_extends_merges_by_key_and_replaces_another_part(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "encoder: {name: hybrid, width: 384}\ntrain: {epochs: 5, seed: 0}\nlist: [1, 2]\n")
    text = "extends: base.yaml\nencoder: {name: hub, tower: RN50}\ntrain: {epochs: 9}\nlist: [3]\n"
    node = config.read(write(tmp_path / "a.yaml", text))
    assert node == {"encoder": {"name": "hub", "tower": "RN50"}, "train": {"epochs": 9, "seed": 0}, "list": [3]}


def test_extends_finds_shipped_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "shipped" / "configs" / "train"
    shipped.mkdir(parents=True)
    write(shipped / "cpu.yaml", "train: {threads: 2}\n")
    monkeypatch.setattr(assets, "root", lambda: tmp_path / "shipped")
    assert config.read(write(tmp_path / "a.yaml", "extends: [configs/train/cpu.yaml]\n")) == {"train": {"threads": 2}}


def test_overrides_are_yaml_and_stay_in_known_sections(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "train: {epochs: 5, inner: {a: 1}}\n")
    node = config.read(path, ["train.epochs=3", "train.rate=1e-4", "train.inner.a=[x, 2]", "note=a=b"])
    assert node == {"train": {"epochs": 3, "rate": 1e-4, "inner": {"a": ["x", 2]}}, "note": "a=b"}
    with pytest.raises(ConfigError, match=r"no section is called 'trian'; known are train\. Did you mean 'train'"):
        config.read(path, ["trian.epochs=3"])
    with pytest.raises(ConfigError, match=r"expected section\.key=value"):
        config.read(path, ["train.epochs"])
    with pytest.raises(ConfigError, match=r"no section is called 'train\.epochs'"):
        config.read(path, ["train.epochs.x=3"])


def test_every_shipped_recipe_loads_by_name() -> None:
    tasks = assets.root() / "tasks"
    names = [path.relative_to(tasks).with_suffix("").as_posix() for path in tasks.rglob("*.yaml")]
    for name in names:
        assert config.load_recipe(name), name


def test_an_unknown_recipe_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tasks" / "vqa").mkdir(parents=True)
    write(tmp_path / "tasks" / "vqa" / "instruct.yaml", "a: 1\n")
    monkeypatch.setattr(assets, "root", lambda: tmp_path)
    assert config.load_recipe("vqa/instruct", ["a=2"]) == {"a": 2}
    assert config.load_recipe(tmp_path / "tasks" / "vqa" / "instruct.yaml") == {"a": 1}
    with pytest.raises(UnknownName, match="Did you mean 'vqa/instruct'"):
        config.load_recipe("vqa/instrct")


def test_build_passes_node_and_extra(part: None) -> None:
    built = config.build("encoders", {"name": "x", "rate": 1, "sizes": [1, 2]}, width=4)
    assert built.given == {"width": 4, "rate": 1, "name_of": None, "sizes": [1, 2], "flag": False}


@pytest.mark.parametrize(
    ("node", "extra", "message"),
    [
        ({"name": "x", "widht": 4}, {}, "no setting of encoders 'x' is called 'widht'.*Did you mean 'width'"),
        ({"name": "x"}, {}, "needs width"),
        ({"name": "x", "width": 4}, {"width": 5}, "'width' of encoders 'x' is set by the program"),
        ({"name": "x", "width": "four"}, {}, "width='four' of encoders 'x' is a str; expected int"),
        ({"name": "x", "width": True}, {}, "is a bool; expected int"),
        ({"name": "x", "width": 4, "rate": "fast"}, {}, "expected float"),
        ({"name": "x", "width": 4, "name_of": 3}, {}, "name_of=3"),
        ({"name": "x", "width": 4, "flag": 1}, {}, "flag=1"),
        ({"width": 4}, {}, "expected a mapping with a `name`"),
        ("hybrid", {}, "expected a mapping with a `name`"),
    ],
)
def test_build_refuses_what_the_signature_does_not_say(
    part: None, node: Any, extra: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config.build("encoders", node, **extra)


def test_build_knows_a_real_part() -> None:
    encoder = config.build("encoders", {"name": "hybrid", "depth": 1})
    assert len(encoder.strides) == len(encoder.channels)


@pytest.mark.parametrize("override", ["train.epochs=abc", "train.half=1", "train.start=3", "train.rate=true"])
def test_a_training_option_of_another_type_is_told_before_any_data_are_read(override: str, tmp_path: Path) -> None:
    from medfm.train.loop import train

    recipe = config.load_recipe("segmentation/unet", [override, "data.train=nowhere"])
    with pytest.raises(ConfigError, match=f"{override.partition('=')[0]}=.* expected a"):
        train(recipe, output=tmp_path / "run")


def test_a_misspelt_recipe_is_answered_with_those_of_its_folder() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'segmentation/unet'") as caught:
        config.load_recipe("segmentation/unett")
    assert "segmentation/vnet" in str(caught.value) and "detection/" not in str(caught.value)
