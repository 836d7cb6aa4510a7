"""The devices that JAX computes on, and one line where they are not what was asked for, or not for it."""

from collections.abc import Callable

import jax

from nat_ar.config_json import ConfigError
from nat_ar.runtime import training_kernels


def local() -> list[jax.Device]:
    """The devices of this process. Raises ConfigError where JAX cannot start a platform that JAX_PLATFORMS names."""
    return _found(jax.local_devices)


def all_processes() -> list[jax.Device]:
    """The devices of all processes that compute together, in the order of the processes. Raises as `local` does."""
    return _found(jax.devices)


def _found(find: Callable[[], list[jax.Device]]) -> list[jax.Device]:
    try:
        return find()
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


def require_fast_training(dtype: str, num_devices: int) -> None:
    """Raises ConfigError where a network would train no faster in this type than in float32, and less exactly: in
    bfloat16 on a CPU that runtime.training_kernels has no instructions for, or that is taken for several devices."""
    if dtype != "bfloat16" or "cpu" not in {device.platform for device in local()}:
        return
    instead = "set the dtype of the network (transformer.dtype) to 'float32'"
    if not training_kernels.multiply_bfloat16():
        raise ConfigError(
            "dtype 'bfloat16' trains no faster than float32 on this CPU, which has neither AMX nor AMD's AVX512-BF16 "
            f"(or nat_ar found no C++ compiler), and less exactly: {instead}, or train on a GPU"
        )
    if num_devices > 1:
        raise ConfigError(
            f"dtype 'bfloat16' trains on one device only where that is a CPU, got {num_devices}: {instead}, or "
            "training.num_devices to 1"
        )
