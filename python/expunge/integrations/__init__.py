"""Other people's training loops: what Expunge brings to them, and what it reads from them. One module each.

`expunge.integrations.opacus`: kernels for Opacus' ghost clipping, and accounting per record of a run that it trained.
"""

__all__: list[str] = []
