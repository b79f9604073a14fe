"""The worker process: forks the nursery while it is still clean, then measures what standard input asks for.

It never runs user code: that happens in boxes, which the nursery forks.
"""

from __future__ import annotations

import json
import pickle
import sys
import traceback
from typing import Any

from migrator.prove.confinement import end_with_parent

_INSTALL = ("migrator.validate.trials", "migrator.validate.watching", "migrator.validate.training")


def main() -> None:
    """Do what standard input says, and tell standard output how it goes."""
    end_with_parent()
    # Comes from the parent, over a pipe that nothing else can write to.
    request = pickle.loads(sys.stdin.buffer.read())
    try:
        import torch

        from migrator.prove.nursery import Nursery
    except ImportError as error:
        _say({"error": ["no-torch", f"torch could not be imported ({error})", "install it"]})
        return
    with Nursery(_INSTALL) as nursery:
        torch.set_num_threads(1)
        _say(_answer(request, nursery))


def _answer(request: Any, nursery: Any) -> dict[str, Any]:
    from migrator.prove.remote import OutOfTime
    from migrator.validate.measuring import measure
    from migrator.validate.subject import CannotMeasure

    try:
        return {"validation": measure(request, nursery, lambda text: _say({"progress": text})).to_json()}
    except CannotMeasure as error:
        return {"error": ["no-model", str(error), "name the model by --model, and say how it is built by --build"]}
    except OutOfTime:
        return {"error": ["timeout", "no model was found in the time there is", "name it by --model and --build"]}
    except Exception:
        cause = "internal error: " + " | ".join(traceback.format_exc().split("\n")[-4:])
        return {"error": ["internal", cause, "please report it"]}


def _say(message: dict[str, Any]) -> None:
    try:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise SystemExit(1) from None
