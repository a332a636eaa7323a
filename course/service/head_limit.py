"""The limit on what comes before a body, which no middleware sees until it is over: the address and the headers.

uvicorn's faster parser takes headers for as long as they come, and keeps them in memory (h11, the slower one, does
not). `HeadLimit` is the faster one with an end: ``uvicorn.Config(app, http=HeadLimit)``.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LONGEST_HEAD = 2**16
"""Bytes; a query of 2,000 characters in an address takes 18,000 at most."""
REASON = "The head of the request is too large."


class HeadLimit(HttpToolsProtocol):
    """Answers 400 and hangs up when more than `LONGEST_HEAD` bytes came, and the last read, without a part of a body
    among them: endless headers, before a body or, in a chunked one, behind it."""

    unfinished = 0

    def data_received(self, data: bytes) -> None:
        self.unfinished += len(data)
        super().data_received(data)
        if self.unfinished <= LONGEST_HEAD or self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.send_400_response(REASON)
        else:  # no second answer into the first
            self.transport.close()

    def on_headers_complete(self) -> None:
        self.unfinished = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.unfinished = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.unfinished = 0
        super().on_message_complete()
