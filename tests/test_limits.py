"""What a server sees of a run's limits, in a short form, and what `limits` would notice."""

import pytest

from nccid_fetch.settings import Transport
from nccid_fetch.timetable import Timetable

from .limits import Meter, judge_limit, scene
from .oracle import check_tree, fetch, snapshot


@pytest.mark.parametrize("transport", [Transport.FAST, Transport.AIOBOTO3])
def test_a_server_has_to_send_hardly_more_than_is_asked_for(transport: Transport) -> None:
    """Else some MiB come over each connection that nobody has asked for: for 64 of them that is a minute's worth of 5 MB/s."""
    rate, allowed = 16_000_000, 2_500_000
    with scene() as here:
        for number in range(8):
            here.s3.put(f"training/xray/Covid{number:04}/1/2/a.dcm", bytes(4_000_000))
        ended = fetch(here.s3, here.dest, bwlimit=Timetable(f"{rate}B"), transport=transport, concurrency=8)
        assert ended.exit_code == 0
        assert len(check_tree(here.dest, snapshot(here.s3))) == 8
    began, total, ahead = here.meter.sent[0][0], 0, 0.0
    for moment, size in here.meter.sent:
        total += size
        ahead = max(ahead, total - rate * (moment - began))
    assert ahead <= allowed


def steady(rate: float) -> Meter:
    """A server that sends a hundredth of a second's worth at a time, for 12 seconds."""
    return Meter(sent=[(number / 100, int(rate / 100)) for number in range(1200)])


@pytest.mark.parametrize(("share", "holds"), [(1.0, True), (1.04, True), (1.06, False), (0.94, False)])
def test_a_limit_that_does_not_hold_is_noticed(share: float, holds: bool) -> None:  # noqa: FBT001
    assert judge_limit(steady(share * 1e6), 0, 11, 10, rate=1_000_000)[1] is holds


def test_so_is_one_that_holds_over_all_and_not_in_each_minute() -> None:
    meter = steady(1e6)
    meter.sent[600:600] = [(6.0, 1_000_000)]
    meter.sent = [(moment, size) for moment, size in meter.sent if not 10.5 <= moment < 11.5]
    said, holds = judge_limit(meter, 0, 12, 10, rate=1_000_000)
    assert not holds
    assert said == "100.0% to 110.0% in 202 windows of 10 s, 100.0% over all of 12 s"


def test_requests_are_counted_from_a_moment_to_before_another() -> None:
    meter = Meter(asked=[1.0, 2.0, 2.5, 3.0])
    assert (meter.requests(1.0, 2.0), meter.requests(2.0, 3.0), meter.requests(3.5, 9.0)) == (1, 2, 0)
