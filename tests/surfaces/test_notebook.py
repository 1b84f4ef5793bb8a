"""What somebody types first in a notebook, right and wrong."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import medfm


@pytest.mark.parametrize("verb", [medfm.ask, medfm.report, medfm.segment, medfm.detect, medfm.classify])
def test_a_path_for_a_scan_and_a_name_for_a_model_are_told(verb: Any) -> None:
    more = ("What is it?",) if verb is medfm.ask else ()
    scan = medfm.Scan.from_array(np.zeros((4, 4), np.uint8))
    with pytest.raises(TypeError, match="load it first"):
        verb("default", scan, *more)
    for wrong in ("chest.dcm", np.zeros((4, 4))):
        with pytest.raises(TypeError, match=r"Scan\.read"):
            verb(object(), wrong, *more)
    assert list(inspect.signature(verb).parameters)[:2] == ["model", "scan"] and verb.__doc__
