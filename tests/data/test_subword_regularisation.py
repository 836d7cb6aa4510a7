"""Every epoch has the same texts in other pieces, and a run that goes on sees those of one that never stopped."""

import dataclasses
import itertools
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from jaxtyping import Bool

from nat_ar.config_json import ConfigError
from nat_ar.data import prepare
from nat_ar.data.alignment.model import AlignerConfig
from nat_ar.data.arrays import PreparedData
from nat_ar.data.batching import BatchingConfig, BatchPlan
from nat_ar.data.loader import HostBatch, Loader, Pairs, Place
from nat_ar.data.prepare import DataConfig
from nat_ar.data.ragged import Ragged
from nat_ar.data.subword_regularisation import IsUsable, SampledPieces, SubwordRegularisation
from nat_ar.data.text_files import TextFiles
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.pipeline import train
from nat_ar.special_tokens import EOS, NUM_SPECIAL
from nat_ar.training.config import TrainingConfig
from toys import TINY

BUCKETS = BatchingConfig(batch_tokens=64, buckets=(8, 16, 32))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """72 pairs such as "small house dog" and "small houses dogs"."""
    directory = tmp_path_factory.mktemp("sampled")
    words = ["small", "great", "beautiful"], ["house", "kitchen", "answer"], ["dog", "bicycle"]
    sentences = [" ".join(chosen) for chosen in itertools.product(*words)] * 4
    for name, part in (("train", sentences), ("validation", sentences[:4])):
        lines = (f"{text}\t{text.replace(' ', 's ')}s\n" for text in part)
        (directory / f"{name}.tsv").write_text("".join(lines), "utf-8")
    config = DataConfig(
        directory=str(directory / "data"),
        corpus=TextFiles(
            train=(str(directory / "train.tsv"),),
            validation=(str(directory / "validation.tsv"),),
            bleu_tokenizer="13a",
        ),
        vocabulary=VocabularyConfig(size=60, kind="bpe", byte_fallback=False),
        remove_overlap=False,
    )
    prepare.prepare(config, quiet=True)
    return config


@pytest.fixture(scope="module")
def data(config: DataConfig) -> PreparedData:
    return PreparedData.load(config.directory)


def always(source: Ragged, target: Ragged) -> Bool[np.ndarray, "pairs"]:
    return np.ones(len(source), np.bool_)


def sampled_of(
    data: PreparedData,
    *,
    source_alpha: float = 0.2,
    target_alpha: float = 0.2,
    seed: int = 1,
    is_usable: IsUsable = always,
) -> SampledPieces:
    alphas = SubwordRegularisation(source_alpha, target_alpha)
    return SampledPieces(
        data.split("train"), data.vocabulary, alphas, kind="bpe", seed=seed, is_usable=is_usable
    )


def rows_of(ragged: Ragged) -> list[list[int]]:
    return [ragged[row].tolist() for row in range(len(ragged))]


def epoch_of(sampled: SampledPieces, number: int) -> tuple[list[list[int]], list[list[int]]]:
    source, target = sampled.epoch(number)
    return rows_of(source), rows_of(target)


def test_an_epoch_is_a_function_of_seed_and_number(data: PreparedData) -> None:
    first, second = epoch_of(sampled_of(data), 0), epoch_of(sampled_of(data), 1)
    assert epoch_of(sampled_of(data), 0) == first
    assert first != second
    assert epoch_of(sampled_of(data, seed=2), 0) != first
    split = data.split("train")
    for source, target in (first, second):
        assert data.vocabulary.decode_target(source) == split.source_text
        assert data.vocabulary.decode_target(target) == split.target_text


def test_source_and_target_are_drawn_apart(data: PreparedData) -> None:
    """Else the same words would be cut at the same places on both sides."""
    sampled = sampled_of(data)
    same = dataclasses.replace(
        data.split("train"), target=data.split("train").source, directory=data.directory / "same"
    )
    same.__dict__["target_text"] = same.__dict__["source_text"] = data.split("train").source_text
    sampled.split = same
    source, target = epoch_of(sampled, 0)
    assert data.vocabulary.decode_target(source) == data.vocabulary.decode_target(target)
    assert source != target


def test_alpha_0_is_the_prepared_side(data: PreparedData) -> None:
    split = data.split("train")
    plain, usual = rows_of(split.source), rows_of(split.target)
    assert epoch_of(sampled_of(data, source_alpha=0.0, target_alpha=0.0), 3) == (plain, usual)
    source, target = epoch_of(sampled_of(data, target_alpha=0.0), 3)
    assert source != plain
    assert target == usual


