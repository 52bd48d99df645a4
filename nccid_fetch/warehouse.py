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
"""The documented parts."""
OTHER_PARTS = ("unknown", "unknown-metadata")
"""Parts that a bucket may have. It may hold more; its listing tells."""

_PHASES = {
    "data": 0,
    **dict.fromkeys(("ct-metadata", "mri-metadata", "xray-metadata"), 1),
    "xray": 2,
    "mri": 3,
    "ct": 4,
    **dict.fromkeys(OTHER_PARTS, 5),
}


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


def phase_of(part: str) -> int:
    """Return when a part's turn is: what says most about most patients in the fewest bytes comes first.

    =====  ============================================  =================================================
    Phase  Parts                                         Why then
    =====  ============================================  =================================================
    0      `data`                                        who the patients are; minutes
    1      `ct-metadata` `mri-metadata` `xray-metadata`  what images there are; small, but as many as those
    2      `xray`                                        an image or two a patient
    3      `mri`                                         few patients
    4      `ct`                                          nearly all of the bytes
    5      `unknown` `unknown-metadata`                  what the warehouse itself could not file
    6      anything else                                 what no document names
    =====  ============================================  =================================================
    """
    return _PHASES.get(part, 6)


def below_part(key: str) -> str:
    """Return what follows the part in a key, group and all: it sorts by patient, whatever the part.

    >>> below_part("training/ct-metadata/Covid0000/1.2/a.json")
    'Covid0000/1.2/a.json'
    """
    return key.split("/", 2)[-1]


def patient_of(key: str) -> str:
    """Return the first segment below the part, with its slash, so that patients sort as their keys do.

    An object at the top of a part belongs to no patient; it has its own name, without a slash.

    >>> patient_of("training/ct/Covid0000/1.2/1.2.3/a.dcm"), patient_of("training/ct/README")
    ('Covid0000/', 'README')
    """
    patient, slash, _ = below_part(key).partition("/")
    return patient + slash
