"""Reads Isaac Lab's API from sources, without importing them: the released package, or `tests/isaac_signatures`."""

from __future__ import annotations

import ast
import functools
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

Definition = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class Found:
    """A class or function, and the module that defines it."""

    module: str
    node: Definition


class Sources:
    """Modules by their dotted name, from files by their path below the import root."""

    def __init__(self, name: str, read: Callable[[str], str | None]) -> None:
        self.name = name
        self._read = functools.cache(read)
        self.find = functools.cache(self._find)
        self.module = functools.cache(self._module)

    @classmethod
    def of_wheel(cls, wheel: Path) -> Sources:
        """The released package keeps each import root in a folder of its own."""
        archive = zipfile.ZipFile(wheel)
        names = set(archive.namelist())

        def read(path: str) -> str | None:
            inside = f"isaaclab/source/{path.partition('/')[0]}/{path}"
            return archive.read(inside).decode() if inside in names else None

        return cls(wheel.name, read)

    @classmethod
    def of_folder(cls, folder: Path) -> Sources:
        def read(path: str) -> str | None:
            file = folder / path
            return file.read_text() if file.is_file() else None

        return cls(folder.name, read)

    def _module(self, name: str) -> tuple[ast.Module, str] | None:
        """The module, and the package that its relative imports start from."""
        path = name.replace(".", "/")
        if (text := self._read(f"{path}/__init__.py")) is not None:
            return ast.parse(text), name
        if (text := self._read(f"{path}.py")) is not None:
            return ast.parse(text), name.rpartition(".")[0]
        return None

    def _find(self, module: str, name: str) -> Found | None:
        """What `from module import name` gives, through re-exports."""
        found = self.module(module)
        if found is None:
            return None
        tree, package = found
        for node in tree.body:
            if isinstance(node, Definition) and node.name == name:
                return Found(module, node)
        for node in _imports(tree):
            target = _absolute(node, package)
            for alias in node.names:
                if alias.name == "*" or (alias.asname or alias.name) == name:
                    hit = self.find(target, name if alias.name == "*" else alias.name)
                    if hit is not None:
                        return hit
        return None

    def lineage(self, found: Found) -> Iterator[Found]:
        """A class, then its bases as far as they are in these sources."""
        yield found
        for base in getattr(found.node, "bases", ()):
            name = base.value if isinstance(base, ast.Subscript) else base
            parent = self.find(found.module, name.id) if isinstance(name, ast.Name) else None
            if parent is not None:
                yield from self.lineage(parent)

    def method(self, found: Found, name: str) -> ast.FunctionDef | None:
        for cls in self.lineage(found):
            for node in cls.node.body:
                if isinstance(node, ast.FunctionDef) and node.name == name:
                    return node
        return None

    def has_attribute(self, found: Found, name: str) -> bool:
        """Whether the class or a base has it in its body, or assigns it to self anywhere."""
        return any(name in _attributes(cls.node) for cls in self.lineage(found))


def _imports(tree: ast.AST) -> Iterator[ast.ImportFrom]:
    """Those that run when the module is imported: not those for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from _imports(node)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if node.level == 0:
        return node.module or ""
    parts = package.split(".")
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)


def _attributes(cls: Definition) -> set[str]:
    body = [node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)] for node in cls.body]
    names = {target.id for targets in body for target in targets if isinstance(target, ast.Name)}
    stored = (node for node in ast.walk(cls) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    return names | {node.attr for node in stored if isinstance(node.value, ast.Name) and node.value.id == "self"}


def is_property(function: ast.FunctionDef) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "property" for node in function.decorator_list)


def arguments(function: ast.FunctionDef) -> tuple[str, ...]:
    """Names in order, without self, with their stars; keyword-only ones last."""
    args = function.args
    names = [arg.arg for arg in (*args.posonlyargs, *args.args)]
    names = names[1:] if names[:1] in (["self"], ["cls"]) else names
    names += [f"*{args.vararg.arg}"] if args.vararg else []
    names += [arg.arg for arg in args.kwonlyargs]
    return (*names, f"**{args.kwarg.arg}") if args.kwarg else tuple(names)


def returned_sizes(function: ast.FunctionDef) -> set[int]:
    """Lengths of the tuples that the function itself returns; 1 for anything else."""

    def walk(node: ast.AST) -> Iterator[ast.Return]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Return):
                yield child
            elif not isinstance(child, (ast.FunctionDef, ast.Lambda)):
                yield from walk(child)

    return {len(node.value.elts) if isinstance(node.value, ast.Tuple) else 1 for node in walk(function)}


def accesses(function: ast.FunctionDef) -> list[str]:
    """Every `self.a.b` in the order of the source, as "a.b"."""
    found: list[tuple[int, int, str]] = []

    def visit(node: ast.AST) -> None:
        parts: list[str] = []
        inner = node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if parts and isinstance(inner, ast.Name) and inner.id == "self" and isinstance(node, ast.Attribute):
            found.append((node.lineno, node.col_offset, ".".join(reversed(parts))))
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    for statement in function.body:
        visit(statement)
    return [name for _, _, name in sorted(found)]
