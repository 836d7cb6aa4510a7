"""One autoregressive run that has learnt something of the toy language, for every test of exports."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nat_ar.data import loader, prepare
from nat_ar.data.arrays import PreparedData
from nat_ar.data.prepare import DataConfig
from nat_ar.data.toy.corpus import ToyCorpus
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.run import Run
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.special_tokens import EOS
from nat_ar.training import step
from nat_ar.training.checkpoint import Checkpoints
from nat_ar.training.loop import Progress
from nat_ar.translation.model import abstract_model, vocabulary_sizes
from nat_ar.types import Batch

SMALL = TransformerConfig(
    d_model=32,
    d_hidden=96,
    num_heads=4,
    num_encoder_layers=2,
    num_decoder_layers=1,
    dropout_rate=0.0,
)
WIDTH, ROWS, STEPS = 16, 32, 300


@dataclasses.dataclass(frozen=True)
class ToyRun:
    run: Run
    sentences: list[str]
    """200 of the test, of up to 15 subwords: one bucket"""


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory, start_run: Callable[..., Run]) -> ToyRun:
    directory = tmp_path_factory.mktemp("toy_run")
    data_config = DataConfig(
        directory=str(directory / "data"),
        corpus=ToyCorpus(num_train=6000, num_validation=20, num_test=700),
        vocabulary=VocabularyConfig(size=256, byte_fallback=False),
        aligner=None,
    )
    prepare.prepare(data_config, quiet=True)
    data = PreparedData.load(data_config.directory)
    config = ExperimentConfig("toy", data_config, Autoregressive(transformer=SMALL))
    run = start_run(Run(directory / "run"), config, data)
    params = nnx.state(
        config.method.build(vocabulary_sizes(data.vocabulary), rngs=nnx.Rngs(0)),
        nnx.Param,
    )
    learnt = _train(run, data, params)
    state = step.initial_state(learnt, optax.sgd(0.1), seed=0, has_average=False)
    state = dataclasses.replace(state, step=jnp.int32(STEPS))
    checkpoints = Checkpoints(run.checkpoints_directory)
    checkpoints.save(state, dataclasses.asdict(Progress()), score=2.0)
    checkpoints.close()
    test = data.split("test")
    sizes = np.diff(test.source.offsets)
    sentences = [text for text, size in zip(test.source_text, sizes, strict=True) if size < WIDTH]
    return ToyRun(run, sentences[:200])


def _train(run: Run, data: PreparedData, params: nnx.State) -> nnx.State:
    """Adam with half a cosine, all steps as one program."""
    graphdef, _ = abstract_model(run.config().method, data.vocabulary)
    train = data.split("train")
    fits = (np.diff(train.source.offsets) < WIDTH) & (np.diff(train.target.offsets) < WIDTH)
    members = np.flatnonzero(fits)
    draws = np.random.default_rng(0).choice(members, (STEPS, ROWS))
    source, target = (
        jnp.asarray(loader.pad_rows(side, draws.ravel(), WIDTH, end=EOS).reshape(STEPS, ROWS, -1))
        for side in (train.source, train.target)
    )
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, STEPS))

    def update(carry, batch):
        params, moments = carry

        def objective(params):
            model = nnx.merge(graphdef, params)
            return model.loss(Batch(*batch), step=jnp.int32(0), rngs=None).objective

        gradients = jax.grad(objective)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), moments), None

    @jax.jit
    def fit(params):
        start = (params, optimizer.init(params))
        (params, _), _ = jax.lax.scan(update, start, (source, target))
        return params

    return fit(params)
