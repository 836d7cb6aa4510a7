#!/usr/bin/env bash
# The CPU tables of docs/speed.md, with random weights: docs/results/speed_cpu/README.md says what for.
source "$(dirname "$0")/environment.sh" requirements-dev.txt
exec .venv/bin/python -m scripts.benchmark_cpu "$@"
