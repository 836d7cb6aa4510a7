"""A step of two processes of four devices is that of one process of eight, bit for bit, whatever a method draws, and
each process needs its own rows alone."""

import json
from pathlib import Path

import pytest

import processes

STEPS = """
import argparse, dataclasses, hashlib, json
import jax, numpy as np
from flax import nnx
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.cmlm import Cmlm
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.da_transformer import DaTransformer
from nat_ar.runtime import distributed
from nat_ar.training import optimizer, step
from nat_ar.training.optimizer import OptimizerConfig
from nat_ar.types import Batch
from toys import TINY, sentences

parser = argparse.ArgumentParser()
for name in ("--coordinator", "--processes", "--process"):
    parser.add_argument(name)
given = parser.parse_args()
transformer = dataclasses.replace(TINY, dropout_rate=0.1)
METHODS = {
    "cmlm": Cmlm(transformer=transformer),
    "ctc": Ctc(transformer=transformer),
    "da": DaTransformer(transformer=transformer),
}

def hash_of(tree):
    leaves = jax.tree.leaves(jax.device_get(tree))
    return hashlib.sha256(b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in leaves)).hexdigest()

with distributed.joined(given.coordinator, int(given.processes), int(given.process)):
    mesh = step.data_mesh()
    lengths = [8, 1, 3, 2, 5, 4, 2, 7, 6, 1, 2, 3, 4, 5, 6, 0]
    own = step.own_rows(mesh, 16)
    share = 16 // distributed.count()
    assert own == slice(share * distributed.index(), share * (distributed.index() + 1)), own
    needed = np.zeros((16, 1), bool)
    needed[own] = True  # the rows of others are empty here
    batch = Batch(*(np.where(needed, sentences(seed, lengths, 8, vocabulary=16), 0) for seed in (0, 1)))
    found = {}
    for name, method in METHODS.items():
        model = method.build(VocabularySizes(16, 16, is_joint=True), rngs=nnx.Rngs(0))
        graphdef, params, carried = step.split(model)
        adam = optimizer.build(OptimizerConfig(), max_steps=10)
        state = step.initial_state(params, adam, seed=1, has_average=True, carried=carried)
        state = step.place(mesh, state, is_batch=False)
        update = step.build_train_step(graphdef, adam, mesh, average_decay=0.9)
        placed = step.place(mesh, batch, is_batch=True)
        wishes = step.stop_wishes(mesh, False)
        step.compile_everywhere(update, state, placed, None, wishes)
        for _ in range(2):
            state, terms = update(state, placed, None, wishes)
        found[name] = [hash_of((state.params, state.average, state.opt_state)), hash_of(terms)]
        found[name].append(float(terms["update_norm"].total) > 0)
    print(json.dumps(found), flush=True)
"""


@pytest.mark.slow
def test_the_steps_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    """With dropout, masks and glances of their own; the collectives are Gloo's in both. An autoregressive model with
    accumulation is trained so in tests/pipeline/test_processes.py."""
    found = []
    for number, devices in ((1, 8), (2, 4)):
        with processes.job(
            ["-c", STEPS], tmp_path / str(number), number=number, devices=devices
        ) as job:
            assert job.end(seconds=480) == [0] * number, job.said(0)
            lines = [job.said(index).splitlines() for index in range(number)]
        found += [json.loads(next(x for x in said if x.startswith("{"))) for said in lines]
    assert found[0] == found[1] == found[2]
    assert all(has_moved for _, _, has_moved in found[0].values())
    assert len({state for state, _, _ in found[0].values()}) == 3
