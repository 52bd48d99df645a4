"""What concerns every request of a run: an endpoint that is gone, credentials that have expired, a word to slow down.

Whoever learns of such a thing learns it for all. So every request passes through here, and when one meets it the run
is *held*: nobody sends anything, but for one request at a time that asks whether it is over. That is no request of its
own making, but the next one that was due. While the run is held, no object loses an attempt.

==========================  =============  =============  =============  =============  =============
Then                        gone           expired        wrong          slowed         window
==========================  =============  =============  =============  =============  =============
the lead is answered        goes on        goes on        goes on        goes on        stays shut
the lead is denied          goes on        next one asks  next one asks  goes on        stays shut
the server fails (5xx)      goes on        next one asks  next one asks  goes on        stays shut
the lead meets the same     held on        held on        held on        held on        stays shut
the lead meets another      held for that  held for that  held for that  held for that  stays shut
others are read             (not read)     one asks       one asks       (not read)     stays shut
the same are read           (not read)     one asks       ends           (not read)     stays shut
none are read               (not read)     held on        held on        (not read)     stays shut
the lead is cancelled       next one asks  next one asks  next one asks  next one asks  stays shut
an earlier one is answered  next one asks  next one asks  next one asks  next one asks  stays shut
the time for it is over     ends           ends           ends           ends           stays shut
the window closes           shut           shut           shut           shut           (shut)
the window opens            (open)         (open)         (open)         (open)         credentials
the run is ended            ends           ends           ends           ends           ends
==========================  =============  =============  =============  =============  =============

When the window closes or opens, or the run is ended, the lead is the lead no longer: what it still hears, or reads of
credentials, decides nothing. Held on: the next one asks after a longer pause. Each reason has `--retry-for` from its
first time in a hold; then the run ends, and says since when and what can be done. A server that asks for time is there: it
has a quarter of an hour at least.

What was sent before the run was last held says nothing about the present, and is sent again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NoReturn

from .clock import REAL, Clock
from .errors import (
    AccessError,
    CredentialsError,
    EndpointError,
    NccidFetchError,
    ObjectError,
    Reason,
    RunError,
    ThrottledError,
    TransientError,
    UnreachableError,
    message_of,
)
from .events import Held, Released, Report, Wait
from .retry import RETRY_AFTER_SECONDS_MAX, THROTTLED_SECONDS_MAX, backoff_seconds
from .settings import RETRY_FOR_SECONDS

HOLDS = (UnreachableError, CredentialsError)
"""What holds the run. Whoever meets one asks again, which waits until it is over, and loses no attempt by it."""

_LEFT_SECONDS_MIN = 0.001
"""Less is no time to wait: added to a large number of seconds it may not even change it."""

Renew = Callable[[], Awaitable[bool]]
"""Reads the credentials anew, and says whether they are others than before. Raises CredentialsError if none are had."""

Ready = Callable[[], Awaitable[None]]
"""Waits for what else a request needs, once it may be sent."""


class Governor:
    """Holds the run, and lets it go on.

    Attributes:
        is_held: Whether the run is held.
        answers: How many requests were answered with anything but what is dealt with here. Whoever sends a request by
            another way than `request` counts it.
        holds_over: How often the run was held, and went on.
        had_trouble: Whether anything of it ever happened: then what failed may have failed for that.
        last_held: When, on the clock, it was last known to be held.
        when_slowed: Called each time that a request is told to slow down.

    Args:
        clock: Time and chance.
        retry_for_seconds: How long the run may be held.
        report: Who wants to know.
    """

    def __init__(
        self,
        clock: Clock = REAL,
        *,
        retry_for_seconds: float = RETRY_FOR_SECONDS,
        report: Report = lambda _: None,
    ) -> None:
        self.is_held = False
        self.answers = 0
        self.holds_over = 0
        self.had_trouble = False
        self.last_held = float("-inf")
        self.when_slowed: Callable[[], None] = lambda: None
        self._clock = clock
        self._retry_for = retry_for_seconds
        self._report = report
        self._reason = Wait.ENDPOINT
        self._cause: NccidFetchError = UnreachableError()
        self._advice: str | None = None
        self._since = self._until = 0.0
        self._began: dict[Wait, float] = {}
        self._failures = 0
        self._lead: object | None = None
        self._is_renewed = False  # Since a request last learned something.
        self._changed = asyncio.Event()
        self._is_shut = False
        self._ending: Callable[[], RunError] | None = None
        self._slowed_since: float | None = None
        self._answers_then = 0

    @asynccontextmanager
    async def request(self, renew: Renew, ready: Ready | None = None) -> AsyncIterator[None]:
        """Wait for one's turn to send a request, and take note of what comes of it: of an answer, not of its body.

        Args:
            renew: Reads the credentials anew.
            ready: Waits for what else it needs, before it is sent.

        Raises:
            EndpointError: The run was held for too long.
            AccessError: The same, for want of credentials; or they are wrong.
            RunError: What `end` was given.
        """
        lead = await self._turn(renew) if self.is_held else None
        if ready is not None:
            lead = await self._readied(renew, ready, lead)
        holds_over = self.holds_over
        try:
            yield
        except ThrottledError as error:
            self.slowed(error, leads=self._is_lead(lead))
            raise
        except HOLDS as error:
            if (leads := self._is_lead(lead)) or holds_over == self.holds_over:
                self._hold(error, leads=leads)
            raise
        except NccidFetchError as error:
            if self._is_lead(lead) and self._is_no_word_on_credentials(error):
                self._give_lead_away(lead)
            else:
                self._answered(lead)
            raise
        except BaseException:
            self._give_lead_away(lead)
            raise
        else:
            self._answered(lead)

    def slowed(self, error: ThrottledError, *, leads: bool = False) -> None:
        """Take note of a request that was told to slow down.

        Raises:
            EndpointError: Nothing else was heard for too long.
        """
        self.had_trouble = True
        self.when_slowed()
        if self._is_shut or self._ending is not None:
            return
        now = self._clock.now()
        if self._slowed_since is None or self.answers != self._answers_then:
            self._slowed_since, self._answers_then = now, self.answers
        elif now - self._slowed_since >= self._time_for(Wait.SLOWED):
            self._reason, self._cause, self._advice = Wait.SLOWED, error, None
            self._end(now - self._slowed_since)
        if error.retry_after_seconds or leads:
            self._hold(error, leads=leads, asked=min(RETRY_AFTER_SECONDS_MAX, error.retry_after_seconds or 0.0))

    def shut(self, until: datetime | None, seconds: float) -> None:
        """Let nobody send anything, whatever else the run may be held for, until it is opened.

        Args:
            until: What the clock on the wall will show then.
            seconds: How long that will be.
        """
        if self._ending is None:
            self.is_held = self._is_shut = True
            self._lead = None
            self._reason, self._since = Wait.WINDOW, self._clock.now()
            self._report(Held(Wait.WINDOW, "it is outside of its hours", self._since, seconds, 0.0, until))

    def open(self) -> None:
        """Let the run go on that was shut, once the credentials have been read anew and one has asked with them."""
        if self._ending is None:
            self.is_held = self._is_shut = False
            self._slowed_since = None
            self._report(Released(Wait.WINDOW, self._clock.now() - self._since))
            self._hold(CredentialsError("its hours have begun, and credentials are read anew"), leads=False)

    def end(self, error: Callable[[], RunError]) -> None:
        """End the run with an error: for everybody who waits, or comes to ask. Made for each of them."""
        self.is_held, self._ending, self._lead = True, error, None
        self._wake()

    @property
    def has_ended(self) -> bool:
        """Whether whoever asks is told that the run has ended."""
        return self._ending is not None

    @property
    def seconds_left(self) -> float:
        """How long it may still take to get credentials: to the end of the present hold, or of one that begins now."""
        if self._ending is not None:
            return 0.0
        if not self.is_held or self._is_shut:
            return self._retry_for
        return max(0.0, self._began[self._reason] + self._time_for(self._reason) - self._clock.now())

    def _answered(self, lead: object | None) -> None:
        self.answers += 1
        if self._is_lead(lead):
            self.is_held = False
            self.holds_over += 1
            self.last_held = self._clock.now()
            self._report(Released(self._reason, self.last_held - self._since))
            self._give_lead_away(lead)

    def _is_lead(self, lead: object | None) -> bool:
        return lead is not None and lead is self._lead

    def _is_no_word_on_credentials(self, error: NccidFetchError) -> bool:
        """Say whether it is not yet known if they are good.

        The answer to a HEAD denies, and does not say why; whoever is denied asks for a listing next, which does. A server
        that fails has not looked at them.
        """
        is_denial = isinstance(error, ObjectError) and error.reason is Reason.DENIED
        return (is_denial or isinstance(error, TransientError)) and self._reason is Wait.CREDENTIALS

    def _give_lead_away(self, lead: object | None) -> None:
        if self._is_lead(lead):
            self._lead = None
            self._wake()

    def _wake(self) -> None:
        """Let everybody who waits look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _turn(self, renew: Renew) -> object | None:
        """Wait until the run is held no longer, or until one is to ask for all: return it as the lead."""
        while self.is_held:
            if self._ending is not None:
                raise self._ending()
            if self._lead is not None or self._is_shut:
                await self._changed.wait()
                continue
            lead = self._lead = object()
            try:
                if await self._prepare(renew, lead):
                    return lead
            except BaseException:
                self._give_lead_away(lead)
                raise
        return None

    async def _readied(self, renew: Renew, ready: Ready, lead: object | None) -> object | None:
        """Wait for what else a request needs; and for its turn again, if it has lost that meanwhile."""
        while True:
            try:
                await ready()
            except BaseException:
                self._give_lead_away(lead)
                raise
            if not self.is_held or self._is_lead(lead):
                return lead
            lead = await self._turn(renew)

    async def _prepare(self, renew: Renew, lead: object) -> bool:
        """Wait until it is time to ask, and see to it that there is something to ask with. Returns whether it still leads."""
        while self._is_lead(lead) and (left := self._until - self._clock.now()) > 0:
            await self._clock.sleep(left)  # Meanwhile a request may have been told a later time.
        if not self._is_lead(lead) or self._reason is not Wait.CREDENTIALS or self._is_renewed:
            return self._is_lead(lead)  # What was read, and no request has had a word on yet, is not read again.
        try:
            are_new = await renew()
        except CredentialsError as error:
            if self._is_lead(lead):
                self._hold(error, leads=True, advice=error.hint)
            return False
        if not self._is_lead(lead):
            return False
        if not are_new and isinstance(self._cause, CredentialsError) and self._cause.are_wrong:
            self._end(self._clock.now() - self._began[Wait.CREDENTIALS])
        self._is_renewed = True
        return True

    def _hold(self, error: NccidFetchError, *, leads: bool, asked: float = 0.0, advice: str | None = None) -> None:
        """Hold the run, or hold it on.

        Args:
            error: Why.
            leads: Whether it befell the request that asks for all.
            asked: Seconds that the server wants nobody to come back in.
            advice: What can be done about it, if that is known better than by its kind.
        """
        self.had_trouble = True
        now = self._clock.now()
        if self._is_shut or self._ending is not None:  # It is found out again, if it is still so when it goes on.
            return
        if self.is_held and not leads:  # It was on its way by then.
            self._until = max(self._until, now + asked)
            return
        if not leads:
            self.is_held, self._since, self._began, self._failures = True, now, {}, 0
        self._reason, self._cause, self._advice = _reason_of(error), error, advice
        self._is_renewed = False
        since = self._began.setdefault(self._reason, now)
        pause = asked
        if leads:
            self._failures += 1
            self._lead = None
            left = since + self._time_for(self._reason) - now
            if left < _LEFT_SECONDS_MIN:
                self._end(now - since)
            pause = max(asked, min(left, backoff_seconds(self._failures, self._clock.chance)))
        self._until = now + pause
        self._report(Held(self._reason, message_of(error), since, pause, self._time_for(self._reason)))
        self._wake()

    def _time_for(self, reason: Wait) -> float:
        return max(self._retry_for, THROTTLED_SECONDS_MAX) if reason is Wait.SLOWED else self._retry_for

    def _end(self, seconds: float) -> NoReturn:
        """End the run: now, and with everybody who waits or comes to ask.

        Args:
            seconds: How long it has been like this.
        """
        for_long = f", for {seconds / 60:.0f} minutes now" if seconds >= 60 else ""
        message = f"{message_of(self._cause)}{for_long}"
        kind, usual = _ENDINGS[self._reason]
        hint = self._advice or usual
        self.end(lambda: kind(message, f"{hint}, then run the same command again; what was verified stays"))
        raise kind(message, f"{hint}, then run the same command again; what was verified stays") from self._cause


def _reason_of(error: NccidFetchError) -> Wait:
    if isinstance(error, ThrottledError):
        return Wait.SLOWED
    return Wait.CREDENTIALS if isinstance(error, CredentialsError) else Wait.ENDPOINT


_ENDINGS: dict[Wait, tuple[type[AccessError] | type[EndpointError], str]] = {
    Wait.ENDPOINT: (EndpointError, "check the network and --endpoint-url"),
    Wait.CREDENTIALS: (AccessError, "renew or choose credentials (aws sso login, --profile, AWS_PROFILE)"),
    Wait.SLOWED: (EndpointError, "wait, or take a lower --concurrency"),
}
