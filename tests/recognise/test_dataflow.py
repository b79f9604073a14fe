"""What a function computes: names disappear, branches meet, and what changes in place is not overlooked."""

from __future__ import annotations

import pytest

from migrator.recognise.dataflow import flow_of
from migrator.recognise.index import FileIndex
from migrator.recognise.values import Flow, Value, strip

HEAD = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n"


def flow(body: str, parameters: str = "x, y, m=None") -> Flow:
    lines = "".join(f"    {line}\n" for line in body.strip("\n").split("\n"))
    index = FileIndex(f"{HEAD}def f({parameters}):\n{lines}")
    definition = index.functions["f"]
    return flow_of(index, definition, definition.tree)  # type: ignore[arg-type]


def returned(body: str, parameters: str = "x, y, m=None") -> Value:
    return flow(body, parameters).returns[-1][0]


def shape(value: Value) -> str:
    """`add(x, mul(y, 2))`."""
    if value.op in ("param", "const", "attr"):
        return str(value.data)
    return f"{value.op}({', '.join(shape(operand) for operand in value.operands())})"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return x + y * 2", "add(x, mul(y, 2))"),
        ("a = b = x\nreturn a @ b", "matmul(x, x)"),
        ("a, (b, c) = x, (y, 3)\nreturn b - c", "sub(y, 3)"),
        ("x, y = y, x\nreturn x / y", "div(y, x)"),
        ("x += y\nreturn x", "add(x, y)"),
        ("return torch.softmax(x, dim=-1)", "softmax(x, -1)"),
        ("return x.softmax(-1)", "softmax(x, -1)"),
        ("return F.softmax(x, -1)", "softmax(x, -1)"),
        ("return torch.special.softmax(x, -1)", "softmax(x, -1)"),
        ("return nn.Softmax(dim=-1)(x)", "softmax(x, -1)"),
        ("return nn.Dropout(0.3)(x)", "dropout(x, 0.3)"),
        ("return x.mT @ y", "matmul(transpose(x, -2, -1), y)"),
        ("b, t = x.shape\nreturn t", "unpack(shape(x))"),
        ("return x.shape[1]", "size(x, 1)"),
        ("*_, t = x.shape\nreturn t", "opaque(shape(x))"),
        ("return (x, y)[1]", "y"),
        ("if m:\n    x = x * 2\nreturn x", "phi(m, mul(x, 2), x)"),
        ("if m:\n    return y\nreturn x", "x"),
        ("x = y if m else x\nreturn x", "phi(m, y, x)"),
        ("if (n := x) is not None:\n    pass\nreturn n", "x"),
        ("x.mul_(2)\nreturn x", "mul(x, 2)"),
        ("z = x\nz.mul_(2)\nreturn x", "mul(x, 2)"),
        ("z = x\nz += y\nreturn x", "add(x, y)"),
        ("x.view(-1).mul_(2)\nreturn x", "opaque(x)"),
        ("z = x[0]\nz += y\nreturn x", "opaque(x)"),
        ("x[0] = y\nreturn x", "setitem(x, y)"),
        ("z = x\nz[0] = y\nreturn x", "setitem(x, y)"),
        ("torch.add(x, y, out=x)\nreturn x", "add(x, y, x)"),
        ("F.relu(x, inplace=True)\nreturn x", "relu(x, True)"),
        ("nn.ReLU(inplace=True)(x)\nreturn x", "relu(x)"),
        ("change(x)\nreturn x", "opaque(x)"),
        ("print(x)\nreturn x", "x"),
        ("for i in y:\n    x.mul_(2)\nreturn x", "opaque(x)"),
        ("while m:\n    x = x + 1\nreturn x", "looped(x, loop(x), add(loop(x), 1), opaque())"),
        ("with torch.no_grad():\n    x = x + 1\nreturn x", "add(x, 1)"),
        ("try:\n    x = x + 1\nexcept E:\n    pass\nreturn x", "phi(opaque(), add(x, 1), opaque(x, add(x, 1)))"),
        ("def g():\n    return x\nreturn g", "function(x)"),
        ("return [x for x in y]", "opaque(x, x, y)"),
        ("return {'a': x @ y}", "opaque(a, matmul(x, y))"),
        ("return f(*x, **y)", "opaque(global(), opaque(x), y)"),
    ],
)
def test_values(body: str, expected: str) -> None:
    assert shape(returned(body)) == expected


