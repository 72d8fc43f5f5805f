"""Norms of vision models of timm are those of single examples; the few that are refused say why."""

import warnings

import pytest

pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from zoo.entry import assert_exact, assert_refused
from zoo.timm_models import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_norms_of_models_of_timm_are_those_of_single_examples(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of timm's
        (assert_refused if MODELS[name].refused else assert_exact)(MODELS[name])
