"""The quick no: never about a file with a part of a transformer in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrator.read.prefilter import may_contain_transformer

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.mark.parametrize(
    "line",
    [
        "a = a.softmax(dim=-1)",
        "a = nn.Softmax(dim=-1)(a)",
        "self.att = nn.MultiheadAttention(8, 2)",
        "y = F.scaled_dot_product_attention(q, k, v)",
        "self.enc = nn.TransformerEncoder(layer, 2)",
        "self.dec = nn.TransformerDecoderLayer(8, 2)",
        "pe[:, 0::2] = torch.sin(position * div_term)",
        "return x + sin(t)",
        "t.sin_()",
        "t.mul(f).cos_()",
        "from runtime import attention",
        "self.pos_emb = nn.Embedding(512, 64)",
    ],
)
def test_parts_of_transformers_get_a_closer_look(line: str) -> None:
    assert may_contain_transformer(b"import torch\n" + line.encode())


@pytest.mark.parametrize(
    "text",
    ["", "x = 1\n", "import torch\nclass Net(torch.nn.Module):\n    pass\n", "import math\nprint(math.sin(0))\n"],
)
def test_other_files_are_done_with(text: str) -> None:
    assert not may_contain_transformer(text.encode())


def test_every_fixture_that_is_rewritten_gets_a_closer_look() -> None:
    cases = [after.with_name("before.py") for after in FIXTURES.rglob("after.py")]
    for file in [*cases, *FIXTURES.glob("*.py")]:
        assert may_contain_transformer(file.read_bytes()), file
