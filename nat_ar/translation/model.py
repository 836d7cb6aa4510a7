"""A model in its two halves, as jax.jit takes it, and how one is built for a vocabulary."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Int

from nat_ar.config_json import ConfigError
from nat_ar.data.vocabulary import Vocabulary
from nat_ar.methods import base
from nat_ar.methods.base import Method
from nat_ar.nn import packed
from nat_ar.nn.transformer import KnownEncoder, TransformerConfig
from nat_ar.runtime import cpu_kernels, devices
from nat_ar.search.greedy import Greedy
from nat_ar.search.step_function import Blocks
from nat_ar.types import Encoded, Hypotheses, Internal


@dataclasses.dataclass(frozen=True)
class Model:
    """A model split into its static and its array half, ready for jax.jit."""

    graphdef: nnx.GraphDef
    params: nnx.State
    """parameters, and arrays that training carried on (types.Carried)"""
    has_kernels: bool = False
    """whether it decodes with nat_ar.runtime.cpu_kernels, on this machine only"""

    @functools.cached_property
    def leaves(self) -> list[jax.Array]:
        """The parameters as a flat list: handing over an nnx.State flattens it in Python at every call,
        which is a quarter of a millisecond on the latency of a small model."""
        return jax.tree.leaves(self.params)

    def merge(self, leaves: list[jax.Array]) -> Any:
        """The model around other (or traced) arrays."""
        params = jax.tree.unflatten(jax.tree.structure(self.params), leaves)
        return nnx.merge(self.graphdef, params)

    def on(self, device: jax.Device) -> "Model":
        """The same model with its parameters on this device."""
        return dataclasses.replace(self, params=jax.device_put(self.params, device))

    def packed(self, weights: packed.Weights = "float32") -> "Model":
        """The same model with its weights laid out for decoding on a CPU, where that is possible. Raises
        ConfigError where it is not and the weights should be int8."""
        if not cpu_kernels.are_available():
            if weights == "int8":
                raise ConfigError(
                    "int8 weights need a CPU and the kernels that nat_ar builds with a C++ compiler, got "
                    "none; leave int8 out of the decoding"
                )
            return self
        network = self.merge(self.leaves)
        packed.pack(network, weights)
        return Model(*nnx.split(network), has_kernels=True)

    def decode(
        self,
        leaves: list[jax.Array],
        source: Int[Array, "batch source_length"],
        *,
        decoding: Any,
        max_length: int,
        scorer: Any = None,
        draft: Callable[[Encoded | None], Hypotheses | Blocks] | None = None,
    ) -> Hypotheses:
        """The method's decode around other (or traced) arrays. `draft` is asked for a draft with the encoded source;
        None stands for a network that has no Transformer encoder."""
        network = self.merge(leaves)
        options = {}
        with cpu_kernels.in_use(self.has_kernels):
            if draft is not None:
                encoded = None
                if isinstance(network, base.Seq2Seq):
                    encoded = network.encode(source)
                    _know(network, encoded)
                options["draft"] = draft(encoded)
            return network.decode(
                source, decoding=decoding, max_length=max_length, scorer=scorer, **options
            )

    def internals(
        self,
        leaves: list[jax.Array],
        source: Int[Array, "batch source_length"],
        *,
        decoding: Any,
        max_length: int,
    ) -> dict[str, Internal]:
        """The method's internals around other (or traced) arrays."""
        network = self.merge(leaves)
        with cpu_kernels.in_use(self.has_kernels):
            return network.internals(source, decoding=decoding, max_length=max_length)


@dataclasses.dataclass(frozen=True)
class Drafter:
    """A model whose words another one verifies, and its decoding: greedy search goes on from the words that are
    final, any other decoding drafts the whole translation once."""

    model: Model
    decoding: Any
    weights: packed.Weights | None = None
    """None: those of the other model"""
    shares_encoder: bool = False
    """whether the other model encodes a source to the same states, which are then computed once"""

    def beside(self, model: Model) -> "Drafter":
        """The drafter of this model: neither has been packed."""
        networks = [each.merge(each.leaves) for each in (self.model, model)]
        return dataclasses.replace(self, shares_encoder=base.has_encoder_of(*networks))

    def on(self, device: jax.Device) -> "Drafter":
        return dataclasses.replace(self, model=self.model.on(device))

    def packed(self, weights: packed.Weights = "float32") -> "Drafter":
        """`weights`: those of the other model."""
        return dataclasses.replace(self, model=self.model.packed(self.weights or weights))

    def draft(
        self,
        leaves: list[jax.Array],
        source: Int[Array, "batch source_length"],
        *,
        max_length: int,
        encoded: Encoded | None,
    ) -> Hypotheses | Blocks:
        """What the other model's `decode` takes as its draft, around other (or traced) arrays."""
        network = self.model.merge(leaves)
        if encoded is not None:
            _know(network, encoded)
        with cpu_kernels.in_use(self.model.has_kernels):
            if isinstance(self.decoding, Greedy):
                return network.drafting(source, max_length=max_length)
            return network.decode(source, decoding=self.decoding, max_length=max_length)


def _know(network: Any, encoded: Encoded) -> None:
    """What the network encodes from now on is known."""
    network.encoder = KnownEncoder(encoded)


def require_device(method: Method) -> None:
    """Raises ConfigError, before any work, where this machine has no device for the method."""
    network = method.network
    if isinstance(network, TransformerConfig) and network.implementation == "cudnn":
        devices.require_gpu("transformer.implementation 'cudnn'")
    devices.local()


def dtype_of(method: Method) -> str:
    """The type of activations when its models translate here: kernels on a CPU know float32 only, in which parameters
    are in any case."""
    return "float32" if cpu_kernels.are_available() else method.network.dtype


def vocabulary_sizes(vocabulary: Vocabulary) -> base.VocabularySizes:
    return base.VocabularySizes(vocabulary.source_size, vocabulary.target_size, vocabulary.joint)


def abstract_model(method: Method, vocabulary: Vocabulary) -> tuple[nnx.GraphDef, nnx.State]:
    """The model's structure and the shapes of its parameters; nothing is computed."""
    sizes = vocabulary_sizes(vocabulary)
    model = nnx.eval_shape(lambda: method.build(sizes, rngs=nnx.Rngs(0)))
    return nnx.split(model)
