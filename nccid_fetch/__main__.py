"""`python -m nccid_fetch`."""

from .cli.main import main

if __name__ == "__main__":
    main()
