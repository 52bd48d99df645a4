"""moto over a tree of files, in a process of its own: prints its address, serves until stdin ends."""

import sys
from pathlib import Path

from nccid_fetch.demo.server import DemoServer
from nccid_fetch.demo.synthetic import SyntheticObject


def main() -> None:
    tree = Path(sys.argv[1])
    with DemoServer() as server:
        server.load(
            SyntheticObject(str(path.relative_to(tree)), path.read_bytes())
            for path in sorted(tree.rglob("*"))
            if path.is_file()
        )
        print(server.endpoint_url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
