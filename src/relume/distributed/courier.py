"""A thread that does one thing after another while the one that asks for them computes."""

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread

Job = Callable[[], None]


class Courier:
    """Does what it is asked for, in that order; after something has failed, nothing more.

    Its thread keeps no process alive: one that ends while others owe it something just ends.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[tuple[Job, Future[None]]] = SimpleQueue()
        self._thread: Thread | None = None

    def ask(self, job: Job) -> Future[None]:
        """Let a job be done later; return where its end, or what it raised, can be waited for."""
        if self._thread is None:
            self._thread = Thread(target=self._work, name="courier", daemon=True)
            self._thread.start()
        ended: Future[None] = Future()
        self._asked.put((job, ended))
        return ended

    def _work(self) -> None:
        failure: BaseException | None = None
        while True:
            job, ended = self._asked.get()
            try:
                if failure is None:
                    job()
            except BaseException as error:  # raised where the end is waited for
                failure = error
            del job  # and the gradients that it has sent
            if failure is None:
                ended.set_result(None)
            else:
                ended.set_exception(failure)
            del ended
