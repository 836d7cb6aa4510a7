"""Do two checkouts translate alike? For a change that should be faster and nothing else.

    python -m scripts.same_translations ../before studies/toy_family/runs/* --source test.en
    python -m scripts.same_translations ../before runs/ar --source test.en --decoding "Greedy()" "Beam(size=4)"

Translates the lines of a file by every run, in both checkouts, and counts the lines that differ; exit status 1 if there
are any. Without --decoding each run takes its own."""

import argparse
import subprocess
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--source", type=Path, required=True, help="a sentence a line")
    parser.add_argument("--decoding", nargs="+", default=[""])
    arguments = parser.parse_args()
    here, total = Path(__file__).resolve().parents[1], 0
    for run in arguments.runs:
        for decoding in arguments.decoding:
            one, other = (
                _translate(checkout, run.resolve(), decoding, arguments.source)
                for checkout in (here, arguments.other.resolve())
            )
            num_different = sum(a != b for a, b in zip(one, other, strict=True))
            total += num_different
            print(f"{run.name} {decoding}: {num_different} of {len(one)} differ", flush=True)
    sys.exit(1 if total else 0)


def _translate(checkout: Path, run: Path, decoding: str, source: Path) -> list[str]:
    command = [sys.executable, "-m", "nat_ar", "translate", str(run)]
    command += ["--decoding", decoding] if decoding else []
    with source.open("rb") as sentences:
        done = subprocess.run(
            command, stdin=sentences, stdout=subprocess.PIPE, cwd=checkout, check=True
        )
    return done.stdout.decode("utf-8").splitlines()


if __name__ == "__main__":
    main()
