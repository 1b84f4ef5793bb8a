"""Medical images in, answers tied to the pixels out: the public names, each imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medfm.classifier import load_classifier
    from medfm.detector import load_detector
    from medfm.model import load
    from medfm.predict import (
        ask,
        ask_many,
        classify,
        denoise,
        detect,
        outline_marked,
        reconstruct,
        register,
        report,
        segment,
        stream,
        synthesize,
    )
    from medfm.prompter import load_prompter
    from medfm.reconstructor import load_reconstructor
    from medfm.registrar import load_registrar
    from medfm.scan import RawData, Scan
    from medfm.segmenter import load_segmenter
    from medfm.synthesizer import load_synthesizer

    __version__: str

__all__ = [
    "RawData",
    "Scan",
    "__version__",
    "ask",
    "ask_many",
    "classify",
    "denoise",
    "detect",
    "load",
    "load_classifier",
    "load_detector",
    "load_prompter",
    "load_reconstructor",
    "load_registrar",
    "load_segmenter",
    "load_synthesizer",
    "outline_marked",
    "reconstruct",
    "register",
    "report",
    "segment",
    "stream",
    "synthesize",
]

# `import medfm` must cost milliseconds: torch and the readers arrive with the first name that needs them.
_HOMES = {
    "RawData": "medfm.scan",
    "Scan": "medfm.scan",
    "ask": "medfm.predict",
    "ask_many": "medfm.predict",
    "classify": "medfm.predict",
    "denoise": "medfm.predict",
    "detect": "medfm.predict",
    "load": "medfm.model",
    "load_classifier": "medfm.classifier",
    "load_detector": "medfm.detector",
    "load_prompter": "medfm.prompter",
    "load_reconstructor": "medfm.reconstructor",
    "load_registrar": "medfm.registrar",
    "load_segmenter": "medfm.segmenter",
    "load_synthesizer": "medfm.synthesizer",
    "outline_marked": "medfm.predict",
    "reconstruct": "medfm.predict",
    "register": "medfm.predict",
    "report": "medfm.predict",
    "segment": "medfm.predict",
    "stream": "medfm.predict",
    "synthesize": "medfm.predict",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("medfm")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'medfm' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
