"""The corpora of this package. To add one: write its file, and put its config class here."""

from nat_ar.data.corpus import Corpus
from nat_ar.data.debian.corpus import DebianCorpus
from nat_ar.data.hugging_face import HuggingFace
from nat_ar.data.prefix_pairs import PrefixPairs
from nat_ar.data.text_files import TextFiles
from nat_ar.data.toy.corpus import ToyCorpus

AnyCorpus = DebianCorpus | HuggingFace | PrefixPairs | TextFiles | ToyCorpus | Corpus
"""What a config may hold: any of these, or one that a file outside the package derives from Corpus."""
