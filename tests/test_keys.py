"""Keys: what a path can be made of, what is refused and why, and that no key writes anywhere else."""

import os
import shutil
import tempfile
import unicodedata
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nccid_fetch.destination import Placement, open_destination
from nccid_fetch.errors import Reason, UnsafeKeyError
from nccid_fetch.keys import STATE_FOLDER, _path_of, fold, is_folder_marker, key_filter, path_of, printable
from nccid_fetch.settings import Settings

from .catalogue import fault

COMPOSED, DECOMPOSED = "\u00e9", "e\u0301"


@fault(75)
@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("training/ct/a.dcm", ("ct", "a.dcm")),
        ("training/ct/Covid1/1.2.3/4.5/a.dcm", ("ct", "Covid1", "1.2.3", "4.5", "a.dcm")),
        ("training/ct/...", ("ct", "...")),
        ("training/ct/..a", ("ct", "..a")),
        ("training/ct/ ", ("ct", " ")),
        ("training/ct/a\\..\\b", ("ct", "a\\..\\b")),
        ("training/ct/C:", ("ct", "C:")),
        ("training/ct/CON", ("ct", "CON")),
        ("training/ct/a:stream. ", ("ct", "a:stream. ")),
        ("training/ct/line\nbreak\x1b[2J\r", ("ct", "line\nbreak\x1b[2J\r")),
        (f"training/ct/{COMPOSED}", ("ct", COMPOSED)),
        (f"training/ct/{DECOMPOSED}", ("ct", DECOMPOSED)),
        ("training/ct/training/ct/a", ("ct", "training", "ct", "a")),
        (f"training/ct/{STATE_FOLDER}/a", ("ct", STATE_FOLDER, "a")),
        ("training/ct/.git/hooks/pre-commit", ("ct", ".git", "hooks", "pre-commit")),
        ("training/ct/" + "a" * 255, ("ct", "a" * 255)),
        ("training/ct/" + COMPOSED * 127, ("ct", COMPOSED * 127)),
        ("training/" + "/".join(["a" * 100] * 10) + "/bcdef", ("a" * 100,) * 10 + ("bcdef",)),
    ],
)
def test_a_key_below_its_group_is_its_path_unchanged(key: str, path: tuple[str, ...]) -> None:
    assert path_of(key, "training") == path


LONGEST = "training/" + "/".join(["a" * 100] * 10) + "/bcdef"


@fault(76, 77, 111, 114)
@pytest.mark.parametrize(
    ("key", "rule"),
    [
        ("validation/ct/a", "it is not below training/"),
        ("training", "it is not below training/"),
        ("/training/ct/a", "it is not below training/"),
        ("trainingx/ct/a", "it is not below training/"),
        ("", "it is not below training/"),
        ("training/", "it is in no part"),
        ("training/a", "it is in no part"),
        ("training/ct/\ud800", "it is not Unicode text"),
        ("training/ct/\udcff/a", "it is not Unicode text"),
        (LONGEST + "g" * (1025 - len(LONGEST)), "it is longer than 1024 bytes"),
        ("training/ct/" + (COMPOSED * 100 + "/") * 6, "it is longer than 1024 bytes"),
        ("training/ct/a\0b", "it has a NUL character"),
        ("training/ct/a/", "it has a segment ''"),
        ("training//a", "it has a segment ''"),
        ("training/ct//a", "it has a segment ''"),
        ("training/ct/.", "it has a segment '.'"),
        ("training/./a", "it has a segment '.'"),
        ("training/ct/..", "it has a segment '..'"),
        ("training/../a", "it has a segment '..'"),
        ("training/ct/../../../etc/passwd", "it has a segment '..'"),
        ("training/ct/" + "a" * 256, "it has a segment of more than 255 bytes"),
        ("training/ct/" + COMPOSED * 128, "it has a segment of more than 255 bytes"),
        pytest.param("training/ct/" + "\U0001f600" * 64 + "/a", "it has a segment of more than 255 bytes", id="wide"),
        (f"training/{STATE_FOLDER}/journal.sqlite", "it would lie in the state folder"),
        ("training/.NCCID-Fetch/a", "it would lie in the state folder"),
        ("training/.nccid-\u200bfetch/a", "it would lie in the state folder"),
        ("training/\ufeff.nccid-fetch/a", "it would lie in the state folder"),
        (f"training/{STATE_FOLDER}2/a", "it would lie in a hidden folder"),
        ("training/.git/hooks/pre-commit", "it would lie in a hidden folder"),
        ("training/\u200b.ssh/authorized_keys", "it would lie in a hidden folder"),
    ],
)
def test_a_key_without_a_safe_path_is_refused_by_the_rule_it_breaks(key: str, rule: str) -> None:
    with pytest.raises(UnsafeKeyError) as refusal:
        path_of(key, "training")
    assert str(refusal.value) == rule
    assert refusal.value.reason is Reason.UNSAFE_KEY


