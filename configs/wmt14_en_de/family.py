"""WMT14 English-German: every method, raw and distilled, beside one autoregressive teacher.

    python -m nat_ar study configs/wmt14_en_de/family.py
    python -m nat_ar study configs/wmt14_en_de/family.py --only ctc_glat_kd da_transformer

Each training is 300,000 steps of 64k tokens (128k for CMLM): days on 8 large GPUs. Not run by us. With `--only`, the
teacher and the named entries are trained.

Expected, newstest2014, *tokenised* BLEU as published (sacreBLEU, which we report, is up to 1.7 lower):

| entry | raw | distilled | whose numbers and hyper-parameters |
|---|---|---|---|
| ar | 28.1 | 28.5 | Huang et al. 2022 (DA-Transformer), table 1 |
| ar_12_1 | 26.9 | 28.3 | Kasai et al. 2020 |
| length | 11.8 | 20.0 | Huang et al. 2022 |
| fertility | | 17.4 | Gu et al. 2018 |
| glat | 19.4 | 25.2 | Huang et al. 2022; Qian et al. 2021 |
| axe | 20.4 | 23.5 | Ghazvininejad et al. 2020, on a masked language model |
| oaxe | 22.4 | 26.1 | Du et al. 2021, on a masked language model |
| deep_supervision | | 22.7 | Huang et al. 2022 (DSLP) |
| ctc | 18.4 | 25.5, 26.5 | Huang et al. 2022; Gu & Kong 2020 |
| ctc_glat | 25.0 | 26.4, 27.2 | Huang et al. 2022; Gu & Kong 2020 |
| ctc_vae | | 27.5 | Gu & Kong 2020 |
| da_transformer | 26.1, 26.6, 27.0 | 27.3, 27.5, 27.8 | Huang et al. 2022: greedy, lookahead, beam |
| cmlm | 24.6 (10 passes) | 18.1, 25.9, 27.0 (1, 4, 10 passes) | Ghazvininejad et al. 2019 |
| refinement | | 13.9, 21.6 (1, 10 passes) | Lee et al. 2018 |
| lstm, decoder_only, joint | | | none that compares |"""

import dataclasses
from pathlib import Path

from nat_ar.data.batching import BatchingConfig
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
from nat_ar.training.optimizer import OptimizerConfig

plain: StudyConfig = load_file(Path(__file__).with_name("study.py"))
TRANSFORMER = plain.teacher.method.transformer
TRAINING = plain.teacher.training
STRONG_DROPOUT = dataclasses.replace(TRANSFORMER, dropout_rate=0.3)
CTC_TRAINING = dataclasses.replace(
    TRAINING,
    optimizer=OptimizerConfig(
        peak_learning_rate=5e-4,
        warmup_steps=10_000,
        weight_decay=0.01,
        clip_norm=2.4,
        beta2=0.999,
        epsilon=1e-8,
    ),
)
CMLM_TRAINING = dataclasses.replace(
    TRAINING,
    batching=BatchingConfig(batch_tokens=131_072),
    accumulation=4,
)
GRAPH_TRAINING = dataclasses.replace(
    TRAINING,
    # A graph has 8 vertices a source token and a transition for each pair of them.
    batching=BatchingConfig(batch_tokens=65_536, buckets=(8, 12, 16, 24, 32, 48, 64, 96, 128)),
    accumulation=8,
    optimizer=OptimizerConfig(
        peak_learning_rate=5e-4, warmup_steps=10_000, weight_decay=0.01, clip_norm=0.1
    ),
)
GLANCING = Glancing(start_ratio=0.5, end_ratio=0.3, anneal_steps=300_000)
FULLY_NAT = Ctc(STRONG_DROPOUT, upsampling="copy", label_smoothing=0.1)
SEARCHES = ("Beam(size=4)", "Greedy()")

STUDENTS = (
    (
        "ar_12_1",
        Autoregressive(
            dataclasses.replace(
                TRANSFORMER, num_encoder_layers=12, num_decoder_layers=1, dropout_rate=0.2
            )
        ),
        TRAINING,
        SEARCHES,
    ),
    (
        "lstm",
        Recurrent(RecurrentConfig(d_model=500, num_encoder_layers=2, num_decoder_layers=2)),
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
    ("axe", LengthNat(STRONG_DROPOUT, token_loss=Axe()), CMLM_TRAINING, ("LengthBeam(size=5)",)),
    ("oaxe", LengthNat(STRONG_DROPOUT, token_loss=Oaxe()), CMLM_TRAINING, ("LengthBeam(size=5)",)),
    (
        "deep_supervision",
        LengthNat(TRANSFORMER, deep_supervision=True),
        TRAINING,
        ("LengthBeam()",),
    ),
    ("ctc", FULLY_NAT, CTC_TRAINING, ("BestPath()", "PrefixBeam(size=20)")),
    (
        "ctc_glat",
        dataclasses.replace(FULLY_NAT, glancing=Glancing(0.5, 0.5)),
        CTC_TRAINING,
        ("BestPath()", "PrefixBeam(size=20)"),
    ),
    (
        "ctc_vae",
        dataclasses.replace(FULLY_NAT, latent=Latent(size=8)),
        CTC_TRAINING,
        ("BestPath()",),
    ),
    (
        "da_transformer",
        DaTransformer(TRANSFORMER),
        GRAPH_TRAINING,
        ("GraphGreedy()", "Lookahead()", "GraphBeam()"),
    ),
    (
        "cmlm",
        Cmlm(STRONG_DROPOUT),
        CMLM_TRAINING,
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
    name="WMT14 English-German, the family",
    directory="studies/wmt14_en_de_family",
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
