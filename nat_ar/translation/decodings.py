"""Decodings as text: "Beam(size=4, length_penalty=0.6)" on a command line, in a table and in results.jsonl.

Text ends in " int8" where the weights are rounded to 8 bits, one scale a column of each matrix, and what they are
multiplied with too, one scale a row; all else stays float32. CPUs only."""

import ast
import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.methods.base import Method
from nat_ar.nn.packed import Weights
from nat_ar.search.verification import DraftedDecoding

INT8 = " int8"
"""suffix of a decoding's text: with 8-bit weights"""


@dataclasses.dataclass(frozen=True)
class Choice:
    """A decoding, and the precision of the weights that it runs with."""

    decoding: Any
    weights: Weights = "float32"

    @property
    def text(self) -> str:
        """As `choose` reads it and tables show it: "NoisyParallel(samples=8, seed=1)", "Beam(size=4) int8"."""
        return decoding_text(self.decoding) + (INT8 if self.weights == "int8" else "")


def choose(method: Method, decoding: Any | str | None) -> Choice:
    """A choice of the method from its text, such as "Beam(size=4)" or "Greedy() int8"; None: the method's default.

    A Choice or a decoding object is checked. Raises ConfigError that lists what the method has."""
    weights: Weights = "float32"
    wanted: Any = decoding
    if isinstance(decoding, Choice):
        wanted, weights = decoding.decoding, decoding.weights
    elif isinstance(decoding, str) and decoding.endswith(INT8):
        wanted, weights = decoding.removesuffix(INT8), "int8"
    chosen = parse_decoding(method, wanted)
    if needs_drafter(method, chosen) and chosen.drafter is None:
        name = type(chosen).__name__
        raise ConfigError(
            f"{name} verifies the drafts of another run of the same vocabulary, got none: name it, as in "
            f"\"{name}(drafter='RUN')\"; Jacobi() needs none"
        )
    if isinstance(chosen, DraftedDecoding) and chosen.uses_proposals and not method.proposes:
        raise ConfigError(
            f"{type(chosen).__name__} verifies what the model's own heads propose, and {type(method).__name__} as "
            "configured has none: train Autoregressive with lookahead_words, or take Jacobi()"
        )
    return Choice(chosen, weights)


def parse_decoding(method: Method, text: Any | str | None) -> Any:
    """A decoding of the method, written as in Python: "Beam(size=4, length_penalty=0.6)".

    None: the method's default. An object is checked and returned. Raises ConfigError that lists what the method
    has."""
    if text is None:
        return method.decoding
    known = decodings_of(type(method))
    wanted = f"expected a decoding of {type(method).__name__}: {signatures(known)}"
    if not isinstance(text, str):
        if isinstance(text, known):
            return config_json.check(text, type(text).__name__)
        raise ConfigError(f"{wanted}; got {text!r}")
    return parse_call(text, known, wanted)


def parse_call(text: str, known: Sequence[type], wanted: str) -> Any:
    """A config of one of the classes, written as in Python: "Beam(size=4, length_penalty=0.6)", "Beam".

    Raises ConfigError that begins with `wanted` where the text is none."""
    classes = {name: cls for cls in known for name in config_json.names_of(cls)}
    wanted = f"{wanted}; got {text!r}"
    try:
        call = ast.parse((text if "(" in text else text + "()").strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ConfigError(wanted)
        cls = classes[call.func.id]
        given = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        return config_json.check(cls(**given), text)
    except ConfigError:
        raise
    except (SyntaxError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(wanted) from error


def signatures(known: Sequence[type]) -> str:
    """What there is to choose from, with its defaults."""
    return ", ".join(f"{cls.__name__}({_signature(cls)})" for cls in known)


def decoding_text(decoding: Any) -> str:
    """A decoding as `parse_decoding` reads it and tables show it: its first field if that is the amount of search, a
    number other than 0, and the fields that differ from their defaults. "Beam(size=4)",
    "NoisyParallel(samples=8, seed=1)"."""
    fields = dataclasses.fields(decoding)
    values = [(field, getattr(decoding, field.name)) for field in fields]
    shown = [
        f"{field.name}={value!r}"
        for index, (field, value) in enumerate(values)
        if (index == 0 and value and not isinstance(value, bool)) or value != field.default
    ]
    return f"{type(decoding).__name__}({', '.join(shown)})"


def with_n_best(decoding: Any, n_best: int) -> Any:
    """The decoding with that many translations of each sentence. Raises ConfigError for one without n_best."""
    if "n_best" not in {field.name for field in dataclasses.fields(decoding)}:
        raise ConfigError(
            f"{decoding} gives one translation; expected a decoding with n_best, got n_best {n_best}"
        )
    return dataclasses.replace(decoding, n_best=n_best)


def renamed(method: type, text: str) -> str:
    """The text of a decoding that an earlier version wrote, under the name that its class has today."""
    for cls in decodings_of(method):
        for former in config_json.names_of(cls)[1:]:
            if text.startswith(f"{former}("):
                return cls.__name__ + text.removeprefix(former)
    return text


def _signature(cls: type) -> str:
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    return ", ".join(f"{field.name}={field.default!r}" for field in fields)


def needs_scorer(method: Method, decoding: Any) -> bool:
    """Whether the decoding rescores with another model, the teacher."""
    return decoding.rescore and not method.rescores_itself


def needs_drafter(method: Method, decoding: Any) -> bool:
    """Whether the decoding verifies the drafts of another model."""
    return isinstance(decoding, DraftedDecoding) and (
        decoding.drafter is not None or (decoding.needs_draft and not method.drafts_itself)
    )


def decodings_of(method: type) -> tuple[type, ...]:
    """The classes of decoding that a class of method has."""
    annotation = config_json.field_types(method)["decoding"]
    return tuple(config_json.classes_of(typing.get_args(annotation) or (annotation,)))
