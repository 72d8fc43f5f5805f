"""Shared by the tests of all models."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def _one_thread(one_torch_thread):
    """Small networks are done sooner by one thread."""
