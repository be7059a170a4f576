"""What integration tests share beside tests/conftest.py: their learner ranks end with the session."""

from collections.abc import Iterator

import pytest

from tests.integration.ranks import end_ranks


@pytest.fixture(scope="session", autouse=True)
def _end_ranks() -> Iterator[None]:
    yield
    end_ranks()
