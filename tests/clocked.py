"""nccid-fetch, with a display that goes by a clock in a file: `python -m tests.clocked FILE all --concurrency 4`.

The file has seconds since the beginning, and whoever waits for a certain screen sets it. Nothing looks at it but the display and what is published for `status`.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

from nccid_fetch.cli import display, publishing
from nccid_fetch.cli.main import main

if __name__ == "__main__":
    clock = Path(sys.argv.pop(1))
    for module in (display, publishing):
        vars(module)["time"] = SimpleNamespace(monotonic=lambda: float(clock.read_text()))
    display.PLAIN_SECONDS = 1
    main()
