"""`python -m medfm`: the command line where the folder of scripts is not on the path."""

from medfm.cli import main

main()
