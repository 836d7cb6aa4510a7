"""Captions by wait-k: what is written word by word is what is written of the whole."""

import dataclasses
from pathlib import Path

import jax
import pytest

import nat_ar
from nat_ar.config_json import ConfigError
from nat_ar.data.arrays import PreparedData
from nat_ar.evaluation import latency
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.run import Run
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.ctc import Ctc
from nat_ar.pipeline import compare
from nat_ar.pipeline.replay import replay as replayed
from nat_ar.search.ctc import ChunkWaitK
from nat_ar.search.wait_k import WaitK
from nat_ar.streaming.captioner import Captioner
from toys import TINY

CAUSAL = dataclasses.replace(TINY, encoder_attention="causal")
LONG = "a b d c a b d c a b"  # outgrows the first bucket


@pytest.fixture(scope="module")
def waiting(tiny_runs, start_run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    method = Autoregressive(transformer=CAUSAL, wait_k=(1, 2, 3), decoding=WaitK(k=2))
    data = tiny_runs.autoregressive.config().data
    run = Run(tmp_path_factory.mktemp("waiting") / "run")
    return start_run(
        run, ExperimentConfig("waiting", data, method), PreparedData.load(data.directory)
    )


@pytest.fixture(scope="module")
def captioner(waiting: Run) -> Captioner:
    return nat_ar.caption(waiting, "Wait()")


@pytest.mark.parametrize("source", ["a", "a b d", LONG])
def test_what_is_written_is_what_is_written_of_the_whole(waiting: Run, captioner, source) -> None:
    (whole,) = nat_ar.load(waiting.directory).translate([source])
    caption = captioner.replay(source)
    assert " ".join(caption.final) == " ".join(whole.texts[0].split())
    assert latency.erasure(caption.shown) == 0
    before: list[int] = []
    for count in range(1, len(source.split()) + 1):  # and its tokens are written once
        update = captioner.read(source.split()[count - 1], is_last=count == len(source.split()))
        tokens = list(captioner._said.tokens)
        assert tokens[: len(before)] == before
        assert update.is_final or len(tokens) <= max(2 * count - 1, 0)  # "a": two pieces at most
        before = tokens
    assert before == whole.tokens[0]


@pytest.fixture(scope="module")
def frames(tiny_runs, start_run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Whose frames wait."""
    method = Ctc(CAUSAL, upsample_factor=2, wait_k=(1, 2, 3), decoding=ChunkWaitK(k=2))
    data = tiny_runs.autoregressive.config().data
    run = Run(tmp_path_factory.mktemp("frames") / "run")
    return start_run(
        run, ExperimentConfig("frames", data, method), PreparedData.load(data.directory)
    )


@pytest.mark.parametrize("source", ["a", "a b d", LONG])
def test_what_frames_say_is_what_they_say_of_the_whole(frames: Run, source: str) -> None:
    """In a pass an update, and none before a frame has read all that it waits for."""
    captioner = nat_ar.caption(frames, "Wait()")
    (whole,) = nat_ar.load(frames.directory).translate([source])
    caption = captioner.replay(source)
    assert caption.final
    assert " ".join(caption.final) == " ".join(whole.texts[0].split())
    assert latency.erasure(caption.shown) == 0
    before: list[int] = []
    words = source.split()
    for count, word in enumerate(words, 1):
        update = captioner.read(word, is_last=count == len(words))
        (read,) = captioner.translator.vocabulary.encode_source([" ".join(words[:count])])
        tokens = list(captioner._said.tokens)
        assert tokens[: len(before)] == before
        assert update.passes == (update.is_final or len(read) >= 2)
        assert update.is_final or len(tokens) <= 2 * max(len(read) - 1, 0)
        before = tokens
    assert before == whole.tokens[0]


def test_frames_that_wait_are_replayed_and_compared_as_others(
    frames: Run, waiting: Run, tmp_path: Path
) -> None:
    rows = [
        replayed(run, "Wait()", decoding=decoding, sentences=4)
        for run, decoding in ((frames, "ChunkWaitK(k=1)"), (frames, None), (waiting, None))
    ]
    assert [row["decoding"] for row in rows] == ["ChunkWaitK(k=1)", "ChunkWaitK(k=2)", "WaitK(k=2)"]
    assert [row["family"] for row in rows] == ["NAT", "NAT", "AR"]
    assert [row["erasure"] for row in rows] == [0, 0, 0]
    shown = compare.save_captions([frames.directory, waiting.directory], [tmp_path / "captions.md"])
    assert "ChunkWaitK(k=1)" in shown
    assert "Wait()" in (tmp_path / "captions.md").read_text("utf-8")


def test_a_pass_writes_a_token_once(captioner) -> None:
    """Passes of all updates: one a token and one for its end, as for the whole; more where the source outgrew its
    bucket."""
    caption = captioner.replay("a b d")
    assert sum(update.passes for update in caption.updates) == len(captioner._said.tokens) + 1 or (
        len(captioner._said.tokens) == 2 * 7 + 10  # cut at its limit
    )


def test_an_update_traces_nothing(captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    """To trace a program takes many times as long as to run it."""
    captioner.replay("a b d")  # compiles

    def refuse(*_: object) -> None:
        raise AssertionError("traced")

    monkeypatch.setattr(jax, "eval_shape", refuse)
    assert captioner.replay("a b d").final


def test_it_follows_wait_k_only(tiny_runs, waiting: Run) -> None:
    with pytest.raises(
        ConfigError, match=r"Wait follows the decodings WaitK\(k\) and .*, got Greedy"
    ):
        nat_ar.caption(tiny_runs.autoregressive, "Wait()", decoding="Greedy()")
    assert nat_ar.caption(waiting, "Retranslate()").replay("a b").final  # the others go as well


def test_the_other_policies_go_as_well(frames: Run) -> None:
    for policy in ("Retranslate(mask_k=1)", "AppendOnly()", "LocalAgreement()"):
        for decoding in ("ChunkWaitK(k=2)", "BestPath()"):
            assert nat_ar.caption(frames, policy, decoding=decoding).replay("a b").final
    with pytest.raises(ConfigError, match=r"Wait follows .*, got BestPath"):
        nat_ar.caption(frames, "Wait()", decoding="BestPath()")


def test_files_of_captions_know_it(waiting: Run, tmp_path: Path) -> None:
    captioner = nat_ar.caption(waiting, "Wait()", decoding="WaitK(k=1)")
    captioner.warm_up(9)
    assert captioner.replay(LONG).final
