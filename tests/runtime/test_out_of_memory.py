"""Which memory is too small is said of the device where it is."""

from typing import Any
from unittest import mock

import jax
import pytest

from nat_ar.runtime import out_of_memory
from nat_ar.runtime.out_of_memory import GIB, OutOfMemoryError


def device(number: int, used: float) -> Any:
    stats = {"bytes_limit": 80 * GIB, "bytes_in_use": int(used * GIB)}
    one = mock.NonCallableMock(spec=jax.Device)  # passes for one where types are checked
    one.id, one.device_kind, one.memory_stats = number, "H100", lambda: stats
    return one


@pytest.mark.parametrize(
    ("used", "said"),
    [
        (
            [1.0, 79.5, 2.0],
            r"0.5 GiB were asked .*, H100 1 has 80.0 GiB, 79.5 of them in use; rest",
        ),
        ([79.5], r", H100 has 80.0 GiB, 79.5 of them in use; rest"),
    ],
)
def test_the_fullest_device_is_named(
    monkeypatch: pytest.MonkeyPatch, used: list[float], said: str
) -> None:
    monkeypatch.setattr(jax, "local_devices", lambda: [*map(device, range(len(used)), used)])
    with pytest.raises(OutOfMemoryError, match=said), out_of_memory.explained("rest"):
        raise MemoryError(f"failed to allocate {GIB // 2} bytes")
