"""What a GPU is wanted for, in one command: bfloat16 models of Transformer-base's sizes, timed and trained.

    bash scripts/gpu_study.sh --minutes 9          # on the GPU, from prepared arrays
    bash scripts/gpu_study.sh --tiny               # a dry run of every stage, on a CPU too; its numbers mean nothing

In this order, written to --output row by row, so that a run that is cut short leaves what it has measured: versions,
device and peaks; latency at batch 1 of AR beam 4, AR greedy, AR 12-1 greedy and every NAT, with random weights of known
length; a train step of AR, CTC + GLAT and DA-Transformer, with its model FLOPs utilisation (MFU) against --peak;
throughput against batch size; then these three models trained on Multi30k English-German for as many steps as
--minutes allow, evaluated on its test, their weights kept in bfloat16. What fails is a note in the table.

The arrays are prepared before, anywhere, from Multi30k's three files of `English TAB German` lines, gzipped or not:

    bash scripts/gpu_study.sh --prepare train.tsv.gz validation.tsv.gz test2016.tsv.gz

writes --data, some 9 MB. With the code that is all that has to be carried to the machine, which needs the packages of
requirements.txt but `datasets`, JAX for its GPU, and no network. --distilled names what `distill` made with any teacher
on the same prepared data, and CTC + GLAT is trained on it; without it, on raw data.

A --peak is the dense bfloat16 rate of the data sheet; the default is that of an H100 or H200 (SXM)."""

import argparse
import dataclasses
from pathlib import Path

import jax

from nat_ar.data import prepare
from nat_ar.experiment.study import load_study
from nat_ar.runtime import compilation
from scripts.benchmark_cpu.models import Workshop
from scripts.gpu_study import random_weights, report, scale, study, tiny, trained
from scripts.gpu_study.study import Study

PEAK = 989e12
"""FLOP/s"""
STUDY = "configs/multi30k_en_de/study.py"
"""the study whose vocabulary and filters the prepared data get"""


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="time for everything")
    parser.add_argument("--data", type=Path, default=Path("data/multi30k_en_de"))
    parser.add_argument(
        "--prepare",
        nargs=3,
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="write --data from these files, and do nothing else",
    )
    parser.add_argument("--distilled", type=Path, help="distilled data for CTC + GLAT")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/gpu_study"), help="a new directory"
    )
    parser.add_argument("--peak", type=float, default=PEAK, help="FLOP/s in bfloat16 (%(default)g)")
    parser.add_argument("--tiny", action="store_true", help="a dry run")
    arguments = parser.parse_args(words)
    if arguments.prepare:
        config = dataclasses.replace(load_study(STUDY).data, directory=str(arguments.data))
        prepare.prepare(prepare.from_files(config, arguments.prepare))
        return
    if not arguments.tiny and not arguments.data.is_dir():
        parser.error(f"--data {arguments.data} is no directory: make it with --prepare first")
    if arguments.output.exists() and any(arguments.output.iterdir()):
        parser.error(
            f"--output {arguments.output} is not empty: name another directory, or remove it"
        )
    arguments.output.mkdir(parents=True, exist_ok=True)
    compilation.use_cache()  # an evaluation finds what a validation has compiled
    if arguments.tiny:  # compiling is most of what a dry run waits for
        jax.config.update("jax_disable_most_optimizations", True)
    size = scale.TINY if arguments.tiny else scale.FULL
    one = Study(arguments.output, size, minutes=arguments.minutes, peak=arguments.peak)
    study.versions(one)
    workshop = Workshop(size.decode)
    random_weights.latency(one, workshop)
    random_weights.steps(one)
    random_weights.curve(one, workshop)
    report.draw(arguments.output, one.sections)
    del workshop  # its models lie on the device
    data = tiny.write(arguments.output / "tiny") if arguments.tiny else arguments.data
    trained.trainings(one, data, arguments.distilled)
    print((arguments.output / "table.md").read_text("utf-8"))


if __name__ == "__main__":
    main()
