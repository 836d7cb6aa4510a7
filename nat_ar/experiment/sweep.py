"""Sweeps: entries of a study that differ in the value of one field, or in those of several."""

import dataclasses
import re
from collections.abc import Callable, Sequence

from nat_ar.config_json import ConfigError
from nat_ar.experiment.study import Entry, StudyConfig

NOT_SWEPT = ("name", "seeds", "start_from")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The values of a field, for one entry or for all but the teacher."""

    field: str
    """dotted, of an Entry, such as "training.optimizer.peak_learning_rate" """
    values: tuple[str, ...]
    """as on a command line"""
    entry: str | None = None
    """name of the entry; None: every one"""

    @classmethod
    def of(cls, text: str, config: StudyConfig) -> "Sweep":
        """Of "FIELD=a,b,c" or "ENTRY.FIELD=a,b,c". Raises ConfigError where it is none of this study."""
        field, _, given = text.partition("=")
        values = tuple(value.strip() for value in given.split(","))
        if not all(values):
            raise ConfigError(f"sweep: expected FIELD=a,b,c, got {text!r}")
        entry = None
        names = [config.teacher.name, *(one.name for one in config.entries)]
        for name in sorted(names, key=len):  # at last the longest that fits
            if _plain(field).startswith(f"{_plain(name)}."):
                entry = name
        if entry is not None:
            field = field[len(entry) + 1 :]
        if entry == config.teacher.name or field.startswith("teacher."):
            raise ConfigError(
                f"sweep {text}: a study has one teacher; expected a field of the other entries"
            )
        fields = {one.name for one in dataclasses.fields(Entry)} - {*NOT_SWEPT}
        if _plain(field).partition(".")[0] not in fields:
            raise ConfigError(
                f"sweep {text}: expected a field of entries that begins with one of {', '.join(sorted(fields))}, "
                f"or with one of the entries {', '.join(names[1:])}; got {field!r}"
            )
        return cls(field, values, entry)

    def name_of(self, value: str) -> str:
        """What a value adds to the name of its entry: "_peak_learning_rate_0.001"."""
        last = _plain(self.field).rpartition(".")[2]
        return f"_{last}_{re.sub(r'[^A-Za-z0-9.+-]+', '_', value).strip('_')}"


def swept(
    config: StudyConfig,
    sweeps: Sequence[Sweep],
    with_value: Callable[[Entry, str, str], Entry],
) -> StudyConfig:
    """The study with each swept entry replaced by one for every combination of the values of its sweeps.

    with_value(entry, field, value) sets a field. Where an entry starts from another and both are swept alike, it
    starts from the one with the same values."""
    variants = [(entry, entry) for entry in config.entries]  # what it comes from, and what it is
    for sweep in sweeps:
        longer: list[tuple[Entry, Entry]] = []
        for origin, entry in variants:
            if sweep.entry not in (None, origin.name):
                longer.append((origin, entry))
                continue
            for value in sweep.values:
                named = dataclasses.replace(entry, name=entry.name + sweep.name_of(value))
                longer.append((origin, with_value(named, sweep.field, value)))
        variants = longer
    known = {entry.name for _, entry in variants}
    entries = []
    for origin, entry in variants:
        beside = f"{origin.start_from}{entry.name.removeprefix(origin.name)}"
        if beside in known:
            entry = dataclasses.replace(entry, start_from=beside)
        entries.append(entry)
    return dataclasses.replace(config, entries=tuple(entries))


def _plain(name: str) -> str:
    return name.replace("-", "_")
