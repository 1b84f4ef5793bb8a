"""Every error a user can meet: what was found, what was expected, what to do.

MedfmError
├── ScanError            a file cannot be read as a scan
│   └── SeriesChoice     several series are there; `choices` lists them
├── ConfigError          a YAML file or a `key=value` is wrong
├── UnknownName          no part, task, model or adapter has that name (did you mean ...?)
├── ShapeError           an array has the wrong shape for a network
├── WeightsError         base weights are missing, damaged or of another model
├── AdapterMismatch      an adapter was trained on another base
└── DataError            a row of a data set is unusable
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "AdapterMismatch",
    "ConfigError",
    "DataError",
    "MedfmError",
    "ScanError",
    "SeriesChoice",
    "ShapeError",
    "UnknownName",
    "UnlikeTraining",
    "WeightsError",
]


class MedfmError(Exception):
    """Base of all errors raised on purpose; the command line prints its text without a traceback."""


class ScanError(MedfmError):
    """A file cannot be read as a scan."""


class SeriesChoice(ScanError):
    """Several series were found and none was chosen.

    choices: what each is, by its number from 0. found: what was found, without the list of them.
    """

    def __init__(self, found: str, choices: Sequence[str]) -> None:
        self.found, self.choices = found, list(choices)
        lines = "\n".join(f"  {number}: {text}" for number, text in enumerate(self.choices[:50]))
        super().__init__(f"{found}; choose one with series=NUMBER:\n{lines}")


class ConfigError(MedfmError):
    """A configuration file or override is wrong."""


class UnknownName(MedfmError):
    """A name is not registered."""


class ShapeError(MedfmError):
    """An array has a shape that a network cannot take."""


class WeightsError(MedfmError):
    """Base weights are missing, damaged, or belong to another model."""


class AdapterMismatch(MedfmError):
    """An adapter does not fit the base it is loaded on."""


class DataError(MedfmError):
    """A row of a data set cannot be used."""


class UnlikeTraining(UserWarning):
    """A scan is of another kind than those that a model has learned from."""
