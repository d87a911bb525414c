"""Accounts of compiled programs: trips, collectives, traffic, executed operations."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cm3leon_jax.models import kernels
from cm3leon_jax.plan import collectives, hlo, traffic, work

LAYERS, WIDTH, ROWS = 6, 64, 32
LAYER_BYTES = WIDTH * WIDTH * 4

TEXT = """HloModule step

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[], f32[8,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%p), index=1
  %all-gather.1 = f32[32,4]{1,0} all-gather(%x), replica_groups=[2,4]<=[8], \
dimensions={0}, frontend_attributes={chain_id="0"}
  %all-gather.2 = f32[32,4]{1,0} all-gather(%x), replica_groups=[2,4]<=[8], \
dimensions={0}, frontend_attributes={chain_id="0"}
  %kernel = f32[8,4]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", \
frontend_attributes={kernel_metadata={
"block": 512
}}, metadata={op_name="kernel"}
  %rest = bf16[8,4]{1,0:T(8,128)S(1)} convert(%x)
  ROOT %t = (s32[], f32[8,4]{1,0}) tuple(%p, %x)
}

%condition (q: (s32[], f32[8,4])) -> pred[] {
  %q = (s32[], f32[8,4]{1,0}) parameter(0)
  %n = s32[]{:T(128)} constant(5)
  %i = s32[] get-tuple-element(%q), index=0
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %z = s32[] constant(0)
  %s = (s32[], /*index=1*/f32[8,4]{1,0}) tuple(%z, %a)
  %w = (s32[], f32[8,4]{1,0}) while(%s), condition=%condition, body=%body
  ROOT %sum = f32[8,4]{1,0} all-reduce(%a), \
replica_groups=mesh['x'=4,'y'=2] {'x','y'}, to_apply=%add
}
"""


def test_find_counts_a_loops_collectives_by_its_trips_and_a_chain_once():
    module = hlo.parse(TEXT)
    assert module.runs()["body"] == 5
    found = collectives.find(module, num_devices=8)
    assert collectives.by_kind(found) == {
        "all-gather": 5 * 3 * 128,  # its 128 bytes to three others, five times
        "all-reduce": 2 * 7 / 8 * 128,
        "total": 5 * 3 * 128 + 2 * 7 / 8 * 128,
    }


SCATTERED = """HloModule step

%all-reduce-scatter.1 (input: f32[32,4]) -> f32[8,4] {
  %input = f32[32,4]{1,0} parameter(0)
  %all-reduce.1 = f32[32,4]{1,0} all-reduce(%input), replica_groups={{0,1,2,3}}, \
to_apply=%add
  %place = u32[] partition-id()
  %zero = u32[] constant(0)
  ROOT %kept = f32[8,4]{1,0} dynamic-slice(%all-reduce.1, %place, %zero), \
dynamic_slice_sizes={8,4}
}

ENTRY %main (a: f32[32,4]) -> f32[8,4] {
  %a = f32[32,4]{1,0} parameter(0)
  ROOT %fusion = f32[8,4]{1,0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_a_tpus_fusion_that_keeps_a_slice_of_a_sum_is_a_reduce_scatter():
    found = collectives.find(hlo.parse(SCATTERED), num_devices=4)
    assert collectives.by_kind(found) == {
        "reduce-scatter": 3 / 4 * 512,
        "total": 3 / 4 * 512,
    }


def test_traffic_leaves_out_what_stays_in_fast_memory():
    found = traffic.find(hlo.parse(TEXT))
    a_turn = 2 * (128 + 512) + 128  # two gathers, and a conversion's operand
    a_test = 4 + 4 + 1
    others = 5 * (a_turn + a_test) + 2 * 128
    a_kernel = 128 + 128
    assert found == traffic.Traffic(products=5 * a_kernel, others=others)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("replica_groups={{0,1},{2,3}}, x", 2),
        ("replica_groups=[4,2]<=[8]", 2),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", 4),
        ("replica_groups={}, x", 8),
    ],
)
def test_group_size_of_every_way_to_write_groups(attributes, expected):
    assert collectives.group_size(attributes, 8) == expected


def test_parse_refuses_text_that_is_no_program():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("nothing")


def _loss(weights_LDD, x_BD, mesh):
    place = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))

    @jax.checkpoint
    def layer(x_BD, weights_DD):
        x_BD = jax.nn.relu(x_BD @ weights_DD)
        return jax.lax.with_sharding_constraint(x_BD, place), None

    return jnp.square(jax.lax.scan(layer, x_BD, weights_LDD)[0]).sum()


@pytest.fixture(scope="module")
def program():
    kinds = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), kinds)
    place = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))
    weights, rows = place(None, "fsdp"), place(("data", "fsdp"))
    step = jax.jit(
        jax.value_and_grad(lambda w, x: _loss(w, x, mesh)),
        in_shardings=(weights, rows),
        out_shardings=(None, weights),
    )
    return step.trace(
        jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32),
        jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32),
    )


def test_collectives_of_a_scan_on_eight_devices_are_what_fsdp_needs(program):
    module = hlo.parse(program.lower().compile().as_text())
    found = collectives.by_kind(collectives.find(module, 8))
    # Weights are gathered over 4 devices going forward and going back.
    gathered = 2 * LAYERS * LAYER_BYTES * 3 / 4
    assert found["all-gather"] == pytest.approx(gathered, rel=0.01)
    # Their gradient is summed over all 8.
    assert found["all-reduce"] >= LAYERS * LAYER_BYTES


def test_work_counts_what_a_checkpointed_scan_computes_again(program):
    product = 2 * ROWS * WIDTH * WIDTH
    # Forward, again, and two products backward; the first layer's input has no gradient
    # but a scan computes it.
    assert work.count(program.jaxpr) == work.Work(products=4 * LAYERS * product)


@pytest.mark.parametrize("rows", [1, 3])
def test_work_counts_the_attention_kernel_of_which_the_compiler_sees_nothing(rows):
    attend = kernels.choose(kernels.AttentionConfig(), "tpu", dtype="bfloat16")
    total = lambda q, ids: attend(q, q, q, ids).astype(jnp.float32).sum()
    q_BLHK = jax.ShapeDtypeStruct((rows, 512, 2, 128), jnp.bfloat16)
    ids_BL = jax.ShapeDtypeStruct((rows, 512), jnp.int32)
    found = work.count(jax.make_jaxpr(jax.grad(total))(q_BLHK, ids_BL))
    # Two products forward, five backward, half of each hidden by the causal mask.
    assert found.attention == 7 * 2 * rows * 2 * 512 * 512 * 128 / 2


def test_traffic_of_a_scan_counts_slices_not_whole_stacks(program):
    found = traffic.find(hlo.parse(program.lower().compile().as_text()))
    stack = LAYERS * LAYER_BYTES
    # Whole stacks read and written at every layer would be 6 times as much.
    assert stack < found.total < 20 * stack
    assert found.products > 0
