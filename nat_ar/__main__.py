"""The command line: one line a verb.

python -m nat_ar VERB [CONFIG | RUN ...] [--options] [--dotted.overrides of a config]"""

import contextlib
import dataclasses
import functools
import importlib
import io
import logging
import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import nat_ar
from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.runtime import console, malloc

VERBS = {
    "init": "two files of sentences -> the config of a study",
    "prepare": "corpus -> subwords -> arrays, with a manifest of what was read and dropped",
    "train": "train the model of a config file, or resume it",
    "plan": "what a training would take on devices that are not there",
    "ensemble": "several autoregressive runs that translate together, as one run",
    "distill": "let a trained model translate the training data for its students",
    "translate": "lines in, translations out",
    "stream": "words in as they come, live captions out",
    "score": "log p of given translations, a number a line",
    "evaluate": "BLEU, chrF++, TER and diagnostics of a run on raw references",
    "benchmark": "latency and throughput of runs, interleaved in one process",
    "export": "a run for other programs: CTranslate2, or StableHLO with a runner",
    "compare": "results of several runs -> one table and one picture",
    "study": "teacher -> distilled data -> students -> table, restartable stage by stage",
}
LATENCY_VERBS = ("benchmark", "translate", "stream")
"""whose single sentences are slower where one arena of memory serves all threads (nat_ar/runtime/malloc.py)"""
PROGRAM = "python -m nat_ar"
"""how messages spell it; `nat-ar`, where the package is installed, is the same"""
USAGE = (
    f"usage: {PROGRAM} VERB ...    ({PROGRAM} VERB --help explains its options; {PROGRAM} --version)\n\n"
    + "".join(f"  {verb:<10} {text}\n" for verb, text in VERBS.items())
)
EXAMPLES = {
    "prepare": "toy/teacher",
    "train": "toy/teacher",
    "plan": "toy/teacher",
    "study": "toy",
}
"""ready configs whose options the help shows where no config is named"""


def set_up(verb: str) -> None:
    """Configures the whole process, before JAX does anything."""
    if verb not in LATENCY_VERBS:
        malloc.keep_freed_memory()
    from nat_ar.runtime import compilation

    compilation.use_cache()
    for name in ("absl", "asyncio"):  # Orbax logs the traceback of an error that it also raises
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("jax").setLevel(logging.ERROR)
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)  # a GPU that is not used


def main(arguments: list[str] | None = None, *, set_up: Callable[[str], None] = set_up) -> None:
    """Runs one verb. A user's mistake is one line on stderr and exit status 2.

    A process that is configured already gives its own `set_up`, which gets the verb."""
    words = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="replace"
        )  # "×" in a locale that lacks it must not undo the work before it
    try:
        try:
            _run(words, set_up)
        finally:
            if sys.stdout is not None:  # what nobody reads is an error here, not when Python ends
                sys.stdout.flush()
    except BrokenPipeError:
        _end_quietly()


