"""The protocol of the benchmark: on a stand-in without a model, and on a decoder of a few hundred
parameters where JAX must be there."""

import pytest
from flax import nnx

from nat_ar.data import vocabulary
from nat_ar.data.vocabulary import Vocabulary, VocabularyConfig
from nat_ar.evaluation.speed import driver, machine, protocol, throughput
from nat_ar.evaluation.speed.config import SpeedConfig
from nat_ar.evaluation.speed.machine import Peaks
from nat_ar.methods import base
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.search.greedy import Greedy
from nat_ar.translation.model import Model
from nat_ar.translation.translation import Translation
from nat_ar.translation.translator import Translator
from toys import TINY

TEXT = ["a", "b a", "c b a", "", "a b c", "c c c"]
"""Five sentences of one bucket, and an empty line."""


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    directory = tmp_path_factory.mktemp("vocabulary")
    return vocabulary.train(TEXT, TEXT, directory, VocabularyConfig(size=10, byte_fallback=False))


@pytest.fixture(scope="module")
def model(letters: Vocabulary) -> Model:
    sizes = base.VocabularySizes(letters.source_size, letters.target_size, is_joint=True)
    built = Autoregressive(transformer=TINY).build(sizes, rngs=nnx.Rngs(0))
    return Model(*nnx.split(built, nnx.Param))


@pytest.fixture(scope="module")
def translator(model: Model, letters: Vocabulary) -> Translator:
    return Translator(model, letters, decoding=Greedy())


class Recording(Translator):
    """Translates like the translator that it is given, and notes what it is asked for."""

    def __init__(self, inner: Translator, name: str, calls: list[tuple[str, int]]) -> None:
        super().__init__(inner.model, inner.vocabulary, decoding=inner.decoding)
        self.compiled, self.name, self.calls = inner.compiled, name, calls

    def translate(self, sentences, **options) -> list[Translation]:
        self.calls.append((self.name, len(sentences)))
        return super().translate(sentences, **options)


@pytest.mark.slow
def test_every_system_is_measured_on_the_same_sentences(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Peaks(matmul={"float32": 1e3}, bandwidth={8: 1e9})
    monkeypatch.setattr(machine, "measure", lambda: slow)
    calls: list[tuple[str, int]] = []
    systems = [Recording(translator, name, calls) for name in "AB"]
    config = SpeedConfig(sentences=3, repetitions=4, batch_sizes=(1, 2, 64), throughput_sentences=4)
    first, second = protocol.measure(systems, TEXT, config)
    for found in (first, second):
        assert (found.sentences, found.repetitions, found.throughput_sentences) == (3, 4, 4)
        assert found.throughput.keys() == {1, 2, 64}
        assert found.throughput[1] == pytest.approx(1000 / found.latency.mean)
        assert found.latency.low <= found.latency.mean <= found.latency.high
        assert found.latency.p50 <= found.latency.p95
        assert found.throughput[found.best_batch] == max(found.throughput.values())
        assert found.steps >= 1
        assert found.pieces.tokenizer > 0
        assert found.pieces.encoder > 0
        assert found.pieces.detokenizer > 0
        assert (len(found.seconds), found.batch_limit) == (3, "batch_sizes")
        assert [(bin_.bucket, bin_.sentences) for bin_ in found.lengths] == [(8, 3)]
        assert found.lengths[0].mean == pytest.approx(found.latency.mean)
        # On a machine of 1000 FLOP/s the floor is the FLOPs in milliseconds.
        assert found.cost is not None
        assert found.cost.floor_seconds == pytest.approx(found.cost.flops / 1e3)
        assert (found.cost.bound, found.peaks) == ("arithmetic", slow)
    # Six calls to warm up, then A B A B ...: 3 sentences x 4 repetitions.
    alone = calls[:36]
    assert alone[:12] == [("A", 1)] * 6 + [("B", 1)] * 6
    assert alone[12:] == [("A", 1), ("B", 1)] * 12
    assert calls[-8:] == [("A", 4), ("B", 4)] * 4  # the passes at batch 64
    # Programs of one batch size at a time: a process has mappings for some fifteen hundred.
    assert {rows for rows, _ in translator.compiled} == {4}


@pytest.mark.slow
def test_a_batch_size_that_no_batch_reaches_is_left_out(translator: Translator) -> None:
    config = SpeedConfig(repetitions=3, batch_sizes=(1, 16, 64), floors=False)
    (found,) = protocol.measure([Recording(translator, "A", [])], TEXT, config)
    assert found.sentences == 5  # all but the empty line
    assert found.throughput.keys() == {1, 16}  # 5 sentences are one batch either way
    assert found.batch_limit == "sentences"


def test_a_system_that_does_nothing_is_not_fast(translator: Translator) -> None:
    class Idle(Recording):
        def translate(self, sentences, **options) -> list[Translation]:
            return [Translation([""], [0.0], [[]], 0) for _ in sentences]

    with pytest.raises(driver.LostSentenceError, match="1 sentences went in, 0 were decoded"):
        protocol.measure([Idle(translator, "idle", [])], TEXT, SpeedConfig(floors=False))
    with pytest.raises(ValueError, match="got 2 empty lines"):
        protocol.measure([translator], ["", " "], SpeedConfig())


@pytest.mark.slow
def test_batches_grow_until_the_sentences_fill_no_larger_one(translator: Translator) -> None:
    config = SpeedConfig(repetitions=3, batch_sizes=(1, 2), grow_batches=True, floors=False)
    (found,) = protocol.measure([Recording(translator, "A", [])], TEXT, config)
    assert found.throughput.keys() == {
        1,
        2,
        4,
        8,
    }  # 4 + 1 sentences, then all 5; 16 would hold no more
    assert found.batch_limit == "sentences"
    assert found.throughput_sentences == 5
    assert (found.cost, found.peaks) == (None, None)


@pytest.mark.slow
def test_batches_grow_until_the_memory_is_planned_for(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    four, eight = (
        plan.temp_size_in_bytes + plan.output_size_in_bytes
        for plan in (translator.compile(rows, 8).memory_analysis() for rows in (4, 8))
    )
    assert four < eight
    free = int(0.5 * (four + eight) / throughput.MEMORY_SHARE)
    monkeypatch.setattr(throughput.out_of_memory, "free_bytes", lambda device: free)
    config = SpeedConfig(repetitions=3, batch_sizes=(1, 2), grow_batches=True, floors=False)
    (found,) = protocol.measure([Recording(translator, "A", [])], TEXT, config)
    assert found.throughput.keys() == {1, 2, 4}
    assert found.batch_limit == "memory"
