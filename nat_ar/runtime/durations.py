"""How long something takes, as text."""


def text(seconds: float) -> str:
    """12 s, 3 min, 1.5 h: as much as a reader wants to know."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
