from nat_ar.evaluation.speed import profiling

PROGRAM = """HloModule jit_decode, entry_computation_layout={(f32[1,8]{1,0})->f32[]}

%fused (param_0: f32[9], param_1: f32[8]) -> f32[9] {
  %param_0 = f32[9]{0} parameter(0)
  %param_1 = f32[8]{0} parameter(1)
  %bitcast.1 = f32[1,9]{1,0} bitcast(%param_0), metadata={op_name="jit(f)/while/body/vocabulary/dot_general"}
  ROOT %max.1 = f32[9]{0} maximum(%bitcast.1, %param_1), metadata={op_name="jit(decode)/while/body/reduce_max"}
}

%body (state: (f32[8], f32[8,9])) -> (f32[8], f32[8,9]) {
  %state = (f32[8]{0}, f32[8,9]{1,0}) parameter(0)
  %states = f32[8]{0} get-tuple-element(%state), index=0
  %norm.3 = f32[8]{0} multiply(%states, %states), metadata={op_name="jit(decode)/while/body/decoder/mul"}
  %dot.79 = f32[9]{0} dot(%norm.3, %table), lhs_contracting_dims={0}, rhs_contracting_dims={0}
  %copy.2 = f32[8]{0} copy(%norm.3)
  %tanh.1 = f32[8]{0} tanh(%copy.2), metadata={op_name="jit(decode)/while/body/decoder/decoder/tanh"}
  %last_fusion = f32[9]{0} fusion(%dot.79, %norm.3), kind=kLoop, calls=%fused
  ROOT %tuple.5 = (f32[8]{0}, /*index=1*/f32[8,9]{1,0}) tuple(%states, %table)
}

ENTRY %main.9 (x: f32[1,8]) -> f32[] {
  %x = f32[1,8]{1,0} parameter(0)
  %sine.1 = f32[8]{0} sine(%x), metadata={op_name="jit(decode)/encoder/sin"}
  ROOT %while.1 = (f32[8]{0}, f32[8,9]{1,0}) while(%start), condition=%region, body=%body
}
"""


def test_instructions_belong_to_the_innermost_scope_or_to_what_reads_them() -> None:
    pieces = profiling.instruction_pieces(PROGRAM)
    assert pieces["sine.1"] == "encoder"
    assert pieces["norm.3"] == "decoder"
    assert pieces["tanh.1"] == "decoder"
    assert pieces["copy.2"] == "decoder"  # nameless; tanh reads it
    assert pieces["dot.79"] == "vocabulary"  # nameless; its reshape in the fusion has the name
    assert pieces["last_fusion"] == "search"  # its result is the maximum
    assert pieces["while.1"] == ""  # what it does its body does


def test_pieces_add_up_to_the_window() -> None:
    device = [
        (10.0, 30.0, "encoder"),
        (20.0, 40.0, "decoder"),  # on another thread; together from 20 to 30
        (50.0, 60.0, "search"),
        (95.0, 130.0, "search"),  # ends after the window
    ]
    host = [(2.0, 6.0, profiling.TOKENIZER), (38.0, 45.0, profiling.DETOKENIZER)]
    found = profiling.pieces_of((0.0, 100.0), device, host)
    assert found == {
        profiling.TOKENIZER: 4,
        "encoder": 10 + 5,
        "decoder": 5 + 10,
        "vocabulary": 0,
        "search": 10 + 5,
        "between": 5 + 35,  # 45 to 50 and 60 to 95
        profiling.DETOKENIZER: 5,  # 40 to 45: before that the device ran
        "host": 2 + 4,  # 0 to 2 and 6 to 10
    }
    assert sum(found.values()) == 100


def test_a_sentence_without_a_program_is_the_hosts() -> None:
    found = profiling.pieces_of((0.0, 7.0), [], [(1.0, 3.0, profiling.TOKENIZER)])
    assert (found[profiling.TOKENIZER], found["host"]) == (2, 5)


def test_the_table_says_milliseconds_and_shares() -> None:
    pieces = dict.fromkeys(profiling.PIECES, 0.0) | {"encoder": 1.0, "host": 3.0}
    profile = {"sentences": 1, "traced_ms": 5.0, "latency_ms": 4.0, "pieces_ms": pieces}
    row = {"name": "nat", "decoding": "LengthBeam(size=1)", "profile": profile}
    lines = profiling.render([row]).splitlines()
    assert lines[0].split() == ["ms", "a", "sentence", "(%)", "nat", "LengthBeam(size=1)"]
    assert lines[2].split() == ["encoder", "1.000", "(25.0)"]
    assert lines[-2].split() == ["latency", "4.000", "(100.0)"]
    assert lines[-1].split() == ["while", "traced", "5.000"]
    assert profiling.file_name(row) == "nat_LengthBeam_size_1"


def test_instructions_of_the_window_are_found_and_those_around_others_left_out() -> None:
    device = [(1.0, 9.0, "loop.3"), (2.0, 3.0, "dot.1"), (4.0, 5.0, "new"), (11.0, 12.0, "dot.1")]
    found = profiling.Events({}, device).instructions(
        (0.0, 10.0), {"dot.1": "decoder", "loop.3": ""}
    )
    assert found == [(2.0, 3.0, "decoder"), (4.0, 5.0, "search")]
