"""Norms of per-example gradients, without forming any: kernels on NumPy arrays, one function per layer type.

A linear map used at T positions has the gradient A_i^T G_i for example i: A_i holds its inputs, G_i the gradients with
respect to its outputs. `||A_i^T G_i||_F` is computed from T x T Gram matrices or from register tiles of the product,
whichever takes fewer operations, after Goodfellow (2015), arXiv:1510.01799, and Bu et al. (2022), arXiv:2205.10683;
the Gram form gives way to the product where its terms cancel.

Every function takes float32 or float64 C-contiguous arrays as they are (no cast, no copy), sums squares in float64 and
returns float64 arrays, exact up to rounding. The results carry no privacy guarantee; they are inputs of accounting.
They have the same bits for every thread count. NaN and infinity in an example reach its own norm and no other.
``threads=None`` uses every core.

`group_grad_norms` has the norms of the summed gradients of groups of examples.

Arrays of CuPy, PyTorch or JAX on a CUDA device are processed there, in the order of their library's current stream and
without waiting for it; results are that library's arrays. Linear layers take bfloat16 there too. Values are not
validated there: an example whose tokens or labels are out of range gets NaN. Results have the same bits on every
device. A softmax probe of float32 arrays without ``alpha`` sums in float32 there, within (C / 32 + 17) 2^-24 of its
norm; tensor cores truncate sums of bfloat16 products, by at most 1.4e-4 of the sum of their magnitudes.

Arrays of JAX on the CPU are read where they lie, bfloat16 as float32; results are JAX's arrays on the same device, in
float64 if ``jax_enable_x64`` is set and rounded to float32 if not.
"""

from expunge.grad_norms.conv import conv_grad_norms
from expunge.grad_norms.embedding import embedding_grad_norms, embedding_linear_grad_dots
from expunge.grad_norms.linear import linear_grad_dots, linear_grad_norms
from expunge.grad_norms.norm_layer import norm_layer_grad_norms
from expunge.grad_norms.probe import probe_grad_norms
from expunge.grad_norms.together import GroupNorms, group_grad_norms

__all__ = [
    "GroupNorms",
    "conv_grad_norms",
    "embedding_grad_norms",
    "embedding_linear_grad_dots",
    "group_grad_norms",
    "linear_grad_dots",
    "linear_grad_norms",
    "norm_layer_grad_norms",
    "probe_grad_norms",
]
