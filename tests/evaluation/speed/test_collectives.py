"""What devices exchange is read from a program's text; each number can be checked by hand."""

import json

import numpy as np
import pytest

import many_devices
from nat_ar.evaluation.speed import collectives
from nat_ar.evaluation.speed.collectives import Exchange

PROGRAM = """HloModule jit_step, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (state: (s32[], f32[10])) -> (s32[], f32[10]) {
  %state = (s32[], f32[10]) parameter(0)
  %x = f32[10]{0} get-tuple-element(%state), index=1
  %all-reduce.1 = (f32[10]{0}, /*index=1*/bf16[4,5]{1,0}) all-reduce(%x, %y), replica_groups=GROUPS, to_apply=%add
  ROOT %tuple = (s32[], f32[10]) tuple(%i, %z)
}

%condition (state: (s32[], f32[10])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[10]) -> f32[10] {
  %x = f32[10]{0} parameter(0)
  %gathered = f32[16,3]{1,0} all-gather(%x), replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}
  %scattered = s32[6]{0} reduce-scatter(%g), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add
  %alone = f32[99]{0} all-reduce(%x), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%add
  %moved = u8[7]{0} collective-permute(%x), source_target_pairs={{0,1},{1,2},{3,0}}
  %while = (s32[], f32[10]) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %out = f32[10]{0} get-tuple-element(%while), index=1
}
"""


@pytest.mark.parametrize(
    ("groups", "members", "crosses"),
    [
        ("{}", 8, True),
        ("{{0,1,2,3},{4,5,6,7}}", 4, False),
        ("[2,4]<=[8]", 4, False),
        ("[4,2]<=[2,4]T(1,0)", 2, True),  # 0 with 4, 1 with 5
        ("mesh['a'=2,'b'=4] {'b'}", 4, False),
        ("mesh['a'=2,'b'=4] {'a'}", 2, True),
        ("mesh['a'=2,'b'=4] {'a','b'}", 8, True),
        ("mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}", 4, False),
        ("mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'c'}", 2, True),
    ],
)
def test_a_loop_counts_as_often_as_it_runs(groups: str, members: int, crosses: bool) -> None:
    """Machines of four devices; a sum of 10 float32 and 20 bfloat16, three times."""
    text = PROGRAM.replace("GROUPS", groups)
    assert collectives.of_program(text, devices_per_machine=4) == [
        Exchange("all-reduce", members, crosses, 3 * (10 * 4 + 20 * 2)),
        Exchange("all-gather", 2, False, 16 * 3 * 4),
        Exchange("reduce-scatter", 4, False, 6 * 4 * 4),  # its operand
        Exchange("collective-permute", 2, False, 7),
    ]


def test_in_a_ring_each_sends_all_but_its_own_part() -> None:
    sent = [Exchange(kind, 4, False, 100).sent_bytes for kind in collectives.KINDS]
    assert sent == [150, 75, 75, 75, 100]


def test_what_cannot_be_read_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot read which devices"):
        collectives.of_program(PROGRAM.replace("GROUPS", "new"), devices_per_machine=8)
    text = PROGRAM.replace("GROUPS", "{}").replace("all-gather(", "all-gather-start(")
    with pytest.raises(ValueError, match="asynchronous"):
        collectives.of_program(text, devices_per_machine=8)


COMPILED = """
import dataclasses, json
import jax, jax.numpy as jnp, numpy as np
from nat_ar.evaluation.speed import collectives

mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "fsdp"))
def step(x):
    def part(total, i):
        return total + jax.lax.psum(i * x, "fsdp"), None
    total, _ = jax.lax.scan(part, jnp.zeros_like(x), jnp.arange(5.0))
    return jax.lax.all_gather(total, "data")
program = jax.shard_map(step, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P(), check_vma=False)
text = jax.jit(program).lower(jax.ShapeDtypeStruct((20, 3), jnp.float32)).compile().as_text()
print(json.dumps([dataclasses.asdict(x) for x in collectives.of_program(text, devices_per_machine=4)]))
"""


@pytest.mark.slow
def test_of_a_program_that_is_compiled_here() -> None:
    """Ten rows of three a device: five sums within machines, and both halves gathered across."""
    found = [Exchange(**one) for one in json.loads(many_devices.run(COMPILED))]
    assert found == [
        Exchange("all-reduce", 4, False, 5 * 10 * 3 * 4),
        Exchange("all-gather", 2, True, 2 * 10 * 3 * 4),
    ]
    assert np.isclose(found[0].sent_bytes, 900)
