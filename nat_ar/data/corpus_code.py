"""A hash of the code of a corpus that is defined outside the package: prepared data must not outlive it.

Of the class and of what it uses of its file, so that a config in the same file may change."""

import ast
import hashlib
import sys
from collections.abc import Iterator

from nat_ar.data.corpus import Corpus


def hash_of(corpus: type[Corpus]) -> str | None:
    """SHA-256; None for the package's own corpora, and where there is no file (a notebook)."""
    module = sys.modules.get(corpus.__module__)
    path = getattr(module, "__file__", None)
    if corpus.__module__.startswith("nat_ar.") or path is None:
        return None
    with open(path, "rb") as file:
        body = ast.parse(file.read()).body
    defined = {name: node for node in body for name in _names_of(node)}
    used: dict[str, None] = {}
    waiting = [corpus.__name__]
    while waiting:
        name = waiting.pop()
        if name in defined and name not in used:
            used[name] = None
            waiting += [node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)]
    code = "\n".join(ast.dump(defined[name]) for name in sorted(used))
    return hashlib.sha256(code.encode()).hexdigest()


def _names_of(node: ast.stmt) -> Iterator[str]:
    """What a statement at the top of a module defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (
            name.id
            for target in node.targets
            for name in ast.walk(target)
            if isinstance(name, ast.Name)
        )
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id
