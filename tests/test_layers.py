"""Packages and modules import only from lower layers, as CONTRIBUTING.md declares them, and never in a cycle."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "finetune_scaling"


def declared_layers(text: str) -> dict[str, int]:
    """Return package or top-level module -> layer, counted from the bottom, from the block marked `layers`."""
    block = re.search(r"```layers\n(.*?)```", text, flags=re.DOTALL)
    assert block is not None, "CONTRIBUTING.md has no block marked `layers`"
    lines = [line.split("#")[0].split() for line in block.group(1).splitlines()]
    return {part: layer for layer, line in enumerate(line for line in lines if line) for part in line}


LAYERS = declared_layers((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def part_of(path: Path) -> str:
    """Return the package or top-level module that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, package) for every import from this package, including imports inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; name the module in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names = [str(value.value) for value in node.args if isinstance(value, ast.Constant)]
        else:
            continue
        for name in names:
            package, *rest = name.split(".")
            if package == "finetune_scaling" and rest and not rest[0].startswith("__"):
                yield node.lineno, rest[0]


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_part_has_a_layer():
    assert set(map(part_of, FILES)) == set(LAYERS)


def upward_imports(part: str, source: str) -> list[tuple[int, str]]:
    """Return (line, package) for every import from the same layer or one above."""
    return [(line, other) for line, other in imported_parts(source) if other != part and LAYERS[other] >= LAYERS[part]]


@pytest.mark.parametrize("part", sorted(LAYERS))
def test_a_part_imports_only_from_layers_below_it(part: str):
    upward = {
        f"{path.relative_to(ROOT)}:{line} imports {other}"
        for path in FILES
        if part_of(path) == part
        for line, other in upward_imports(part, path.read_text(encoding="utf-8"))
    }
    assert upward == set()


@pytest.mark.parametrize(
    "source",
    [
        "from finetune_scaling.studies.grid import StudyRun",
        "from finetune_scaling import study",
        "def late():\n    import finetune_scaling.report.page as page",
        "if TYPE_CHECKING:\n    from finetune_scaling.laws import points",
        "module = importlib.import_module('finetune_scaling.laws.points')",
    ],
)
def test_an_upward_import_is_found(source: str):
    assert upward_imports("models", source)


@pytest.mark.parametrize(
    "source", ["from finetune_scaling.sharding import mesh", "import finetune_scaling.models.rope"]
)
def test_an_import_from_below_or_the_own_package_is_allowed(source: str):
    assert upward_imports("models", source) == []


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path, modules: set[str]) -> set[str]:
    """Return the modules of this package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & modules
            found |= inner or ({node.module} & modules)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & modules
    return found - {"finetune_scaling"}


def test_no_modules_import_each_other_in_a_cycle():
    names = {path: module_name(path) for path in FILES}
    graph = {name: imports_of(path, set(names.values())) for path, name in names.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())
