"""Who may import whom (docs/architecture.md), read from the source by `ast`, so that imports inside
functions and under TYPE_CHECKING count as well."""

import ast
import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "nat_ar"
FLOORS = {  # room -> floor; a room is a folder or a file of the package itself
    "__init__": 0,
    "special_tokens": 0,
    "config_json": 0,
    "types": 0,
    "runtime": 0,
    "data": 1,
    "nn": 2,
    "search": 2,
    "losses": 2,
    "methods": 3,
    "training": 4,
    "translation": 4,
    "evaluation": 5,
    "export": 5,
    "streaming": 6,
    "experiment": 6,  # a study says how its systems are timed
    "pipeline": 7,
    "commands": 8,
    "__main__": 9,
}
HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "chex"}  # all of them import jax
ONLY_IN = {
    "ctranslate2": {"nat_ar.export.ctranslate2"},
    "datasets": {"nat_ar.data.hugging_face"},
    "lxml": {"nat_ar.data.debian.formats"},
    "orbax": {"nat_ar.training.checkpoint"},
    "polib": {"nat_ar.data.debian.formats"},
    "rich": {"nat_ar.evaluation.table.terminal", "nat_ar.streaming.view"},
    "tyro": {"nat_ar.__main__"},
}


def name_of(path: Path) -> str:
    """nat_ar/data/pair.py -> nat_ar.data.pair; a folder's __init__.py -> the folder."""
    parts = ["nat_ar", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_in(tree: ast.AST) -> Iterator[str]:
    """Dotted names of the modules that the source imports, ours as modules and not as packages:
    `from nat_ar.data import pair` is nat_ar.data.pair."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            module = node.module or ""
            for alias in node.names:
                full = f"{module}.{alias.name}"
                yield full if full in FILES else module


@functools.cache
def imports_of(module: str) -> frozenset[str]:
    return frozenset(imports_in(ast.parse(FILES[module].read_text("utf-8"), module)))


def ours(module: str) -> frozenset[str]:
    """Modules of the package that the module imports."""
    return frozenset(name for name in imports_of(module) if name.split(".")[0] == "nat_ar")


def room_of(module: str) -> str:
    return [*module.split("."), "__init__"][1]


@functools.cache
def reached_from(module: str) -> frozenset[str]:
    """The module and everything of ours that importing it imports."""
    seen, waiting = set(), [module]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting.extend(ours(current))
    return frozenset(seen)


def test_imports_are_read_as_they_are_written() -> None:
    source = """
import os.path
from nat_ar.data import ragged, Something
from nat_ar import special_tokens
from nat_ar.data.pair import Pair
def late():
    import datasets
"""
    assert set(imports_in(ast.parse(source))) == {
        "os.path",
        "nat_ar.data.ragged",
        "nat_ar.data",
        "nat_ar.special_tokens",
        "nat_ar.data.pair",
        "datasets",
    }


@pytest.mark.parametrize("module", FILES)
def test_every_module_stands_on_a_floor_and_imports_only_what_exists(module: str) -> None:
    assert room_of(module) in FLOORS, f"give the room of {module} a floor in tests/test_layers.py"
    assert ours(module) <= set(FILES)


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down_or_stay_in_the_room(module: str) -> None:
    room = room_of(module)
    upwards = sorted(
        name
        for name in ours(module)
        if room_of(name) != room and FLOORS[room_of(name)] >= max(FLOORS[room], 1)
    )
    assert not upwards, f"{module} (floor {FLOORS[room]}) must not import {upwards}"


@pytest.mark.parametrize("module", FILES)
def test_no_module_imports_itself_by_a_loop(module: str) -> None:
    through = sorted(name for name in ours(module) if module in reached_from(name))
    assert not through, f"{module} and {through} import each other"


@pytest.mark.parametrize("module", FILES)
def test_methods_know_neither_data_nor_training_and_training_only_their_protocol(
    module: str,
) -> None:
    imported = ours(module)
    if room_of(module) in ("nn", "search", "losses", "methods"):
        forbidden = {name for name in imported if FLOORS[room_of(name)] > 3}
        forbidden |= {name for name in imported if room_of(name) == "data"}
        assert not forbidden
    if room_of(module) == "training":
        assert {name for name in imported if room_of(name) == "methods"} <= {"nat_ar.methods.base"}


@pytest.mark.parametrize("module", FILES)
def test_no_command_imports_another(module: str) -> None:
    commands = {name for name in ours(module) if name.startswith("nat_ar.commands.")}
    assert not commands or module == "nat_ar.__main__"


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_package_with_one_door_is_imported_there_only(package: str) -> None:
    users = {m for m in FILES if any(n.split(".")[0] == package for n in imports_of(m))}
    assert users == ONLY_IN[package]


def test_several_processes_have_one_door() -> None:
    """What only one of them does is asked of runtime/distributed.py, where those that wait are thought of."""
    names = (
        "jax.distributed",
        "_src.distributed",
        "multihost_utils",
        "process_index",
        "process_count",
    )
    users = {m for m, path in FILES.items() if any(n in path.read_text("utf-8") for n in names)}
    assert users == {"nat_ar.runtime.distributed"}


TEXT_ONLY = [
    name
    for name in FILES
    if room_of(name) == "data" or name in ("nat_ar.evaluation.metrics", "nat_ar.evaluation.latency")
]


@pytest.mark.parametrize("module", TEXT_ONLY)
def test_data_and_metrics_reach_no_jax(module: str) -> None:
    for name in reached_from(module):
        heavy = {imported.split(".")[0] for imported in imports_of(name)} & HEAVY
        assert not heavy, f"{module} reaches {sorted(heavy)} through {name}"


def loaded_after_importing(modules: list[str], suspects: set[str]) -> set[str]:
    """Which of the suspects a fresh Python has loaded after it imported the modules."""
    code = f"import importlib\nfor name in {modules!r}: importlib.import_module(name)"
    return loaded_after_running(code, suspects)


def loaded_after_running(code: str, suspects: set[str]) -> set[str]:
    """Which of the suspects a fresh Python has loaded after it ran the code."""
    code += f"\nimport sys; print(*({suspects!r} & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_importing_data_and_metrics_loads_no_jax_and_no_datasets() -> None:
    assert loaded_after_importing(TEXT_ONLY, {*HEAVY, "datasets"}) == set()


CORPORA = {"datasets", "lxml", "polib"}  # packages that only reading a corpus needs


def test_training_and_translating_load_nothing_that_only_a_corpus_needs() -> None:
    """They must run where none of it is installed."""
    modules = [m for m in FILES if room_of(m) in ("training", "translation", "experiment")]
    assert loaded_after_importing(modules, CORPORA) == set()


def test_training_starts_without_what_only_its_validation_needs() -> None:
    """sacreBLEU, which loads lxml, is imported where the first score is computed."""
    start = "from nat_ar.commands import train; train.load_config('configs/toy/teacher.py')"
    assert loaded_after_running(start, {"sacrebleu", *CORPORA}) == set()
    score = "; from nat_ar.evaluation import metrics; metrics.corpus_bleu(['a'], ['a'])"
    assert loaded_after_running(start + score, {"sacrebleu"}) == {"sacrebleu"}


def test_a_config_file_is_read_without_checkpoints_and_plots() -> None:
    code = "from nat_ar.experiment.config import load_file; load_file('configs/toy/study.py')"
    suspects = {"orbax", "tensorstore", "matplotlib", *CORPORA}
    assert loaded_after_running(code, suspects) == set()


def test_translating_does_not_wait_for_what_only_preparing_needs() -> None:
    """SciPy is a quarter of a second of the five in which a first sentence must be there."""
    assert loaded_after_importing(["nat_ar.commands.translate"], {"scipy", "datasets"}) == set()


def test_no_name_is_undefined() -> None:
    """pyproject.toml switches F821 off, since ruff reads shapes of jaxtyping as names; here all counts that does not
    stand in quotes."""
    root = PACKAGE.parent
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821"]
    run = subprocess.run(
        [*command, "--output-format", "json", "nat_ar", "tests", "scripts", "configs"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    undefined = []
    for found in json.loads(run.stdout):
        row, column = found["location"]["row"], found["location"]["column"]
        line = Path(found["filename"]).read_text("utf-8").splitlines()[row - 1]
        if found["code"] == "F821" and line[column - 2] not in "\"'*#":
            undefined.append(f"{found['filename']}:{row}: {found['message']}")
    assert not undefined
