"""Every method there is. To add one: write its file, and put its config class here."""

from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.cmlm import Cmlm
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.da_transformer import DaTransformer
from nat_ar.methods.decoder_only import DecoderOnly
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.iterative_refinement import IterativeRefinement
from nat_ar.methods.joint import Joint
from nat_ar.methods.length_nat import LengthNat
from nat_ar.methods.recurrent import Recurrent

AnyMethod = (
    Autoregressive
    | Cmlm
    | Ctc
    | DaTransformer
    | DecoderOnly
    | FertilityNat
    | IterativeRefinement
    | Joint
    | LengthNat
    | Recurrent
)
