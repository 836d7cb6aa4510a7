"""Losses of a decoder that predicts all words at once: prediction and target -> a number to minimise."""

import abc
import dataclasses
from typing import ClassVar

from jaxtyping import Array, Float, Int

from nat_ar import config_json
from nat_ar.types import Mean, Prediction


@dataclasses.dataclass(frozen=True)
class TokenLoss(config_json.Open, abc.ABC):
    """A loss per word, with its settings. A class in any file may join it."""

    may_be_blank: ClassVar[bool] = False
    """a position may predict BLANK, for no word"""
    is_in_place: ClassVar[bool] = False
    """each word is learned at its own position, as glancing needs it"""

    @property
    def name(self) -> str:
        """As tables and published numbers call it."""
        return type(self).__name__.upper()

    @abc.abstractmethod
    def __call__(
        self,
        prediction: Prediction,
        target: Int[Array, "batch width"],
        *,
        step: Int[Array, ""],
        smoothing: float,
    ) -> tuple[Float[Array, ""], dict[str, Mean]]:
        """The objective in nats per word, label smoothing included, and terms to log. `token` is among them: nats
        per word without smoothing. The states of the prediction are [batch, width, d_model]; a loss that asks for a few
        words at each position gets these from losses.chosen_words, others take `prediction.logits()`. The target has
        no EOS and is as long as the decoder was told."""