@fault(76)
def test_the_longest_key_of_s3_has_a_path() -> None:
    key = LONGEST + "g" * (1024 - len(LONGEST))
    assert len(key) == 1024
    assert "/".join(path_of(key, "training")) == key.removeprefix("training/")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Covid1", "covid1"),
        (COMPOSED, DECOMPOSED),
        (COMPOSED.upper(), DECOMPOSED),
        ("stra\u00dfe", "STRASSE"),
        ("\u212b", "\u00e5"),
        ("\u03b1\u0345\u0301", "\u03b1\u0301\u0345"),
        ("a\u200bb", "ab"),
        ("a\u00adb", "AB"),
    ],
)
def test_what_a_folding_file_system_may_confuse_folds_to_one_text(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@pytest.mark.parametrize(("one", "other"), [("a", "b"), ("Covid1", "Covid10"), ("a b", "ab"), ("e", COMPOSED)])
def test_what_no_file_system_confuses_stays_apart_when_folded(one: str, other: str) -> None:
    assert fold(one) != fold(other)


@given(st.text())
def test_folding_twice_is_folding_once(text: str) -> None:
    assert fold(fold(text)) == fold(text)


@pytest.mark.parametrize(
    ("key", "size", "is_marker"),
    [("training/ct/", 0, True), ("training/ct/", 1, False), ("training/ct/a", 0, False)],
)
def test_only_an_empty_object_whose_key_ends_in_a_slash_marks_a_folder(key: str, size: int, is_marker: bool) -> None:  # noqa: FBT001
    assert is_folder_marker(key, size) is is_marker


@fault(115)
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a/b c-\\x.dcm", "a/b c-\\x.dcm"),
        (COMPOSED + DECOMPOSED + "\u4e2d", COMPOSED + DECOMPOSED + "\u4e2d"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\rb", "a\\x0db"),
        ("a\nb", "a\\x0ab"),
        ("\x07", "\\x07"),
        ("\x7f", "\\x7f"),
        ("\x9b2J", "\\x9b2J"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\u2066a\u2069", "\\u2066a\\u2069"),
        ("a\u200bb", "a\\u200bb"),
        ("a\u200db", "a\\u200db"),
        ("\ufeffa", "\\ufeffa"),
        ("\u2028", "\\u2028"),
        ("\u3164", "\\u3164"),
        ("\ud800", "\\ud800"),
        ("\udcff", "\\udcff"),
        ("\ue000", "\\ue000"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_could_forge_a_line_or_hide_is_escaped_where_it_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


@fault(115)
@given(st.text(st.characters(categories=None)))
def test_what_is_shown_is_one_visible_line_that_any_terminal_can_encode(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} for character in shown)


@pytest.mark.parametrize(
    ("include", "exclude", "key", "passes"),
    [
        ((), (), "ct/a.dcm", True),
        (("ct/*",), (), "ct/Covid1/1.2/a.dcm", True),
        (("ct/*",), (), "ct-metadata/a.json", False),
        (("*.dcm",), (), "ct/Covid1/a.dcm", True),
        (("*.dcm",), (), "ct/Covid1/a.dcm.json", False),
        (("a.dcm",), (), "ct/a.dcm", False),
        (("ct/?.dcm",), (), "ct/a.dcm", True),
        (("ct?a.dcm",), (), "ct/a.dcm", True),
        (("ct/[ab].dcm",), (), "ct/b.dcm", True),
        (("ct/[ab].dcm",), (), "ct/c.dcm", False),
        (("ct/[!ab].dcm",), (), "ct/c.dcm", True),
        (("ct/*", "mri/*"), (), "mri/a", True),
        (("CT/*",), (), "ct/a", False),
        (("*",), (), "ct/line\nbreak", True),
        ((), ("*.json",), "ct/a.json", False),
        ((), ("*.json",), "ct/a.dcm", True),
        (("ct/*",), ("*Covid1/*",), "ct/Covid1/a", False),
        (("ct/Covid1/a",), ("ct/*",), "ct/Covid1/a", False),
        (("ct/[",), (), "ct/[", True),
        (("ct/(a|b)",), (), "ct/(a|b)", True),
        (("ct/(a|b)",), (), "ct/a", False),
    ],
)
def test_filters_match_the_whole_key_and_exclude_wins(
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    key: str,
    passes: bool,  # noqa: FBT001
) -> None:
    assert key_filter(include, exclude)(key) is passes


def test_the_order_of_filters_does_not_matter() -> None:
    include, exclude = ("ct/*", "*.json", "mri/?"), ("*Covid1*", "*.dcm", "ct/b*")
    keys = ["ct/a", "ct/b", "ct/Covid1/a", "mri/a", "mri/ab", "data/x.json", "ct/x.dcm", "data/Covid10.json"]
    answers = {
        tuple(map(key_filter(some, others), keys)) for some in permutations(include) for others in permutations(exclude)
    }
    assert len(answers) == 1


# Dots and slashes come often, so that every way out of a folder is tried.
_ATOMS = st.sampled_from(
    [*"///...", "..", "\\", "\0", ":", COMPOSED, DECOMPOSED, " ", "\n", "\x1b", "A", "a", STATE_FOLDER, ".NCCID-fetch"]
)
_BELOW = st.lists(_ATOMS, max_size=9).map("".join)
KEYS = st.one_of(
    _BELOW.map("training/ct/{}".format),
    _BELOW.map("training/{}".format),
    _BELOW.map("training/a{}".format),
    _BELOW,
    st.text(max_size=20).map("training/ct/{}".format),
)


_SEGMENTS = st.sampled_from(
    [
        *("training", "ct", "Covid0000", "image.dcm", "abc", "a", "", ".", "..", "a\0b", "\0\0\0", COMPOSED, "\ud800"),
        *("a" * 255, "a" * 256, COMPOSED * 128, STATE_FOLDER, ".NCCID-fetch"),
    ]
)


@given(st.sampled_from(["training/", "training/ct/", ""]), st.lists(_SEGMENTS, max_size=7).map("/".join))
@settings(max_examples=400)
def test_what_is_known_of_a_folder_changes_no_path_and_no_refusal(prefix: str, below: str) -> None:
    """`path_of` looks at a folder once for all keys in it; held against a look at each key from end to end."""
    outcomes: list[object] = []
    for function in (path_of, _path_of):
        try:
            outcomes.append(function(prefix + below, "training"))
        except UnsafeKeyError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


class World(NamedTuple):
    """A folder of the test's own, a file beside the destination, and the destination."""

    outside: Path
    dest: Path

    def tree(self) -> set[str]:
        """Return every name but the destination's and the state folder's own."""
        own = {f"dest/{STATE_FOLDER}", f"dest/{STATE_FOLDER}/staged", "dest", "precious"}
        found: set[str] = set()
        for folder, folders, files in os.walk(self.outside):
            found.update(str(Path(folder, name).relative_to(self.outside)) for name in folders + files)
        assert own <= found
        return found - own


@fault(111)
@given(KEYS)
@settings(max_examples=400)
def test_a_key_is_refused_or_writes_exactly_its_own_file_below_the_destination(key: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        world = World(Path(name), Path(name) / "dest")
        (world.outside / "precious").write_bytes(b"precious")
        with open_destination(Settings(dest=world.dest)) as destination:
            destination._flusher.flush = lambda descriptors=(): None  # type: ignore[method-assign]
            staged = destination.staging.new(hashed=True)
            staged.append_and_seal(b"body", 0)
            try:
                path = path_of(key, "training")
            except UnsafeKeyError:
                staged.discard()
                path = ()
            else:
                assert destination.publish([Placement(path, staged, None)]) == [None]
        expected = {"/".join(("dest", *path[:length])) for length in range(1, len(path) + 1)}
        assert world.tree() == expected
        assert (world.outside / "precious").read_bytes() == b"precious"
        if path:
            file = world.dest.joinpath(*path)
            assert file.read_bytes() == b"body"
            assert file.parts[len(world.dest.parts) :] == path
            assert "training/" + "/".join(path) == key
        shutil.rmtree(world.dest)


@given(st.lists(KEYS, min_size=2, max_size=30, unique=True))
def test_different_keys_have_different_paths(keys: list[str]) -> None:
    paths = []
    for key in keys:
        try:
            paths.append(path_of(key, "training"))
        except UnsafeKeyError:
            continue
    assert len(set(paths)) == len(paths)
