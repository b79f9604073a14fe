"""`python -m migrator`, the same as `migrate`."""

import os
import signal
import sys


def run() -> None:
    """The entry point of both."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the imports run ends us without a traceback
    # Python puts the working directory first; modules that happen to lie there are none of ours.
    if not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
        del sys.path[0]
    from migrator.cli import main

    try:
        main()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nor is there one while Python tidies up


if __name__ == "__main__":
    run()
