import json
import os
import subprocess
import sys
from unittest import mock

import jax
import pytest

from nat_ar.config_json import ConfigError
from nat_ar.evaluation.speed import machine
from nat_ar.evaluation.speed.machine import MIB, Peaks


def test_times_by_hand() -> None:
    peaks = Peaks(
        matmul={"float32": 100e9, "bfloat16": 400e9}, bandwidth={8 * MIB: 40e9, 256 * MIB: 20e9}
    )
    assert peaks.product_seconds(2 * 1000**3, "float32") == pytest.approx(0.020)
    assert peaks.product_seconds(2 * 1000**3, "bfloat16") == pytest.approx(0.005)
    assert peaks.product_seconds(2 * 1000**3, "int8") == pytest.approx(
        0.005
    )  # not measured: the best
    assert peaks.read_seconds(256 * MIB) == pytest.approx(256 * MIB / 20e9)
    # What might stay in a cache is read at the cache's rate: a floor is never too high.
    assert peaks.read_seconds(255 * MIB) == pytest.approx(255 * MIB / 40e9)
    assert peaks.read_seconds(1000) == pytest.approx(1000 / 40e9)
    assert peaks.read_seconds(0) == 0
    disturbed = Peaks(
        peaks.matmul, {8 * MIB: 10e9, 256 * MIB: 20e9}
    )  # a cache is not slower than memory
    assert disturbed.read_seconds(8 * MIB) == pytest.approx(8 * MIB / 20e9)


def test_what_is_measured_is_positive_and_of_the_right_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "CPU_SIDE", 128)
    monkeypatch.setattr(machine, "CPU_READS", (MIB, 4 * MIB))
    monkeypatch.setattr(machine, "BYTES_A_CALL", 4 * MIB)
    peaks = machine.measure()
    assert peaks.matmul.keys() == {"float32"}
    assert list(peaks.bandwidth) == [MIB, 4 * MIB]
    # Any machine of this century: above 10 MFLOP/s and 10 MB/s, below 1 PFLOP/s and 100 TB/s.
    assert all(1e7 < rate < 1e15 for rate in peaks.matmul.values())
    assert all(1e7 < rate < 1e14 for rate in peaks.bandwidth.values())
    assert peaks.best(peaks) == peaks
    assert peaks.best(Peaks({"float32": 1e20}, peaks.bandwidth)).matmul == {"float32": 1e20}


def test_the_device_is_named() -> None:
    platform, _, kind = machine.device_name().partition(": ")
    assert platform == jax.default_backend()
    assert kind
    assert machine.num_threads() >= 1


CAN_PIN = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="cores can be chosen on Linux only"
)


@CAN_PIN
def test_a_pinned_process_has_as_many_threads_in_xlas_pool() -> None:
    code = """if True:
        import json, jax
        from nat_ar.evaluation.speed import machine
        before = machine.num_pool_threads()
        machine.pin(1)
        jax.devices()
        print(json.dumps([before, machine.num_threads(), machine.num_pool_threads()]))
        machine.pin(1)  # as it is
    """
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=300,
    )
    assert json.loads(run.stdout) == [0, 1, 1]


@CAN_PIN
def test_what_cannot_be_pinned_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    most = machine.num_threads()
    with pytest.raises(ConfigError, match=f"expected 1 to {most}, .* got {most + 1}"):
        machine.pin(most + 1)
    with pytest.raises(ConfigError, match="expected 1 to"):
        machine.pin(0)
    monkeypatch.setattr(machine, "num_pool_threads", lambda: most + 1)
    with pytest.raises(ConfigError, match=f"got {most} when {most + 1} are running"):
        machine.pin(most)
    monkeypatch.delattr(os, "sched_setaffinity")
    with pytest.raises(ConfigError, match=f"expected a platform .* got {sys.platform}"):
        machine.pin(1)
    assert machine.num_threads() == most


def test_the_summary_names_device_count_dtype_and_threads() -> None:
    said = machine.summary(["float32", "bfloat16", "float32"])
    assert said.startswith(f"nat-ar: {machine.device_name()}, {jax.local_device_count()} device")
    assert f"float32, bfloat16, {machine.num_threads()} CPU thread" in said


def test_the_summary_names_every_kind_of_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the machines of a job are not alike."""
    kinds = ["NVIDIA A100", "NVIDIA A100", "NVIDIA H100"]
    found = [mock.NonCallableMock(spec=jax.Device) for _ in kinds]
    for device, kind in zip(found, kinds, strict=True):
        device.platform, device.device_kind = "gpu", kind
    monkeypatch.setattr(machine.devices, "all_processes", lambda: found)
    said = machine.summary(["float32"])
    assert said.startswith("nat-ar: gpu: NVIDIA A100 and gpu: NVIDIA H100, 3 devices, float32, ")
