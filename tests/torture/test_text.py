"""Any text at all: what is no Python is refused in one line, and what is comes back to the byte."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrator.codemod import Phase
from migrator.errors import MigrateError
from migrator.read import source
from migrator.read.source import not_python
from migrator.rewrite import engine
from tests.torture.running import OLD, count

PATH = Path("model.py")
PIECES = st.one_of(
    st.text(max_size=8), st.sampled_from(["\f", "\r", "\r\n", "\t", "\\\n", '"""', "(", ")", ":", "#", ";"])
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A model with a few pieces cut out of it and others put in."""
    text = OLD
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        text = text[:start] + draw(PIECES) + text[start + draw(st.integers(0, 12)) :]
    return text


@settings(max_examples=count(100), deadline=None, suppress_health_check=list(HealthCheck))
@given(damaged())
def test_identity_or_refusal(text: str) -> None:
    try:
        data = text.encode()
        read = source.decode(PATH, data)
        assert read.encode(read.text) == data
        source.parse(PATH, read.text)
        engine.plan(PATH, read.text, phase=Phase(1), only=frozenset(), skip=frozenset(), choices={})
    except (MigrateError, UnicodeEncodeError) as error:
        assert "\n" not in str(error)
    except (SyntaxError, RecursionError, MemoryError) as error:
        assert not_python(PATH, error).code  # as the run over files reports it
