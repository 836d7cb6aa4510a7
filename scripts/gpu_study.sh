#!/usr/bin/env bash
# What a GPU is wanted for, in one command: scripts/gpu_study/__main__.py says what, and how the data are prepared before.
# It installs nothing, since such a machine may have no network: PYTHON names the interpreter, else .venv, else python3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
[ -x "$python" ] || python=python3
exec "${PYTHON:-$python}" -m scripts.gpu_study "$@"
