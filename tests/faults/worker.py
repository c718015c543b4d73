"""`care` in a process of its own, with a fault on the way: `worker.py` obeys orders, a line of JSON each.

Without an argument it imports the heavy libraries once and forks a process for every order; with one it obeys
that order itself. Each process is a real one with a real exit code, and can be killed like any other.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import signal
import sqlite3
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path

FAULTS = {"reads fail": 1, "disk full": 2, "killed": 3, "recorded": 4, "stopped": 5}  # as in fault.c
DAC_CAPABILITIES = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: root may do what permissions forbid


def warm_up() -> None:
    """Import what commands import, start no thread."""
    import care_cli.cli  # noqa: F401
    from care_cli import openvino_engine
    from care_cli.yolo import prepare_ultralytics

    prepare_ultralytics()
    for library in ("torchvision", "ultralytics.nn.tasks", "timm"):
        with suppress(ImportError):
            __import__(library)
    with suppress(ImportError):
        openvino_engine._openvino()  # by itself it would start a process to tell that it is in use


def serve() -> dict:
    """Fork for every order on stdin; returns only in a forked process, with its order."""
    for line in sys.stdin:
        order = json.loads(line)
        if os.fork() == 0:  # this one stays to tell how the other ended
            process = os.fork()
            if process == 0:
                os.setsid()
                return order
            tell(order, "pid", process)
            tell(order, "status", os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
            os._exit(0)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    os._exit(0)


def tell(order: dict, what: str, number: int) -> None:
    """Write a number where the test looks for it, whole at once."""
    part = Path(f"{order['note']}.{what}.part")
    part.write_text(str(number), encoding="ascii")
    part.replace(f"{order['note']}.{what}")


def obey(order: dict) -> None:
    """Become the process that the order describes, and run `care`."""
    from care_cli.cli import main

    for name, stream in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(order[name], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(order.get("environment", {}))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if order.get("unprivileged"):
        drop_capabilities()
    watch_sqlite(order)
    add_migrations(order.get("migrations", ()))
    if largest := order.get("largest_file"):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    if "fault" in order:
        kind, word, number = order["fault"]
        shim = ctypes.CDLL(None)
        shim.fault_arm.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int64, ctypes.c_char_p]
        shim.fault_arm(FAULTS[kind], word.encode(), number, f"{order['note']}.record".encode())
    sys.argv = ["care", *order["arguments"]]
    main()


def watch_sqlite(order: dict) -> None:
    """Give every connection the order's pragmas; count its statements, and die before the one that is named."""
    connect, count = sqlite3.connect, 0

    def watched(*arguments, **options) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        for pragma in order.get("pragmas", ()):
            connection.execute(f"PRAGMA {pragma}")
        connection.set_trace_callback(at_statement)
        return connection

    def at_statement(_: str) -> None:
        nonlocal count
        count += 1
        if count == order.get("die_at_statement"):
            os.kill(os.getpid(), signal.SIGKILL)

    if "die_at_statement" in order:
        atexit.register(lambda: tell(order, "statements", count))
    if "die_at_statement" in order or "pragmas" in order:
        sqlite3.connect = watched


def leave(code: int) -> None:
    """End the process as Python does, but for taking the libraries apart."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def add_migrations(steps: list[list[str]]) -> None:
    """Make this program one of later formats: a step for each list of statements."""
    from care_cli.catalog.migrations import MIGRATIONS

    for step in steps:
        MIGRATIONS.append(lambda database, step=step: [database.conn.execute(statement) for statement in step])


def drop_capabilities() -> None:
    """Let permissions hold for root too (Linux); nothing to do for anybody else."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    for place in (0, 1):  # effective and permitted, the lower 32
        sets[place] &= ~DAC_CAPABILITIES
    if libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        obey(json.loads(sys.argv[1]))
    else:
        warm_up()
        gc.freeze()  # a collection would copy the pages that all processes share
        order = serve()
        try:
            obey(order)
        except SystemExit as end:
            leave(end.code or 0)
        except BaseException:
            traceback.print_exc()
            leave(1)
        leave(0)
