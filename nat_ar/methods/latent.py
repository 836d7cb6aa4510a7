"""A Gaussian latent variable for each source token of a one-pass model (Shu et al. 2020, arXiv:1908.07181; Gu & Kong
2020, arXiv:2012.15833): in training drawn from a posterior that sees the target, in decoding the mean of a prior.

What differs from the papers: the posterior reads the encoder's states and those of a small separate encoder of the
target's embeddings; its free nats fall linearly to 0, since decoding takes the mean of the prior."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.nn import layers, upsampling
from nat_ar.nn.decoder import Decoder
from nat_ar.nn.transformer import Encoder, TransformerConfig
from nat_ar.types import Encoded, pytree_dataclass


@dataclasses.dataclass(frozen=True)
class Latent(config_json.Config):
    """A Gaussian vector for each source token, drawn from a posterior that sees the target in training
    and set to the mean of a prior in decoding (Gu & Kong 2020)."""

    size: int = 8
    """dimensions of each vector"""
    num_layers: int = 3
    """depth of the posterior: of its encoder of the target, and of its decoder over both sides"""
    free_nats: float = 1.0
    """nats of KL divergence at each source token without cost at step 0 (free bits, Kingma et al.
    2016, arXiv:1606.04934, appendix C.8)"""
    anneal_steps: int = 300_000
    """optimizer steps until none are free; until then they fall linearly"""

    def __post_init__(self) -> None:
        if min(self.size, self.num_layers, self.anneal_steps) < 1:
            raise ConfigError(
                "latent.size, latent.num_layers and latent.anneal_steps must be at least 1, got "
                f"{self.size}, {self.num_layers} and {self.anneal_steps}"
            )
        if self.free_nats < 0.0:
            raise ConfigError(f"latent.free_nats must be at least 0, got {self.free_nats}")

    def free(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Free nats at an optimizer step."""
        return self.free_nats * (1.0 - jnp.minimum(step / self.anneal_steps, 1.0))


@pytree_dataclass
class Gaussian:
    """Independent normal distributions."""

    mean: Float[Array, "batch source_length size"]
    deviation: Float[Array, "batch source_length size"]

    def sample(self, key: PRNGKeyArray) -> Float[Array, "batch source_length size"]:
        return self.mean + self.deviation * jax.random.normal(key, self.mean.shape)


def divergence(posterior: Gaussian, prior: Gaussian) -> Float[Array, "batch source_length"]:
    """KL(posterior || prior) in nats, summed over the dimensions."""
    ratio = posterior.deviation / prior.deviation
    distance = (posterior.mean - prior.mean) / prior.deviation
    return (0.5 * (ratio**2 + distance**2 - 1.0) - jnp.log(ratio)).sum(axis=-1)


class GaussianHead(nnx.Module):
    """States to normal distributions. All heads start with the same distribution for every state, so that the
    divergence starts at 0; with random heads a narrow prior makes it hundreds of nats."""

    def __init__(self, d_model: int, size: int, *, rngs: nnx.Rngs) -> None:
        self.linear = layers.Linear(d_model, size, parts=2, rngs=rngs)
        self.linear.kernel[...] = jnp.zeros_like(self.linear.kernel[...])

    def __call__(self, states: Float[Array, "batch source_length d_model"]) -> Gaussian:
        mean, width = jnp.split(self.linear(states), 2, axis=-1)
        return Gaussian(mean, jax.nn.softplus(width) + 1e-3)  # never 0


class LatentNetworks(nnx.Module):
    """Prior and posterior of the latent variables, and their map into the frames."""

    def __init__(
        self, transformer: TransformerConfig, factor: int, latent: Latent, *, rngs: nnx.Rngs
    ) -> None:
        """`factor`: frames for each source token."""
        posterior = dataclasses.replace(
            transformer,
            num_encoder_layers=latent.num_layers,
            num_decoder_layers=latent.num_layers,
        )
        d_model, dtype = transformer.d_model, transformer.dtype
        self.prior = GaussianHead(d_model, latent.size, rngs=rngs)
        self.target_encoder = Encoder(posterior, rngs=rngs)
        self.decoder = Decoder(posterior, rngs=rngs)
        self.posterior_head = GaussianHead(d_model, latent.size, rngs=rngs)
        self.output = layers.Linear(latent.size, d_model, parts=factor, dtype=dtype, rngs=rngs)
        self.factor = factor

    def posterior(
        self,
        encoded: Encoded,
        target_embeddings: Float[Array, "batch target_length d_model"],
        target_lengths: Int[Array, "batch"],
        *,
        rngs: nnx.Rngs | None,
    ) -> Gaussian:
        """The latent variables given a source and its translation."""
        target = self.target_encoder(target_embeddings, target_lengths, rngs=rngs)
        return self.posterior_head(self.decoder(encoded.states, encoded.lengths, target, rngs=rngs))

    def frames(
        self, latent: Float[Array, "batch source_length size"]
    ) -> Float[Array, "batch frames d_model"]:
        """The latent variables' part of the decoder inputs."""
        return upsampling.split(self.output(latent), self.factor)
