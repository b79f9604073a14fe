"""One name for each operation, however it is spelled: `torch.softmax`, `F.softmax` and `x.softmax` are "softmax"."""

from __future__ import annotations

import ast

# Methods of a tensor and functions of torch that do the same thing, by their common name.
_SHARED = """
abs add addcmul all any arange argmax baddbmm bmm cat chunk clamp clone contiguous cos cumsum detach div dropout einsum
eq exp expand flatten float full full_like gather ge gelu gt index_select le layer_norm linear log log_softmax long lt
masked_fill matmul max mean min mm mul narrow ne neg new_zeros new_ones ones ones_like outer permute pow relu repeat
reshape roll rsqrt sigmoid silu sin size softmax softplus split sqrt square squeeze stack sub sum swapaxes tanh tensor to topk
transpose tril triu type_as unbind unflatten unsqueeze view view_as where zeros zeros_like
""".split()
METHODS = {name: name for name in _SHARED} | {
    "multiply": "mul", "divide": "div", "true_divide": "div", "subtract": "sub", "less": "lt", "greater": "gt",
    "masked_fill_": "masked_fill", "mul_": "mul", "div_": "div", "add_": "add", "sub_": "sub", "relu_": "relu",
    "swapdims": "transpose", "half": "to", "double": "to", "bool": "to", "int": "to", "type": "to",
}  # fmt: skip

FUNCTIONS = {f"torch.{name}": name for name in _SHARED} | {f"torch.nn.functional.{name}": name for name in _SHARED}
FUNCTIONS |= {
    "torch.multiply": "mul", "torch.divide": "div", "torch.true_divide": "div", "torch.subtract": "sub",
    "torch.lt": "lt", "torch.less": "lt", "torch.greater": "gt", "torch.nn.functional.relu_": "relu", "torch.relu_": "relu",
    "torch.nn.functional.swish": "silu", "torch.swapdims": "transpose",
    "math.sqrt": "sqrt", "math.sin": "sin", "math.cos": "cos", "math.exp": "exp", "math.log": "log", "math.pow": "pow",
    "torch.nn.functional.scaled_dot_product_attention": "sdpa",
    "runtime.attention": "runtime.attention", "runtime.swiglu": "runtime.swiglu",
}  # fmt: skip

# Modules without parameters that are the operation itself.
MODULES = {
    "torch.nn.Softmax": "softmax", "torch.nn.ReLU": "relu", "torch.nn.GELU": "gelu", "torch.nn.SiLU": "silu",
    "torch.nn.Dropout": "dropout", "torch.nn.Identity": "identity",
}  # fmt: skip

BINARY: dict[type[ast.operator], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.MatMult: "matmul", ast.Pow: "pow",
    ast.Mod: "mod", ast.FloorDiv: "floordiv",
}  # fmt: skip

COMPARE: dict[type[ast.cmpop], str] = {
    ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge", ast.Eq: "eq", ast.NotEq: "ne",
    ast.Is: "is", ast.IsNot: "isnot", ast.In: "in", ast.NotIn: "notin",
}  # fmt: skip

# Same values, at most in another dtype-preserving layout: transparent when one asks what a value *is*.
TRANSPARENT = frozenset({"contiguous", "identity", "clone"})
MATMULS = frozenset({"matmul", "bmm", "mm"})
