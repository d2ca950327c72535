"""The engine for threads: runs claims in the executor of Celery's thread pool.

A thread can't be terminated, so a stop is a request to the worker's code and nothing more, and time limits
have no effect, as everywhere in Celery's thread pool.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from celery_workmanager import tracer
from celery_workmanager.engine_cooperative import CooperativeEngine
from celery_workmanager.flights import Job

__all__ = ("ThreadsEngine",)


class ThreadsEngine(CooperativeEngine):
    """Runs claims in the threads of Celery's ``threads`` pool."""

    @property
    def _executor(self) -> ThreadPoolExecutor:
        executor: ThreadPoolExecutor = self._pool.executor
        return executor

    def _submit(self, job: Job, members: list[tracer.Member]) -> bool:
        try:
            job.handle = self._executor.submit(tracer.run_batch, self.host.eventer() is not None, members)
        except RuntimeError:  # it was shut down
            return False
        job.handle.add_done_callback(lambda future: self._post(self._done, job, future))
        return True

    def _done(self, job: Job, future: Future[list[tracer.Answer | None]]) -> None:
        if future.cancelled():
            self._failed(job, RuntimeError("cancelled"))
        elif (error := future.exception()) is not None:
            self._failed(job, error)
        else:
            self._returned(job, future.result())
