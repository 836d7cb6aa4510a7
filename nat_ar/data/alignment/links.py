"""Checks of links from target tokens to source tokens, and the fertilities that they amount to."""

import numpy as np
from jaxtyping import Int

from nat_ar.data.ragged import Ragged


def fertilities(links: Int[np.ndarray, "target_tokens"], source: Ragged, target: Ragged) -> Ragged:
    """The number of target tokens that link to each source token. Rows are as long as those of `source`; each sums
    to the length of its target."""
    check_links(links, source, target)
    source_token = (
        np.repeat(source.offsets[:-1], target.lengths) + links
    )  # index into source.values
    counts = np.bincount(source_token, minlength=len(source.values)).astype(np.int32)
    return Ragged(counts, np.asarray(source.offsets))


def check_parallel(source: Ragged, target: Ragged) -> None:
    """Raises ValueError unless each target has a source, which has tokens if the target has."""
    if len(source) != len(target):
        raise ValueError(
            f"expected as many targets as sources, got {len(source)} sources and {len(target)} "
            "targets; align what was prepared together"
        )
    lost = np.flatnonzero((source.lengths == 0) & (target.lengths > 0))
    if len(lost):
        raise ValueError(
            f"expected a source token for every target to link to, got an empty source with a target "
            f"of {target.lengths[lost[0]]} tokens in row {lost[0]} ({len(lost)} such rows); drop "
            "pairs with an empty side first"
        )


def check_links(links: Int[np.ndarray, "target_tokens"], source: Ragged, target: Ragged) -> None:
    """Raises ValueError if the links cannot belong to these sentences."""
    check_parallel(source, target)
    if len(links) != len(target.values):
        raise ValueError(
            f"expected one link per target token, {len(target.values)}, got {len(links)}; "
            "these links belong to other data"
        )
    wrong = np.flatnonzero((links < 0) | (links >= np.repeat(source.lengths, target.lengths)))
    if len(wrong):
        row = int(np.searchsorted(target.offsets, wrong[0], side="right")) - 1
        raise ValueError(
            f"row {row}: expected links from 0 to {source.lengths[row] - 1}, got {links[wrong[0]]}; "
            "these links belong to other data"
        )
