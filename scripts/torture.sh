#!/usr/bin/env bash
# Kills, faults, hostile input and company, for --minutes 20: docs/reliability.md says what for.
source "$(dirname "$0")/environment.sh" requirements-dev.txt
exec .venv/bin/python -m scripts.torture "$@"
