"""The teacher of the toy study as an experiment of its own, for the verbs one by one.

python -m nat_ar prepare configs/toy/teacher.py
python -m nat_ar train configs/toy/teacher.py --run runs/teacher"""

from pathlib import Path

from nat_ar.experiment.config import ExperimentConfig, load_file

study = load_file(Path(__file__).with_name("study.py"))
config = ExperimentConfig("ar", study.data, study.teacher.method, study.teacher.training)
