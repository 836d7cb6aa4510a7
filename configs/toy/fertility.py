"""The fertility NAT of the toy study (Gu et al. 2018) as an experiment of its own.

    python -m nat_ar train configs/toy/fertility.py --run runs/fertility \\
        --train_on data/toy_distilled --teacher runs/teacher"""

from pathlib import Path

from nat_ar.experiment.config import ExperimentConfig, load_file

study = load_file(Path(__file__).with_name("study.py"))
entry = next(entry for entry in study.entries if entry.name == "fertility")
config = ExperimentConfig("fertility", study.data, entry.method, entry.training)
