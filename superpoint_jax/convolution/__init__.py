"""Convolution blocks as pure functions, the same on every platform, by the way that is fastest there.

`interface` is what the network calls, and the plain path (`direct`), which every platform but the CPU takes. On a CPU
`choice` says by which way, and in what size of strips: `onednn`, `products` of matrices, or `winograd`, of whole images
(`cpu`) or of blocks row by row (`strips`). `processor` is what it goes by. Every way is held against the plain one by a
test.
"""

from superpoint_jax.convolution.choice import Affine, Layer, calls_onednn
from superpoint_jax.convolution.interface import conv, conv_blocks, max_pool

__all__ = ["Affine", "Layer", "calls_onednn", "conv", "conv_blocks", "max_pool"]
