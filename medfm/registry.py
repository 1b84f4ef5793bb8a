"""Names that recipes use for parts, and where each part is; a part's module is imported when its name is resolved."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from medfm.errors import UnknownName

__all__ = ["names", "resolve"]

# kind -> name -> "module:Attribute". Adding a part is one line here.
_PARTS: dict[str, dict[str, str]] = {
    "encoders": {
        "hybrid": "medfm.encoders.hybrid:HybridEncoder",
        "hub": "medfm.encoders.hub:HubEncoder",
        "conv": "medfm.encoders.conv:ConvEncoder",
        "shared": "medfm.encoders.shared:SharedEncoder",
        "inception": "medfm.encoders.inception:InceptionEncoder",
        "views": "medfm.encoders.views:ViewsEncoder",
        "dual_path": "medfm.encoders.dual_path:DualPathEncoder",
        "stack": "medfm.encoders.stack:StackEncoder",
        "vit": "medfm.encoders.vit:VitEncoder",
        "resnet_vit": "medfm.encoders.resnet_vit:ResNetVit",
        "swin": "medfm.encoders.swin:SwinEncoder",
    },
    "heads": {
        "structures": "medfm.heads.structures:StructureHead",
        "segment": "medfm.heads.segment:SegmentHead",
        "unetr": "medfm.heads.unetr:UnetrHead",
        "expand": "medfm.heads.expand:ExpandHead",
        "outline": "medfm.heads.outline:OutlineHead",
        "register": "medfm.heads.register:FlowHead",
        "detect": "medfm.heads.detect:DetectHead",
        "second": "medfm.heads.second:SecondHead",
        "bag": "medfm.heads.bag:BagHead",
        "classify": "medfm.heads.classify:ClassifyHead",
        "direct": "medfm.heads.reconstruct:Direct",
        "wavelet": "medfm.heads.reconstruct:Wavelet",
        "unrolled": "medfm.heads.reconstruct:Unrolled",
        "admm": "medfm.heads.admm:ADMM",
    },
    "physics": {
        "mri": "medfm.physics.acquire:MRAcquisition",
        "ct": "medfm.physics.acquire:CTAcquisition",
        "degraded": "medfm.physics.acquire:Degraded",
    },
    "objectives": {
        "grounded": "medfm.objectives.grounded:Grounded",
        "glance": "medfm.objectives.glance:Glances",
        "instruct": "medfm.objectives.instruct:Instruct",
        "own": "medfm.objectives.own:Own",
        "prompted": "medfm.objectives.prompted:Prompted",
        "foreign": "medfm.objectives.foreign:TunesForeign",
        "supervised": "medfm.objectives.supervised:Supervised",
        "painted": "medfm.objectives.painted:Painted",
        "planted": "medfm.objectives.planted:Planted",
        "registration": "medfm.objectives.registration:Registration",
        "reconstruction": "medfm.objectives.reconstruction:Reconstruction",
        "detection": "medfm.objectives.detection:Detection",
        "classification": "medfm.objectives.classification:Classification",
        "cycle": "medfm.objectives.cycle:Cycle",
        "diffusion": "medfm.objectives.diffusion:Diffusion",
    },
}


def names(kind: str) -> list[str]:
    """The registered names of one kind of part, sorted. Raises UnknownName for an unknown kind."""
    return sorted(_pick(_PARTS, kind, "kind of part"))


def resolve(kind: str, name: str) -> Any:
    """The class or function registered as `name`. Raises UnknownName, with the nearest name there is."""
    module, attribute = _pick(_pick(_PARTS, kind, "kind of part"), name, kind.removesuffix("s")).split(":")
    return getattr(importlib.import_module(module), attribute)


def _pick(table: dict[str, Any], name: str, what: str) -> Any:
    if name in table:
        return table[name]
    close = difflib.get_close_matches(str(name), table, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UnknownName(f"no {what} is called {name!r}; known are {', '.join(sorted(table))}.{hint}")
