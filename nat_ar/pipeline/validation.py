"""What a training measures on its validation split: BLEU of the method's own decoding, and the loss."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Int

from nat_ar.config_json import ConfigError
from nat_ar.data import references
from nat_ar.data.arrays import PreparedData, Split
from nat_ar.data.batching import BatchingConfig, BatchPlan, RowBatch
from nat_ar.data.length_order import LengthOrder
from nat_ar.data.loader import Pairs
from nat_ar.evaluation import metrics
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.run import TrainedModel
from nat_ar.runtime import distributed, lanes, shares
from nat_ar.special_tokens import PAD
from nat_ar.training import step
from nat_ar.translation import decodings
from nat_ar.translation.model import Model
from nat_ar.translation.translator import Translator
from nat_ar.types import Batch, Mean

USUAL = 0.9
"""the share of the pairs that the shorter of two batch shapes has room for"""


def require_criterion(config: ExperimentConfig, data: PreparedData) -> None:
    """Raises ConfigError where the run is to be judged by a validation loss that there is not."""
    is_by_loss = config.training.validation.criterion == "loss"
    if is_by_loss and _loss_batching(config, data.split("validation")) is None:
        raise ConfigError(
            "training.validation.criterion is 'loss', but the validation split has none: no pair fits "
            "training.batching.buckets, or it lacks the fertilities that the method learns; take 'bleu'"
        )


class Validation:
    """Parameters to numbers: "score" (BLEU) and "length_ratio" of translations of raw validation sentences; "loss", the
    training objective on them without dropout, and "perplexity", of the references' words, for methods with a loss
    by the word.

    What the objective makes of a step is what it makes of the last one, so that the losses of a run compare. Pairs
    that no training bucket holds have no loss, nor has a split without the fertilities that a method learns. Processes
    that train together share the batches, and all get the numbers, the same bits whatever the number of processes."""

    def __init__(
        self,
        config: ExperimentConfig,
        data: PreparedData,
        graphdef: nnx.GraphDef,
        teacher: TrainedModel | None,
    ) -> None:
        self.config, self.graphdef, self.teacher = config, graphdef, teacher
        self.vocabulary = data.vocabulary
        split, number = data.split("validation"), config.training.validation.sentences
        self.sources, self.targets = split.source_text[:number], split.target_text[:number]
        self.tokenizer = config.data.corpus.tokenizer
        self.pairs = Pairs(
            split.source.first(number),
            split.target.first(number),
            None if split.fertilities is None else split.fertilities.first(number),
        )
        self.batching = _loss_batching(config, split)
        self.translator: Translator | None = None

    def __call__(self, params: nnx.State) -> dict[str, float]:
        copies = step.on_each_device(params)
        model = Model(self.graphdef, next(iter(copies.values())))
        return {**self._translated(model, list(copies)), **self._loss(copies)}

    def _translated(self, model: Model, devices: Sequence[jax.Device]) -> dict[str, float]:
        method, teacher = self.config.method, self.teacher
        if self.translator is None:
            is_rescored = decodings.needs_scorer(method, method.decoding)
            self.translator = Translator(
                model,
                self.vocabulary,
                decoding=method.decoding,
                scorer=teacher.model if is_rescored and teacher else None,
            )
            self.translator.devices, self.translator.is_shared = devices, True
        else:
            self.translator.use(model)
        found = self.translator.translate(self.sources, title="validate")
        self.translator.copies.free()  # training needs the memory
        return distributed.from_first(lambda: self._judged([one.texts[0] for one in found]))

    def _judged(self, texts: Sequence[str]) -> dict[str, float]:
        words, expected = (
            sum(map(len, references.words(lines, self.tokenizer)))
            for lines in (texts, self.targets)
        )
        return {
            "score": metrics.corpus_bleu(texts, self.targets, tokenize=self.tokenizer),
            "length_ratio": words / max(expected, 1),
        }

    def _loss(self, copies: Mapping[jax.Device, nnx.State]) -> dict[str, float]:
        """By parameters on several devices, round which the batches of this process are dealt."""
        if self.batching is None:
            return {}
        order = LengthOrder.of_lengths(self.pairs.source.lengths, self.pairs.target.lengths)
        batches = list(BatchPlan(order, self.batching, seed=0).epoch(0))
        every = shares.dealt(batches, functools.partial(self._numbers_of, copies=copies))
        return distributed.from_first(lambda: _losses(every or []))

    def _numbers_of(
        self, batches: Sequence[RowBatch], copies: Mapping[jax.Device, nnx.State]
    ) -> list[dict[str, list[float]]]:
        """Total and count of the terms of each batch."""
        return [
            {name: [float(mean.total), float(mean.count)] for name, mean in terms.items()}
            for terms in self._terms_of_each(batches, copies)
        ]

    def _terms_of_each(
        self, batches: Sequence[RowBatch], copies: Mapping[jax.Device, nnx.State]
    ) -> Iterator[dict[str, Mean]]:
        devices = list(copies)[: len(batches)]
        teacher = None if self.teacher is None else self.teacher.model.params
        teachers = {device: jax.device_put(teacher, device) for device in devices}
        tasks = (
            functools.partial(self._terms_of, rows, device, copies[device], teachers[device])
            for rows, device in zip(batches, itertools.cycle(devices), strict=False)
        )
        return lanes.in_order(tasks, len(devices))

    def _terms_of(
        self, rows: RowBatch, device: jax.Device, params: nnx.State, teacher: Any
    ) -> dict[str, Mean]:
        source, target, fertilities, _ = jax.device_put(tuple(self.pairs.padded(rows)), device)
        found = self._terms(params, Batch(source, target, fertilities), teacher)
        return jax.device_get(found)

    @functools.cached_property
    def _terms(self) -> Callable[[nnx.State, Batch, Any], dict[str, Mean]]:
        """The objective, each batch with the weight of its target tokens, and the term `token` of methods that have
        it."""
        teacher_graphdef = None if self.teacher is None else self.teacher.model.graphdef
        last = jnp.int32(self.config.training.max_steps)

        def terms(params: nnx.State, batch: Batch, teacher_params: Any) -> dict[str, Mean]:
            model = nnx.merge(self.graphdef, params)
            teacher = (
                None if teacher_graphdef is None else nnx.merge(teacher_graphdef, teacher_params)
            )
            loss = model.loss(batch, step=last, rngs=None, teacher=teacher)
            tokens = (batch.target != PAD).sum().astype(jnp.float32)
            found = {"objective": Mean(loss.objective * tokens, tokens)}
            return {**found, **{name: x for name, x in loss.terms.items() if name == "token"}}

        return jax.jit(terms)


def _losses(of_batches: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """Of the terms of all batches, total and count, in their order: rounding depends on it."""
    totals: dict[str, Mean] = {}
    for terms in of_batches:
        for name, (total, count) in terms.items():
            mean = Mean(jnp.float32(total), jnp.float32(count))
            totals[name] = totals[name] + mean if name in totals else mean
    losses = {"loss": float(totals["objective"].value)}
    if "token" in totals:
        nats = float(totals["token"].value)
        losses["perplexity"] = math.exp(min(nats, 700.0))  # there is no float beyond e^709
    return losses


def _loss_batching(config: ExperimentConfig, split: Split) -> BatchingConfig | None:
    """How the pairs that are validated share batches; None where there is no loss of them."""
    if config.method.needs_fertilities and split.fertilities is None:
        return None
    number = config.training.validation.sentences
    longest = np.maximum(split.source.lengths, split.target.lengths)[:number] + 1
    return _batching(longest, config.training.batching)


def _batching(lengths: Int[np.ndarray, "pairs"], training: BatchingConfig) -> BatchingConfig | None:
    """Two of the training's buckets, so that little is compiled: one that has room for most pairs, and one for all, or
    the last. None where no pair fits. `lengths` are of the longer side, EOS counted."""
    fitting = lengths[lengths <= training.buckets[-1]]
    if not len(fitting):
        return None
    usual = np.searchsorted(training.buckets, [np.quantile(fitting, USUAL), fitting.max()])
    buckets = tuple(training.buckets[index] for index in dict.fromkeys(usual.tolist()))
    return BatchingConfig(training.batch_tokens, buckets)
