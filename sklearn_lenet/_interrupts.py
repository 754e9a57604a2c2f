"""Keyboard interrupts: they wait until nothing is half done.

Python raises KeyboardInterrupt in the main thread, between any two of its instructions: also where
a thread was started and not yet noted, or where BLAS' threads were read and not yet restored.
Within `Uninterrupted` an interrupt is noted instead, and raised where `interruption_point` is
called, from which every block unwinds as from any other error.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

# Seconds between two interrupts of which the second means more than the end of this training
_SOON = 1.0

# The blocks that the main thread is in, and when the last two interrupts came
_blocks: list["Uninterrupted"] = []
_times: list[float] = []


class Uninterrupted:
    """A block within which SIGINT waits for the next `interruption_point`, or the block's end.

    What then happens is what the handler does that was there before: Python's own raises
    KeyboardInterrupt. Without a handler of Python's, and outside of the main thread, which alone
    gets signals, the block does nothing.
    """

    def __enter__(self) -> None:
        self._handler: Any = None
        self._n_waiting, self._thread = 0, threading.get_ident()
        if threading.current_thread() is not threading.main_thread():
            return
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):
            return
        self._handler = handler
        is_within = _blocks and handler == _blocks[-1]._receive
        self._outer = _blocks[-1] if is_within else None
        try:
            signal.signal(signal.SIGINT, self._receive)
        except ValueError:  # another interpreter than the main one
            self._handler = None
            return
        _blocks.append(self)

    def __exit__(self, *exception: Any) -> None:
        if self._handler is None:
            return
        _blocks.remove(self)
        signal.signal(signal.SIGINT, self._handler)  # from here on they come as they always do
        self.let_through()

    def let_through(self) -> None:
        """Do now what waits."""
        n_waiting, self._n_waiting = self._n_waiting, 0
        for _ in range(n_waiting):
            self._deliver(signal.SIGINT, sys._getframe())

    def call(self, function: Callable, *arguments: Any) -> Any:
        """Call a function of a user, who may interrupt it at any moment."""
        self.let_through()
        return function(*arguments)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal."""
        _times[:] = [*_times[-1:], time.monotonic()]
        self._take(number, frame)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._is_calling():
            self._deliver(number, frame)
        else:
            self._n_waiting += 1

    def _is_calling(self) -> bool:
        """Tell whether this happens within `call`, from wherever that may have been called."""
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame.f_code is Uninterrupted.call.__code__ and frame.f_locals["self"] is self:
                return True
            frame = frame.f_back
        return False

    def _deliver(self, number: int, frame: FrameType | None) -> None:
        """Have the interrupt handled by whoever would have done so without this block."""
        if self._outer is not None:
            self._outer._take(number, frame)
        elif callable(self._handler):
            try:
                self._handler(number, frame)
            finally:
                self._adopt()

    def _adopt(self) -> None:
        """Take the handler that a handler has set for the one to come after this block."""
        handler = signal.getsignal(signal.SIGINT)
        if self in _blocks and handler != _blocks[-1]._receive:
            self._handler = handler
            if callable(handler):
                signal.signal(signal.SIGINT, _blocks[-1]._receive)


def interruption_point() -> None:
    """Raise the keyboard interrupt that waits, if one does."""
    block = _innermost()
    if block is not None:
        block.let_through()


def interruptible(function: Callable, *arguments: Any) -> Any:
    """Call a function of a user, who may interrupt it at any moment."""
    block = _innermost()
    return function(*arguments) if block is None else block.call(function, *arguments)


def _innermost() -> Uninterrupted | None:
    """Give the block that this thread is in, if it is in one."""
    return _blocks[-1] if _blocks and _blocks[-1]._thread == threading.get_ident() else None


def interrupted_twice() -> bool:
    """Tell, once, whether the last two interrupts came within a second."""
    came_soon = len(_times) == 2 and _times[1] - _times[0] < _SOON
    del _times[:-1]
    return came_soon


def _forked() -> None:
    """Forget, in a child process, the blocks of a thread that it has not got."""
    if _blocks and _blocks[0]._thread != threading.get_ident():
        signal.signal(signal.SIGINT, _blocks[0]._handler)
        _blocks.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_forked)
