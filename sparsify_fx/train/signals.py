"""Signals that ask a training to save and leave: SIGTERM, SIGUSR1 and the first Ctrl-C.

A handler in Python runs only once the main thread comes back from what it does in C, such as a step of a large model or
a wait for other processes. So a thread listens too: it hears a signal at once, counts the grace time from there, and
ends the process when that is over.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import FrameType

# EX_TEMPFAIL of sysexits.h: nothing is wrong, try again later.
LEFT = 75

# Windows has no SIGUSR1.
_NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")
NUMBERS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
# Seconds within which two interrupts are one.
_TWICE = 0.5
# The byte that ends the listening; no signal has this number.
_END = 0


class Asked:
    """What a training was asked for by signals.

    Attributes:
        by: the first signal that asked it to leave; None before one came.
    """

    def __init__(self) -> None:
        self.by: signal.Signals | None = None
        self._interrupted = float("inf")

    def handle(self, number: int, _: FrameType | None) -> None:
        """Python's side of a signal: the listening thread notes it; a second Ctrl-C ends things at once."""
        if number != signal.SIGINT:
            return
        # torchrun passes a Ctrl-C on to processes that have had it from the terminal: that is one, not two.
        if time.monotonic() > self._interrupted + _TWICE:
            raise KeyboardInterrupt
        self._interrupted = min(self._interrupted, time.monotonic())

    def listen(self, inbox: socket.socket, grace: float) -> None:
        """Note signals until the end is told; `grace` seconds after the first one end the process."""
        deadline = None
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([inbox], [], [], left)[0]:
                self._out_of_time(grace)
            received = inbox.recv(64)
            if _END in received:
                return
            # Other signals that Python handles, such as the end of a child, come through here too.
            asking = [number for number in received if number in NUMBERS]
            if asking and deadline is None:
                self.by = signal.Signals(asking[0])
                deadline = time.monotonic() + grace

    def _out_of_time(self, grace: float) -> None:
        assert self.by is not None
        told = (
            f"error: {self.by.name} came {grace:g} s ago, and the training could not save in this time; the same "
            "command goes on from the checkpoint before (for more time: --grace)\n"
        )
        # Not by an exception: the main thread may hang in C, where none reaches it.
        os.write(2, told.encode())
        os._exit(LEFT)


@contextlib.contextmanager
def asked_by_signals(grace: float | None) -> Iterator[Asked]:
    """Within this context the signals ask instead of ending the process; `grace`: seconds from one to the end.

    None leaves signals alone, and so does a thread that is not the main one, in which Python sets no handlers.
    """
    asked = Asked()
    if grace is None or threading.current_thread() is not threading.main_thread():
        yield asked
        return
    # Each step back is made even if one before it fails, as when torch tells of a lost worker just then.
    with contextlib.ExitStack() as stack:
        inbox, outbox = socket.socketpair()
        stack.callback(inbox.close)
        stack.callback(outbox.close)
        outbox.setblocking(False)
        listener = threading.Thread(
            target=asked.listen, args=(inbox, grace), daemon=True, name="signals"
        )
        listener.start()
        stack.callback(listener.join)
        # Told, not closed: workers that were forked hold copies of both ends.
        stack.callback(outbox.send, bytes([_END]))
        # What C does on a signal, whatever the main thread is at: write its number here.
        before = signal.set_wakeup_fd(outbox.fileno(), warn_on_full_buffer=False)
        stack.callback(signal.set_wakeup_fd, before)
        for number in NUMBERS:
            handler = signal.signal(number, asked.handle)
            # None stands for a handler that was not set by Python, and cannot be set again.
            stack.callback(
                signal.signal, number, signal.SIG_DFL if handler is None else handler
            )
        yield asked
