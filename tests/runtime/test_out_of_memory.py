"""Which memory is too small is said of the device where it is."""

from pathlib import Path
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


def test_programs_for_which_a_process_has_no_more_mappings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without the check: LLVM ERROR: Unable to allocate section memory, and no process any more."""
    maps, limit = tmp_path / "maps", tmp_path / "limit"
    maps.write_text("a mapping\n" * 96)
    monkeypatch.setattr(out_of_memory, "MAPPINGS", maps)
    monkeypatch.setattr(out_of_memory, "MAPPINGS_LIMIT", limit)
    out_of_memory.require_mappings("fewer")  # not Linux: no such limit
    limit.write_text("200\n")
    out_of_memory.require_mappings("fewer")
    limit.write_text("100\n")
    with pytest.raises(OutOfMemoryError, match=r"96 of the 100 .*; fewer, or .*max_map_count=1600"):
        out_of_memory.require_mappings("fewer")


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
