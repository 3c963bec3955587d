"""Hears that there is work, or that an operator has said something, as soon as it is committed on any host."""

import time

import psycopg
from psycopg import sql

from .postgres_link import CHANGED, Patient, address, judged

HEARTBEAT = 15.0  # seconds without anything, after which the connection is tried


class Listener:
    """Listens to the store of an url, on a connection of its own that is made when it is needed. For one thread."""

    def __init__(self, url: str) -> None:
        self._where = address(url)
        self._connection: Patient | None = None
        self._heard_at = 0.0

    def wait(self, timeout: float) -> set[str]:
        """What was heard: kinds that have new messages, and CHANGED for a cancel or a control. Empty after so many
        seconds of silence. Whatever was said while no connection was there was not heard, so the first call on a new
        one gives CHANGED. Raises StoreAway when the connection is lost or cannot be had, StoreError as Store.open."""
        try:
            if self._connection is None:
                self._connection = self._connect()
                return {CHANGED}
            return self._heard(self._connection, timeout)
        except (psycopg.Error, OSError) as error:
            self.close()
            raise judged(error) from error

    def close(self) -> None:
        """Let go of the connection; `wait` makes another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect(self) -> Patient:
        connection = Patient.connect(self._where.conninfo, autocommit=True)
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._where.channel)))
        self._heard_at = time.monotonic()
        return connection

    def _heard(self, connection: Patient, timeout: float) -> set[str]:
        heard = {notify.payload for notify in connection.notifies(timeout=timeout, stop_after=1)}
        if heard:
            heard |= {notify.payload for notify in connection.notifies(timeout=0)}
            self._heard_at = time.monotonic()
        elif time.monotonic() - self._heard_at > HEARTBEAT:
            connection.execute("SELECT 1")
            self._heard_at = time.monotonic()
        return heard
