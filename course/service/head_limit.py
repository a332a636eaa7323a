"""The limits on what comes before a body, which no middleware sees until it is over: the address and the headers.

uvicorn's faster parser takes headers for as long as they come, and keeps them in memory (h11, the slower one, does
not); and it waits for their end without end. `HeadLimit` is the faster one with both ends:
``uvicorn.Config(app, http=HeadLimit)``.
"""

from __future__ import annotations

from asyncio import BaseTransport, TimerHandle

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LONGEST_HEAD = 2**16
"""Bytes; a query of 2,000 characters in an address takes 18,000 at most."""
HEAD_SECONDS = 30.0
"""For a head to arrive in."""
REASON = "The head of the request is too large."


class HeadLimit(HttpToolsProtocol):
    """Answers 400 and hangs up when more than `LONGEST_HEAD` bytes came, and the last read, without a part of a body
    among them: endless headers, before a body or, in a chunked one, behind it.

    Hangs up, too, on who connects and does not send a whole head within `seconds`, or begins another and does not end
    it. On the silence between requests uvicorn has a limit of its own, which ends with the first byte.
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
        else:  # no second answer into the first
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
