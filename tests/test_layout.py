"""Rules of the layout that no linter knows."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import pyro_ebm

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path for folder in ("pyro_ebm", "tests", "examples") for path in (ROOT / folder).rglob("*.py")
)
PACKAGES = ["pyro_ebm"] + [
    module.name
    for module in pkgutil.walk_packages(pyro_ebm.__path__, prefix="pyro_ebm.")
    if module.ispkg
]
MOST_LINES = 400
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "misc"}


def public_names(package: str) -> dict[str, object]:
    module = importlib.import_module(package)
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }


def test_there_is_something_to_check():
    assert len(FILES) > 10
    assert "pyro_ebm.core" in PACKAGES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short(path):
    num_lines = len(path.read_text().splitlines())
    assert num_lines <= MOST_LINES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_named_after_what_they_hold(path):
    parts = {part.strip("_") for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not parts & FORBIDDEN_NAMES


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_and_their_public_names_are_documented(package):
    assert importlib.import_module(package).__doc__
    undocumented = [
        name
        for name, value in public_names(package).items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and not _own_doc(value)
    ]
    assert undocumented == []


@pytest.mark.parametrize("package", PACKAGES)
def test_init_files_only_re_export(package):
    source = Path(importlib.import_module(package).__file__).read_text()
    assert [ast.unparse(line) for line in ast.parse(source).body if not _re_exports(line)] == []


def _re_exports(statement: ast.stmt) -> bool:
    """A docstring, the version, or ``from pyro_ebm.x import Y as Y``."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    if isinstance(statement, ast.Assign):
        return [ast.unparse(target) for target in statement.targets] == ["__version__"]
    if not isinstance(statement, ast.ImportFrom):
        return False
    aliases_keep_names = all(alias.name == alias.asname for alias in statement.names)
    return statement.module == "__future__" or (
        str(statement.module).startswith("pyro_ebm.") and aliases_keep_names
    )


def _own_doc(value: object) -> str | None:
    """The docstring written for this object; dataclasses and NamedTuples invent one."""
    doc = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    invented = doc is not None and doc.startswith(f"{getattr(value, '__name__', '')}(")
    return None if invented else doc
