"""What a project says in its `pyproject.toml`, under `[tool.migrate]`."""

from __future__ import annotations

from pathlib import Path

from migrator.errors import MigrateError


def probes_for(path: Path) -> tuple[tuple[str, str], ...]:
    """(class, expression that builds it) from `[tool.migrate.probe]` of the nearest pyproject.toml above a file.

    Raises:
        MigrateError: if that file is not TOML, or the table holds anything but strings.
    """
    config = next((c for c in (p / "pyproject.toml" for p in path.resolve().parents) if c.is_file()), None)
    if config is None:
        return ()
    import tomllib

    try:
        document = tomllib.loads(config.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise MigrateError("config", str(error), "mend the file", path=str(config)) from error
    table = document.get("tool", {}).get("migrate", {}).get("probe", {})
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        remedy = 'write lines such as Model = "Model(vocab=11, dim=16)"'
        raise MigrateError("config", "[tool.migrate.probe] maps class names to expressions", remedy, path=str(config))
    return tuple(sorted(table.items()))
