"""Bags of words of different lengths: rows of a table looked up, and added up by the offsets of the bags."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from expunge.torch._replay import replay
from expunge.torch._rules_packed import bags_of
from expunge.torch._tracker import Tracker

__all__ = ["bag_of_rows"]


def bag_of_rows(tracker: Tracker, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make the call of F.embedding_bag."""
    names = "input weight offsets max_norm norm_type scale_grad_by_freq mode sparse per_sample_weights"
    names += " include_last_offset padding_idx"
    given = {**dict(zip(names.split(), args, strict=False)), **kwargs}
    indices, table, offsets = given["input"], given["weight"], given.get("offsets")
    if offsets is None or tracker.axes.get(indices) is None or tracker.source_of(table) is None:
        return replay(tracker, function, args, kwargs)
    mode, weights = given.get("mode", "mean"), given.get("per_sample_weights")
    if mode == "max" or given.get("max_norm") is not None or given.get("scale_grad_by_freq"):
        reason = (
            'embedding_bag with offsets is understood with mode="sum" or "mean", and without max_norm and '
            "scale_grad_by_freq: give it indices of shape (B, T), with padding_idx"
        )
        return tracker.unfollowed(function, args, kwargs, reason)
    bags = bags_of(indices, offsets, last=bool(given.get("include_last_offset")))
    padding = given.get("padding_idx")
    rows: Tensor = tracker.call(F.embedding, (indices, table, padding), {})
    if weights is not None:
        rows = rows * weights[:, None]
    count = len(offsets) - bool(given.get("include_last_offset"))
    real = torch.ones_like(indices) if padding is None else (indices != padding % len(table)).long()
    out = rows.new_zeros(count, rows.shape[1]).index_add(0, bags, rows * real[:, None])
    if mode == "mean":
        out = out / bags.new_zeros(count).index_add(0, bags, real).clamp(min=1)[:, None]
    return out
