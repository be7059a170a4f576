"""Joins a Ray cluster or starts one, and refuses an address that cannot work with the right one."""

import contextlib
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator

import ray
import ray._private.worker

from ssr1_rl.errors import RunError, UserError

ANSWER_S = 5.0
"""Longest wait for the cluster's head node to accept a connection. Ray itself waits for minutes."""


@contextlib.contextmanager
def connected(on_message: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Connects to Ray, and disconnects on exit, which ends a cluster started here. Keeps a connection that was open.

    Args:
        on_message: called, in a thread of Ray, with each message that Ray would print about a process that died or
            resources that are lacking. The errors of this package say the same in a sentence.
    """
    if ray.is_initialized():
        yield
        return
    # Ray has no setting for this: without it, the death of an actor prints 20 lines into the display.
    ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: on_message("\n".join(data["lines"]))
    connect()
    try:
        yield
    finally:
        ray.shutdown()


def connect() -> None:
    """Joins the cluster that `RAY_ADDRESS` names (Ray sets it in submitted jobs), or starts one on this machine.

    Raises:
        UserError: RAY_ADDRESS has a form that cannot work, or nothing answers there.
        RunError: Ray failed to start or to connect.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    check_address(address)
    options: dict[str, bool | str] = {"log_to_driver": False, "logging_level": "error"}
    if address in ("", "local"):
        # Without an address, Ray would join any cluster that runs on this machine.
        options |= {"address": "local", "include_dashboard": False}
    try:
        ray.init(**options)  # type: ignore[arg-type]
    except (ConnectionError, RuntimeError, ValueError) as error:  # what ray.init raises
        if address in ("", "local"):
            raise RunError(f"Ray could not start on this machine: {error}") from error
        raise RunError(
            f"Ray could not connect to RAY_ADDRESS={address}: {error}. Check with `ray status` on that machine, or "
            "unset RAY_ADDRESS to start Ray on this one"
        ) from error


def quiet_ray_data() -> None:
    """Keeps Ray Data's remarks in its log files: stages show their own progress, and errors are raised."""
    import ray.data  # noqa: F401, its import configures its logger

    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


def check_address(address: str) -> None:
    """Refuses a value of RAY_ADDRESS with which Ray fails, hangs or is not supported here; connects to no cluster."""
    if address in ("", "local", "auto"):
        return
    here = "To run on this machine alone: unset RAY_ADDRESS"
    if re.match(r"https?://", address, re.IGNORECASE):
        raise UserError(
            f"RAY_ADDRESS={address} is the address of a job server, which takes jobs only. To submit a job: unset "
            f"RAY_ADDRESS, then `ray job submit --address {address} -- LAUNCH_FILE` (or set RAY_API_SERVER_ADDRESS "
            f"in its place). {here}"
        )
    if "://" in address:
        raise UserError(
            f"RAY_ADDRESS={address}: Ray Client is not supported, because this process and the actors exchange "
            "data directly. Submit a job (`ray job submit`), or run on a node of the cluster with "
            f"RAY_ADDRESS=HOST:6379. {here}"
        )
    found = re.fullmatch(r"\[?(?P<host>[^\s/\[\]]+)\]?:(?P<port>\d{1,5})", address)
    if not found:
        raise UserError(
            f"RAY_ADDRESS={address!r} must be HOST:PORT (what `ray start` printed, such as 10.0.0.1:6379), or auto for "
            f"a cluster of this machine. {here}"
        )
    try:
        socket.create_connection((found["host"], int(found["port"])), timeout=ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"RAY_ADDRESS={address}: nothing answers there ({error}). Start the cluster (`ray start --head`), or set "
            f"the address that it printed. {here}"
        ) from error
