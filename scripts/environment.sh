# Sourced by the other scripts: goes to the repository, makes .venv where it is missing or out of date.
# Usage: source scripts/environment.sh requirements.txt
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
requirements=$1
stamp=".venv/installed-$requirements"
if ! cat requirements.txt "$requirements" | cmp -s - "$stamp"; then
    python=""
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "expected Python 3.11 or newer as python3, got $(python3 --version 2>&1): install one" >&2
        exit 1
    fi
    echo "installing $requirements into .venv ($("$python" --version))" >&2
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    # Python compiles the modules that it imports: the others would take half of the installation's time.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r "$requirements"
    # The commands nat-ar and python -m nat_ar from anywhere, of this repository as it is at the moment.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
    cat requirements.txt "$requirements" >"$stamp"
fi
