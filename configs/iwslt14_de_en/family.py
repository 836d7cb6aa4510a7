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

from nat_ar.experiment import recipes
from nat_ar.experiment.config import load_file
from nat_ar.experiment.study import StudyConfig
from nat_ar.methods.glancing import Glancing
from nat_ar.nn.recurrent import RecurrentConfig

plain: StudyConfig = load_file(Path(__file__).with_name("study.py"))
TRANSFORMER = recipes.transformer_of(plain.teacher)
TRAINING = plain.teacher.training

config = dataclasses.replace(
    plain,
    name="IWSLT14 German-English, the family",
    directory="studies/iwslt14_de_en_family",
    entries=recipes.family(
        TRANSFORMER,
        TRAINING,
        shallow=dataclasses.replace(TRANSFORMER, num_encoder_layers=12, num_decoder_layers=1),
        recurrent=RecurrentConfig(d_model=512, num_encoder_layers=2, num_decoder_layers=2),
        ctc_glancing=Glancing(0.5, 0.5),
        graph_training=dataclasses.replace(
            recipes.with_clipping(TRAINING, 0.1),
            batching=dataclasses.replace(TRAINING.batching, buckets=recipes.GRAPH_BUCKETS),
        ),
        beam=5,
    ),
)
