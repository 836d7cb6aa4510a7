"""Captions by a trained model: words of a source go in as they come, what a reader sees comes out at each."""

import math
import time
from collections.abc import Sequence

import numpy as np

from nat_ar.data.units import Unit, Units, text_of, units_of
from nat_ar.evaluation import latency
from nat_ar.special_tokens import PAD
from nat_ar.streaming.caption import Caption, Update
from nat_ar.streaming.policy import Policy, Retranslate, Said
from nat_ar.translation.translation import Translation
from nat_ar.translation.translator import BUCKETS, Translator, bucket_of


class Captioner:
    """Captions one text after another; `nat_ar.caption` opens one for a run.

        captioner.read("Two"); captioner.read("dogs"); captioner.read("play.", is_last=True)

    Every update translates at batch 1, from text to text; the first of a length compiles, unless `warm_up` did."""

    def __init__(
        self,
        translator: Translator,
        policy: Policy | None = None,
        *,
        source_unit: Unit = "word",
        target_unit: Unit = "word",
    ) -> None:
        self.policy = policy or Retranslate()
        self.translator = self.policy.translator(translator, target_unit)
        self.source_unit, self.target_unit = source_unit, target_unit
        self._begin()

    def _begin(self) -> None:
        self._source: Units = ()
        self._said = Said()
        self._is_ended = False

    def read(self, unit: str, *, is_last: bool = False) -> Update:
        """What is shown after one more word (or character) of the source. `is_last`: the source ends with it. The word
        after that begins the next text."""
        if self._is_ended:
            self._begin()
        self._source = (*self._source, unit)
        return self._update(is_final=is_last)

    def end(self) -> Update:
        """What is shown after the source has ended without another word."""
        if self._is_ended:
            self._begin()
        return self._update(is_final=True)

    def replay(self, text: str) -> Caption:
        """The caption of a text that arrives unit by unit, the end with the last one."""
        self._begin()
        units = units_of(text, self.source_unit)
        updates = [self.read(unit, is_last=i == len(units)) for i, unit in enumerate(units, 1)]
        return Caption(tuple(updates or [self.end()]))

    @property
    def is_independent(self) -> bool:
        """Whether translating a prefix asks for nothing that was made of those before it."""
        return type(self.translator) is Translator

    def replay_together(self, texts: Sequence[str], *, title: str = "captions") -> list[Caption]:
        """What `replay` makes of each text, but for times, which are NaN: the prefixes are translated in batches, each
        once. For captioners that are independent."""
        sources = [units_of(text, self.source_unit) for text in texts]
        moments = [range(min(len(units), 1), len(units) + 1) for units in sources]
        prefixes = [
            [text_of(units[:end], self.source_unit) for end in ends]
            for units, ends in zip(sources, moments, strict=True)
        ]
        once = list(dict.fromkeys(prefix for of_text in prefixes for prefix in of_text))
        found = dict(zip(once, self.translator.translate(once, title=title), strict=True))
        captions = []
        for units, ends, of_text in zip(sources, moments, prefixes, strict=True):
            self._begin()
            updates = []
            for end, prefix in zip(ends, of_text, strict=True):
                self._source = units[:end]
                is_final = end == len(units)
                updates.append(self._shown(found[prefix], math.nan, math.nan, is_final=is_final))
            captions.append(Caption(tuple(updates)))
        return captions

    def warm_up(self, tokens: int) -> None:
        """Compiles what sources of up to so many subwords need, so that no update waits for it."""
        widest = bucket_of(min(tokens + 1, BUCKETS[-1]))
        for bucket in (bucket for bucket in BUCKETS if bucket <= widest):
            nothing = np.full((1, bucket), PAD, np.int32)
            np.asarray(self.translator.decode(nothing).tokens)

    def _update(self, *, is_final: bool) -> Update:
        text = text_of(self._source, self.source_unit)
        clock, processor = time.perf_counter(), time.process_time()
        self.policy.prepare(self.translator, self._said, self.target_unit, is_final=is_final)
        translation = self.translator.translate([text], is_quiet=True)[0]
        processor, clock = time.process_time() - processor, time.perf_counter() - clock
        return self._shown(translation, clock, processor, is_final=is_final)

    def _shown(
        self,
        translation: Translation,
        seconds: float,
        processor_seconds: float,
        *,
        is_final: bool,
    ) -> Update:
        """What is shown of the translation of what has been read."""
        output = units_of(translation.texts[0], self.target_unit)
        before = self._said.shown
        shown = self.policy.shows(output, self._said, is_final=is_final)
        kept = latency.common_prefix(before, shown)
        self._said, self._is_ended = Said(translation.tokens[0], output, shown), is_final
        return Update(
            self._source,
            is_final,
            output,
            shown,
            kept,
            len(before) - kept,
            seconds,
            processor_seconds,
            translation.passes,
        )
