"""A network and the folder that describes it: `medfm.json` says what to build, one file beside it holds the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from medfm import assets, config
from medfm.errors import AdapterMismatch, UnknownName

__all__ = ["Stored", "load_stored", "shipped", "start_from"]


class Stored(nn.Module):
    """A task's network. settings: the arguments it was built with, as JSON; name: of its folder, once loaded.

    Parts that come with another adapter name their tensors in a method `kept`; those are not stored again. given:
    what the names of those tensors begin with that a recipe gives and training leaves as they are.
    """

    kind: ClassVar[str]
    file: ClassVar[str]
    given: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {}
        self.name = ""

    @property
    def about(self) -> dict[str, Any]:
        """What the model is and was trained on, for people; part of the settings."""
        about: dict[str, Any] = self.settings["about"]
        return about

    @property
    def device(self) -> torch.device:
        """Where its weights lie, and what it is shown has to. What its own methods make of a grid lies on the CPU."""
        return next(self.parameters()).device

    def build_encoder(self, node: dict[str, Any]) -> Any:
        """The encoder of a node of configs; the settings say which trained eye it shares, where it does."""
        encoder = config.build("encoders", node)
        if eye := getattr(encoder, "eye", ""):
            self.settings["encoder"] = {**node, "eye": eye}
        return encoder

    def save(self, folder: Path) -> None:
        """Write `medfm.json` and the weights in half precision."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {n: t.half() if t.is_floating_point() else t for n, t in self.own_tensors().items()}
        assets.write_tensors(tensors, folder / self.file)
        (folder / "medfm.json").write_text(json.dumps({"kind": self.kind, **self.settings}, indent=1) + "\n")

    def own_tensors(self) -> dict[str, Tensor]:
        """Its state without the tensors that come with another adapter."""
        elsewhere = _elsewhere(self)
        return {name: tensor for name, tensor in self.state_dict().items() if name not in elsewhere}


S = TypeVar("S", bound=Stored)


def load_stored(model_class: type[S], name: str | Path, *, device: str = "cpu") -> S:
    """Load a model of this class, by shipped or own name, or from a folder that training left.

    Raises:
        UnknownName: no such folder, or it holds a model of another kind. AdapterMismatch: weights and settings differ,
        or a part that comes with another adapter is no longer the one it was trained on.
    """
    folder = assets.adapter_folder(name)
    settings = json.loads((folder / "medfm.json").read_text())
    if (kind := settings.pop("kind", "answers")) != model_class.kind:
        raise UnknownName(
            f"{folder.name!r} is a model of kind {kind!r}; expected one of kind {model_class.kind!r}. "
            f"Shipped are: {', '.join(shipped(model_class.kind)) or 'none'}"
        )
    model = model_class(**settings)
    tensors = load_file(folder / model.file)
    floats = {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
    missing, unknown = model.load_state_dict(floats, strict=False)
    if wrong := sorted([*unknown, *(set(missing) - _elsewhere(model))]):
        raise AdapterMismatch(f"{folder.name}: medfm.json and {model.file} do not fit each other: {wrong[:3]}")
    model.name = folder.name
    return model.eval().to(device)


def start_from(model: Stored, name: str | Path) -> list[str]:
    """Give `model` the weights of a stored one of its kind, to train on from there; `about` then says so.

    Tensors whose shape differs, as those of the last layer do where the classes are others, stay as they were; their
    names are returned. So do those that the recipe gave (`Stored.given`), which may be better now.

    Raises:
        UnknownName: no such folder, or it holds a model of another kind. AdapterMismatch: it is made of other parts.
    """
    other = load_stored(type(model), name)
    own, found = ({n: t for n, t in m.state_dict().items() if not n.startswith(model.given)} for m in (model, other))
    if wrong := sorted(own.keys() ^ found.keys()):
        raise AdapterMismatch(
            f"{other.name} is made of other parts than this recipe, for example {wrong[:3]}; start from a model that "
            "was trained by this recipe, or give the recipe that model's encoder and head"
        )
    differing = [n for n, t in own.items() if t.shape != found[n].shape]
    model.load_state_dict({n: t for n, t in found.items() if n not in differing}, strict=False)
    model.about["start"] = other.name
    return differing


def shipped(kind: str) -> dict[str, dict[str, Any]]:
    """The shipped models of this kind: what `medfm.json` says, by name."""
    about = {folder.name: json.loads((folder / "medfm.json").read_text()) for folder in assets.shipped_adapters()}
    return {name: made for name, made in about.items() if made.get("kind") == kind}


def _elsewhere(model: nn.Module) -> set[str]:
    """Names of the tensors that come with another adapter."""
    parts = [(prefix, part) for prefix, part in model.named_modules() if hasattr(part, "kept")]
    return {f"{prefix}.{name}" for prefix, part in parts for name in part.kept()}
