"""Entries that the studies of several corpora share: every method (`family`), and Gu et al. 2018 (`gu_2018`).

A config names its numbers and takes the list from here. This is a module of the package and not a file of configs/,
so that a config finds it from any directory, and one of your own does too."""

import dataclasses
from typing import Any

from nat_ar.config_json import ConfigError
from nat_ar.data.prepare import DataConfig
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.losses.axe import Axe
from nat_ar.losses.fuzzy_alignment import FuzzyAlignment
from nat_ar.losses.ngram_matching import BagOfNgrams, NgramMatching
from nat_ar.losses.oaxe import Oaxe
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import Method
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.methods.cmlm import Cmlm
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.da_transformer import DaTransformer
from nat_ar.methods.decoder_only import DecoderOnly
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.fertility_prediction import FineTuning
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.iterative_refinement import IterativeRefinement
from nat_ar.methods.joint import Joint
from nat_ar.methods.latent import Latent
from nat_ar.methods.length_nat import LengthNat
from nat_ar.methods.recurrent import Recurrent
from nat_ar.nn.decoder_inputs import Copies
from nat_ar.nn.recurrent import RecurrentConfig
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.training.config import TrainingConfig

GRAPH_BUCKETS = (8, 12, 16, 24, 32, 48, 64, 96, 128)
"""For DA-Transformers with 8 vertices a source token: memory grows with the square of the vertices."""


def transformer_of(entry: Entry) -> TransformerConfig:
    """The sizes of its network. Raises ConfigError where that is no Transformer."""
    network = entry.method.network
    if not isinstance(network, TransformerConfig):
        raise ConfigError(
            f"{entry.name}.method: expected a Transformer, got {type(network).__name__}"
        )
    return network


def changed(entry: Entry, **fields: Any) -> Entry:
    """The entry with other values in these fields of its method."""
    method: Any = entry.method
    return dataclasses.replace(entry, method=dataclasses.replace(method, **fields))


def with_clipping(training: TrainingConfig, clip_norm: float) -> TrainingConfig:
    """The same training with gradients clipped to another norm."""
    optimizer = dataclasses.replace(training.optimizer, clip_norm=clip_norm)
    return dataclasses.replace(training, optimizer=optimizer)


def second_stage(training: TrainingConfig, max_steps: int) -> TrainingConfig:
    """How a trained model goes on, with another objective, for so many steps: at a third of the rate, reached after a
    tenth of them."""
    optimizer = dataclasses.replace(
        training.optimizer,
        peak_learning_rate=training.optimizer.peak_learning_rate / 3,
        warmup_steps=max_steps // 10,
    )
    return dataclasses.replace(training, max_steps=max_steps, optimizer=optimizer)


def fuzzy(method: DaTransformer, *, ngram: int = 2) -> DaTransformer:
    """The second stage of FA-DAT (Ma et al. 2023): n-grams instead of the likelihood, and little glancing."""
    return dataclasses.replace(
        method,
        fuzzy_alignment=FuzzyAlignment(ngram),
        glancing=Glancing(start_ratio=0.1, end_ratio=0.1),
    )


def matching(method: Method, *, ngram: int = 2) -> Method:
    """The second stage of NMLA (Shao & Feng 2022) and of Shao et al. 2020: the n-grams that are expected instead of the
    likelihood, and nothing revealed. A score between 0 and 1 is less than nats, so that lengths and fertilities weigh a
    tenth of what they did; a latent variable has no free nats any more. Raises ConfigError for a method that has no
    such stage."""
    match method:
        case Ctc(latent=latent):
            change: dict[str, Any] = {"ngram_matching": NgramMatching(ngram)}
            if latent is not None:
                change["latent"] = dataclasses.replace(latent, free_nats=0.0)
        case LengthNat(length_loss_weight=weight):
            change = {"token_loss": BagOfNgrams(ngram), "length_loss_weight": weight / 10}
        case FertilityNat(fertility_loss_weight=weight):
            change = {"token_loss": BagOfNgrams(ngram), "fertility_loss_weight": weight / 10}
        case _:
            raise ConfigError(
                "n-grams are matched by Ctc, LengthNat and FertilityNat (of a DaTransformer: recipes.fuzzy), got "
                f"{type(method).__name__}"
            )
    return dataclasses.replace(method, glancing=None, label_smoothing=0.0, **change)


SPLIT = Copies(of="states", told_apart_by="map")
"""Encoder states, the first, second, ... copy of each through a linear map of its own."""


