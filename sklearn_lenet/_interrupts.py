"""Keyboard interrupts: they wait until nothing is half done.

Python raises KeyboardInterrupt in the main thread, between any two of its instructions: also where
a thread was started and not yet noted, or where BLAS' threads were read and not yet restored.
Within `Uninterrupted` an interrupt is noted instead, and raised where `interruption_point` is
called, from which every block unwinds as from any other error.
"""

import signal
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
        self._n_waiting, self._passes = 0, False
        if threading.current_thread() is not threading.main_thread():
            return
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):
            return
        self._handler = handler
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
        if self._n_waiting:
            self._n_waiting = 0
            self._handler(signal.SIGINT, None)

    def call(self, function: Callable, *arguments: Any) -> Any:
        """Call a function of a user, who may interrupt it at any moment."""
        self.let_through()
        self._passes = True
        try:
            return function(*arguments)
        finally:
            self._passes = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        _times[:] = [*_times[-1:], time.monotonic()]
        if self._passes:
            self._passes = False  # if it raises, no other does until all is unwound
            self._handler(number, frame)
            self._passes = True
        else:
            self._n_waiting += 1


def interruption_point() -> None:
    """Raise the keyboard interrupt that waits, if one does."""
    if _blocks and threading.current_thread() is threading.main_thread():
        _blocks[-1].let_through()


def interruptible(function: Callable, *arguments: Any) -> Any:
    """Call a function of a user, who may interrupt it at any moment."""
    if _blocks and threading.current_thread() is threading.main_thread():
        return _blocks[-1].call(function, *arguments)
    return function(*arguments)


def interrupted_twice() -> bool:
    """Tell whether the last two interrupts came within a second."""
    return len(_times) == 2 and _times[1] - _times[0] < _SOON
