"""Every loss per word. To add one: write its file, and put its class here."""

from nat_ar.losses.axe import Axe
from nat_ar.losses.cross_entropy import CrossEntropy
from nat_ar.losses.oaxe import Oaxe
from nat_ar.losses.token_loss import TokenLoss

AnyTokenLoss = CrossEntropy | Axe | Oaxe | TokenLoss
"""The package's own by name, so that a config that names one finds it defined, and those of other files."""