def from_states(method: Method) -> Method:
    """A one-pass method with what learns fastest from real text (docs/log.md): decoder inputs are encoder states
    instead of embeddings, two frames a token are enough for CTC, and positions of the length NAT know their neighbours.
    Others stay as they are."""
    match method:
        case LengthNat(transformer=transformer):
            return dataclasses.replace(
                method,
                transformer=dataclasses.replace(transformer, decoder_positions="every_layer"),
                copy="uniform",
                inputs=SPLIT,
                positional_attention=True,
            )
        case FertilityNat():
            return dataclasses.replace(method, inputs=SPLIT)
        case Cmlm() | IterativeRefinement():
            return dataclasses.replace(method, copy="uniform", inputs=SPLIT)
        case Ctc():
            return dataclasses.replace(
                method, upsample_factor=2, upsampling="split", label_smoothing=0.0
            )
        case DaTransformer():
            return dataclasses.replace(method, inputs="split")
        case _:
            return method


LENGTH_WITHOUT_REPEATS = (
    "LengthBeam(remove_repeats=True)",
    "LengthBeam(remove_repeats=True, length_multiplier=1.12)",
)
FERTILITY_WITHOUT_REPEATS = "Average(remove_repeats=True)"
"""Words are lost with the repeats, a tenth of them: longer predictions make up for it (docs/log.md)."""


def student(
    name: str,
    method: Method,
    training: TrainingConfig,
    *decodings: str,
    distilled: bool = True,
) -> Entry:
    """One of a study of real text: `from_states`, and its encoder starts as the teacher's."""
    return Entry(
        name,
        from_states(method),
        training,
        distilled=distilled,
        encoder_from_teacher=True,
        decodings=decodings,
    )


