"""How long the command line takes to say anything, beside the import of torch that it puts off."""

import shutil
import sys

from measure import process, show

REPEATS = 7


def main() -> None:
    """Print the table."""
    medfm = shutil.which("medfm")
    if medfm is None:
        sys.exit("medfm is not installed: pip install .")
    rows = [
        ("python -c 'import torch'", process([sys.executable, "-c", "import torch"], repeats=REPEATS), None),
        ("python -c 'import medfm'", process([sys.executable, "-c", "import medfm"], repeats=REPEATS), None),
        ("medfm --help", process([medfm, "--help"], repeats=REPEATS), None),
        ("python -c 'pass'", process([sys.executable, "-c", "pass"], repeats=REPEATS), None),
    ]
    show(f"start, median of {REPEATS} processes", rows, against=0)


if __name__ == "__main__":
    main()
