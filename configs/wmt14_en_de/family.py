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
from nat_ar.experiment import recipes
from nat_ar.experiment.config import load_file
from nat_ar.experiment.study import StudyConfig
from nat_ar.nn.recurrent import RecurrentConfig

plain: StudyConfig = load_file(Path(__file__).with_name("study.py"))
TRANSFORMER = recipes.transformer_of(plain.teacher)
TRAINING = plain.teacher.training

config = dataclasses.replace(
    plain,
    name="WMT14 English-German, the family",
    directory="studies/wmt14_en_de_family",
    entries=recipes.family(
        TRANSFORMER,
        TRAINING,
        shallow=dataclasses.replace(
            TRANSFORMER, num_encoder_layers=12, num_decoder_layers=1, dropout_rate=0.2
        ),
        recurrent=RecurrentConfig(d_model=500, num_encoder_layers=2, num_decoder_layers=2),
        regularised=dataclasses.replace(TRANSFORMER, dropout_rate=0.3),
        masked_training=dataclasses.replace(
            TRAINING, batching=BatchingConfig(batch_tokens=131_072), accumulation=4
        ),
        ctc_training=dataclasses.replace(
            TRAINING,
            optimizer=dataclasses.replace(
                TRAINING.optimizer, clip_norm=2.4, beta2=0.999, epsilon=1e-8
            ),
        ),
        graph_training=dataclasses.replace(
            recipes.with_clipping(TRAINING, 0.1),
            batching=BatchingConfig(batch_tokens=65_536, buckets=recipes.GRAPH_BUCKETS),
            accumulation=8,
        ),
    ),
)
