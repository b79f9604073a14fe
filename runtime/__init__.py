"""Parts of modern transformers, for files that `migrate` has rewritten and for anything else. Needs torch only.

Masks are boolean and True means "may attend"; floats are added as a bias. No module here has parameters that take no
part in its forward, and modules of positions and of initial values have no state-dict keys at all.
"""

from .alibi import Alibi
from .attention import attention, attention_weights
from .block import PreNormBlock
from .cache import KVCache, LayerCache
from .checkpointing import GradientCheckpointing
from .encoder import Encoder
from .feed_forward import SwiGLU, swiglu, swiglu_width
from .init import DepthScaledInit, magneto_gain, magneto_init_
from .inspection import AttentionRecorder, GradientFlow, TransformerTester, visualize_attention_patterns
from .projection import FusedProjection
from .rotary import RotaryEmbedding
from .sinusoidal import SinusoidalPositionalEncoding

__version__ = "0.1.0"

__all__ = [
    "Alibi",
    "AttentionRecorder",
    "DepthScaledInit",
    "Encoder",
    "FusedProjection",
    "GradientCheckpointing",
    "GradientFlow",
    "KVCache",
    "LayerCache",
    "PreNormBlock",
    "RotaryEmbedding",
    "SinusoidalPositionalEncoding",
    "SwiGLU",
    "TransformerTester",
    "attention",
    "attention_weights",
    "magneto_gain",
    "magneto_init_",
    "swiglu",
    "swiglu_width",
    "visualize_attention_patterns",
]
