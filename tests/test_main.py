"""The command line: what a user sees, and that nothing is touched before a mistake is named."""

import ast
import dataclasses
import inspect
import io
import os
import subprocess
import sys
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

import nat_ar
from nat_ar import __main__ as command_line
from nat_ar import config_json
from nat_ar.commands import (
    benchmark,
    compare,
    distill,
    evaluate,
    export,
    init,
    prepare,
    score,
    study,
    train,
    translate,
)
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.study import StudyConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.runtime import compilation

EXPERIMENT = """
from nat_ar.data.prepare import DataConfig
from nat_ar.data.toy.corpus import ToyCorpus
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.runtime import compilation

config = ExperimentConfig("tiny", DataConfig("data", ToyCorpus()), Autoregressive())
"""
COMMANDS: tuple[type, ...] = (
    benchmark.Benchmark,
    compare.Compare,
    distill.Distill,
    evaluate.Evaluate,
    export.Export,
    init.Init,
    prepare.Prepare,
    score.Score,
    study.Study,
    train.Train,
    translate.Translate,
)


@dataclasses.dataclass
class Said:
    status: int
    output: str
    errors: str


@pytest.fixture
def experiment_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config of an experiment, alone in the current directory."""
    monkeypatch.chdir(tmp_path)
    path = Path("experiment.py")
    path.write_text(EXPERIMENT, "utf-8")
    return path


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line in this process."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str) -> Said:
        status = 0
        try:
            command_line.main(list(words), set_up=lambda verb: None)
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return Said(status, captured.out, captured.err)

    return run


def configs_under(*roots: type) -> list[type]:
    """The dataclasses that the fields of `roots` can hold, at any depth, and the roots."""

    def classes_in(annotation: Any) -> Iterator[type]:
        if dataclasses.is_dataclass(annotation):
            yield typing.cast(type, annotation)
        for member in typing.get_args(annotation):
            yield from classes_in(member)

    found = dict.fromkeys(roots)
    waiting = list(roots)
    while waiting:
        for annotation in config_json.field_types(waiting.pop()).values():
            new = [cls for cls in classes_in(annotation) if cls not in found]
            waiting += new
            found |= dict.fromkeys(new)
    return list(found)


def explained_fields(cls: type) -> set[str]:
    """The fields that a text follows, in the class and its bases."""
    names = set()
    for owner in cls.__mro__[:-1]:
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, body.body[1:], strict=False):
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
                names.add(field.target.id)
    return names


def test_help_lists_every_verb(say: Any) -> None:
    said = say("--help")
    assert said.status == 0
    assert all(f"\n  {verb} " in said.output for verb in command_line.VERBS)
    assert len(command_line.VERBS) == 14


def test_no_words_list_the_verbs_too_and_count_as_a_mistake(say: Any) -> None:
    assert say() == dataclasses.replace(say("--help"), status=2)


def test_an_unknown_verb_is_one_line(say: Any) -> None:
    said = say("trian", "experiment.py")
    assert said.status == 2
    assert said.errors.count("\n") == 1
    assert "'trian'" in said.errors
    assert "train" in said.errors.split(", ")


def test_help_does_not_wait_for_jax() -> None:
    program = (
        "import sys\nfrom nat_ar import __main__\n"
        "try: __main__.main(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(sorted({'jax', 'flax', 'numpy', 'tyro'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (1, "[]")


def test_a_config_verb_asks_for_its_file(say: Any) -> None:
    assert say("train").status == 2
    said = say("train", "--help")
    assert said.status == 0
    assert said.output.startswith("usage: python -m nat_ar train CONFIG ")


@pytest.mark.parametrize("verb", ["prepare", "train", "study"])
def test_help_without_a_config_explains_the_options_of_one_that_is_there(
    verb: str, say: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = say(verb, "--help")
    assert said.status == 0
    assert "toy, toy/family" in said.output  # what may be named
    named = said.output[said.output.index("CONFIG is") : said.output.index("Its options")]
    assert max(map(len, named.splitlines())) <= 80
    assert f"here of {command_line.EXAMPLES[verb]} with its values" in said.output
    options = ["--data.corpus.num-train INT", "--data.vocabulary.kind {unigram,bpe}"]
    options += {
        "prepare": [],
        "train": ["--run", "--training.max-steps INT", "--method.transformer.norm {pre,post}"],
        "study": ["--only", "--sweep"],
    }[verb]
    text = " ".join(said.output.replace("│", " ").split())
    assert [option for option in options if option not in text] == []


def test_an_option_before_the_config_is_a_mistake(say: Any) -> None:
    said = say("train", "--run", "x")
    assert (said.status, said.output) == (2, "")
    assert said.errors.endswith("train CONFIG ...: expected a config first, got --run\n")


def test_the_version(say: Any) -> None:
    assert say("--version") == Said(0, f"nat_ar {nat_ar.__version__}\n", "")


def test_help_after_a_config_explains_its_fields(say: Any, experiment_file: Path) -> None:
    said = say("train", str(experiment_file), "--help")
    assert said.status == 0
    text = " ".join(said.output.replace("│", " ").split())
    for option, help_text in {
        "--run": "directory of the run; default: runs/NAME",
        "--training.max-steps INT": "optimizer updates (default: 10000)",
        "--method.transformer.norm {pre,post}": "layer normalisation before (pre) or after",
        "--data.corpus.num-train INT": "training pairs (default: 30000)",
        "--data.vocabulary.kind {unigram,bpe}": "how SentencePiece learns",
        "--training.batching.buckets": "lengths (EOS counted) to which sentences are padded",
    }.items():
        assert option in text
        assert help_text in text


@pytest.mark.parametrize("cls", [*configs_under(ExperimentConfig, StudyConfig), *COMMANDS])
def test_every_field_is_explained(cls: type) -> None:
    assert cls.__doc__
    assert not cls.__doc__.startswith(f"{cls.__name__}(")  # what dataclass writes where nobody did
    assert {field.name for field in dataclasses.fields(cls)} <= explained_fields(cls)  # type: ignore[arg-type]


def test_dotted_words_override_the_config(
    say: Any, experiment_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(train, "run", seen.append)
    words = ["--run", "elsewhere", "--training.max_steps", "7", "--method.transformer.norm", "post"]
    words += ["--training.batching.buckets", "8", "12", "--training.average-decay", "0.9"]
    assert say("train", str(experiment_file), *words).status == 0
    (arguments,) = seen
    assert arguments.run == "elsewhere"
    config = arguments.config
    assert isinstance(config, ExperimentConfig)
    assert (config.name, config.training.max_steps) == ("tiny", 7)
    assert config.training.batching.buckets == (8, 12)
    assert config.training.average_decay == 0.9
    assert config.method == Autoregressive(
        dataclasses.replace(Autoregressive().transformer, norm="post")
    )


def test_prepare_takes_the_data_of_an_experiment(
    say: Any, experiment_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(prepare, "run", seen.append)
    assert say("prepare", str(experiment_file), "--data.corpus.num-train", "9").status == 0
    assert seen[0].config.corpus.num_train == 9


def test_prepare_understands_the_options_of_earlier_versions_without_data_before_them(
    experiment_file: Path,
) -> None:
    words = ["--corpus.num-train", "9", "--directory=x", "--no-remove-overlap"]
    config = command_line.parse("prepare", [str(experiment_file), *words]).config
    assert (config.corpus.num_train, config.directory) == (9, "x")
    assert not config.remove_overlap


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--training.max-stepss", "3"],
            ["--training.max-stepss", "Perhaps you meant", "-steps INT"],
        ),
        (["--training.max-steps", "many"], ["--training.max-steps INT", "'many'"]),
        (["--method.transformer.norm", "mid"], ["'mid'", "('pre', 'post')"]),
        (["--method.transformer.d-model", "30"], ["d_model 30", "num_heads 4", "change one"]),
        (["--method.transformer.max-length", "512"], ["512", "raise it"]),
        (["--training.batching.buckets", "8", "2000"], ["2000", "1024", "drop the bucket"]),
        (["--training.batching.buckets", "8", "4"], ["buckets must rise", "(8, 4)"]),
        (["--training.max-steps", "0"], ["training.max_steps", "at least 1", "got 0"]),
        (["--training.optimizer.warmup-steps", "0"], ["warmup_steps", "at least 1"]),
        (["--encoder-from-teacher"], ["encoder_from_teacher", "`teacher`"]),
        (["--data.vocabulary.size", "3"], ["size 3", "at least 263"]),
        (["--data.max-tokens", "0"], ["max_tokens 0", "at least 1"]),
        (["--data.corpus.num-train", "-1"], ["num_train is -1", "0 or more"]),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_touched(
    words: list[str], said: list[str], say: Any, experiment_file: Path
) -> None:
    answer = say("train", str(experiment_file), *words)
    assert answer.status == 2
    assert answer.output == ""
    assert answer.errors.count("\n") == 1
    assert answer.errors.startswith("nat-ar: error: ")
    assert all(part in answer.errors for part in said), answer.errors
    assert list(Path().iterdir()) == [experiment_file]


def test_a_mistake_is_one_plain_line_on_a_terminal_too(
    say: Any, experiment_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = say("train", str(experiment_file), "--training.max-stepss", "3")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    said = say("train", str(experiment_file), "--training.max-stepss", "3")
    assert said == plain


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("config = 5", "holds a int; `train` takes an ExperimentConfig"),
        ("confik = 5", "must assign its dataclass to the name `config`"),
        ("x = 1\nconfig = TransformerConfig()", "experiment.py:2: NameError"),
        ("config = (", "experiment.py:1: SyntaxError"),
        (
            "from nat_ar.nn.transformer import TransformerConfig\n\nTransformerConfig(d_modle=8)",
            "experiment.py:3: TypeError: ",
        ),
        (
            "from nat_ar.nn.transformer import TransformerConfig\nTransformerConfig(d_model=30)",
            "experiment.py:2: d_model must be even",
        ),
        (
            EXPERIMENT + "object.__setattr__(config, 'name', 3)",
            "experiment.py.name: expected str, got 3",
        ),
    ],
)
def test_a_mistake_in_a_config_file_is_one_line_with_its_place(
    text: str, said: str, say: Any, experiment_file: Path
) -> None:
    experiment_file.write_text(text, "utf-8")
    answer = say("train", str(experiment_file))
    assert answer.status == 2
    assert answer.errors.count("\n") == 1
    assert said in answer.errors, answer.errors


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "nowhere.py"], "nowhere.py, which does not exist"),
        (["study", "nowhere.py"], "nowhere.py, which does not exist"),
        (["study", "experiment.py"], "holds a ExperimentConfig; `study` takes a StudyConfig"),
        (["translate", "nowhere"], "nowhere is no run"),
        (["translate", "nowhere", "--nbest", "3"], "Perhaps you meant: --n-best INT"),
        (["translate"], "the trained run (required)"),
        (["evaluate", "nowhere"], "nowhere is no run"),
        (["benchmark", "nowhere"], "nowhere is no run"),
        (["distill", "nowhere"], "nowhere is no run"),
        (["export", "nowhere"], "nowhere is no run"),
        (["compare", "nowhere"], "nowhere/results.jsonl does not exist"),
    ],
)
def test_every_verb_names_what_is_missing(
    words: list[str], said: str, say: Any, experiment_file: Path
) -> None:
    answer = say(*words)
    assert answer.status == 2
    assert answer.errors.count("\n") == 1
    assert said in answer.errors, answer.errors
    assert list(Path().iterdir()) == [experiment_file]


def test_the_compilation_cache_can_be_moved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    try:
        monkeypatch.setenv(compilation.CACHE, str(tmp_path))
        command_line.set_up("translate")
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@pytest.mark.parametrize(
    "words",
    [
        ["--method.transformer.attention", "cudnn"],
        ["--method.transformer.attention=cudnn"],
        ["--method.transformer.implementation", "cudnn"],
    ],
)
def test_an_option_is_read_under_its_earlier_name_too(words: list[str]) -> None:
    options = ["--run", "runs/x", "--method.transformer.dtype", "bfloat16", *words]
    arguments = command_line.parse("train", ["configs/toy/teacher.py", *options])
    assert arguments.config.method.transformer.implementation == "cudnn"


def test_a_table_in_a_locale_that_lacks_its_signs_undoes_no_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was an error after all the work that the table shows."""
    written = io.BytesIO()
    stdout = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(SystemExit):
        command_line.main(["--help"])
    print("× AR beam", flush=True)
    assert written.getvalue().endswith(b"? AR beam\n")