def test_loops_join_what_enters_with_what_the_body_makes() -> None:
    value = returned("for layer in m:\n    x = layer(x)\nreturn x")
    entering, head, body, source = value.args
    assert (value.op, entering.data, head.op, source.data) == ("looped", "x", "loop", "m")
    assert body.op == "call_local" and body.args[0].op == "element" and body.args[1] is head


def test_names_that_a_loop_does_not_change_stay() -> None:
    assert returned("for layer in m:\n    x = layer(x)\nreturn y").data == "y"


def test_a_local_name_hides_an_import() -> None:
    assert returned("return F.softmax(x, -1)", "x, F").op != "call"
    assert returned("return F.softmax(x, -1)", "x, F").data == "softmax"  # a method, of whatever F is
    local = returned("from other import softmax\nreturn softmax(x, -1)")
    assert local.op == "call_local"


@pytest.mark.parametrize(
    "rebinding",
    [
        "def softmax(x, dim): pass",
        "softmax = None",
        "class softmax: pass",
        "for softmax in (): pass",
        "with open('a') as softmax: pass",
    ],
)
def test_a_definition_hides_an_import_of_its_name(rebinding: str) -> None:
    text = f"from torch import softmax\n{rebinding}\n\ndef f(x):\n    return softmax(x, -1)\n"
    index = FileIndex(text)
    found = flow_of(index, index.functions["f"], index.functions["f"].tree)  # type: ignore[arg-type]
    assert found.returns[0][0].op == "call"
    plain = FileIndex(text.replace(f"{rebinding}\n", ""))
    found = flow_of(plain, plain.functions["f"], plain.functions["f"].tree)  # type: ignore[arg-type]
    assert found.returns[0][0].op == "softmax"


def test_attributes_and_submodules() -> None:
    text = HEAD + (
        "class A(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc, self.act = nn.Linear(1, 1), nn.ReLU()\n"
        "        self.table = None\n"
        "    def helper(self, x):\n"
        "        return x\n"
        "    def forward(self, x):\n"
        "        x = self.act(self.fc(self.helper(x)))\n"
        "        self.last = x\n"
        "        return x + self.table.sum(-1) + self.inner.scale\n"
    )
    index = FileIndex(text)
    info = index.classes["A"]
    found = flow_of(index, info.definition, info.methods["forward"], info)
    assert shape(found.returns[0][0]) == "add(add(relu(module(self_call(x))), sum(table, -1)), inner.scale)"
    assert [(store.kind, store.name) for store in found.stores] == [("attribute", "self.last")]


def test_text_is_right_where_it_is_asked_for() -> None:
    found = flow("a = x * 2\nb = a + y\nx = 0\nreturn b")
    last = found.returns[0][1]
    product = next(value for value in found.values if value.op == "mul")
    total = next(value for value in found.values if value.op == "add")
    assert found.text_at(product, last) == "a"
    assert found.text_at(total, last) == "b"
    found = flow("b = x * 2 + y\nx = 0\nreturn b")
    product = next(value for value in found.values if value.op == "mul")
    assert found.text_at(product, found.returns[0][1]) is None  # x is something else by then
    found = flow("b = x * 2 + y\nreturn b")
    product = next(value for value in found.values if value.op == "mul")
    assert found.text_at(product, found.returns[0][1]) == "x * 2"


def test_text_does_not_leave_its_with() -> None:
    found = flow("with torch.no_grad():\n    b = x * 2 + y\nreturn b")
    product = next(value for value in found.values if value.op == "mul")
    assert found.text_at(product, found.returns[0][1]) is None


def test_strip_sees_through_layout_alone() -> None:
    assert strip(returned("return x.contiguous().clone()")).data == "x"
    assert strip(returned("return x.float()")).op == "to"
