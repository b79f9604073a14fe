"""The gates that a migrated file has: products whose results meet in `runtime.swiglu`."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.recognise.dataflow import method_flow
from migrator.recognise.index import FileIndex


def gates(index: FileIndex) -> Iterator[tuple[str, str, str]]:
    """(class, attribute of the gate, attribute of the product that it gates)."""
    for name, info in index.modules.items():
        for method in info.methods:
            flow = method_flow(info, method)
            for value in flow.of("runtime.swiglu") if flow is not None else ():
                if len(value.args) == 2 and all(arg.op == "module" and arg.data for arg in value.args):
                    yield name, str(value.args[0].data), str(value.args[1].data)
