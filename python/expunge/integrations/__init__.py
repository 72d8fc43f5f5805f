"""Other people's training loops: what Expunge brings to them, and what it reads from them. One module each.

`expunge.integrations.opacus`: kernels for Opacus' ghost clipping, and per-record accounting of a run that it trained.
`expunge.integrations.transformers`: Transformers' Trainer collects the gradient norms of every record.
`expunge.integrations.lightning`: the same as a callback of Lightning.
"""

__all__: list[str] = []
