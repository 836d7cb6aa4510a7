"""The notebook of docs/ runs from its first cell to its last, on runs of every method that it shows."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from nat_ar.data.alignment.model import AlignerConfig
from nat_ar.data.arrays import PreparedData
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.run import Run
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.cmlm import Cmlm
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.da_transformer import DaTransformer
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.iterative_refinement import IterativeRefinement
from nat_ar.methods.length_nat import LengthNat
from toys import TINY

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs/notebooks/first_steps.ipynb"
METHODS = {
    "ar": Autoregressive(TINY),
    "length_kd": LengthNat(TINY),
    "fertility_kd": FertilityNat(TINY),
    "ctc_glat_kd": Ctc(TINY),
    "da_transformer": DaTransformer(TINY),
    "cmlm_kd": Cmlm(TINY),
    "refinement_kd": IterativeRefinement(TINY),
}


@pytest.mark.slow
def test_the_notebook_runs(
    tiny_runs, start_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Untrained models of seven methods on letters: every cell ends, and each method's picture is drawn."""
    data = PreparedData.load(tiny_runs.data)
    aligned = dataclasses.replace(tiny_runs.length_nat.config().data, aligner=AlignerConfig())
    for name, method in METHODS.items():
        config = ExperimentConfig(name, aligned, method)
        start_run(Run(tmp_path / "runs" / name), config, data)
    monkeypatch.setenv("NAT_AR_STUDY", str(tmp_path))
    monkeypatch.setenv("NAT_AR_SENTENCE", "b a d")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": NOTEBOOK.parent}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 6
    assert any("text/markdown" in o.get("data", {}) for o in outputs)  # the table
    assert not any(o.output_type == "error" for o in outputs)


def test_the_notebook_was_run_when_it_was_committed() -> None:
    """It shows the pictures of trained models, of cells in order, and no path of the machine that ran it."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert str(Path.home()) not in NOTEBOOK.read_text("utf-8")
