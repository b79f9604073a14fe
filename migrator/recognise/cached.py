"""Methods that take a cache of keys and values."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from migrator.recognise.dataflow import method_flow
from migrator.recognise.index import ClassInfo
from migrator.recognise.prefixes import Prefix
from migrator.recognise.syntax import FunctionNode, parameters

CACHE = "past_kv"


@dataclass(frozen=True)
class CachedMethod:
    """A method that takes a cache: `sequences` maps the parameters with the prefix to their axis.

    `shifted` are those of which a row is seen by later rows only. `results` counts what it returns besides the cache.
    """

    owner: ClassInfo
    name: str
    sequences: dict[str, int]
    shifted: frozenset[str]
    results: int


def takes_cache(function: FunctionNode) -> bool:
    """Whether a function has a parameter for the cache."""
    return any(arg.arg == CACHE for arg in [*function.args.args, *function.args.kwonlyargs])


def cached_method(info: ClassInfo, name: str) -> CachedMethod | None:
    """What is known of a method that takes a cache, or None if it takes none."""
    flow, method = method_flow(info, name), info.methods.get(name)
    if flow is None or method is None or not takes_cache(method) or "use_cache" not in parameters(method):
        return None
    sequences: dict[str, int] = {}
    shifted: set[str] = set()
    for value in flow.of("getitem"):
        if f"{CACHE}.length" in ast.unparse(value.data):
            place = len(value.data.elts) - 1 if isinstance(value.data, ast.Tuple) else 0
            prefix = Prefix(flow, sequences, place)
            if not prefix.holds(value.args[0]):
                return None
            shifted |= prefix.shifted
    results = {
        len(node.elts) - 1
        for node in ast.walk(method)
        if isinstance(node, ast.Tuple) and node.elts and ast.unparse(node.elts[-1]) == CACHE
    }
    if not sequences or len(results) != 1:
        return None
    return CachedMethod(info, name, sequences, frozenset(shifted), results.pop())
