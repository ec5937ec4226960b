"""One client that writes without end: writer.py LOG FIRST_KEY CONNINFO [CONNINFO ...]

Goes to the first server that takes writes, waits 3 s for an answer and then looks for another one. A line per
acknowledged row: key, CLOCK_MONOTONIC in seconds.
"""
import itertools
import select
import sys
import time

import psycopg2
from psycopg2 import extensions

CONNECT_S, ANSWER_S, PAUSE_S = 1.0, 3.0, 0.01


def wait(connection, seconds):
    """Until the connection has done what it was asked. False: not in time."""
    until = time.monotonic() + seconds
    while True:
        state = connection.poll()
        if state == extensions.POLL_OK:
            return True
        left = until - time.monotonic()
        if left <= 0:
            return False
        read, write = ([connection], []) if state == extensions.POLL_READ else ([], [connection])
        select.select(read, write, [], left)


def open_writable(server):
    connection = psycopg2.connect(server, async_=1)
    cursor = None
    if wait(connection, CONNECT_S):
        cursor = connection.cursor()
        cursor.execute("SELECT pg_is_in_recovery()")
        if wait(connection, CONNECT_S) and cursor.fetchone()[0] is False:
            return connection, cursor
    connection.close()
    return None


def write(log, keys, connection, cursor):
    # The key of a row without an answer is not used again: it may be there.
    for key in keys:
        cursor.execute("INSERT INTO entries (id) VALUES (%s)", (key,))
        if not wait(connection, ANSWER_S):
            return
        log.write(f"{key} {time.monotonic():.4f}\n")
        time.sleep(PAUSE_S)


def main():
    keys = itertools.count(int(sys.argv[2]))
    with open(sys.argv[1], "a", buffering=1, encoding="ascii") as log:
        while True:
            for server in sys.argv[3:]:
                connection = None
                try:
                    found = open_writable(server)
                    if found:
                        connection = found[0]
                        write(log, keys, *found)
                except psycopg2.Error:
                    pass  # The next one.
                if connection is not None:
                    connection.close()
            time.sleep(0.03)


main()