def test_a_gpu_that_is_not_used_is_said() -> None:
    """JAX warns where it finds a GPU and has no CUDA; all else that it logs stays silent."""
    code = """
from jax._src import hardware_utils
hardware_utils.has_visible_nvidia_gpu = lambda: True
from nat_ar import __main__
__main__.set_up("train")
from nat_ar.evaluation.speed import machine
print(machine.summary(["float32"]))
"""
    environment = {**os.environ, "JAX_PLATFORMS": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "NVIDIA GPU" in done.stderr
    assert done.stdout.startswith("nat-ar: cpu: ")


def test_the_systems_bare_error_says_what_was_being_done_and_to_what(
    say: Any, experiment_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: nat-ar: error: [Errno 13] Permission denied."""

    for names, where in (((), ""), (("runs/x",), " at runs/x")):

        def denied(arguments: Any, names: tuple[str, ...] = names) -> None:
            raise PermissionError(13, "Permission denied", *names)

        monkeypatch.setattr(train, "run", denied)
        said = say("train", str(experiment_file))
        assert said.status == 2
        assert said.errors == f"nat-ar: error: train was stopped{where}: Permission denied\n"


def test_a_closed_pipe_ends_quietly() -> None:
    """As after `| head -1`, at once and when Python ends: neither a traceback nor "Broken pipe"."""
    program = (
        "import os, sys\nfrom nat_ar import __main__\n"
        "read, write = os.pipe()\nos.dup2(write, 1)\nos.close(read)\n"
        "__main__.main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (141, "")
