#!/usr/bin/env bash
# From a fresh clone to the table: environment, toy language, teacher, distilled data, students.
source "$(dirname "$0")/environment.sh" requirements.txt
exec .venv/bin/python -m nat_ar study configs/toy/study.py "$@"
