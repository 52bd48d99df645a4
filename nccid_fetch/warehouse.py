"""NCCID's own grammar: groups, parts and what a key says about patient, study and series.

The warehouse keeps images, their metadata and the clinical files apart::

    GROUP/{ct,mri,xray,unknown}/PATIENT/STUDY_UID/SERIES_UID/NAME.dcm
    GROUP/{ct,mri,xray,unknown}-metadata/PATIENT/STUDY_UID/SERIES_UID/NAME.json
    GROUP/data/PATIENT/{data,status}_YYYY-MM-DD.json

Nothing here reads or writes: it only knows the words. Keys that do not follow the grammar are
fetched all the same; the warehouse holds some.

Source: *Accessing the NCCID data*, and the published warehouse loader.
"""

BUCKET = "nccid-data-warehouse-prod"
REGION = "eu-west-2"
GROUPS = ("training", "validation")
PARTS = ("data", "ct-metadata", "mri-metadata", "xray-metadata", "ct", "mri", "xray")
"""The documented parts. A bucket may hold more (`unknown`, `unknown-metadata`); its listing tells."""


def group_prefix(group: str) -> str:
    """Return the prefix of a group, `training/`."""
    return f"{group}/"


def part_prefix(group: str, part: str) -> str:
    """Return the prefix of a part, which always ends in a slash.

    `training/ct` would match `training/ct-metadata/` as well, and readers' rights are
    granted for `training/ct/*` alone.
    """
    return f"{group}/{part}/"


def part_of(key: str, group: str) -> str:
    """Return the part that a key of a group belongs to.

    >>> part_of("training/ct-metadata/Covid0000/a.json", "training")
    'ct-metadata'
    """
    return key[len(group) + 1 :].partition("/")[0]
