"""nccid-fetch: fetch the National COVID-19 Chest Imaging Database, resumably, with every byte verified.

The names below are the whole public interface; `ARCHITECTURE.md` beside this file is the map of the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Plan, Warehouse, fetch, fetch_async, plan, plan_async
    from .errors import (
        AccessError,
        DestinationBusyError,
        DestinationError,
        EndpointError,
        ListingDeniedError,
        NccidFetchError,
        Reason,
        RunError,
        UsageError,
    )
    from .events import Event
    from .model import RemoteObject
    from .summary import Summary

__version__ = "0.1.0"

__all__ = [
    "AccessError",
    "DestinationBusyError",
    "DestinationError",
    "EndpointError",
    "Event",
    "ListingDeniedError",
    "NccidFetchError",
    "Plan",
    "Reason",
    "RemoteObject",
    "RunError",
    "Summary",
    "UsageError",
    "Warehouse",
    "__version__",
    "fetch",
    "fetch_async",
    "plan",
    "plan_async",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever is exported.
    """Load a public name when it is first used: the command line starts without most of them."""
    if name in __all__:
        for home in ("errors", "events", "model", "summary", "api"):
            module = import_module(f".{home}", __name__)
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
