"""The registry: every name leads to something, and a wrong name says which is meant."""

from __future__ import annotations

import pytest

from medfm import registry
from medfm.errors import UnknownName

PARTS = [(kind, name) for kind in ("encoders", "heads", "objectives") for name in registry.names(kind)]


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_name_resolves(kind: str, name: str) -> None:
    assert callable(registry.resolve(kind, name))


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"no encoder is called 'hybird'; known are .*\. Did you mean 'hybrid'\?"):
        registry.resolve("encoders", "hybird")
    with pytest.raises(UnknownName, match="Did you mean 'heads'"):
        registry.names("head")


def test_a_name_that_is_not_text_is_an_unknown_name() -> None:
    with pytest.raises(UnknownName):
        registry.resolve("encoders", 3)  # type: ignore[arg-type]  # as YAML may give it
