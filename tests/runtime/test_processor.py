"""What tells processors apart."""

import pytest

from nat_ar.runtime import processor

MILAN = {
    "model name": "AMD EPYC",
    "cpu family": "25",
    "model": "1",
    "flags": "fpu sse2 fma avx2 sha_ni",
}


def test_a_kind_is_name_generation_and_vector_extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_first", lambda: MILAN)
    assert processor.kind() == "AMD EPYC (family 25, model 1), avx2 fma"
    monkeypatch.setattr(processor, "_first", lambda: {**MILAN, "model": "17"})
    assert processor.kind() == "AMD EPYC (family 25, model 17), avx2 fma"


def test_arm_has_numbers_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    neoverse = {"CPU implementer": "0x41", "CPU part": "0xd0c", "Features": "fp asimd asimddp"}
    monkeypatch.setattr(processor, "_first", lambda: neoverse)
    assert processor.kind() == "ARM 0x41 0xd0c, asimd asimddp"


def test_this_processor_has_a_name() -> None:
    assert processor.name()
    assert set(processor.extensions()) <= set(processor.EXTENSIONS)
