"""What a sentence became."""

import dataclasses
import textwrap


@dataclasses.dataclass(frozen=True)
class Translation:
    """The translations of one sentence, best first, with their scores and tokens."""

    texts: list[str]
    scores: list[float]
    tokens: list[list[int]]
    passes: int
    """sequential decoder passes; 0 for a blank sentence"""
    is_shortened: bool = False
    """the source was longer than the longest bucket and lost its end"""
    is_cut: bool = False
    """the translation reached its length limit: it may lack its end"""
    is_missing: bool = False
    """the search found no translation with a finite score: the text means nothing"""
    is_blank: bool = False
    """the source is blank: nothing, or white space only. It was not decoded, and its translation is empty"""
    verified_passes: int | None = None
    """the passes that verified drafts; None: there were no drafts"""
    near_ties: int | None = None
    """words that the decoding without drafts might say otherwise; None: there are none (types.Verification)"""

    def __repr__(self) -> str:
        text = textwrap.shorten(self.texts[0], 60, placeholder=" ...")
        more = f", {len(self.texts)} texts" if len(self.texts) > 1 else ""
        return f"Translation({text!r}, score {self.scores[0]:.2f}, {self.passes} passes{more})"
