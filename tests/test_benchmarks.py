"""The benchmark itself: a server that lists wrongly, or a verdict that is computed wrongly, would flatter somebody."""

import os
import random
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from benchmarks import child, clients, servers, tree
from benchmarks.listing_server import Catalogue, Entry, Stored, Virtual, load
from benchmarks.results import Results
from benchmarks.targets import TARGETS, NotMeasured, Target, Verdict, ratio
from nccid_fetch.store.pages import Page, parse_page

BUCKET = "bucket"
ENTRIES = [
    Entry(f"training/{part}/Covid{patient:04}/{study}/{name}.dcm", 7, f"{patient:032x}")
    for part in ("ct", "ct-metadata", "data")
    for patient in range(6)
    for study in ("1.2", "1.20", "1.3")
    for name in "ab"
] + [Entry("training/a", 1, "0" * 32), Entry("training/ct", 1, "1" * 32), Entry("top", 1, "2" * 32)]


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue(BUCKET, Stored(ENTRIES))


def ask(catalogue: Catalogue, **query: object) -> Page:
    words = {name.replace("_", "-"): str(value) for name, value in query.items()}
    body = catalogue.answer({"list-type": "2", "encoding-type": "url", **words}).encode()
    return parse_page(body, bucket=BUCKET, prefix=words.get("prefix", ""), delimiter=words.get("delimiter"))


def walk(catalogue: Catalogue, **query: object) -> Iterator[Page]:
    page = ask(catalogue, **query)
    yield page
    while page.token:
        page = ask(catalogue, **query, continuation_token=page.token)
        yield page


def truth(prefix: str, delimiter: str, after: str) -> list[str]:
    """What a listing of ENTRIES has to give, by the definition of one, keys and folders in one order."""
    shown = set()
    for entry in ENTRIES:
        if entry.key.startswith(prefix) and entry.key > after:
            rest, found, _ = entry.key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            shown.add(prefix + rest + found if found else entry.key)
    return sorted(shown)


@pytest.mark.parametrize("max_keys", [1, 2, 7, 1000])
@pytest.mark.parametrize("delimiter", ["", "/", "20"])
def test_pages_joined_by_their_tokens_are_the_whole_listing_once(
    catalogue: Catalogue, delimiter: str, max_keys: int
) -> None:
    rng = random.Random(f"{delimiter}{max_keys}")
    keys = [entry.key for entry in ENTRIES]
    for _ in range(25):
        key = rng.choice(keys)
        prefix = key[: rng.randrange(len(key) + 1)]
        after = rng.choice(["", rng.choice(keys), prefix, prefix + "~"])
        query = {"prefix": prefix, "start_after": after, "max_keys": max_keys}
        pages = list(walk(catalogue, **query, **({"delimiter": delimiter} if delimiter else {})))
        found = [sorted([*(entry.key for entry in page.objects), *page.prefixes]) for page in pages]
        assert [name for page in found for name in page] == truth(prefix, delimiter, after), query
        assert all(len(page) == max_keys for page in found[:-1])


def test_an_entry_says_what_the_object_is(catalogue: Catalogue) -> None:
    (found,) = ask(catalogue, prefix="training/ct/Covid0003/1.3/b").objects
    assert (found.key, found.size, found.etag) == ("training/ct/Covid0003/1.3/b.dcm", 7, f"{3:032x}")
    assert found.modified_ns == 1_600_000_000 * 10**9


def test_a_prefix_is_echoed_in_the_encoding_that_was_asked_for(catalogue: Catalogue) -> None:
    assert "<Prefix>a%26b%3C/</Prefix>" in catalogue.answer({"prefix": "a&b</", "encoding-type": "url"})
    assert "<Prefix>a&amp;b&lt;/</Prefix>" in catalogue.answer({"prefix": "a&b</"})


