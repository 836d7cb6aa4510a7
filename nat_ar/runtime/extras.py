"""Packages that only some uses need: the extras of pyproject.toml, imported where they are asked for."""

import importlib
from types import ModuleType

from nat_ar.config_json import ConfigError

EXTRAS = {
    "polib": "debian",
    "lxml": "debian",
    "ctranslate2": "ctranslate2",
    "tensorboardX": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}
"""what Python calls each package, and the extra that has it"""


def require(package: str, purpose: str, instead: str | None = None) -> ModuleType:
    """The package. ConfigError where it cannot be imported: `purpose` needs it, and its extra is to be installed, or
    else `instead`."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        alternative = "" if instead is None else f", or {instead}"
        raise ConfigError(
            f"{purpose} needs the package {package}, which cannot be imported ({error}): "
            f'pip install "nat-ar[{EXTRAS[package]}]"{alternative}'
        ) from error
