"""Deciding from the bytes alone, in well under a millisecond, that a file has no part of a transformer in it."""

from __future__ import annotations

# Parts are built of torch, or of the runtime in a file that was migrated; either is spelt out in an import.
_FOUNDATION = (b"torch", b"runtime", b"import *")

# Attention needs a softmax or one of PyTorch's own modules, a sinusoid a sine or a cosine, and blocks and stacks need
# one of these two or the name of an imported one. In lower case: one word covers Softmax, log_softmax and softmax_.
_PART = (
    b"softmax",
    b"attention",
    b"attn",
    b"transformer",
    b"runtime",
    b".sin",
    b"sin(",
    b"sin_(",
    b".cos",
    b"cos(",
    b"cos_(",
    b"position",
    b"pos_e",
    b"posenc",
    b"posemb",
)


def may_contain_transformer(data: bytes) -> bool:
    """False only if no codemod can find anything; true means nothing more than that a closer look is due."""
    lowered = data.lower()
    if b"migrate:" in lowered:
        return True  # a comment to us, which may be one that keeps nothing
    return any(word in lowered for word in _FOUNDATION) and any(word in lowered for word in _PART)


def may_belong_to_one(data: bytes) -> bool:
    """Whether a file may define parts, or put parts together, that only others make a transformer of."""
    lowered = data.lower()
    return any(word in lowered for word in _FOUNDATION)