def students(
    transformer: TransformerConfig, training: TrainingConfig, *, ctc_glancing: Glancing
) -> tuple[Entry, ...]:
    """A length NAT, fertilities, CTC without and with glancing, distilled, and the DA-Transformer on the pairs
    themselves: those of a study of real text that an hour or an evening of two cores allows."""
    ctc = Ctc(transformer)
    fading = Glancing(0.5, 0.1, anneal_steps=2 * training.max_steps // 3)
    one_length = ("LengthBeam()", *LENGTH_WITHOUT_REPEATS)
    graph_searches = ("GraphGreedy()", "Lookahead()", "GraphBeam()")
    return (
        student(
            "length_kd",
            LengthNat(transformer),
            training,
            *one_length,
            "LengthBeam(size=5, rescore=True)",
        ),
        student(
            "fertility_kd",
            FertilityNat(transformer),
            training,
            "Argmax()",
            FERTILITY_WITHOUT_REPEATS,
            "NoisyParallel(samples=10)",
        ),
        student("ctc_kd", ctc, training, "BestPath()", "PrefixBeam(size=20)"),
        student(
            "ctc_glat_kd",
            dataclasses.replace(ctc, glancing=ctc_glancing),
            training,
            "BestPath()",
        ),
        student(
            "da_transformer",
            DaTransformer(transformer, upsample_factor=4, glancing=fading),
            training,
            *graph_searches,
            distilled=False,
        ),
    )


def family(
    transformer: TransformerConfig,
    training: TrainingConfig,
    *,
    shallow: TransformerConfig,
    recurrent: RecurrentConfig,
    regularised: TransformerConfig | None = None,
    masked_training: TrainingConfig | None = None,
    ctc_training: TrainingConfig | None = None,
    ctc_glancing: Glancing | None = None,
    graph_training: TrainingConfig | None = None,
    fuzzy_training: TrainingConfig | None = None,
    vertices: int = 8,
    beam: int = 4,
    encoder_from_teacher: bool = False,
) -> tuple[Entry, ...]:
    """Every method: `ar_kd`, then all students on raw data, then all of them distilled (`NAME_kd`), and where
    `fuzzy_training` says how, `da_transformer_fuzzy` and its twin last, which go on from `da_transformer` and its twin.

    Annealing ends with the training, that of OAXE after a third and that of the DA-Transformer after two thirds of it.
    shallow: a deep encoder with one decoder layer, the entry `ar_N_1`. regularised: the Transformer of CTC, AXE, OAXE
    and CMLM; default `transformer`. masked_training: how AXE, OAXE and CMLM are trained; default `training`.
    ctc_training, graph_training: default `training` with gradients clipped to 2.4 and to 0.1. fuzzy_training: see
    second_stage; None: no such entry. ctc_glancing: default a ratio of 0.5 throughout. vertices: those of a graph, a
    source token. beam: its size wherever decoding is left to right. encoder_from_teacher: students that have the
    teacher's encoder start with it."""
    steps = training.max_steps
    regularised = regularised or transformer
    masked_training = masked_training or training
    ctc_training = ctc_training or with_clipping(training, 2.4)
    ctc_glancing = ctc_glancing or Glancing(0.5, 0.5, anneal_steps=steps)
    graph_training = graph_training or with_clipping(training, 0.1)
    glancing = Glancing(start_ratio=0.5, end_ratio=0.3, anneal_steps=steps)
    ctc = Ctc(regularised, upsampling="copy", label_smoothing=0.1)
    beam_search = f"Beam(size={beam})"
    left_to_right = (beam_search, "Greedy()")
    graph = DaTransformer(
        transformer,
        upsample_factor=vertices,
        glancing=Glancing(start_ratio=0.5, end_ratio=0.1, anneal_steps=2 * steps // 3),
    )
    graph_searches = ("GraphGreedy()", "Lookahead()", "GraphBeam()")
    frames = ("BestPath()", "PrefixBeam(size=20)")
    students: tuple[tuple[str, AnyMethod, TrainingConfig, tuple[str, ...]], ...] = (
        (
            f"ar_{shallow.num_encoder_layers}_{shallow.num_decoder_layers}",
            Autoregressive(shallow),
            training,
            left_to_right,
        ),
        ("lstm", Recurrent(recurrent), training, left_to_right),
        ("decoder_only", DecoderOnly(transformer), training, left_to_right),
        (
            "joint",
            Joint(transformer),
            training,
            ("LengthBeam(size=5, rescore=True)", "LengthBeam()", beam_search),
        ),
        ("length", LengthNat(transformer), training, ("LengthBeam()", "LengthBeam(size=5)")),
        (
            "fertility",
            FertilityNat(transformer),
            training,
            ("Argmax()", "NoisyParallel(samples=10)"),
        ),
        (
            "glat",
            LengthNat(transformer, glancing=glancing),
            training,
            ("LengthBeam()", "LengthBeam(size=7, rescore=True)"),
        ),
        (
            "axe",
            LengthNat(regularised, token_loss=Axe()),
            masked_training,
            ("LengthBeam(size=5)",),
        ),
        (
            "oaxe",
            LengthNat(regularised, token_loss=Oaxe(anneal_steps=steps // 3)),
            masked_training,
            ("LengthBeam(size=5)",),
        ),
        (
            "deep_supervision",
            LengthNat(transformer, deep_supervision=True),
            training,
            ("LengthBeam()",),
        ),
        ("ctc", ctc, ctc_training, frames),
        ("ctc_glat", dataclasses.replace(ctc, glancing=ctc_glancing), ctc_training, frames),
        (
            "ctc_vae",
            dataclasses.replace(ctc, latent=Latent(size=8, anneal_steps=steps)),
            ctc_training,
            ("BestPath()",),
        ),
        ("da_transformer", graph, graph_training, graph_searches),
        (
            "cmlm",
            Cmlm(regularised),
            masked_training,
            tuple(f"MaskPredict(iterations={number})" for number in (1, 4, 10)),
        ),
        (
            "refinement",
            IterativeRefinement(transformer),
            training,
            ("Refine(iterations=1)", "Refine(iterations=10)"),
        ),
    )
    return (
        Entry("ar_kd", Autoregressive(transformer), training, True, decodings=left_to_right),
        *(
            Entry(
                f"{name}_kd" if is_distilled else name,
                method,
                student_training,
                distilled=is_distilled,
                encoder_from_teacher=encoder_from_teacher and method.family != "AR",
                decodings=decodings,
            )
            for is_distilled in (False, True)
            for name, method, student_training, decodings in students
        ),
        *(
            Entry(
                f"da_transformer_fuzzy{suffix}",
                fuzzy(graph),
                fuzzy_training,
                distilled=bool(suffix),
                start_from=f"da_transformer{suffix}",
                decodings=graph_searches,
            )
            for suffix in ("", "_kd")
            if fuzzy_training is not None
        ),
    )


def gu_2018(
    transformer: TransformerConfig,
    training: TrainingConfig,
    *,
    name: str,
    directory: str,
    data: DataConfig,
) -> StudyConfig:
    """Gu et al. 2018 with its baselines: teacher, a deep encoder with a shallow decoder (Kasai et al. 2020), a NAT that
    predicts lengths, the fertility NAT, and its fine-tuning for 30,000 steps."""
    shallow = dataclasses.replace(transformer, num_encoder_layers=12, num_decoder_layers=1)
    fertility = FertilityNat(transformer)
    length = LengthNat(transformer)
    left_to_right = ("Beam(size=4)", "Greedy()")
    return StudyConfig(
        name=name,
        directory=directory,
        data=data,
        teacher=Entry("ar", Autoregressive(transformer), training, decodings=left_to_right),
        entries=(
            Entry(
                "ar_12_1_kd",
                Autoregressive(shallow),
                training,
                distilled=True,
                decodings=left_to_right,
            ),
            Entry("length", length, training),
            Entry("length_kd", length, training, distilled=True),
            Entry("fertility_kd", fertility, training, distilled=True, encoder_from_teacher=True),
            Entry(
                "fertility_kd_ft",
                dataclasses.replace(fertility, fine_tuning=FineTuning()),
                dataclasses.replace(training, max_steps=30_000),
                distilled=True,
                start_from="fertility_kd",
                decodings=(
                    "Argmax()",
                    "NoisyParallel(samples=10)",
                    "NoisyParallel(samples=100)",
                ),
            ),
        ),
    )
