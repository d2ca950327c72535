"""What PostgreSQL itself takes in: bare COPY into a table such as a queue of works needs at least."""

from __future__ import annotations

import os
import uuid

import psycopg

from tests.benchmarks.drivers.driver import BULK, TEXT, Driver, serve

_TABLE = """
DROP TABLE IF EXISTS floor;
CREATE TABLE floor (id text PRIMARY KEY, queue text, state text, due_at bigint, arguments text, result text);
CREATE INDEX floor_ready ON floor (queue, id) WHERE state = 'ready';
CREATE INDEX floor_due ON floor (due_at) WHERE due_at IS NOT NULL
"""


class FloorDriver(Driver):
    """Rows and nothing else, as many in a transaction as the others have in a bulk call."""

    def __init__(self) -> None:
        super().__init__()
        self.connection = psycopg.connect(os.environ["WORKMANAGER_BENCH_DSN"])

    def reset(self) -> None:
        self.connection.execute(_TABLE)
        self.connection.commit()

    def enqueue_many(self, first: int, count: int) -> None:
        for start in range(first, first + count, BULK):
            with self.connection.cursor() as cursor, cursor.copy("COPY floor FROM STDIN") as copy:
                for number in range(start, min(start + BULK, first + count)):
                    arguments = f'{{"n": {number}, "text": "{TEXT}"}}'
                    copy.write_row((str(uuid.uuid4()), "celery", "ready", None, arguments, None))
            self.connection.commit()


if __name__ == "__main__":
    serve(FloorDriver)
