#!/usr/bin/env bash
# ruff, mypy and the whole test suite. --quick leaves out the tests that are marked slow, the check of shapes and types at
# every call, and most of XLA's optimisations: compiling is what most tests wait for. Other arguments go to pytest.
source "$(dirname "$0")/environment.sh" requirements-dev.txt
.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/mypy
arguments=()
for argument in "$@"; do
    if [ "$argument" = --quick ]; then
        arguments+=(-m "not slow" -o addopts="-q --import-mode=importlib")
        export JAX_DISABLE_MOST_OPTIMIZATIONS=1
    else
        arguments+=("$argument")
    fi
done
exec .venv/bin/python -m pytest --numprocesses 2 --dist loadfile --durations 10 "${arguments[@]}"
