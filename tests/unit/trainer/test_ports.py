"""The learners' rendezvous and the weight sync's: a free port, the one that was set, or an error with the fix."""

import socket

import pytest
from torch.distributed import TCPStore

from ssr1_rl.trainer.rank import LearnerRank, PortTaken


def test_a_taken_port_names_its_setting():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"learner\.port={port} is taken on node .*; free the port, or set"):
            LearnerRank().find_port(port, "learner.port")
    assert LearnerRank().find_port(port, "learner.port")[1] == port, "free again"


def test_a_port_that_was_found_is_nobody_else_s_until_the_group_listens_on_it():
    rank = LearnerRank()
    _, port = rank.find_port(0, "learner.port")
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("", port))
    store = TCPStore("127.0.0.1", port, 1, is_master=True, wait_for_workers=False)
    store.set("name", "value")
    rank._release_ports()
    assert store.get("name") == b"value"


def test_port_0_is_any_free_one():
    address, port = LearnerRank().find_port(0, "learner.port")
    assert address
    assert port > 0
