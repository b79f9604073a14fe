"""Phase 4: every file that was written is measured beside what it was."""

from __future__ import annotations

from collections.abc import Sequence

from migrator.config import nearest
from migrator.errors import MigrateError
from migrator.report.result import FileResult
from migrator.run.options import Options
from migrator.run.watching import watching


def measure(options: Options, files: Sequence[FileResult]) -> None:
    """Each result gets its validation, or why there is none; what was written stays written."""
    from migrator.validate import Request, Text, validate
    from migrator.validate.asking import samplers

    with watching("measuring") as show:
        for file in files:
            assert file.texts is not None
            path = file.path.resolve()
            probes = nearest(path).probes
            texts = zip(file.texts, (f"{file.path} as it was", f"{file.path} as it is"), strict=True)
            old, new = (Text(path, text.replace("\r\n", "\n"), probes, name) for text, name in texts)
            request = Request(old, new, samplers=samplers(old), seconds=options.seconds)
            try:
                file.validation = validate(request, show)
            except MigrateError as error:
                file.unmeasured = error.cause
