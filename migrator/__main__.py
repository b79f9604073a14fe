"""`python -m migrator`, the same as `migrate`."""

import os
import sys


def run() -> None:
    # Python puts the working directory first; modules that happen to lie there are none of ours.
    if not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
        del sys.path[0]
    from migrator.cli import main

    main()


run()
