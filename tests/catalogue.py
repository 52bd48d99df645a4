"""The catalogue of faults: what can go wrong in a night, by number, and the tests that show what becomes of it.

A test that is about a fault carries its number, so that `make test ARGS="-k F038"` runs what there is about expired
credentials. `test_catalogue.py` sees to it that no number is without a test. `make faults` prints all of it as a table.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

TITLES = {
    # Network and HTTP
    1: "A body is cut off by the end of its connection",
    2: "A body is cut off by a reset",
    3: "A body of unknown length ends early",
    4: "A proxy passes on a short body as a whole one",
    5: "A body goes on beyond its length, or for ever",
    6: "A body is an error document under status 200",
    7: "A body stalls",
    8: "A body trickles",
    9: "A connection hangs, or a name is not found or changes its address",
    10: "The network is gone for an hour",
    11: "A pool of connections is smaller than the objects in flight",
    12: "A request waits so long that its signature is stale",
    13: "The server asks to slow down over objects",
    14: "The server asks to slow down over listings",
    15: "A server error, or a proxy's page in place of an answer",
    16: "A redirect to another host",
    17: "A redirect from https to http",
    18: "The bucket is in another region",
    19: "A range is answered with the whole object",
    20: "A resumed body has all of its bytes already",
    21: "A body is compressed, as stored or on the way",
    22: "A captive portal or an inspecting proxy answers in S3's place",
    23: "A header is no UTF-8",
    24: "A connection is left open after an error or a cancellation",
    25: "A client's own checks are passed by",
    26: "An idle connection is closed as it is used again",
    27: "A proxy of the environment, with a password or without",
    28: "A new version of a client library behaves in another way",
    # S3's own ways
    29: "An object is replaced while it is fetched",
    30: "An object is replaced by a shorter one between two attempts",
    31: "An object is deleted after it was listed",
    32: "A denial that may mean that the object is gone",
    33: "Some parts are denied",
    34: "The key of an encrypted object may not be used",
    35: "An object is archived",
    36: "An object is archived and its storage class does not tell",
    37: "The bucket wants its requesters to pay",
    38: "The credentials expire in the middle of a run",
    39: "The credentials are revoked",
    40: "The clock is wrong",
    41: "The clock jumps during a run",
    42: "An ETag of a multipart upload",
    43: "An ETag that looks like an MD5 and is none",
    44: "A checksum that comes with a range, or is one of checksums",
    45: "A server gives the checksum of a part for that of the object",
    46: "An object without bytes",
    47: "A key that ends in a slash, with bytes or without",
    48: "An object of many gigabytes",
    49: "Millions of tiny objects",
    50: "Control characters in a key",
    51: "A key that looks percent-encoded",
    52: "A page of a listing is not whole, or no listing at all",
    53: "A listing repeats itself or goes round in circles",
    54: "A page promises more and does not say where",
    55: "A listing says too early that it is complete",
    56: "Objects are added while they are listed",
    57: "The place to go on from in a listing expires",
    58: "A bucket keeps versions and marks deletions",
    59: "A directory bucket, whose listings have no order",
    # The disk
    60: "The disk is full",
    61: "The disk is full for the journal alone",
    62: "The disk has no inodes left",
    63: "The disk has less room than it says",
    64: "A quota, a limit of file size, or a file system that becomes read-only",
    65: "The disk fails to write",
    66: "The disk fails to make durable",
    67: "The disk fails as a file is closed",
    68: "A write is short or interrupted",
    69: "The power fails after a rename, before the content is durable",
    70: "The power fails before a name is durable",
    71: "A folder of the destination is on another file system",
    72: "An object has the name of a folder of others",
    73: "A file system that folds case",
    74: "A file system that folds Unicode",
    75: "Names that Windows does not take",
    76: "A name or a path that is too long",
    77: "A key that is no Unicode text",
    78: "Staged files of a run that was killed",
    79: "Another program holds a file as it is replaced",
    80: "A user edits or deletes files between two runs",
    81: "A file rots under an unchanged size",
    82: "Patients' files could be read by others",
    83: "Room that is reserved is taken for content",
    84: "The destination is unmounted in the middle of a run",
    85: "A device, a pipe or a socket has an object's name",
    # The process and its host
    86: "Ctrl-C",
    87: "A scheduler or a logout ends the process",
    88: "The process is killed",
    89: "Something blocks the event loop",
    90: "Threads are too few, or change hands too often",
    91: "Memory grows with objects or bytes",
    92: "A worker dies unnoticed",
    93: "A listing dies, and the run looks complete",
    94: "An object fails on every run",
    95: "Two runs share a destination",
    96: "A lock is left behind, or its process number is another's",
    97: "File descriptors run out",
    98: "The process is forked while threads run",
    99: "The disk is slower than the network",
    100: "The process ends while threads still write",
    # The journal
    101: "The journal is damaged, cut short or no database",
    102: "The journal is of another version",
    103: "The journal is of another bucket or destination",
    104: "The journal is deleted, and the files are kept",
    105: "The journal is on a network file system",
    106: "The journal's log grows, or fills the disk at a checkpoint",
    107: "The power fails between content, name and record",
    108: "A user's tool opens the journal during a run",
    109: "A backup copies the journal without its log",
    110: "The journal's order depends on a clock",
    # Security
    111: "A key that leads out of the destination",
    112: "A symbolic link is planted in the destination",
    113: "Metadata of an object ask for a link, an owner or a mode",
    114: "A key has the name of the tool's own files",
    115: "A key or a message takes control of the terminal, or forges a line",
    116: "Credentials in a log or a traceback",
    117: "Credentials in the journal or on the command line",
    118: "Patients' data in a log",
    119: "A malicious endpoint or bucket",
    120: "Certificates are not checked",
    121: "A listing that explodes or does not end",
    122: "A body that explodes as it is unpacked",
    123: "A header names the file",
    124: "A file is exchanged between its proof and its name",
    125: "A dependency is compromised",
    126: "A file of the user's is deleted or overwritten",
    # What the real service and real places add
    127: "A request is signed over another address than the one it is sent to",
    128: "A provider of credentials fails in a way of its own",
    129: "A provider of credentials prompts, blocks or never answers",
    130: "A key, secret or token with a line end or a blank",
    131: "A setting of AWS's that is read in another way than AWS reads it",
    132: "An answer of an intermediary, without S3's own error document",
    133: "A proxy refuses, or is silent",
    134: "A whole body that comes in chunks, without its length",
    135: "One object is answered with a redirect",
    136: "A listing with a delimiter leaves out a part that is there",
    137: "A multipart object whose parts cannot be asked for",
    138: "A file changes while it is hashed",
    139: "A file system refuses modes, or forgets them",
    140: "A file system keeps coarser times than the listing",
    141: "A file system refuses one name",
    142: "What a folder passes on to what is made in it, and a tree that a colleague made",
    143: "A damaged journal is set aside while another run waits for it",
    144: "A locale or a name that is not UTF-8",
    145: "A limit of the machine: processes, threads, memory, open files",
    146: "A listener that takes nothing",
    147: "An output that is no plain file",
    148: "A dry run says what the run does not do",
    149: "A plan that comes through a pipe",
    150: "A failure is forgotten that was not looked at again",
    151: "A pause of one kind begins or ends within one of another",
}
"""Every fault by its number. Numbers are never given to another one."""


def fault(*numbers: int) -> pytest.MarkDecorator:
    """Mark a test as being about faults of the catalogue: their numbers become part of its id.

    Args:
        numbers: A number of `TITLES`, written out: they are read from the source. A test that is about several of them runs
            once.
    """
    return pytest.mark.parametrize(
        "fault", [None], ids=["-".join(f"F{number:03}" for number in numbers)], indirect=True
    )


def carriers(folder: Path = Path(__file__).parent) -> dict[int, list[str]]:
    """Return for each number the tests that carry it, as pytest names them.

    They are read from the source, so that it is all of them whatever tests are run, and by however many processes.
    """
    found: defaultdict[int, list[str]] = defaultdict(list)
    for path in sorted(folder.glob("test_*.py")):
        for test, numbers in _marked(ast.parse(path.read_text())):
            for number in numbers:
                found[number].append(f"{path.name}::{test}")
    return dict(found)


def _marked(module: ast.Module) -> Iterator[tuple[str, list[int]]]:
    """Yield the tests of a module that carry numbers, and those."""
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "fault":
                    yield node.name, [ast.literal_eval(number) for number in mark.args]


def complaints(carried: Mapping[int, Sequence[str]]) -> list[str]:
    """Return what is wrong with the catalogue: nothing, if every fault has a test."""
    return [
        *(f"F{number:03} has no test: {title}" for number, title in TITLES.items() if number not in carried),
        *(f"F{number:03} is no fault of the catalogue" for number in sorted({*carried} - {*TITLES})),
    ]


def table() -> str:
    """Return the catalogue as a table in Markdown: number, title, and the tests."""
    carried = carriers()
    lines = ["| | What goes wrong | What shows what becomes of it |", "|---|---|---|"]
    for number, title in TITLES.items():
        tests = "<br>".join(f"`{test}`" for test in carried.get(number, ()))
        lines.append(f"| F{number:03} | {title} | {tests} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
