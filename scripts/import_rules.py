"""The layers, as a contract that import-linter checks: each module's docstring names its layer.

A module may import its own layer and those below. Layers 0 to 2 are pure: they may not import an event
loop, a clock, randomness, or anything that does I/O. Of the cores, dht, chunks and credit never import each
other.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, output

PURE_LAYER_MAX = 2
IMPURE = frozenset(
    {
        "asyncio",
        "ctypes",
        "hypercorn",
        "io",
        "libp2p",
        "lmdb",
        "os",
        "random",
        "requests",
        "secrets",
        "select",
        "shutil",
        "signal",
        "socket",
        "starlette",
        "subprocess",
        "tempfile",
        "time",
        "trio",
        "zeroconf",
    }
)
CORES = ("node.dht", "node.chunks", "node.credit")
TOPS = {"simulations": 6, "cli": 7}


class Doorplates(Contract):
    """`type = "doorplates"` in pyproject.toml."""

    type_name = "doorplates"

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Kept if no import goes up, none leaves the pure layers, and every module says its layer."""
        layers: dict[str, int] = {}
        problems: list[str] = []
        for module in sorted(graph.modules):
            if module.split(".")[0] in ("node", "simulations") and not graph.is_module_squashed(module):
                layer = _layer(module)
                if layer is None:
                    problems.append(f"{module} does not say its layer")
                else:
                    layers[module] = layer
        for module, layer in layers.items():
            for imported in sorted(graph.find_modules_directly_imported_by(module)):
                problem = _problem(module, layer, imported, layers)
                if problem:
                    problems.append(problem)
        return ContractCheck(kept=not problems, metadata={"problems": problems})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """One line a problem."""
        for problem in check.metadata["problems"]:
            output.print_error(problem)


def _problem(module: str, layer: int, imported: str, layers: dict[str, int]) -> str | None:
    if imported in layers:
        if layers[imported] > layer:
            return f"{module} (layer {layer}) imports {imported} (layer {layers[imported]})"
        homes = [
            next((core for core in CORES if name.startswith(core + ".")), None) for name in (module, imported)
        ]
        if layer == PURE_LAYER_MAX and None not in homes and homes[0] != homes[1]:
            return f"{module} and {imported} are cores that must not know each other"
        return None
    if layer <= PURE_LAYER_MAX and imported.split(".")[0] in IMPURE:
        return f"{module} (layer {layer}, pure) imports {imported}"
    return None


def _layer(module: str) -> int | None:
    """The layer that a module's docstring names; packages and generated code have none of their own."""
    if module.split(".")[0] in TOPS:
        return TOPS[module.split(".")[0]]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    if path.name == "__init__.py":
        return 0
    text = path.read_text()
    if text.startswith("# -*- coding") or path.name.endswith("_pb2.py"):
        return PURE_LAYER_MAX
    match = re.search(r"\bLayer\s+(\d)\b", ast.get_docstring(ast.parse(text)) or "")
    return int(match[1]) if match else None
