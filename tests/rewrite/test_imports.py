"""Where the import of the runtime goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrator.codemod import Import, Phase
from migrator.recognise.index import FileIndex
from migrator.rewrite.engine import plan
from migrator.rewrite.imports import with_imports

ATTENTION = """\
def attend(q, k, v):
    return torch.softmax(q @ k.transpose(-2, -1), dim=-1) @ v
"""


def head_of(text: str) -> str:
    """What stands above the function once it is migrated."""
    run = plan(Path("model.py"), text + ATTENTION, phase=Phase.DROP_IN)
    head, found, rest = run.text.partition("def attend")
    assert found and "softmax" not in rest
    return head


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import torch\n\n\n", "import torch\nfrom runtime import attention\n\n\n"),
        (
            '"""Doc."""\nfrom __future__ import annotations\nimport torch\n\n\n',
            '"""Doc."""\nfrom __future__ import annotations\nimport torch\nfrom runtime import attention\n\n\n',
        ),
        (
            "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\nimport torch  # the library\n",
            "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\nimport torch  # the library\nfrom runtime import attention\n",
        ),
        (
            "import torch\nfrom runtime import swiglu\nX = 1\n",
            "import torch\nfrom runtime import attention, swiglu\nX = 1\n",
        ),
        (
            "import torch\nfrom runtime import attention\nX = 1\n",
            "import torch\nfrom runtime import attention\nX = 1\n",
        ),
        (
            "import torch\nfrom runtime import swiglu  # gated\nX = 1\n",
            "import torch\nfrom runtime import swiglu  # gated\nfrom runtime import attention\nX = 1\n",
        ),
        (
            "import torch\nfrom runtime import (\n    swiglu,\n    Alibi,\n)\nX = 1\n",
            "import torch\nfrom runtime import Alibi, attention, swiglu\nX = 1\n",
        ),
        (
            "import torch\nimport os; from runtime import swiglu\nX = 1\n",
            "import torch\nimport os; from runtime import swiglu\nfrom runtime import attention\nX = 1\n",
        ),
        ("import torch; import os\nX = 1\n", "import torch; import os\nfrom runtime import attention\nX = 1\n"),
        (
            "from runtime import *\nimport torch\n",
            "from runtime import *\nimport torch\nfrom runtime import attention\n",
        ),
        (
            '"""Doc."""\n\ntry:\n    import torch\nexcept ImportError:\n    torch = None\n\n',
            '"""Doc."""\n\nfrom runtime import attention\n\ntry:\n    import torch\nexcept ImportError:\n    torch = None\n\n',
        ),
        (
            "if True:\n    import torch\n\n\n",
            "from runtime import attention\n\n\nif True:\n    import torch\n\n\n",
        ),
        (
            '"""Doc."""\nif True:\n    import torch\n',
            '"""Doc."""\n\nfrom runtime import attention\nif True:\n    import torch\n',
        ),
        ("import torch\r\n\r\n", "import torch\r\nfrom runtime import attention\r\n\r\n"),
        (
            "import torch\nVERSION = 1\nimport os\n\ndef f(): pass\n\nimport sys\n",
            "import torch\nVERSION = 1\nimport os\nfrom runtime import attention\n\ndef f(): pass\n\nimport sys\n",
        ),
        ("import torch\nattention = None\n", "import torch\nimport runtime\nattention = None\n"),
        (
            "import torch, runtime\nattention = None\n",
            "import torch, runtime\nattention = None\n",
        ),
    ],
)
def test_placement(before: str, after: str) -> None:
    assert head_of(before) == after


def test_long_lists_are_broken_into_lines() -> None:
    index = FileIndex("import torch\n")
    names = ["Alibi", "DepthScaledInit", "RotaryEmbedding", "SinusoidalPositionalEncoding", "attention", "swiglu"]
    texts = with_imports(index, [Import("runtime", name) for name in names])
    lines = texts[0].splitlines()
    assert lines[:2] == ["import torch", "from runtime import ("]
    assert lines[2:-1] == [f"    {name}," for name in names] and lines[-1] == ")"


def test_nothing_is_added_twice() -> None:
    index = FileIndex("from runtime import attention as attend\nimport torch.nn\n")
    assert with_imports(index, [Import("runtime", "attention as attend")]) == {}
    assert with_imports(index, [Import("runtime", "attention")]) != {}
