"""Run a sequence of jobs in a few threads, some steps ahead, and hand the results out in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def reader_threads() -> int:
    """Decoding and hashing release the interpreter lock; beyond a few threads the disk is the limit."""
    return max(1, min(8, os.cpu_count() or 1))


def prefetched(jobs: Iterable[Callable[[], T]], *, threads: int, ahead: int) -> Iterator[T]:
    """Results in order; at most ``ahead`` are finished or running beyond the one handed out.

    A job's exception is raised at its place in the order. Closing the iterator drops the jobs not yet begun.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="facekit-read")
    waiting: deque[Future[T]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
