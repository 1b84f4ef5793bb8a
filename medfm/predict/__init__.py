"""The verbs: what a person wants of a scan, and what comes back. One module a verb."""

from medfm.predict.airspace import lungs
from medfm.predict.answering import ask, ask_many, stream
from medfm.predict.classifying import classify, explain
from medfm.predict.compare import growth
from medfm.predict.detecting import box_size, detect
from medfm.predict.marking import enclose, grow
from medfm.predict.outlining import outline
from medfm.predict.prompting import outline_marked
from medfm.predict.reconstructing import denoise, reconstruct
from medfm.predict.registering import likeness, register
from medfm.predict.reporting import report
from medfm.predict.segmenting import segment, volumes
from medfm.predict.synthesizing import synthesize

__all__ = [
    "ask",
    "ask_many",
    "box_size",
    "classify",
    "denoise",
    "detect",
    "enclose",
    "explain",
    "grow",
    "growth",
    "likeness",
    "lungs",
    "outline",
    "outline_marked",
    "reconstruct",
    "register",
    "report",
    "segment",
    "stream",
    "synthesize",
    "volumes",
]
