"""Whether progress bars are drawn."""

import sys


def are_drawn() -> bool:
    """True in a terminal and in a notebook; False where stderr goes to a file or a pipe."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules
