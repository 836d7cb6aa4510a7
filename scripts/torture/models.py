"""Every method, small, and every way to train it."""

import dataclasses
import re
import typing
from typing import Any

from nat_ar.data.subword_regularisation import SubwordRegularisation
from nat_ar.losses.axe import Axe
from nat_ar.losses.expected_lag import ExpectedLag
from nat_ar.losses.oaxe import Oaxe
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.curriculum import Curriculum
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.latent import Latent
from nat_ar.methods.length_nat import LengthNat
from nat_ar.nn.recurrent import RecurrentConfig
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.training.config import TrainingConfig
from nat_ar.training.optimizer import Muon

TRANSFORMER = TransformerConfig(16, 32, 2, 1, 1, max_length=1024)
GLANCING = Glancing(anneal_steps=50)


def by_default() -> dict[str, AnyMethod]:
    """Each method of the catalogue as its config is by default, under a name that a file can have."""
    found = {}
    for cls in typing.get_args(AnyMethod):
        sizes: dict[str, Any] = {"network": RecurrentConfig(d_model=16)}
        if "transformer" in {field.name for field in dataclasses.fields(cls)}:
            sizes = {"transformer": TRANSFORMER}
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()
        found[name] = cls(**sizes)
    return found


def with_options() -> dict[str, AnyMethod]:
    """Those, and each option of the training that draws at random, counts steps or has parameters of its
    own."""
    deeper = dataclasses.replace(TRANSFORMER, num_decoder_layers=2)
    causal = dataclasses.replace(TRANSFORMER, encoder_attention="causal")
    length, ctc = LengthNat(TRANSFORMER), Ctc(TRANSFORMER)
    return {
        **by_default(),
        "length_nat_glancing": dataclasses.replace(length, glancing=GLANCING),
        "length_nat_axe": dataclasses.replace(length, token_loss=Axe()),
        "length_nat_oaxe": dataclasses.replace(length, token_loss=Oaxe(anneal_steps=50)),
        "length_nat_curriculum": dataclasses.replace(length, curriculum=Curriculum(steps=50)),
        "length_nat_deep": LengthNat(deeper, deep_supervision=True),
        "ctc_glancing": dataclasses.replace(ctc, glancing=GLANCING),
        "ctc_wait_k": Ctc(causal, wait_k=(1, 3), expected_lag=ExpectedLag()),
        "ctc_latent": dataclasses.replace(ctc, latent=Latent(num_layers=1, anneal_steps=50)),
    }


def sampled_subwords(training: TrainingConfig) -> TrainingConfig:
    """Short sentences first, in other subwords every epoch."""
    return dataclasses.replace(
        training,
        batching=dataclasses.replace(training.batching, short_first_steps=30),
        subword_regularisation=SubwordRegularisation(0.2, 0.2),
    )


def muon_thawing(training: TrainingConfig) -> TrainingConfig:
    """Muon, with an encoder that is frozen for half of the steps and slow after that."""
    optimizer = dataclasses.replace(
        training.optimizer,
        schedule="constant",
        cooldown_share=0.3,
        muon=Muon(),
        encoder_rate=0.5,
        encoder_frozen_steps=training.max_steps // 2,
    )
    return dataclasses.replace(training, optimizer=optimizer)


TRAININGS = {train.__name__: train for train in (sampled_subwords, muon_thawing)}
"""Options of training that draw at random or change with the step, by the names of their files."""
