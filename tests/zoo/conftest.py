"""Shared by the tests of all models."""

import pytest


@pytest.fixture(autouse=True)
def one_thread():
    """Small networks are done sooner by one thread."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
