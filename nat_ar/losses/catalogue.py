"""Every loss per word. To add one: write its file, and put its class here."""

from jaxtyping import Array, Float, Int

from nat_ar.losses.axe import Axe
from nat_ar.losses.cross_entropy import CrossEntropy
from nat_ar.losses.ngram_matching import BagOfNgrams
from nat_ar.losses.oaxe import Oaxe
from nat_ar.losses.token_loss import TokenLoss
from nat_ar.types import Mean, Prediction, SoftTargets

AnyTokenLoss = CrossEntropy | Axe | Oaxe | BagOfNgrams | TokenLoss
"""The package's own by name, so that a config that names one finds it defined, and those of other files."""


def compared(
    loss: AnyTokenLoss,
    prediction: Prediction,
    target: Int[Array, "batch width"],
    *,
    step: Int[Array, ""],
    smoothing: float,
    soft: SoftTargets | None,
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """What a loss says of a prediction; a teacher's distributions are for a loss that learns words at their places."""
    if isinstance(loss, CrossEntropy):
        return loss(prediction, target, step=step, smoothing=smoothing, soft=soft)
    return loss(prediction, target, step=step, smoothing=smoothing)
