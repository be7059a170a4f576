"""Reads from an installed library's source which fields it declares, because importing it takes seconds."""

import ast
import functools
import importlib.util
from pathlib import Path


@functools.cache
def fields_of(package: str, file: str, *classes: str) -> frozenset[str]:
    """Names and aliases of the fields that `classes` declare in a file of the package; empty if it is not installed."""
    spec = importlib.util.find_spec(package)
    source = Path(spec.origin).parent / file if spec and spec.origin else None
    if source is None or not source.is_file():
        return frozenset()
    found = set()
    for node in ast.parse(source.read_text()).body:
        for field in node.body if isinstance(node, ast.ClassDef) and node.name in classes else ():
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                keywords = field.value.keywords if isinstance(field.value, ast.Call) else ()
                aliases = [word.value for word in keywords if word.arg == "alias"]
                found |= {field.target.id, *(str(name.value) for name in aliases if isinstance(name, ast.Constant))}
    return frozenset(found)
