"""Kills, faults, bad input and other batches, for as long as you like; prints what was survived.

    bash scripts/torture.sh --minutes 20

Ends with exit status 1 at the first thing that was lost or wrong, and leaves the directory in which it was."""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from scripts.torture import stages


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=20.0,
        help="scales the numbers of kills and inputs; 20 took 31 minutes on two cores, undisturbed runs included",
    )
    parser.add_argument("--seed", type=int, help="of all that is random; default: the time")
    arguments = parser.parse_args()
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", file=sys.stderr)
    scratch = Path(tempfile.mkdtemp(prefix="nat_ar_torture_"))
    stages.set_up(scratch)
    start = time.monotonic()
    try:
        lines = stages.run(scratch, arguments.minutes, seed)
    except stages.LostOrWrongError as error:
        sys.exit(f"LOST OR WRONG in {error}\nseed {seed}, left in {scratch}")
    shutil.rmtree(scratch)
    print("| what | number | how it ended |\n|---|---|---|")
    for line in lines:
        print(f"| {line.what} | {line.number:,} | {line.how} |")
    minutes = (time.monotonic() - start) / 60
    print(f"nothing lost, nothing wrong; seed {seed}, {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
