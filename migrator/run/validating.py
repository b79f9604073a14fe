"""Phase 4: every file that was written is measured beside what it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from migrator.config import nearest
from migrator.errors import MigrateError
from migrator.report.result import FileResult
from migrator.run.options import Options
from migrator.run.watching import watching


def measure(options: Options, files: Sequence[FileResult]) -> None:
    """Each result gets its validation, or why there is none; what was written stays written.

    Files that are read as one are measured once, as one text; the first of them gets the validation.
    """
    from migrator.validate import Request, Text, validate
    from migrator.validate.asking import samplers

    with watching("measuring") as show:
        for file in {id(file.planned): file for file in reversed(files)}.values():
            assert file.texts is not None
            path, texts_of_all = file.path.resolve(), file.texts
            if file.planned.extents:
                path, texts_of_all = file.planned.path, (file.planned.source, file.planned.text)
            probes = nearest(path).probes
            texts = zip(texts_of_all, (f"{file.path} as it was", f"{file.path} as it is"), strict=True)
            old, new = (Text(path, text.replace("\r\n", "\n"), probes, name) for text, name in texts)
            request = Request(old, new, samplers=samplers(old), seconds=options.seconds)
            try:
                file.validation = validate(request, show)
            except MigrateError as error:
                file.unmeasured = error.cause
                continue
            if options.report is not None:
                _write(options.report, file)


def _write(folder: Path, file: FileResult) -> None:
    """A page and a document that are called like the file.

    Raises:
        MigrateError: the folder cannot be written to; the file itself is written by now.
    """
    from migrator.report.html import render
    from migrator.report.hunks import hunks

    assert file.validation is not None and file.texts is not None
    page = render(file.validation, hunks(*file.texts, file.outcomes), file.verification)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{file.path.stem}.html").write_text(page, encoding="utf-8")
        (folder / f"{file.path.stem}.json").write_text(
            json.dumps(file.validation.to_json(), indent=2), encoding="utf-8"
        )
    except OSError as error:
        cause = f"the report cannot be written ({error.strerror})"
        raise MigrateError("not-written", cause, "name another folder", path=folder) from error
