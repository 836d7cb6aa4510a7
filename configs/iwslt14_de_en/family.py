"""IWSLT14 German-English: every method, raw and distilled, beside one autoregressive teacher.

    python -m nat_ar study configs/iwslt14_de_en/family.py
    python -m nat_ar study configs/iwslt14_de_en/family.py --only ctc_glat_kd cmlm_kd

Hours a training on one modern GPU. Not run by us: no hub here. With `--only`, the teacher and the named entries are
trained.

Published, test set (tokenised and lower-cased, as DEER's table gives them, unless it says otherwise):

| entry | raw | distilled |
|---|---|---|
| ar | 34.7; 33.8 sacreBLEU | 35.1 |
| glat | | 29.1 |
| cmlm, 10 passes | 32.1 | 32.9 |
| cmlm, 1 and 4 passes | 21.5 and 32.8, sacreBLEU | |
| deep_supervision | | 26 (a user's run) |

The other methods have no published number on this corpus that we could check. Sizes follow transformer_iwslt_de_en;
ratios, weights and clipping are those of each method's paper."""

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
TRAINING = plain.teacher.training
STEPS = TRAINING.max_steps
CTC_TRAINING = dataclasses.replace(
    TRAINING, optimizer=dataclasses.replace(TRAINING.optimizer, clip_norm=2.4)
)
GRAPH_TRAINING = dataclasses.replace(
    TRAINING,
    # A graph has 8 vertices a source token and a transition for each pair of them.
    batching=dataclasses.replace(TRAINING.batching, buckets=(8, 12, 16, 24, 32, 48, 64, 96, 128)),
    optimizer=dataclasses.replace(TRAINING.optimizer, clip_norm=0.1),
)
GLANCING = Glancing(start_ratio=0.5, end_ratio=0.3, anneal_steps=STEPS)
CTC = Ctc(TRANSFORMER, upsampling="copy", label_smoothing=0.1)
SEARCHES = ("Beam(size=5)", "Greedy()")

STUDENTS = (
    (
        "ar_12_1",
        Autoregressive(
            dataclasses.replace(TRANSFORMER, num_encoder_layers=12, num_decoder_layers=1)
        ),
        TRAINING,
        SEARCHES,
    ),
    (
        "lstm",
        Recurrent(RecurrentConfig(d_model=512, num_encoder_layers=2, num_decoder_layers=2)),
        TRAINING,
        SEARCHES,
    ),
    ("decoder_only", DecoderOnly(TRANSFORMER), TRAINING, SEARCHES),
    (
        "joint",
        Joint(TRANSFORMER),
        TRAINING,
        ("LengthBeam(size=5, rescore=True)", "LengthBeam()", "Beam(size=5)"),
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
        dataclasses.replace(CTC, glancing=Glancing(0.5, 0.5)),
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
    name="IWSLT14 German-English, the family",
    directory="studies/iwslt14_de_en_family",
    entries=(
        Entry("ar_kd", Autoregressive(TRANSFORMER), TRAINING, distilled=True, decodings=SEARCHES),
        *(
            Entry(
                name if raw else f"{name}_kd",
                method,
                training,
                distilled=not raw,
                decodings=decodings,
            )
            for raw in (True, False)
            for name, method, training, decodings in STUDENTS
        ),
    ),
)
