"""The devices that JAX computes on, and one line where they are not what was asked for."""

import jax

from nat_ar.config_json import ConfigError


def local() -> list[jax.Device]:
    """The devices of this process. Raises ConfigError where JAX cannot start a platform that JAX_PLATFORMS names."""
    try:
        return jax.local_devices()
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # an assertion of JAX 0.10, for cuda without a GPU
        why = " ".join(str(error).split()) or "it finds no such device"
        raise ConfigError(
            f"JAX_PLATFORMS={jax.config.values['jax_platforms']}: JAX cannot compute there: {why}; unset "
            "JAX_PLATFORMS, or install JAX for that platform (README.md has the line for NVIDIA GPUs)"
        ) from error


def require_gpu(setting: str) -> None:
    """Raises ConfigError where a setting, such as "implementation 'cudnn'", needs an NVIDIA GPU and there is none."""
    found = {device.platform for device in local()}
    if "gpu" not in found:
        raise ConfigError(
            f"{setting} needs an NVIDIA GPU, JAX computes on {', '.join(sorted(found))}: set it to 'xla', or install "
            "JAX for CUDA (README.md has the line)"
        )
