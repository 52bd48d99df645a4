"""nccid-fetch, with a display that goes by a clock in a file: `python -m tests.clocked FILE all --concurrency 4`.

The file has seconds since the beginning, and whoever waits for a certain screen sets it. Nothing but the display looks at it.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

from nccid_fetch.cli import display
from nccid_fetch.cli.main import main

if __name__ == "__main__":
    clock = Path(sys.argv.pop(1))
    vars(display)["time"] = SimpleNamespace(monotonic=lambda: float(clock.read_text()))
    display.PLAIN_SECONDS = 1
    main()
