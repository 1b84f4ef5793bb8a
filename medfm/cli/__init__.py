"""The command line, `medfm`: every module hangs its commands on the app of `app.py`."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from typing import TextIO

import medfm.cli.finetuning
import medfm.cli.reporting  # noqa: F401  (hangs its commands on the app)
from medfm.cli import classifying, detecting, reconstructing, registering, segmenting, synthesizing  # noqa: F401
from medfm.cli.commands import app
from medfm.errors import MedfmError, SeriesChoice, UnlikeTraining

__all__ = ["main"]

# Before torch is there: else its threads wait by spinning, and where another program has a core a step takes forty
# times as long (measured on two shared cores: 8.7 s instead of 0.2 s).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


_plain = warnings.showwarning


def _warned(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
    line: str | None = None,
) -> None:  # fmt: skip
    """A warning of ours as a note; those of other libraries as Python shows them."""
    if not issubclass(category, UnlikeTraining):
        _plain(message, category, filename, lineno, file, line)
        return
    from medfm.cli.show import warning

    warning(str(message))


def main() -> None:
    """Run the command line.

    A MedfmError, and a file that cannot be read or written, end it with one message and code 2; anything else keeps its
    traceback.
    """
    warnings.showwarning = _warned
    try:
        app()
    except SeriesChoice as error:
        from medfm.cli.show import series_choice

        series_choice(error)
        sys.exit(2)
    except MedfmError as error:
        from medfm.cli.show import failure

        failure(str(error))
        sys.exit(2)
    except OSError as error:
        from medfm.cli.show import failure

        if error.filename is not None:
            failure(f"{error.filename}: {error.strerror}")
        elif error.errno == errno.ENOSPC:  # of a write, which names no file
            failure("the disk is full; make room, or choose another folder with --output")
        else:
            raise
        sys.exit(2)
