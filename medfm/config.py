"""YAML files to plain dicts, and dict nodes to parts; the constructor's signature is the schema."""

from __future__ import annotations

import difflib
import inspect
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from medfm import assets, registry
from medfm.errors import ConfigError, UnknownName

__all__ = ["build", "check_keys", "check_values", "load_recipe", "read"]


def load_recipe(name_or_path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The recipe tasks/<name>.yaml (say, "pretraining/grounded") or a YAML file, with `extends:` and overrides applied.

    Raises UnknownName (no such recipe) and ConfigError (a file or an override is wrong).
    """
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        tasks = assets.root() / "tasks"
        path = tasks / f"{name_or_path}.yaml"
        if not path.is_file():
            known = sorted(found.relative_to(tasks).with_suffix("").as_posix() for found in tasks.rglob("*.yaml"))
            raise UnknownName(_unknown("recipe", str(name_or_path), known) + " A path ending in .yaml works too.")
    return read(path, overrides)


def read(path: Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """One YAML file as a plain dict.

    `extends: other.yaml` (or a list of them, later ones win) starts from files beside this one or from shipped paths
    such as configs/train/cpu.yaml. Mappings are merged key by key; where `name` differs, the mapping is another part
    and is replaced. An override is `section.key=value`, value in YAML; the section must be there, the key may be new.
    """
    node = _read(path, ())
    for override in overrides:
        _apply(node, override)
    return node


def build(kind: str, node: dict[str, Any], **extra: Any) -> Any:
    """The part that `node` describes: `name` picks it from the registry, the other keys are its keyword arguments.

    `extra` are arguments that code supplies (a width taken from another part); a node must not set them.
    Raises UnknownName, and ConfigError for a key that the constructor lacks, a missing one, a value of the wrong type.
    """
    if not isinstance(node, dict) or not isinstance(node.get("name"), str):
        raise ConfigError(f"found {node!r} for one of {kind}; expected a mapping with a `name`: {registry.names(kind)}")
    part = registry.resolve(kind, node["name"])
    given = {key: value for key, value in node.items() if key != "name"}
    both = sorted(given.keys() & extra.keys())
    if both:
        raise ConfigError(
            f"{both[0]!r} of {kind} {node['name']!r} is set by the program. Remove it from the configuration."
        )
    parameters = inspect.signature(part).parameters
    hints = _hints(part)
    for key, value in given.items():
        if key not in parameters:
            raise ConfigError(
                _unknown(f"setting of {kind} {node['name']!r}", str(key), parameters.keys() - extra.keys())
            )
        if not _fits(value, hints.get(key, Any)):
            expected = inspect.formatannotation(hints[key])
            raise ConfigError(
                f"{key}={value!r} of {kind} {node['name']!r} is a {type(value).__name__}; expected {expected}."
            )
    named = [p for p in parameters.values() if p.kind in {p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD}]
    missing = [p.name for p in named if p.default is p.empty and p.name not in given.keys() | extra.keys()]
    if missing:
        raise ConfigError(f"{kind} {node['name']!r} needs {', '.join(missing)}. Add it to the configuration.")
    return part(**given, **extra)


def check_keys(where: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise ConfigError for the first key of a mapping (`where` names it in the message) that is not `known`."""
    for key in given:
        if key not in known:
            raise ConfigError(_unknown(f"key of {where}", str(key), known))


def check_values(where: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """`check_keys`, and each value of the type that its default has; a whole number is a number too."""
    check_keys(where, given, defaults)
    for key, value in given.items():
        if not _fits(value, expected := type(defaults[key])):
            raise ConfigError(f"{where}.{key}={value!r} is a {type(value).__name__}; expected a {expected.__name__}")


class _Loader(yaml.SafeLoader):
    """safe_load with two traps of YAML 1.1 removed (`yes` is a word, `1e-4` a number) and repeated keys refused."""

    yaml_implicit_resolvers = {  # noqa: RUF012 -- PyYAML's own way, declared so in its base class
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag not in {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"}
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        repeated = [key for index, key in enumerate(keys) if key in keys[:index]]
        if repeated:
            raise yaml.constructor.ConstructorError(None, None, f"key {repeated[0]!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_NUMBER = r"^[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf)|\.(?:nan|NaN))$"
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_NUMBER), list("-+.0123456789"))


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: plain data only
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from error


def _read(path: Path, readers: tuple[Path, ...]) -> dict[str, Any]:
    path = path.expanduser().resolve()
    if path in readers:
        raise ConfigError(f"{path} extends itself: {' -> '.join(p.name for p in (*readers, path))}. Break the circle.")
    try:
        node = _parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(node, dict):
        raise ConfigError(f"{path} holds a {type(node).__name__}; expected a mapping of keys to values.")
    extends = node.pop("extends", [])
    base: dict[str, Any] = {}
    for entry in [extends] if isinstance(extends, str) else extends:
        places = [path.parent / entry, assets.root() / entry]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise ConfigError(f"{path.name} extends {entry!r}, which is not at {places[0]} or {places[1]}.")
        base = _merged(base, _read(found, (*readers, path)))
    return _merged(base, node)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    if "name" in base and "name" in over and base["name"] != over["name"]:
        return over
    merged = dict(base)
    for key, value in over.items():
        old = base.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _apply(node: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    *sections, key = dotted.strip().split(".")
    if not equals or not all([*sections, key]):
        raise ConfigError(f"found the override {override!r}; expected section.key=value, for example train.epochs=3")
    for depth, section in enumerate(sections):
        inner = node.get(section)
        if not isinstance(inner, dict):
            known = [name for name, value in node.items() if isinstance(value, dict)]
            raise ConfigError(f"override {override!r}: " + _unknown("section", ".".join(sections[: depth + 1]), known))
        node = inner
    node[key] = _parse(text, f"the value of {override!r}")


def _unknown(what: str, name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    if len(known) > 30 and close:  # two dozen lines of names hide the one that is meant
        known = [one for one in known if one.partition("/")[0] == close[0].partition("/")[0]]
    return f"no {what} is called {name!r}; known are {', '.join(sorted(known)) or 'none'}.{hint}"


def _hints(part: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(part.__init__ if inspect.isclass(part) else part)
    except NameError:  # a hint imported for type checkers only cannot be looked up; then nothing is checked
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a YAML value can be meant by a type hint; hints that YAML cannot spell are left to the constructor."""
    origin = typing.get_origin(hint) or hint
    if origin in {typing.Union, types.UnionType}:
        return any(_fits(value, choice) for choice in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if isinstance(value, bool):
        return origin not in {int, float, str, list, dict, tuple, types.NoneType}
    if origin is float:
        return isinstance(value, int | float)
    if origin is tuple:  # YAML has lists only
        return isinstance(value, list | tuple)
    if origin in {int, str, bool, list, dict, types.NoneType}:
        return isinstance(value, origin)
    return True
