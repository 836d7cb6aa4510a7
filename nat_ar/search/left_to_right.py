"""The decodings of models that predict a token from the tokens before it."""

from nat_ar.search.base import StepwiseDecoding
from nat_ar.search.beam import Beam
from nat_ar.search.blockwise import Blockwise
from nat_ar.search.greedy import Greedy
from nat_ar.search.jacobi import Jacobi
from nat_ar.search.sampling import Sampling
from nat_ar.search.speculative import Speculative
from nat_ar.search.verification import DraftedDecoding
from nat_ar.search.wait_k import WaitK

LeftToRightDecoding = (
    Greedy
    | Beam
    | Sampling
    | WaitK
    | Jacobi
    | Speculative
    | Blockwise
    | StepwiseDecoding
    | DraftedDecoding
)
"""The package's own by name, so that a config that names one finds it defined, and those of other files."""