def _run(words: list[str], set_up: Callable[[str], None]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        print(f"nat_ar {nat_ar.__version__}")
        sys.exit(0)
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        sys.exit(_fail(f"expected a verb ({', '.join(VERBS)}), got {verb!r}"))
    set_up(verb)
    command = importlib.import_module(f"nat_ar.commands.{verb}")
    from nat_ar.training.loop import Stopped

    try:
        command.run(parse(verb, rest))
    except Stopped as stop:
        console.say(f"nat-ar: {stop}")
        sys.exit(130)
    except BrokenPipeError:
        raise
    except (ValueError, ArithmeticError, OSError, MemoryError) as error:
        if os.environ.get("NAT_AR_TRACEBACK"):
            raise
        sys.exit(_fail(_line_of(error, verb)))
    except KeyboardInterrupt:
        sys.exit(130)


def _end_quietly() -> None:
    """Whoever read our output has gone, as `head` does: there is nobody left to say anything to."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # neither a file nor a pipe
            os.dup2(nowhere, stream.fileno())
    sys.exit(128 + signal.SIGPIPE)


def _line_of(error: Exception, verb: str) -> str:
    """The message of an error; where it is the system's bare one, with what was being done and to what."""
    text = str(error)
    if not isinstance(error, OSError) or error.errno is None or error.strerror is None:
        return text or type(error).__name__
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{verb} was stopped{' at ' + ' and '.join(names) if names else ''}: {error.strerror}"


def _fail(message: str) -> int:
    console.say(f"nat-ar: error: {message}")
    return 2


KEYWORD_OPTIONS = {"--import": "--imported"}
"""options that are words of Python, which no field can be called"""
FORMER_OPTIONS = {".transformer.attention": ".transformer.implementation"}
"""how the names of options ended in earlier versions, and how they end today"""


def _as_field(word: str) -> str:
    """A word of a command line, with the option that it names under the name of its field: --import=FILE too."""
    option, equals, value = word.partition("=")
    return KEYWORD_OPTIONS.get(option, option) + equals + value


def _todays(word: str) -> str:
    """A word of a command line, with the option that it names under today's name."""
    option, equals, value = word.partition("=")
    for former, name in FORMER_OPTIONS.items():
        if option.startswith("--") and option.endswith(former):
            option = option.removesuffix(former) + name
    return option + equals + value


def parse(verb: str, words: list[str]) -> Any:
    """The verb's dataclass, filled from the words. Fields without a default are positional unless they are kw_only;
    where the first one is a config, the first word is its file and all of its fields become options.

    A verb with dotted names of its own has a function `parse(path, words, fill)`. Raises ValueError of one line for a
    mistake."""
    import tyro

    from nat_ar.experiment import ready

    command = importlib.import_module(f"nat_ar.commands.{verb}")
    cls = getattr(command, verb.capitalize())
    program = f"{PROGRAM} {verb}"
    if dataclasses.fields(cls)[0].name != "config":
        words = [_as_field(word) for word in words]
        with _one_line():
            found = tyro.cli(
                _positional(cls), args=words, prog=program, config=(tyro.conf.AvoidSubcommands,)
            )
        return cls(**{field.name: getattr(found, field.name) for field in dataclasses.fields(cls)})
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: {program} CONFIG [--options] [--dotted.overrides]\n\n{cls.__doc__}\n")
        known = (
            f"CONFIG is a Python file, or one that comes with nat_ar: {', '.join(ready.names())}"
        )
        print(textwrap.fill(known, 80, break_on_hyphens=False))
        if not words:
            sys.exit(2)
        example = EXAMPLES[verb]
        print(f"\nIts options are the fields of the config, here of {example} with its values:\n")
        words = [example, *words]
    elif words[0].startswith("-"):
        raise ConfigError(f"{program} CONFIG ...: expected a config first, got {words[0]}")
    fill = functools.partial(filled, program=f"{program} {words[0]}")
    options = [_todays(word) for word in words[1:]]
    if hasattr(command, "parse"):
        arguments = command.parse(words[0], options, fill)
    else:
        arguments = fill(cls(config=command.load_config(words[0])), options)
    config_json.check(arguments.config)  # a command line can say nan, a config cannot hold it
    return arguments


def filled(
    value: Any,
    words: Sequence[str],
    *,
    program: str,
    prefix: str = "",
    fixed: Sequence[str] = (),
    has_flags: bool = True,
) -> Any:
    """The dataclass with the fields that the words set, each an option with a dotted name.

    The names of the fields of its `config` start with `prefix`. fixed: fields, also of its config, that have no
    option. has_flags: a bool is --name or --no-name; otherwise --name True or --name False. Raises ValueError of one
    line for a mistake."""
    import tyro

    markers = [tyro.conf.AvoidSubcommands, tyro.conf.PositionalRequiredArgs]
    if not has_flags:
        markers.append(tyro.conf.FlagConversionOff)
    with _one_line():
        default = _marked(value, prefix, fixed)
        found = tyro.cli(
            type(default), args=list(words), prog=program, default=default, config=markers
        )
    fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    if "config" in fields:
        kept = {f.name: getattr(found.config, f.name) for f in dataclasses.fields(found.config)}
        fields["config"] = type(value.config)(**kept)
    return type(value)(**fields)


def _positional(cls: Any) -> Any:
    """The same class, whose required fields tyro reads by their place unless they are kw_only."""
    import tyro

    types = config_json.field_types(cls)
    required = [
        (field.name, Annotated[types[field.name], tyro.conf.Positional])
        for field in dataclasses.fields(cls)
        if not field.kw_only and field.default is field.default_factory is dataclasses.MISSING
    ]
    subclass = dataclasses.make_dataclass(cls.__name__, required, bases=(cls,), frozen=True)
    subclass.__doc__ = cls.__doc__
    return subclass


def _marked(value: Any, prefix: str, fixed: Sequence[str]) -> Any:
    """The same, of a class whose annotations tell tyro what `filled` promises."""
    import tyro

    cls: Any = type(value)
    values = {field.name: getattr(value, field.name) for field in dataclasses.fields(cls)}
    is_fixed = Annotated[Any, tyro.conf.Fixed, tyro.conf.Suppress]
    marked: list[tuple[str, Any]] = [(name, is_fixed) for name in fixed if name in values]
    if "config" in values:
        values["config"] = _marked(value.config, prefix, fixed)
        marked.append(("config", Annotated[type(values["config"]), tyro.conf.arg(name=prefix)]))
    if not marked:
        return value
    subclass = dataclasses.make_dataclass(cls.__name__, marked, bases=(cls,), frozen=True)
    subclass.__doc__ = cls.__doc__
    return subclass(**values)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turns the box in which tyro explains a mistake into a ValueError of one line."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            yield
    except SystemExit as stop:
        if not stop.code:
            raise
        plain = re.sub(r"\x1b\[[0-9;]*m", "", box.getvalue())
        _, *lines = (line.strip(" │╰╯") for line in plain.splitlines())  # the first is a title
        parts = " ".join("\n" if set(line) <= set("-─") else line for line in lines).split("\n")
        raise ValueError("; ".join(part.strip() for part in parts if part.strip())) from None


if __name__ == "__main__":
    main()
