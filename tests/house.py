"""The house in numbers: its rooms, who imports whom, what is long. `python -m tests.house` prints them.

A room is a sub-package of fv_lens, `studies` with all of its own. Rooms stand in one order, and imports run down it.
"""

import ast
import sys
from collections import Counter
from pathlib import Path

# From the lowest to the highest.
ROOMS = ["ground", "models", "datasets", "engine", "vectors", "evaluation", "analogies", "plots", "studies"]
PACKAGE = Path(__file__).parents[1] / "fv_lens"


def modules(package: Path = PACKAGE) -> dict[str, ast.Module]:
    """The syntax tree of each module by its name within the package: 'engine.whatif'; '' is the package itself."""
    trees = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        trees[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(file.read_text(encoding="utf-8"))
    return trees


def is_package(name: str, package: Path = PACKAGE) -> bool:
    return (package / Path(*name.split(".")) / "__init__.py").is_file()


def imports(trees: dict[str, ast.Module], package: Path = PACKAGE) -> dict[str, set[str]]:
    """The modules that each imports, within functions as well; what type checkers alone read does not count."""
    arrows = {}
    for name, tree in trees.items():
        here = name.split(".") if name and not is_package(name, package) else [*name.split("."), ""] if name else [""]
        nodes = [node for node in _run(tree) if isinstance(node, ast.ImportFrom) and node.level]
        targets = set()
        for node in nodes:
            base = [*here[: len(here) - node.level], *(node.module or "").split(".")]
            home = ".".join(part for part in base if part)
            inner = {f"{home}.{alias.name}".lstrip(".") for alias in node.names} & trees.keys()
            targets |= inner or {home}
        arrows[name] = targets & trees.keys() - {name}
    return arrows


def _run(node: ast.AST):
    """All nodes but those under `if TYPE_CHECKING`."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _run(child)


def room(name: str) -> str:
    return name.split(".")[0]


def between_rooms(arrows: dict[str, set[str]]) -> Counter[tuple[str, str]]:
    """How many imports go from a room to another."""
    pairs = [(room(here), room(there)) for here, targets in arrows.items() for there in targets]
    return Counter((here, there) for here, there in pairs if here != there and {here, there} <= set(ROOMS))


def upward(arrows: dict[str, set[str]]) -> list[str]:
    """Imports against the order of the rooms."""
    rank = {name: i for i, name in enumerate(ROOMS)}
    return [
        f"{here} -> {there}"
        for here, targets in arrows.items() for there in sorted(targets)
        if here and room(here) in rank and rank.get(room(there), len(rank)) > rank[room(here)]
    ]  # fmt: skip


def floors(arrows: dict[str, set[str]]) -> int:
    """Modules on the longest way of imports; a RecursionError where they go round in a circle."""
    known: dict[str, int] = {}

    def height(name: str) -> int:
        if name not in known:
            known[name] = 1 + max(map(height, arrows[name]), default=0)
        return known[name]

    return max(map(height, arrows))


def functions(trees: dict[str, ast.Module]) -> dict[str, ast.FunctionDef]:
    return {
        f"{name}.{node.name}": node
        for name, tree in trees.items() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }  # fmt: skip


def parameters(function: ast.FunctionDef) -> int:
    """Without `self`, with `*` and `**`."""
    own = function.args
    names = [*own.posonlyargs, *own.args, *own.kwonlyargs, *filter(None, (own.vararg, own.kwarg))]
    return len([arg for arg in names if arg.arg not in ("self", "cls")])


def annotations_object(trees: dict[str, ast.Module]) -> list[str]:
    """Where an annotation says `object`, but for what Python's own protocols take (`__eq__`, `__exit__`, ...)."""
    places = []
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("__") and node.name.endswith("__"):
                own = {id(part) for part in ast.walk(node.args) if isinstance(part, ast.Name)}
            else:
                own = set()
            for annotation in _annotations(node):
                places += [
                    f"{name}:{part.lineno}"
                    for part in ast.walk(annotation)
                    if isinstance(part, ast.Name) and part.id == "object" and id(part) not in own
                ]
    return places


def _annotations(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.FunctionDef):
        own = node.args
        args = [*own.posonlyargs, *own.args, *own.kwonlyargs, *filter(None, (own.vararg, own.kwarg))]
        return [part for part in (node.returns, *(arg.annotation for arg in args)) if part]
    return [node.annotation] if isinstance(node, ast.AnnAssign) else []


def code_lines(package: Path = PACKAGE) -> int:
    """Lines that are neither empty nor comments; docstrings count."""
    lines = [line.strip() for file in package.rglob("*.py") for line in file.read_text(encoding="utf-8").splitlines()]
    return len([line for line in lines if line and not line.startswith("#")])


def report(package: Path = PACKAGE) -> str:
    trees = modules(package)
    arrows = imports(trees, package)
    rooms = sorted({room(name) for name in trees if "." in name})
    lengths = {name: node.end_lineno - node.lineno + 1 for name, node in functions(trees).items()}
    most = {name: parameters(node) for name, node in functions(trees).items()}
    entries = [path.name for path in package.iterdir() if path.name != "__pycache__"]
    between = between_rooms(arrows)
    longest, widest = max(lengths, key=lengths.get), max(most, key=most.get)
    return "\n".join([
        f"entries at the top   {len(entries)}",
        f"rooms                {len(rooms)}: {', '.join(rooms)}",
        f"modules              {len(trees)}",
            f"arrows               {sum(map(len, arrows.values()))}",
            f"between rooms        {between.total()}, of {len(between)} pairs of rooms; {len(upward(arrows))} go up",
        f"floors               {floors(arrows)}",
        f"lines of code        {code_lines(package)}",
        f"annotations: object  {len(annotations_object(trees))}",
        f"longest function     {longest}, {lengths[longest]} lines; {sum(n > 70 for n in lengths.values())} over 70",
        f"most parameters      {widest}, {most[widest]}; {sum(n > 8 for n in most.values())} functions over 8",
    ])  # fmt: skip


if __name__ == "__main__":
    print(report(Path(sys.argv[1]) if sys.argv[1:] else PACKAGE))
