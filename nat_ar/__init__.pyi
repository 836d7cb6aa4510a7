from nat_ar.pipeline.benchmark import benchmark as benchmark
from nat_ar.pipeline.compare import compare as compare
from nat_ar.pipeline.distill import distill as distill
from nat_ar.pipeline.ensemble import ensemble as ensemble
from nat_ar.pipeline.evaluate import evaluate as evaluate
from nat_ar.pipeline.load import load as load
from nat_ar.pipeline.stream import caption as caption
from nat_ar.pipeline.study import study as study
from nat_ar.pipeline.train import train as train

__version__: str
DOOR: dict[str, str]
