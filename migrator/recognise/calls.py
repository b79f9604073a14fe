"""What a free function is called with, as far as the file shows."""

from __future__ import annotations

import ast

from migrator.recognise.index import ClassInfo
from migrator.recognise.syntax import bind
from migrator.recognise.values import Flow, Value

Given = tuple[ast.expr | None, ClassInfo | None]


def given_in_calls(flow: Flow, parameter: Value) -> list[Given] | None:
    """What a parameter stands for in each call of the file, with the class that the call stands in.

    None where that cannot be told: in a method, or where `*` or `**` hides the arguments of a call.
    """
    if parameter.op != "param" or flow.owner is not None or flow.definition.tree is not flow.function:
        return None
    spec = flow.function.args
    names = [arg.arg for arg in (*spec.posonlyargs, *spec.args)]
    defaults = dict(zip(reversed(names), reversed(spec.defaults), strict=False))
    given: list[Given] = []
    for definition in flow.index.definitions:
        owner = flow.index.classes.get(definition.name)
        for node in ast.walk(definition.tree) if flow.function.name in definition.text else ():
            if isinstance(node, ast.Call) and flow.index.resolve(node.func) == flow.function.name:
                bound = bind(dict.fromkeys(names), node)
                if bound is None:
                    return None
                given.append((bound.get(parameter.data, defaults.get(parameter.data)), owner))
    return given
