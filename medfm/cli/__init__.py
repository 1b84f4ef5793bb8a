"""The command line, `medfm`: every module hangs its commands on the app of `app.py`."""

from __future__ import annotations

import os
import sys

import medfm.cli.finetuning
import medfm.cli.reporting  # noqa: F401  (hangs its commands on the app)
from medfm.cli import classifying, detecting, reconstructing, registering, segmenting, synthesizing  # noqa: F401
from medfm.cli.commands import app
from medfm.errors import MedfmError, SeriesChoice

__all__ = ["main"]

# Before torch is there: else its threads wait by spinning, and where another program has a core a step takes forty
# times as long (measured on two shared cores: 8.7 s instead of 0.2 s).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main() -> None:
    """Run the command line.

    A MedfmError, and a file that cannot be read or written, end it with one message and code 2; anything else keeps its
    traceback.
    """
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
        if error.filename is None:
            raise
        from medfm.cli.show import failure

        failure(f"{error.filename}: {error.strerror}")
        sys.exit(2)
