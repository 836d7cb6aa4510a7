"""Debian English-German: every method at base size, for one GPU.

    python -m nat_ar study configs/debian_en_de/family_base.py --only ctc_glat_kd da_transformer

The entries of configs/debian_en_de/family.py with the base Transformer (d_model 512, 6-6 layers) in bfloat16, graphs of
8 vertices a source token, and 32k tokens a batch. 110,000 pairs are few for a model of this size: dropout is 0.3. The
entry ar_5_1 keeps its name and has 12-1 layers. Not run by us; no published numbers on this corpus."""

import dataclasses
from pathlib import Path
from typing import Any

from nat_ar.data.batching import BatchingConfig
from nat_ar.experiment.config import load_file
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.losses.oaxe import Oaxe
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.da_transformer import DaTransformer
from nat_ar.methods.length_nat import LengthNat
from nat_ar.methods.recurrent import Recurrent
from nat_ar.nn.recurrent import RecurrentConfig
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.training.config import TrainingConfig, ValidationConfig
from nat_ar.training.optimizer import OptimizerConfig

small: StudyConfig = load_file(Path(__file__).with_name("family.py"))
STEPS = 40_000
TRANSFORMER = TransformerConfig(
    d_model=512, d_hidden=2048, num_heads=8, dropout_rate=0.3, dtype="bfloat16"
)
DEEP = dataclasses.replace(TRANSFORMER, num_encoder_layers=12, num_decoder_layers=1)
TRAINING = TrainingConfig(
    max_steps=STEPS,
    batching=BatchingConfig(batch_tokens=32_768, buckets=small.teacher.training.batching.buckets),
    optimizer=OptimizerConfig(peak_learning_rate=5e-4, warmup_steps=4000, weight_decay=0.01),
    average_decay=0.9995,
    validation=ValidationConfig(every_steps=2000, sentences=1000),
)


def at_base_size(entry: Entry) -> Entry:
    """The entry with the sizes, steps and annealing of this file; its own clipping stays."""
    method: Any = entry.method
    if isinstance(method, Recurrent):
        network = RecurrentConfig(d_model=512, num_encoder_layers=2, num_decoder_layers=2)
        method = dataclasses.replace(method, network=network)
    else:
        is_shallow = method.transformer.num_decoder_layers == 1
        method = dataclasses.replace(method, transformer=DEEP if is_shallow else TRANSFORMER)
    if isinstance(method, DaTransformer):
        method = dataclasses.replace(method, upsample_factor=8)
    if isinstance(method, LengthNat | Ctc | DaTransformer) and method.glancing is not None:
        share = method.glancing.anneal_steps / small.entries[0].training.max_steps
        glancing = dataclasses.replace(method.glancing, anneal_steps=round(share * STEPS))
        method = dataclasses.replace(method, glancing=glancing)
    if isinstance(method, LengthNat) and isinstance(method.token_loss, Oaxe):
        method = dataclasses.replace(method, token_loss=Oaxe(anneal_steps=STEPS // 3))
    if isinstance(method, Ctc) and method.latent is not None:
        latent = dataclasses.replace(method.latent, anneal_steps=STEPS)
        method = dataclasses.replace(method, latent=latent)
    clip_norm = entry.training.optimizer.clip_norm
    optimizer = dataclasses.replace(TRAINING.optimizer, clip_norm=clip_norm)
    training = dataclasses.replace(TRAINING, optimizer=optimizer)
    return dataclasses.replace(entry, method=method, training=training, encoder_from_teacher=False)


config = dataclasses.replace(
    small,
    name="Debian English-German, the family at base size",
    directory="studies/debian_en_de_family_base",
    teacher=at_base_size(small.teacher),
    entries=tuple(map(at_base_size, small.entries)),
)
