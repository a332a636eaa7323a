"""Limit the size and the time of a request's head, the address and the headers, which no middleware can.

A middleware sees a request only when its head is complete. uvicorn's faster parser accepts headers of any size (h11,
the slower one, does not), and waits for their end without a limit. `HeadLimit` adds both limits to the faster one:
``uvicorn.Config(app, http=HeadLimit)``.
"""

from __future__ import annotations

from asyncio import BaseTransport, TimerHandle

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LONGEST_HEAD = 2**16
"""Bytes; a query of 2,000 characters takes at most 18,000 in an address."""
HEAD_SECONDS = 30.0
"""Seconds in which a head must arrive."""
REASON = "The head of the request is too large."


class HeadLimit(HttpToolsProtocol):
    """Answer 400 and hang up after more than `LONGEST_HEAD` bytes (and the last read) without any part of a body.

    That stops endless headers before a body, and endless trailers behind a chunked one. Also hang up on a client that
    connects, or starts another request, and does not complete the head within `seconds`. For the silence between
    requests uvicorn has a limit of its own, which ends with the first byte.
    """

    seconds = HEAD_SECONDS
    unfinished = 0
    _timer: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.seconds, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.unfinished += len(data)
        super().data_received(data)
        answering = self.cycle is not None and not self.cycle.response_complete
        if self._timer is None and not answering and not self.transport.is_closing():
            self._timer = self.loop.call_later(self.seconds, self.transport.close)
        if self.unfinished <= LONGEST_HEAD or self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.send_400_response(REASON)
        else:  # a second answer would end up inside the first
            self.transport.close()

    def on_headers_complete(self) -> None:
        self.unfinished = 0
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.unfinished = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.unfinished = 0
        super().on_message_complete()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
