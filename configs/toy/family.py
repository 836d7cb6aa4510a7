"""Every method on the toy language, raw and distilled, on one budget: what the grammar says of each.

    python -m nat_ar study configs/toy/family.py

Two CPU cores, 58 min 36 s with cold caches, beside niced work (measured). Results:
docs/results/toy_family, read with docs/results/toy.md.

Every student has the sizes of configs/toy/study.py and the same number of steps, and starts with the teacher's
encoder where it has the same one. 4 vertices a source token make the graph of the DA-Transformer affordable here. The
annealing of glancing and of the latent variable ends with the training. No dropout: no pair is seen more than
twice (the raw length NAT, 450 steps: 48.4 validation BLEU without, 45.2 with 0.05)."""

import dataclasses
from pathlib import Path

from nat_ar.experiment import recipes
from nat_ar.experiment.config import load_file
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.losses.axe import Axe
from nat_ar.losses.oaxe import Oaxe
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.methods.cmlm import Cmlm
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.da_transformer import DaTransformer
from nat_ar.methods.decoder_only import DecoderOnly
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.iterative_refinement import IterativeRefinement
from nat_ar.methods.joint import Joint
from nat_ar.methods.latent import Latent
from nat_ar.methods.length_nat import LengthNat
from nat_ar.methods.recurrent import Recurrent
from nat_ar.nn.recurrent import RecurrentConfig

quick: StudyConfig = load_file(Path(__file__).with_name("study.py"))
TRANSFORMER = dataclasses.replace(recipes.transformer_of(quick.teacher), dropout_rate=0.0)
STEPS = 450
TRAINING = quick.entries[0].training
TRAINING = dataclasses.replace(
    TRAINING,
    max_steps=STEPS,
    validation=dataclasses.replace(TRAINING.validation, every_steps=STEPS // 2),
)
SHALLOW = dataclasses.replace(TRANSFORMER, num_encoder_layers=3, num_decoder_layers=1)
LENGTH = LengthNat(TRANSFORMER, label_smoothing=0.0)
CTC = Ctc(TRANSFORMER, upsample_factor=2, upsampling="copy")
GLANCING = Glancing(start_ratio=0.5, end_ratio=0.3, anneal_steps=STEPS)
SEARCHES = ("Beam(size=4)", "Greedy()")
ITERATIONS = (
    "MaskPredict(iterations=1)",
    "MaskPredict(iterations=4)",
    "MaskPredict(iterations=10)",
)
GRAPH_SEARCHES = ("GraphGreedy()", "Lookahead()", "Viterbi()", "GraphBeam()")

AR_3_1 = Autoregressive(SHALLOW)
LSTM = Recurrent(RecurrentConfig(d_model=128, dropout_rate=0.0))
FERTILITY = FertilityNat(TRANSFORMER, label_smoothing=0.0)
GLAT = dataclasses.replace(LENGTH, glancing=GLANCING)
CTC_GLAT = dataclasses.replace(CTC, glancing=GLANCING)
CTC_VAE = dataclasses.replace(CTC, latent=Latent(num_layers=1, anneal_steps=STEPS))
CMLM = Cmlm(TRANSFORMER, label_smoothing=0.0)
REFINEMENT = IterativeRefinement(TRANSFORMER, label_smoothing=0.0)
DA_TRANSFORMER = DaTransformer(
    TRANSFORMER,
    upsample_factor=4,
    glancing=Glancing(start_ratio=0.5, end_ratio=0.1, anneal_steps=STEPS),
)


def entry(name: str, method: AnyMethod, *decodings: str, distilled: bool = False) -> Entry:
    has_teachers_encoder = not method.has_own_encoder and method.network == TRANSFORMER
    return Entry(
        name,
        method,
        TRAINING,
        distilled=distilled,
        encoder_from_teacher=has_teachers_encoder,
        decodings=decodings,
    )


config = dataclasses.replace(
    quick,
    name="Toy language, the family",
    directory="studies/toy_family",
    columns=(),
    teacher=dataclasses.replace(
        quick.teacher, decodings=(*SEARCHES, "Speculative(block=6, drafter='ctc_glat')")
    ),
    entries=(
        entry("ar_3_1_kd", AR_3_1, "Greedy()", distilled=True),
        entry("lstm", LSTM, *SEARCHES),
        entry("lstm_kd", LSTM, "Greedy()", distilled=True),
        entry("decoder_only", DecoderOnly(TRANSFORMER), *SEARCHES),
        entry(
            "joint",
            Joint(TRANSFORMER, label_smoothing=0.0),
            "LengthBeam()",
            "LengthBeam(size=5, rescore=True)",
            "Greedy()",
            "Speculative(block=6)",
        ),
        entry("length", LENGTH),
        entry("length_kd", LENGTH, distilled=True),
        entry("fertility", FERTILITY),
        entry("fertility_kd", FERTILITY, distilled=True),
        entry("glat", GLAT),
        entry("glat_kd", GLAT, distilled=True),
        entry("axe", dataclasses.replace(LENGTH, token_loss=Axe())),
        entry("oaxe", dataclasses.replace(LENGTH, token_loss=Oaxe(anneal_steps=STEPS // 3))),
        entry("deep_supervision", dataclasses.replace(LENGTH, deep_supervision=True)),
        entry("ctc", CTC, "BestPath()", "PrefixBeam(size=10, top_k=10)"),
        entry("ctc_glat", CTC_GLAT),
        entry("ctc_glat_kd", CTC_GLAT, distilled=True),
        entry("ctc_vae_kd", CTC_VAE, distilled=True),
        entry("da_transformer", DA_TRANSFORMER, *GRAPH_SEARCHES),
        entry("cmlm", CMLM, *ITERATIONS),
        entry("cmlm_kd", CMLM, "MaskPredict(iterations=10)", distilled=True),
        entry(
            "refinement_kd",
            REFINEMENT,
            "Refine(iterations=1)",
            "Refine(iterations=10)",
            distilled=True,
        ),
    ),
    speed=dataclasses.replace(quick.speed, max_seconds=2.5),
)
