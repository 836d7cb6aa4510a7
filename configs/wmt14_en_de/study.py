"""WMT14 English-German: 4.5 million sentence pairs, from the hub; the field's main comparison.

    python -m nat_ar study configs/wmt14_en_de/study.py

For a machine with 8 large GPUs (time not measured).
Published, newstest2014, tokenised BLEU: Gu et al. 2018 autoregressive beam 4 23.45,
fertility NAT 17.35, with fine-tuning 17.69, with 100 samples 19.17; modern re-runs autoregressive 28.1 raw and 28.5
distilled, one-pass NAT 11.8 raw and 20.0 distilled (Huang et al. 2022, DA-Transformer, table 1; 64k tokens a
batch, 300k steps). The hyper-parameters below are theirs, the fine-tuning stage Gu's. Not yet run by us."""

from nat_ar.data.batching import BatchingConfig
from nat_ar.data.hugging_face import HuggingFace
from nat_ar.data.prepare import DataConfig
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.experiment import recipes
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.training.config import TrainingConfig, ValidationConfig
from nat_ar.training.optimizer import OptimizerConfig

TRANSFORMER = TransformerConfig(
    d_model=512, d_hidden=2048, num_heads=8, dropout_rate=0.1, dtype="bfloat16"
)
TRAINING = TrainingConfig(
    max_steps=300_000,
    batching=BatchingConfig(batch_tokens=65_536),
    accumulation=2,
    optimizer=OptimizerConfig(peak_learning_rate=5e-4, warmup_steps=10_000, weight_decay=0.01),
    average_decay=0.9999,
    validation=ValidationConfig(every_steps=5000, sentences=3000),
)

config = recipes.gu_2018(
    TRANSFORMER,
    TRAINING,
    name="WMT14 English-German",
    directory="studies/wmt14_en_de",
    data=DataConfig(
        "data/wmt14_en_de",
        HuggingFace("wmt/wmt14", source="translation.en", target="translation.de", subset="de-en"),
        VocabularyConfig(size=37_000, kind="bpe"),
        max_length_ratio=3.0,
    ),
)
