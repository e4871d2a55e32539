"""A thread that makes the next items of an iterator while the last one is used."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

T = TypeVar("T")


class _Shelf(Generic[T]):
    """At most `size` items between the two threads; an error, the end, or that no more are wanted."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.items: deque[T] = deque()
        self.changed = threading.Condition()
        self.ended = self.unwanted = False
        self.error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Whether it is wanted, once there is room."""
        with self.changed:
            self.changed.wait_for(lambda: self.unwanted or len(self.items) < self.size)
            if not self.unwanted:
                self.items.append(item)
                self.changed.notify_all()
            return not self.unwanted

    def end(self, error: BaseException | None) -> None:
        with self.changed:
            self.ended, self.error = True, error
            self.changed.notify_all()

    def take(self) -> list[T]:
        """The next item, in a list of its own; an empty one at the end.

        Raises:
            BaseException: the error that ended the items, after those before it.
        """
        with self.changed:
            self.changed.wait_for(lambda: self.items or self.ended)
            if self.items:
                self.changed.notify_all()
                return [self.items.popleft()]
        if self.error is not None:
            raise self.error
        return []

    def leave(self) -> None:
        with self.changed:
            self.unwanted = True
            self.items.clear()
            self.changed.notify_all()


def ahead(start: Callable[[], Generator[T, None, None]], size: int) -> Generator[T, None, None]:
    """The items of the iterator that `start` begins, up to `size` of them made ahead in a thread.

    An error in the thread is raised here, as it is. The thread ends with this iterator, whether that
    is used up, closed or left by an error.
    """
    shelf: _Shelf[T] = _Shelf(size)

    def work() -> None:
        error: BaseException | None = None
        try:
            with contextlib.closing(start()) as items:
                for item in items:
                    if not shelf.put(item):
                        break
                    del item
        except BaseException as raised:
            error = raised
        shelf.end(error)

    thread = threading.Thread(target=work, name="pp_mlem-reader", daemon=True)
    try:
        thread.start()
        while item := shelf.take():
            yield item.pop()  # so that who takes it alone holds it
    finally:
        shelf.leave()
        if thread.ident is not None:
            thread.join()
