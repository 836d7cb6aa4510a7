"""Debian English-German: every method, raw and distilled, sized for two CPU cores.

    python -m nat_ar study configs/debian_en_de/family.py --only ctc_glat_kd da_transformer
    python -m nat_ar study configs/debian_en_de/family.py

Sizes, batches, steps and teacher are those of configs/debian_en_de/study.py, and the students start with the
teacher's encoder: about half an hour a training on two cores, the graph of the DA-Transformer several times that,
so choose with `--only` (the teacher and the named entries are trained) or take days.
configs/debian_en_de/family_base.py is the same on a GPU. What a method alone sets (ratios, clipping, smoothing) follows
its paper; annealing ends with the training. Not run by us; no published numbers on this corpus."""

import dataclasses
from pathlib import Path

from nat_ar.experiment.config import load_file
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.losses.axe import Axe
from nat_ar.losses.oaxe import Oaxe
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.cmlm import Cmlm
from nat_ar.methods.ctc import Ctc, Latent
from nat_ar.methods.da_transformer import DaTransformer
from nat_ar.methods.decoder_only import DecoderOnly
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.glancing import Glancing
from nat_ar.methods.iterative_refinement import IterativeRefinement
from nat_ar.methods.joint import Joint
from nat_ar.methods.length_nat import LengthNat
from nat_ar.methods.recurrent import Recurrent
from nat_ar.nn.recurrent import RecurrentConfig

plain: StudyConfig = load_file(Path(__file__).with_name("study.py"))
TRANSFORMER = plain.teacher.method.transformer
TRAINING = plain.entries[0].training
STEPS = TRAINING.max_steps
CTC_TRAINING = dataclasses.replace(
    TRAINING, optimizer=dataclasses.replace(TRAINING.optimizer, clip_norm=2.4)
)
GRAPH_TRAINING = dataclasses.replace(
    TRAINING, optimizer=dataclasses.replace(TRAINING.optimizer, clip_norm=0.1)
)
GLANCING = Glancing(start_ratio=0.5, end_ratio=0.3, anneal_steps=STEPS)
CTC = Ctc(TRANSFORMER, upsampling="copy", label_smoothing=0.1)
SEARCHES = ("Beam(size=4)", "Greedy()")

STUDENTS = (
    (
        "ar_5_1",
        Autoregressive(
            dataclasses.replace(TRANSFORMER, num_encoder_layers=5, num_decoder_layers=1)
        ),
        TRAINING,
        SEARCHES,
    ),
    (
        "lstm",
        Recurrent(RecurrentConfig(d_model=256)),
        TRAINING,
        SEARCHES,
    ),
    ("decoder_only", DecoderOnly(TRANSFORMER), TRAINING, SEARCHES),
    (
        "joint",
        Joint(TRANSFORMER),
        TRAINING,
        ("LengthBeam(size=5, rescore=True)", "LengthBeam()", "Beam(size=4)"),
    ),
    ("length", LengthNat(TRANSFORMER), TRAINING, ("LengthBeam()", "LengthBeam(size=5)")),
    ("fertility", FertilityNat(TRANSFORMER), TRAINING, ("Argmax()", "NoisyParallel(samples=10)")),
    (
        "glat",
        LengthNat(TRANSFORMER, glancing=GLANCING),
        TRAINING,
        ("LengthBeam()", "LengthBeam(size=7, rescore=True)"),
    ),
    ("axe", LengthNat(TRANSFORMER, token_loss=Axe()), TRAINING, ("LengthBeam(size=5)",)),
    (
        "oaxe",
        LengthNat(TRANSFORMER, token_loss=Oaxe(anneal_steps=STEPS // 3)),
        TRAINING,
        ("LengthBeam(size=5)",),
    ),
    ("deep_supervision", LengthNat(TRANSFORMER, deep_supervision=True), TRAINING, ()),
    ("ctc", CTC, CTC_TRAINING, ("BestPath()", "PrefixBeam(size=20)")),
    (
        "ctc_glat",
        dataclasses.replace(CTC, glancing=Glancing(0.5, 0.5, anneal_steps=STEPS)),
        CTC_TRAINING,
        ("BestPath()", "PrefixBeam(size=20)"),
    ),
    (
        "ctc_vae",
        dataclasses.replace(CTC, latent=Latent(size=8, anneal_steps=STEPS)),
        CTC_TRAINING,
        (),
    ),
    (
        "da_transformer",
        DaTransformer(
            TRANSFORMER,
            upsample_factor=4,
            glancing=Glancing(start_ratio=0.5, end_ratio=0.1, anneal_steps=2 * STEPS // 3),
        ),
        GRAPH_TRAINING,
        ("GraphGreedy()", "Lookahead()", "GraphBeam()"),
    ),
    (
        "cmlm",
        Cmlm(TRANSFORMER),
        TRAINING,
        ("MaskPredict(iterations=1)", "MaskPredict(iterations=4)", "MaskPredict(iterations=10)"),
    ),
    (
        "refinement",
        IterativeRefinement(TRANSFORMER),
        TRAINING,
        ("Refine(iterations=1)", "Refine(iterations=10)"),
    ),
)

config = dataclasses.replace(
    plain,
    name="Debian English-German, the family",
    directory="studies/debian_en_de_family",
    entries=(
        Entry("ar_kd", Autoregressive(TRANSFORMER), TRAINING, distilled=True, decodings=SEARCHES),
        *(
            Entry(
                name if raw else f"{name}_kd",
                method,
                training,
                distilled=not raw,
                encoder_from_teacher=not isinstance(
                    method, Autoregressive | DecoderOnly | Recurrent
                ),
                decodings=decodings,
            )
            for raw in (True, False)
            for name, method, training, decodings in STUDENTS
        ),
    ),
)
