"""Free ports for what a test starts and does not let choose its own."""

import random
import socket


def free_ports(number: int) -> list[int]:
    """Ports outside the range from which the kernel serves others before they are taken."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 1000):
        if _is_free(port):
            ports.append(port)
        if len(ports) == number:
            return ports
    raise AssertionError("there are no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
