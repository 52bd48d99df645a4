"""Digests: known vectors, and the multipart ETag against the plainest way to compute it."""

import sys
from collections.abc import Iterator
from hashlib import md5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nccid_fetch.digests import (
    PART_SIZES_MAX,
    checksum_text,
    md5_of,
    multipart_etag,
    new_checksum,
    part_size_of,
    usual_part_sizes,
)

from .catalogue import fault

MIB, MB = 1 << 20, 10**6

CHECK = b"123456789"
"""What every catalogue of CRCs states its check value for."""


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"", "d41d8cd98f00b204e9800998ecf8427e"),
        (CHECK, "25f9e794323b453885f5181f1b624d0b"),
        (b"The quick brown fox jumps over the lazy dog", "9e107d9d372bb6826bd81d3542a419d6"),
    ],
)
def test_md5_has_its_known_values_however_the_bytes_come(data: bytes, digest: str) -> None:
    assert md5_of([data]) == digest
    assert md5_of(data[at : at + 1] for at in range(len(data))) == digest


@pytest.mark.parametrize(
    ("algorithm", "digest"),
    [
        ("CRC32", "cbf43926"),
        ("CRC32C", "e3069283"),
        ("CRC64NVME", "ae8b14860a799888"),
        ("SHA1", "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
        ("SHA256", "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
    ],
)
def test_checksums_have_their_known_values_however_the_bytes_come(algorithm: str, digest: str) -> None:
    for pieces in ([CHECK], [CHECK[:4], b"", CHECK[4:]], [memoryview(CHECK)]):
        running = new_checksum(algorithm)
        assert running is not None
        for piece in pieces:
            running.update(piece)
        assert running.digest().hex() == digest


@pytest.mark.parametrize(
    ("algorithm", "text"),
    [
        ("CRC32", "y/Q5Jg=="),
        ("CRC32C", "4waSgw=="),
        ("CRC64NVME", "rosUhgp5mIg="),
        ("SHA1", "98O8HYCOBHMq32eZZczDTKeuNEE="),
        ("SHA256", "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
    ],
)
def test_a_checksum_is_written_as_s3_writes_it(algorithm: str, text: str) -> None:
    running = new_checksum(algorithm.lower())
    assert running is not None
    running.update(CHECK)
    assert checksum_text(running) == text


def test_a_checksum_that_is_not_known_is_none() -> None:
    assert new_checksum("XXHASH3") is None
    assert new_checksum("") is None


def test_without_the_extra_the_checksums_of_the_standard_library_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "awscrt", None)
    assert new_checksum("CRC64NVME") is None
    assert new_checksum("CRC32C") is None
    assert new_checksum("SHA256") is not None
    assert new_checksum("CRC32") is not None


def naive_etag(data: bytes, sizes: list[int]) -> str:
    digests, offset = b"", 0
    for size in sizes:
        digests += md5(data[offset : offset + size]).digest()
        offset += size
    return f"{md5(digests).hexdigest()}-{len(sizes)}"


def pieces_of(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    begins = [0, *sorted(cut % (len(data) + 1) for cut in cuts)]
    for begin, end in zip(begins, [*begins[1:], len(data)], strict=True):
        yield data[begin:end]


@given(st.binary(max_size=200), st.integers(1, 60), st.lists(st.integers(0, 200), max_size=8))
def test_uniform_parts_give_the_etag_of_s3_wherever_the_bytes_are_cut(data: bytes, part: int, cuts: list[int]) -> None:
    sizes = [min(part, len(data) - begin) for begin in range(0, len(data), part)]
    assert multipart_etag(pieces_of(data, cuts), sizes) == naive_etag(data, sizes)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.lists(st.integers(0, 400), max_size=8))
def test_ragged_parts_give_the_etag_of_s3_wherever_the_bytes_are_cut(sizes: list[int], cuts: list[int]) -> None:
    data = bytes(index % 251 for index in range(sum(sizes)))
    assert multipart_etag(pieces_of(data, cuts), sizes) == naive_etag(data, sizes)


def test_a_known_multipart_etag() -> None:
    # Of 5 MiB and 1 byte of zeros in parts of 5 MiB: md5sum of the two binary md5sums, by coreutils.
    zeros = bytes(5 << 20)
    assert multipart_etag([zeros, b"\0"], [5 << 20, 1]) == "92f3a08aa3b1d7eb318ab9c2fc4a6ec3-2"


def test_bytes_that_are_missing_do_not_give_the_etag() -> None:
    whole = multipart_etag([b"abcdef"], [3, 3])
    assert multipart_etag([b"abcde"], [3, 3]) != whole
    assert multipart_etag([b"abc"], [3, 3]) != whole
    assert multipart_etag([], [3, 3]) != whole


# --- Part sizes that are in use -------------------------------------------------------------------


@fault(137)
@pytest.mark.parametrize(
    ("size", "count", "first", "among"),
    [
        (0, 1, [1], []),
        (5, 1, [5], []),
        (100 * MIB, 1, [100 * MIB], []),
        (10 * MIB, 2, [5 * MIB, 8 * MIB], [6 * MIB, 7 * MIB, 9 * MIB, 6 * MB, 10 * MB]),
        (10 * MIB + 1, 3, [5 * MIB], [4 * MIB, 5 * MB]),
        (100 * MIB, 13, [8 * MIB], []),
        (100 * MIB, 20, [5 * MIB], []),
        (1000 * MIB, 63, [16 * MIB], []),
        (1 << 40, 16384, [64 * MIB], []),
        (100 * MB, 20, [5 * MIB, 5 * MB], []),
        (150 * MIB, 2, [100 * MIB, 128 * MIB, 100 * MB], [75 * MIB]),
        (3 * MIB + 3, 3, [MIB + 1], []),
        (1 << 30, 2, [512 * MIB, 1000 * MIB, 1000 * MB], [768 * MIB]),
        (7, 2, [4], []),
        (1, 2, [], []),
        (100, 0, [], []),
        (100, 10_000, [], []),
        (0, 2, [], []),
    ],
)
def test_the_part_sizes_that_size_and_count_allow(size: int, count: int, first: list[int], among: list[int]) -> None:
    sizes = usual_part_sizes(size, count)
    assert sizes[: len(first)] == first
    assert set(among) <= set(sizes)
    assert sizes or not first


@fault(137)
@given(st.integers(1, 1 << 42), st.integers(1, 10_000))
def test_every_size_that_is_tried_gives_as_many_parts_and_they_are_few(size: int, count: int) -> None:
    sizes = usual_part_sizes(size, count)
    assert len(sizes) == len(set(sizes)) <= PART_SIZES_MAX
    assert all(-(-size // part) == count for part in sizes)


@fault(137)
@given(st.integers(1, 200), st.sampled_from([MIB, MB]), st.integers(2, 10_000), st.floats(0, 1, exclude_min=True))
def test_a_size_in_use_is_tried_wherever_few_are_possible(number: int, unit: int, count: int, last: float) -> None:
    part = number * unit
    size = part * (count - 1) + max(1, int(part * last))
    least, most = -(-size // count), (size - 1) // (count - 1)
    possible = sum(most // one - (least - 1) // one for one in (MIB, MB))
    if possible <= PART_SIZES_MAX // 2:
        assert part in usual_part_sizes(size, count)


@fault(137)
@given(st.binary(max_size=200), st.integers(1, 60), st.lists(st.integers(0, 200), max_size=8), st.booleans())
def test_a_part_size_is_found_in_one_reading_and_only_the_right_one(
    data: bytes,
    part: int,
    cuts: list[int],
    upper: bool,  # noqa: FBT001
) -> None:
    etag = naive_etag(data, [min(part, len(data) - begin) for begin in range(0, len(data), part)] or [0])
    pieces = pieces_of(data, cuts)
    same = [size for size in range(1, 70) if -(-len(data) // size) <= 1] if len(data) <= part else [part]
    wrong = [size for size in range(1, 70) if size not in same]
    assert part_size_of(pieces, etag.upper() if upper else etag, [*wrong, part]) == part
    assert part_size_of(pieces_of(data, cuts), etag, wrong) is None
