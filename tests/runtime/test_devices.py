"""A device that is not there is one line."""

import jax
import pytest

from nat_ar.config_json import ConfigError
from nat_ar.runtime import devices


@pytest.mark.parametrize(
    "error", [AssertionError(), RuntimeError("Unable to initialize\nbackend 'tpu'")]
)
def test_a_platform_that_jax_cannot_start_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(jax, "local_devices", fail)
    with pytest.raises(ConfigError, match=r"JAX cannot compute there: .*; unset JAX_PLATFORMS, or"):
        devices.local()


def test_a_setting_for_gpus_is_refused_on_a_cpu() -> None:
    with pytest.raises(ConfigError, match=r"x 'y' needs an NVIDIA GPU, JAX computes on cpu: set"):
        devices.require_gpu("x 'y'")
