"""What a project says in its `pyproject.toml`, under `[tool.migrate]`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from migrator.errors import MigrateError

_TABLE = b"tool.migrate"
Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _switches(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, bool) for item in value.values())


def _expressions(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_text, value.values()))


def _numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_number, value.values()))


# Every key, what it has to be, and how to say that.
_KEYS: Mapping[str, tuple[Check, str]] = {
    "phase": (_whole, "a number, as in phase = 2"),
    "paths": (_texts, 'a list of files and directories, as in paths = ["src"]'),
    "exclude": (_texts, 'a list of patterns as in .gitignore, such as exclude = ["legacy/"]'),
    "only": (_texts, 'a list of codemods, as in only = ["attention"]'),
    "skip": (_texts, 'a list of codemods, as in skip = ["swiglu"]'),
    "positions": (_text, '"rotary" or "alibi"'),
    "feed-forward": (_text, '"neutral" or "warm"'),
    "timeout": (_number, "a number of seconds, as in timeout = 60"),
    "jobs": (_whole, "a number of processes, as in jobs = 4"),
    "runtime-name": (_text, 'the name of a module, as in runtime-name = "modern"'),
    "codemods": (_switches, "a table of switches, as in swiglu = false"),
    "tolerances": (_numbers, "a table of numbers above 0, as in float32 = 1e-4"),
    "probe": (_expressions, 'a table from class names to expressions, as in Model = "Model(vocab=11, dim=16)"'),
}
_OF_THE_COMMAND_LINE = ("positions", "feed-forward", "timeout", "jobs", "only", "runtime-name")


@dataclass(frozen=True)
class Tolerances:
    """How far numbers may be apart in a proof.

    Args:
        float64, float32: outputs, gradients and losses in that precision, relative to the largest entry of a tensor.
        invariants: outputs that have to stay, such as those before a token that changes, absolutely.
        initial_scale: initial values from what they should be scaled to, relative.
        gradcheck: gradients from central differences, relative.
        gradient_ratio: by which factor the gradients of the first block may change against those of the last.
    """

    float64: float = 1e-10
    float32: float = 1e-5
    invariants: float = 1e-9
    initial_scale: float = 1e-6
    gradcheck: float = 1e-5
    gradient_ratio: float = 10.0

    @classmethod
    def names(cls) -> dict[str, str]:
        """Key of the configuration: attribute."""
        return {name.replace("_", "-"): name for name in cls.__dataclass_fields__}

    def changes(self) -> Iterator[str]:
        """What is not as usual, for the report."""
        usual = asdict(Tolerances())
        for name, value in asdict(self).items():
            if value != usual[name]:
                how = "LOOSER" if value > usual[name] else "stricter"
                key = name.replace("_", "-")
                yield f"{how} than usual: pyproject.toml has {key} = {value:g}, and the usual is {usual[name]:g}"


@dataclass(frozen=True)
class Config:
    """The table of the nearest pyproject.toml; empty where there is none.

    Args:
        file: that pyproject.toml.
        table: what `[tool.migrate]` says, each key known and of the right kind.
    """

    file: Path | None = None
    table: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """What relative paths and patterns of the configuration are relative to."""
        return self.file.parent if self.file is not None else Path()

    @property
    def paths(self) -> list[Path]:
        return [self.folder / path for path in self.table.get("paths", ())]

    @property
    def exclude(self) -> tuple[str, ...]:
        return tuple(self.table.get("exclude", ()))

    @property
    def switches(self) -> Mapping[str, bool]:
        """Codemods that are turned on or off by name."""
        return dict(self.table.get("codemods", {}))

    @property
    def probes(self) -> tuple[tuple[str, str], ...]:
        """(class, expression that builds it)."""
        return tuple(sorted(self.table.get("probe", {}).items()))

    @property
    def tolerances(self) -> Tolerances:
        names = Tolerances.names()
        return Tolerances(**{names[key]: float(value) for key, value in self.table.get("tolerances", {}).items()})

    def defaults(self) -> dict[str, Any]:
        """Values for the options that the command line leaves out, by parameter name."""
        values = {key.replace("-", "_"): self.table[key] for key in _OF_THE_COMMAND_LINE if key in self.table}
        if "phase" in self.table:
            values["phase"] = str(self.table["phase"])
        values["skip"] = [*self.table.get("skip", ()), *(name for name, on in self.switches.items() if not on)]
        return values


def nearest(path: Path) -> Config:
    """The configuration that holds for a file or directory: that of the first pyproject.toml above it.

    Raises:
        MigrateError: the file is no TOML, or its table has an unknown key or a value of the wrong kind.
    """
    place = path.resolve()
    file = next((c for c in (p / "pyproject.toml" for p in (place, *place.parents)) if c.is_file()), None)
    return Config() if file is None else Config(file, _table(file))


def _table(file: Path) -> dict[str, Any]:
    try:
        data = file.read_bytes()
        if _TABLE not in data:  # most have no such table, and a TOML parser takes longer than a look at a file
            return {}
        import tomllib

        document = tomllib.loads(data.decode("utf-8"))
    except (ValueError, OSError) as error:
        raise MigrateError("config", str(error), "mend the file", path=file) from error
    table = document.get("tool", {}).get("migrate", {})
    for key, value in table.items():
        _check(file, key, value)
    return dict(table)


def _check(file: Path, key: str, value: Any) -> None:
    _check_known(file, "tool.migrate", key, _KEYS)
    fits, kind = _KEYS[key]
    if not fits(value):
        raise MigrateError("config", f"{key} in [tool.migrate] is {value!r}", f"make it {kind}", path=file)
    if key == "tolerances":
        for name in value:
            _check_known(file, "tool.migrate.tolerances", name, Tolerances.names())


def _check_known(file: Path, table: str, key: str, known: Collection[str]) -> None:
    if key not in known:
        import difflib

        near = difflib.get_close_matches(key, known, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
        raise MigrateError("config", f"[{table}] has no key {key!r}", remedy, path=file)
