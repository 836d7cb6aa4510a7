"""`import nat_ar`: it costs nothing, and what it offers does what the command line does."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nat_ar
from nat_ar.config_json import ConfigError
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


def test_importing_loads_nothing_else() -> None:
    code = "import sys, nat_ar; dir(nat_ar); print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = run.stdout.split()
    assert [name for name in loaded if name.startswith("nat_ar")] == ["nat_ar"]
    assert not {"jax", "numpy", "flax", "tqdm"} & set(loaded)


def test_the_stub_tells_type_checkers_what_the_door_offers() -> None:
    stub = ast.parse((ROOT / "nat_ar/__init__.pyi").read_text("utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module for node in imports for alias in node.names} == nat_ar.DOOR
    for name in nat_ar.DOOR:
        assert callable(getattr(nat_ar, name))
        assert name in dir(nat_ar)


def test_a_name_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(AttributeError, match="no attribute 'translate'; it has load, train"):
        nat_ar.translate  # noqa: B018


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_run_is_loaded_and_translates(tiny_runs, as_path) -> None:
    model = nat_ar.load(as_path(tiny_runs.autoregressive.directory), decoding=Greedy())
    by_text = nat_ar.load(tiny_runs.autoregressive.directory, "Greedy()", checkpoint=0)
    sentences = ["a b", "c", ""]
    translations = model.translate(sentences)
    assert len(translations) == 3
    assert translations == by_text.translate(sentences)
    assert translations[2].texts == [""]
    assert repr(model).startswith(
        f"TranslationSystem('{tiny_runs.autoregressive.directory}', step 0, Greedy()"
    )
    assert nat_ar.load(tiny_runs.autoregressive.directory).decoding == Beam()
    assert set(model.internals(["a"])[0]) >= {"source_pieces", "target_pieces"}


def test_mistakes_are_answered_as_on_the_command_line(tiny_runs, tmp_path: Path) -> None:
    run = tiny_runs.autoregressive.directory
    with pytest.raises(ConfigError, match=r"is no run: it has no config.json; train one first"):
        nat_ar.load(tmp_path)
    for wrong in ("Beem()", Greedy, 4):
        with pytest.raises(
            ConfigError, match=r"expected a decoding of Autoregressive: .*Beam\(size=4"
        ):
            nat_ar.load(run, wrong)
    with pytest.raises(
        ValueError, match=r"expected a list of texts, got the text 'a b'; write \['a b'\]"
    ):
        nat_ar.load(run, "Greedy()").translate("a b")


def test_a_row_a_table_and_a_benchmark_from_python(tiny_runs, tmp_path: Path) -> None:
    run = tiny_runs.length_nat.directory
    row = nat_ar.evaluate(str(run), split="test")
    assert row["bleu"]["score"] >= 0.0
    assert row["decoding"] == "LengthBeam(size=1)"
    comparison = nat_ar.compare([str(run)], n_bootstrap=10)
    assert "LengthBeam(size=1)" in comparison.render("markdown")


def test_scores_are_nats_a_sentence(tiny_runs) -> None:
    model = nat_ar.load(tiny_runs.autoregressive.directory, "Greedy()")
    short, long = model.score(["a b", "a b"], ["A", "A B A B A B A B"])
    assert long < 2 * short < 0.0  # a model of random parameters: each token costs about as much
