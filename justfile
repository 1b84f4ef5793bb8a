# The habits of this repository; `just` without a name lists them.
default:
    @just --list

# what CI runs, plus the static checks
check:
    ruff format --check .
    ruff check .
    mypy
    lint-imports
    pytest

test *ARGS:
    pytest {{ARGS}}

# wheel, browser, base weights: minutes, and a download the first time
slow *ARGS:
    pytest -m slow {{ARGS}}

fmt:
    ruff format .
    ruff check --fix .

# tables with ratios; see benchmarks/README.md
bench:
    python benchmarks/bench_start.py
    python benchmarks/bench_read.py
    python benchmarks/bench_ask.py
