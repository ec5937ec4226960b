"""Holds etcd's lock whenever it can: holder.py LOG ENDPOINTS

`etcdctl lock` prints the key once it has the lock and ends once it knows that it lost it. Meanwhile this is the active
side, and says so every 20 ms: a line with CLOCK_MONOTONIC in seconds.
"""
import os
import subprocess
import sys
import threading
import time

environment = dict(os.environ, ETCDCTL_API="3")
with open(sys.argv[1], "a", buffering=1, encoding="ascii") as log:
    while True:
        command = ["etcdctl", "--endpoints", sys.argv[2], "--dial-timeout=1s", "lock", "--ttl=1", "service"]
        lock = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        got = threading.Event()
        threading.Thread(target=lambda: lock.stdout.readline() and got.set(), daemon=True).start()
        while lock.poll() is None:
            if got.is_set():
                log.write(f"{time.monotonic():.4f}\n")
            time.sleep(0.02)
