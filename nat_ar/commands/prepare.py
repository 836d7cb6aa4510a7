"""prepare CONFIG: the corpus of a config file -> its prepared directory."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

from nat_ar.config_json import ConfigError
from nat_ar.data import prepare_parts
from nat_ar.data.prepare import DataConfig
from nat_ar.experiment.config import load_file


def load_config(path: str) -> DataConfig:
    """The `data` of an experiment or a study."""
    config = load_file(path)
    if not isinstance(getattr(config, "data", None), DataConfig):
        raise ConfigError(
            f"{path} holds a {type(config).__name__}; `prepare` takes an ExperimentConfig or a StudyConfig"
        )
    return config.data


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Read the corpus of a config file, learn its vocabulary, write token arrays and a manifest."""

    config: DataConfig
    """the data of the config file of an experiment or a study"""
    part: str | None = None
    """I/N: encode every N-th piece of the training pairs only, from the I-th on, beside other processes; the last one,
    or the command without it, joins them to the same data whatever N is"""


def parse(path: str, words: Sequence[str], fill: Callable[..., Prepare]) -> Prepare:
    """Options are called as those of `train` and `study`: --data.corpus... Earlier versions left `data` out, and are
    understood."""
    own = {field.name for field in dataclasses.fields(DataConfig)}
    named = []
    for word in words:
        field = re.match(r"--(?:no-)?([\w-]+)", word)
        if field and field[1].replace("-", "_") in own:
            word = f"--data.{word.removeprefix('--')}"
        named.append(word)
    return fill(Prepare(load_config(path)), named, prefix="data")


def run(arguments: Prepare) -> None:
    manifest = prepare_parts.prepare_part(arguments.config, arguments.part)
    if manifest is not None:
        print(summary(manifest, arguments.config.directory))


def summary(manifest: dict[str, Any], directory: str) -> str:
    """The sizes of the splits, and the counts of what was read and dropped, one on a line."""
    sizes = ", ".join(
        f"{name} {split['sentences']:,}" for name, split in manifest["splits"].items()
    )
    lines = [f"{directory}: {sizes} pairs; data hash {manifest['data_hash'][:12]}"]
    lines += [f"  {reason}: {count:,}" for reason, count in manifest["report"]["counts"].items()]
    return "\n".join(lines)
