"""Rows of results.jsonl with every key, for tests that change some of them."""

from collections.abc import Callable
from typing import Any

import pytest

Build = Callable[..., dict[str, Any]]

SIGNATURE = "nrefs:1|bs:1000|seed:12345|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"


@pytest.fixture
def quality() -> Build:
    """quality(name, decoding, bleu, **changes); BLEU's interval is one point to either side."""

    def build(name: str, decoding: str, bleu: float, **changes: Any) -> dict[str, Any]:
        score = {"score": bleu, "low": bleu - 1, "high": bleu + 1, "signature": SIGNATURE}
        return {
            "kind": "quality",
            "name": name,
            "run": f"runs/{name}",
            "method": "Autoregressive",
            "family": "AR",
            "decoding": decoding,
            "training_data": "raw",
            "split": "test",
            "data_hash": "d" * 64,
            "config_hash": "c" * 64,
            "test_hash": "e" * 64,
            "checkpoint_step": 1000,
            "parameters_hash": "a" * 64,
            "rescorer": None,
            "teacher": None,
            "start_from": None,
            "parameters": 1_234_567,
            "device": "cpu",
            "dtype": "float32",
            "date": "2026-01-02T03:04:05+00:00",
            "command": f"python -m nat_ar evaluate runs/{name}",
            "sentences": 500,
            "bleu": score,
            "chrf": {**score, "score": bleu + 20, "signature": "nrefs:1|nw:2"},
            "ter": {**score, "score": 100 - bleu, "signature": "nrefs:1|tok:tercom"},
            "domains": {},
            "lengths": {},
            "length_ratio": 1.0,
            "repetition": 0.04,
            "repetition_sentences": 0.5,
            "steps": 9.5,
            "valid": None,
            "mixed": None,
            "hypotheses": "translations.txt",
            "references": "references.txt",
            "train_seconds": 5400.0,
            "train_steps": 20_000,
            "train_target_tokens": 1_000_000,
            "warnings": [],
            **changes,
        }

    return build


@pytest.fixture
def speed() -> Build:
    """speed(name, decoding, mean latency, **changes); its interval is a tenth to either side."""

    def build(name: str, decoding: str, mean: float, **changes: Any) -> dict[str, Any]:
        return {
            "kind": "speed",
            "name": name,
            "run": f"runs/{name}",
            "method": "Autoregressive",
            "family": "AR",
            "decoding": decoding,
            "training_data": "raw",
            "split": "test",
            "data_hash": "d" * 64,
            "config_hash": "c" * 64,
            "checkpoint_step": 1000,
            "parameters_hash": "a" * 64,
            "rescorer": None,
            "teacher": None,
            "start_from": None,
            "device": "cpu",
            "dtype": "float32",
            "date": "2026-01-03T03:04:05+00:00",
            "command": "python -m nat_ar benchmark runs/*",
            "threads": 2,
            "versions": {"jax": "0.10.2"},
            "latency_ms": {
                "mean": mean,
                "p50": mean * 0.9,
                "p95": mean * 2,
                "low": mean * 0.9,
                "high": mean * 1.1,
            },
            "throughput": 8000 / mean,
            "throughput_batch": 64,
            "throughput_curve": {"1": 1000 / mean, "64": 8000 / mean},
            "split_ms": {"tokenizer": 0.1, "encoder": 1, "decoder": mean - 1.2, "detokenizer": 0.1},
            "compile_seconds": 1.0,
            "recompilations": 0,
            "sentences": 100,
            "steps": 9.5,
            **changes,
        }

    return build