def test_pairs_that_cannot_be_used_as_sampled_keep_the_prepared_pieces(data: PreparedData) -> None:
    split = data.split("train")
    longest = int(split.source.lengths.max())

    def is_short(source: Ragged, target: Ragged) -> Bool[np.ndarray, "pairs"]:
        return source.lengths <= longest

    free, bound = sampled_of(data).epoch(0), sampled_of(data, is_usable=is_short).epoch(0)
    too_long = free[0].lengths > longest
    assert 0 < too_long.sum() < len(too_long)
    for row in range(len(split)):
        expected = (split.source, split.target) if too_long[row] else free
        for side, of_side in zip(bound, expected, strict=True):
            np.testing.assert_array_equal(side[row], of_side[row])


def loader_of(data: PreparedData) -> Loader:
    split = data.split("train")
    plan = BatchPlan(split.length_order, BUCKETS, seed=1)
    return Loader(Pairs(split.source, split.target, split.fertilities), plan, sampled_of(data))


def contents(batches: Iterator[tuple[Place, HostBatch]], number: int) -> list:
    found = list(itertools.islice(batches, number))
    return [(*place, batch.source.tolist(), batch.target.tolist()) for place, batch in found]


def test_batches_go_on_exactly_where_they_stopped(data: PreparedData) -> None:
    """Epochs have other lengths, hence other numbers of batches; the last one of each says so."""
    whole = contents(loader_of(data).batches(0, 0), 60)
    ends = [place for place, (_, _, ends_epoch, *_) in enumerate(whole) if ends_epoch]
    assert len(ends) >= 2
    for end in ends:
        assert whole[end + 1][:2] == (whole[end][0] + 1, 0)
    for start in (1, ends[0], ends[0] + 1, ends[1] + 2):
        epoch, position, *_ = whole[start]
        assert contents(loader_of(data).batches(epoch, position), 60 - start) == whole[start:]


def test_an_epoch_has_every_text_once_in_the_narrowest_bucket(data: PreparedData) -> None:
    texts = []
    for place, batch in loader_of(data).batches(2, 0):
        assert batch.fertilities is None
        width = batch.source.shape[1]
        ends = np.maximum((batch.source == EOS).argmax(1), (batch.target == EOS).argmax(1))
        narrower = {8: 0, 16: 8, 32: 16}[width]
        is_real = batch.source[:, 0] >= NUM_SPECIAL
        assert np.all(ends[is_real] + 1 > narrower)
        kept = [row[row >= NUM_SPECIAL] for row in batch.source[is_real]]
        texts += data.vocabulary.decode_target(kept)
        if place.ends_epoch:
            break
    assert sorted(texts) == sorted(data.split("train").source_text)


def test_the_thread_that_samples_ahead_ends(data: PreparedData) -> None:
    before = set(threading.enumerate())
    batches = loader_of(data).batches(0, 0)
    next(batches)
    threads = [thread for thread in threading.enumerate() if thread not in before]
    assert len(threads) == 1
    batches.close()  # type: ignore[attr-defined]
    assert not threads[0].is_alive()


def test_methods_that_count_pieces_are_refused(config: DataConfig) -> None:
    training = TrainingConfig(subword_regularisation=SubwordRegularisation())
    with pytest.raises(
        ConfigError, match="FertilityNat learns fertilities, which count the prepared"
    ):
        ExperimentConfig("fertility", config, FertilityNat(TINY), training)
    assert config.aligner == AlignerConfig()


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_an_alpha_that_is_no_share_is_refused(alpha: float) -> None:
    with pytest.raises(
        ConfigError, match=r"subword_regularisation.source_alpha must be from 0 to 1"
    ):
        SubwordRegularisation(source_alpha=alpha)
    with pytest.raises(
        ConfigError, match=r"subword_regularisation.target_alpha must be from 0 to 1"
    ):
        SubwordRegularisation(target_alpha=alpha)


def test_training_samples_what_a_method_can_learn(config: DataConfig, data: PreparedData) -> None:
    """Two frames a source token: targets that come out longer than that stay as prepared."""
    alphas = SubwordRegularisation(source_alpha=0.0, target_alpha=0.5)
    training = TrainingConfig(
        batching=BatchingConfig(batch_tokens=64, buckets=(32,)), subword_regularisation=alphas
    )
    method = Ctc(TINY, upsample_factor=2)
    experiment = ExperimentConfig("ctc", config, method, training)
    _, pairs, _ = train.loader_of(data, experiment).epoch(0)

    def can_be_learnt(target: Ragged) -> Bool[np.ndarray, "pairs"]:
        return method.is_feasible(pairs.source.lengths, target.lengths, target.repeats)

    free = sampled_of(data, source_alpha=0.0, target_alpha=0.5).epoch(0)[1]
    assert 0 < can_be_learnt(free).sum() < len(free)
    assert can_be_learnt(pairs.target).all()
    assert rows_of(pairs.target) != rows_of(data.split("train").target)
