"""Tests of data sets keep what they read in a cache of their own."""

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('ATSS_JAX_CACHE', str(tmp_path / 'cache'))