def test_virtual_keys_are_listed_as_if_they_were_there() -> None:
    virtual = Virtual("training/ct/", 2_345, 3, 99)
    as_virtual, as_stored = Catalogue(BUCKET, virtual), Catalogue(BUCKET, Stored(list(virtual)))
    assert [entry.key for page in walk(as_virtual) for entry in page.objects] == sorted({e.key for e in virtual})
    for query in (
        {"prefix": "training/", "delimiter": "/"},
        {"prefix": "training/ct/", "delimiter": "/", "max_keys": 2},
        {"prefix": "training/ct/Covid0001/", "start_after": virtual[1_000].key},
        {"prefix": "training/ct/Covid0002/", "max_keys": 10},
    ):
        assert list(walk(as_virtual, **query)) == list(walk(as_stored, **query)), query
    assert {len(entry.key.rpartition("/")[2]) for entry in virtual} == {64}


def test_the_last_of_a_million_virtual_keys_is_at_hand_at_once() -> None:
    virtual = Virtual("training/ct/", 1_000_000, 500, 99)
    page = ask(Catalogue(BUCKET, virtual), prefix="training/ct/", start_after=virtual[999_997].key)
    assert [entry.key for entry in page.objects] == [virtual[999_998].key, virtual[999_999].key]


@pytest.mark.parametrize("options", [["--s3-list-version", "2"], ["--s3-list-version", "2", "--fast-list"]])
def test_rclone_finds_all_that_is_listed(options: list[str], tmp_path: Path) -> None:
    """By folders, and flat: a client that others wrote."""
    lines = "".join(f"{entry.key} {entry.size} {entry.md5}\n" for entry in ENTRIES if entry.key != "training/ct")
    with servers.listing(tmp_path, lines, None) as port:
        listed = subprocess.run(
            [
                *(clients.rclone_binary(), "lsf", "-R", "--files-only", f":s3,env_auth,provider=Other:{tree.BUCKET}"),
                *("--s3-endpoint", f"http://127.0.0.1:{port}", "--config", os.devnull, *options),
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert (listed.returncode, listed.stderr) == (0, "")
    assert sorted(listed.stdout.split()) == sorted({entry.key for entry in ENTRIES} - {"training/ct"})


@pytest.mark.skipif(servers.missing_for_static() is not None, reason=str(servers.missing_for_static()))
def test_nginx_serves_what_is_listed_and_obeys_if_match(tmp_path: Path) -> None:
    planted = tree.plant(tmp_path / "root", (tree.Load("ct", 2, 5_000),))
    (path, _), (other, _) = planted.sizes.items()
    with servers.static(tmp_path, tmp_path / "root", planted.catalogue(), None) as endpoint:
        trusting = ssl.create_default_context(cafile=str(endpoint.certificate))

        def get(query: str, **headers: str) -> tuple[int, bytes, str]:
            request = Request(f"{endpoint.url}/{tree.BUCKET}{query}", headers=headers)
            try:
                with urlopen(request, context=trusting, timeout=10) as answer:
                    return answer.status, answer.read(), answer.headers.get("ETag", "")
            except HTTPError as error:
                with error:
                    return error.code, b"", ""

        body, etag = (planted.folder / "training" / path).read_bytes(), f'"{tree.digest(path)}"'
        assert get(f"/training/{path}") == (200, body, etag)
        assert get(f"/training/{path}", **{"If-Match": etag, "Range": "bytes=10-19"}) == (206, body[10:20], etag)
        assert get(f"/training/{path}", **{"If-Match": f'"{tree.digest(other)}"'})[0] == 412
        assert get("/training/none")[0] == get("/training")[0] == 404
        status, page, _ = get("?list-type=2&prefix=training/")
    listed = parse_page(page, bucket=tree.BUCKET, prefix="training/").objects
    assert status == 200
    assert {entry.key: entry.size for entry in listed} == {f"training/{name}": 5_000 for name in planted.sizes}


def test_a_catalogue_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    planted = tree.plant(tmp_path / "root", (tree.Load("ct", 3, 10),))
    (tmp_path / "catalogue").write_text(planted.catalogue())
    page = ask(load(tmp_path / "catalogue", BUCKET))
    assert {entry.key.removeprefix("training/"): entry.size for entry in page.objects} == planted.sizes


def test_a_fetched_tree_that_differs_in_anything_is_found_out(tmp_path: Path) -> None:
    planted = tree.plant(tmp_path, (tree.Load("ct", 3, 2_000), tree.Load("xray", 1, 3_000)))
    whole = planted.folder / "training"

    def copy(name: str) -> Path:
        return Path(shutil.copytree(whole, tmp_path / name))

    assert tree.differences(copy("same"), planted, contents=True) is None
    journal = copy("with a journal") / tree.STATE_FOLDER / "journal"
    journal.parent.mkdir()
    journal.touch()
    assert tree.differences(journal.parents[1], planted, contents=True) is None
    first = next(iter(planted.sizes))
    (copy("short") / first).unlink()
    (copy("long") / "stray").touch()
    (copy("cut") / first).write_bytes(b"x" * 1_999)
    for name in ("short", "long", "cut"):
        assert "missing, too many or cut" in (tree.differences(tmp_path / name, planted, contents=False) or "")
    (copy("spoilt") / first).write_bytes(b"x" * 2_000)
    assert tree.differences(tmp_path / "spoilt", planted, contents=False) is None
    assert tree.differences(tmp_path / "spoilt", planted, contents=True) == f"the content of {first} is wrong"


def test_what_a_command_took_is_its_own(tmp_path: Path) -> None:
    """Not, for one, the memory of the process that started it."""
    ballast = bytearray(64 << 20)
    used = child.run(["sh", "-c", "echo told; exit 7"], dict(os.environ), tmp_path, None, 30)
    assert (used.code, used.out, used.err) == (7, "told\n", "")
    assert 0 < used.rss_bytes < 40 << 20 < len(ballast)
    assert 0 < used.cpu_seconds <= used.wall_seconds * (os.cpu_count() or 1)


def test_a_command_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    script = f"sh -c 'echo begun; sleep 60' > {pipe} & wait"
    used = child.run(["sh", "-c", script], dict(os.environ), tmp_path, None, 3.0)
    assert (used.code, used.err) == (-9, "it took more than 3 s")
    os.set_blocking(reading, True)  # Until nobody is left who could write.
    with os.fdopen(reading, "rb") as stream:
        assert stream.read() == b"begun\n"


def results(**walls: list[float]) -> Results:
    found = Results()
    for client, values in walls.items():
        for number, wall in enumerate(values, start=1):
            found.add("work", client, number, wall=wall)
    return found


@pytest.mark.parametrize(
    ("mine", "at_least", "verdict"),
    [
        ([4.0, 100.0, 5.0], False, Verdict.MET),  # Medians: 5 over 10, and the limit itself is met.
        ([5.1], False, Verdict.MISSED),
        ([5.0], True, Verdict.MET),
        ([4.9], True, Verdict.MISSED),
    ],
)
def test_a_verdict_holds_the_ratio_of_medians_against_the_limit(
    mine: list[float], *, at_least: bool, verdict: Verdict
) -> None:
    target = Target("row", 0.5, "x", ratio("work", "wall", "peer", "mine"), at_least)
    judged = target.judge(results(mine=mine, peer=[11.0, 10.0, 1.0]))
    assert judged.verdict is verdict
    assert judged.figure == pytest.approx(sorted(mine)[len(mine) // 2] / 10)


def test_what_was_not_measured_has_no_figure_and_says_why() -> None:
    target = Target("row", 0.5, "x", ratio("work", "wall", "peer", "mine"))
    found = results(mine=[1.0])
    assert target.judge(found).why == "its workload was not selected"
    for place, why in ((("work", ""), "no server"), (("", "peer"), "no such client"), (("work", "peer"), "it failed")):
        found.absent[place] = why
        judged = target.judge(found)
        assert (judged.figure, judged.verdict, judged.why) == (None, Verdict.NOT_MEASURED, why)


def test_without_any_run_no_target_has_a_figure() -> None:
    for target in TARGETS:
        with pytest.raises(NotMeasured):
            target.figure(Results())


def test_the_readme_has_every_target_once_with_its_limit() -> None:
    readme = (Path(__file__).parents[1] / "benchmarks" / "README.md").read_text()
    table = readme.partition("## The targets\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| (<=|>=) ([\d.]+)( ?[^|]+?) \|", table, re.MULTILINE)
    assert [(row, sign, float(limit), unit) for row, sign, limit, unit in rows] == [
        (target.row, ">=" if target.at_least else "<=", target.limit, target.unit) for target in TARGETS
    ]
    assert len({target.row for target in TARGETS}) == len(TARGETS)
