"""How a process is told with which others it computes: by options, by SLURM, Open MPI or Kubernetes."""

from collections.abc import Mapping
from typing import Any

from nat_ar.config_json import ConfigError

LAUNCHERS = {
    "SLURM": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "Kubernetes": ("NAT_AR_PROCESSES", "JOB_COMPLETION_INDEX"),
}
"""what says the number of processes, and which of them this is. An indexed job of Kubernetes does not tell its pods how
many they are, nor that they belong together: its manifest sets the first variable"""


def requested(
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    environment: Mapping[str, str],
) -> dict[str, Any] | None:
    """What JAX is to be started with, from options or else from what a launcher says; None where
    this process is alone.

    With an address, HOST:PORT of process 0, what is missing of the rest is taken from the launcher, and every process
    has all devices that it sees. Without one, JAX knows the address by SLURM and Open MPI, and gives each process one
    GPU, and by the API of Kubernetes. Raises ConfigError for what does not fit together."""
    launcher, told = _launched(environment)
    if coordinator is None:
        if processes is not None or process is not None:
            raise ConfigError(
                "--processes and --process belong to --coordinator HOST:PORT, the address at which process 0 listens: "
                "give all three"
            )
        return None if launcher is None or told[0] == 1 else {}
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(
            f"--coordinator is the address at which process 0 listens, HOST:PORT: got {coordinator!r}"
        )
    processes = told[0] if processes is None else processes
    process = told[1] if process is None else process
    if processes is None or process is None or not 0 <= process < processes:
        raise ConfigError(
            f"--coordinator goes with --processes N, how many there are, and --process, 0 to N - 1, which of them "
            f"this is: got {processes} and {process}"
        )
    return {
        "coordinator_address": coordinator,
        "num_processes": processes,
        "process_id": process,
        "cluster_detection_method": "deactivate",
    }


def _launched(
    environment: Mapping[str, str],
) -> tuple[str | None, tuple[int | None, int | None]]:
    """The launcher of several processes, their number and which this is, as far as it says."""
    for name, variables in LAUNCHERS.items():
        number, own = (_number(environment.get(variable)) for variable in variables)
        if number is not None:
            return name, (number, own)
    return None, (None, None)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
