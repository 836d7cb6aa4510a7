#!/usr/bin/env bash
# ruff, mypy and the whole test suite; arguments go to pytest.
source "$(dirname "$0")/environment.sh" requirements-dev.txt
.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/mypy
exec .venv/bin/python -m pytest --numprocesses 2 --dist loadfile --durations 10 "$@"
