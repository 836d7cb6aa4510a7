"""Multi30k English-German for live captions (docs/captions.md): models that expect a source to go on.

    python -m nat_ar study configs/multi30k_en_de/captions.py
    python -m nat_ar evaluate studies/multi30k_en_de_captions/runs/ar --decoding "Greedy()" \
        --policy "Retranslate()" "Redraft()" "Retranslate(mask_k=2)" "AppendOnly(mask_k=2)"
    python -m nat_ar evaluate studies/multi30k_en_de_captions/runs/wait_k --decoding "WaitK(k=1)" "WaitK(k=5)" \
        --policy "Wait()"
    python -m nat_ar evaluate studies/multi30k_en_de_captions/runs/ctc_wait_k \
        --decoding "ChunkWaitK(k=1)" "ChunkWaitK(k=5)" --policy "Wait()"
    python -m nat_ar compare studies/multi30k_en_de_captions/runs/* --captions captions.md captions.png

The teacher and the student also learn from beginnings of the training pairs (prefix pairs, Arivazhagan et al. 2020,
arXiv:2004.03643), the student from the teacher's translations of them; wait_k learns wait-k for five k at once (Ma et
al. 2019, arXiv:1810.08398; Elbayad et al. 2020, arXiv:2005.08595), and ctc_wait_k the same with frames, from the
teacher's translations (after NAST, Ma et al. 2023, arXiv:2310.14883: three frames a token, glancing from 0.5 to 0.3).
Models and optimizer are those of study.py, with 2,000 steps each; those that wait start from nothing, since their
encoders do not look ahead. Captions of that study's models, which know whole sentences only, are in
docs/results/captions; docs/results/captions_prefixes has what came out here, by `--only wait_k ctc_kd`."""

import dataclasses
from pathlib import Path

from nat_ar.data.prefix_pairs import PrefixPairs
from nat_ar.experiment.config import load_file
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.glancing import Glancing
from nat_ar.search.ctc import ChunkWaitK
from nat_ar.search.wait_k import WaitK

study: StudyConfig = load_file(Path(__file__).with_name("study.py"))
ctc = next(entry for entry in study.entries if entry.name == "ctc_kd")
teacher = study.teacher.method
assert isinstance(teacher, Autoregressive)
assert isinstance(ctc.method, Ctc)
WAIT_K = (1, 3, 5, 7, 9)
STEPS = 2000
training = dataclasses.replace(study.teacher.training, max_steps=STEPS)

config = dataclasses.replace(
    study,
    name="Multi30k English-German, captions",
    directory="studies/multi30k_en_de_captions",
    data=dataclasses.replace(
        study.data,
        directory="data/multi30k_en_de_captions",
        corpus=PrefixPairs(study.data.corpus),
    ),
    teacher=dataclasses.replace(
        study.teacher, training=training, decodings=("Beam(size=4)", "Greedy()")
    ),
    entries=(
        dataclasses.replace(ctc, training=dataclasses.replace(ctc.training, max_steps=STEPS)),
        Entry(
            "wait_k",
            dataclasses.replace(
                teacher,
                transformer=dataclasses.replace(teacher.transformer, encoder_attention="causal"),
                wait_k=WAIT_K,
                decoding=WaitK(k=5),
            ),
            training,
            decodings=("WaitK(k=1)", "WaitK(k=3)", "WaitK(k=5)", "WaitK(k=9)", "Greedy()"),
        ),
        Entry(
            "ctc_wait_k",
            dataclasses.replace(
                ctc.method,
                transformer=dataclasses.replace(ctc.method.transformer, encoder_attention="causal"),
                upsample_factor=3,
                glancing=Glancing(0.5, 0.3, anneal_steps=STEPS),
                wait_k=WAIT_K,
                decoding=ChunkWaitK(k=5),
            ),
            training,
            distilled=True,
            decodings=("ChunkWaitK(k=1)", "ChunkWaitK(k=3)", "ChunkWaitK(k=5)", "BestPath()"),
        ),
    ),
    columns=(),
)
