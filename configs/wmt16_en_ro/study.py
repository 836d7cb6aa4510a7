"""WMT16 English-Romanian: 0.6 million sentence pairs, from the hub.

    python -m nat_ar study configs/wmt16_en_ro/study.py

For a machine with 4 large GPUs (time not measured).
Published, newstest2016, tokenised BLEU: Gu et al. 2018 autoregressive beam 4 31.91,
fertility NAT 26.22, with fine-tuning 27.29, with 100 samples 29.79; CMLM with one pass 27.32, with ten 33.08
(Ghazvininejad et al. 2019); GLAT 31.19 (Qian et al. 2021). Not yet run by us: no hub here."""

from nat_ar.data.batching import BatchingConfig
from nat_ar.data.hugging_face import HuggingFace
from nat_ar.data.prepare import DataConfig
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.experiment import recipes
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.training.config import TrainingConfig, ValidationConfig
from nat_ar.training.optimizer import OptimizerConfig

TRANSFORMER = TransformerConfig(
    d_model=512, d_hidden=2048, num_heads=8, dropout_rate=0.3, dtype="bfloat16"
)
TRAINING = TrainingConfig(
    max_steps=100_000,
    batching=BatchingConfig(batch_tokens=32_768),
    accumulation=2,
    optimizer=OptimizerConfig(peak_learning_rate=5e-4, warmup_steps=10_000, weight_decay=0.01),
    average_decay=0.9999,
    validation=ValidationConfig(every_steps=5000, sentences=3000),
)

config = recipes.gu_2018(
    TRANSFORMER,
    TRAINING,
    name="WMT16 English-Romanian",
    directory="studies/wmt16_en_ro",
    data=DataConfig(
        "data/wmt16_en_ro",
        HuggingFace("wmt/wmt16", source="translation.en", target="translation.ro", subset="ro-en"),
        VocabularyConfig(size=37_000, kind="bpe"),
        max_length_ratio=3.0,
    ),
)
