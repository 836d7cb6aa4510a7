"""What four devices of a process say is what one says, to the last bit, and all four work."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import pytest

import many_devices
from nat_ar.commands import translate as command
from nat_ar.commands.translate import Translate
from nat_ar.data.arrays import PreparedData
from nat_ar.experiment.run import Run
from nat_ar.experiment.translators import open_translator
from nat_ar.pipeline.evaluate import evaluate
from nat_ar.pipeline.validation import Validation
from nat_ar.translation.model import Model
from nat_ar.translation.translator import Translator

DECODINGS = {
    "autoregressive": ("Greedy()",),
    "length_nat": ("LengthBeam(size=2, rescore=True)",),
}


def translations(translator: Translator, sentences: list[str]) -> list[Any]:
    """Texts, scores in full, tokens and all else, by parameters and by others."""
    translator.max_rows = 4
    found = []
    for factor in (3.0, 2.0):
        params = jax.tree.map(lambda leaf, factor=factor: factor * leaf, translator.model.params)
        translator.use(Model(translator.model.graphdef, params))
        found.append([dataclasses.asdict(one) for one in translator.translate(sentences)])
    return found


def answers(autoregressive: str, length_nat: str, folder: str) -> dict[str, Any]:
    """By all devices of this process."""
    run, place, devices = Run.of(length_nat), Path(folder), jax.local_devices()
    data = PreparedData.load(run.config().data.directory)
    found: dict[str, Any] = {"devices": len(devices)}
    sentences = ["", *data.split("train").source_text]
    for directory, name in ((autoregressive, "autoregressive"), (length_nat, "length_nat")):
        for decoding in DECODINGS[name]:
            _, translator = open_translator(directory, decoding)
            translator.devices = devices
            found[decoding] = translations(translator, sentences)
            copies = translator.copies._copies
            found[f"{decoding} on"] = 1 + len(copies)
            assert all(c.ready_model.leaves[0].devices() == {at} for at, c in copies.items())
    found["evaluate"] = evaluate(run, batch_tokens=32)["bleu"]
    text, to = place / "text", place / "translations"
    text.write_text("\n".join(sentences), "utf-8")
    command.run(Translate(length_nat, str(text), str(to), scores=True, batch_tokens=32))
    found["translate"] = to.read_text("utf-8")
    return found


def of_validation(directory: str, num_devices: int) -> dict[str, float]:
    """Its numbers, by parameters that are on the first devices of this process, as in training."""
    run = Run.of(directory)
    config, loaded = run.config(), run.load()
    training = config.training
    batching = dataclasses.replace(training.batching, batch_tokens=32, buckets=(16,))
    config = dataclasses.replace(config, training=dataclasses.replace(training, batching=batching))
    data = PreparedData.load(config.data.directory)
    measure = Validation(config, data, loaded.model.graphdef, None)
    mesh = jax.sharding.Mesh(jax.local_devices()[:num_devices], ("data",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return measure(jax.device_put(loaded.model.params, everywhere))


@pytest.fixture(scope="module")
def both(tiny_runs: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The answers of this process and of one with four devices."""
    found = []
    for number in (1, 4):
        place = tmp_path_factory.mktemp(str(number))
        run = Run(place / "run")  # with results of its own
        shutil.copytree(tiny_runs.length_nat.directory, run.directory)
        words = (str(tiny_runs.autoregressive.directory), str(run.directory), str(place))
        if number == 1:
            here = answers(*words)
            here["validation"] = of_validation(words[1], 1)
            found.append(json.loads(json.dumps(here)))
        else:
            program = f"""
import json, runpy
test = runpy.run_path({__file__!r})
found = test["answers"](*{words!r})
found["validation"] = test["of_validation"]({words[1]!r}, 4)
print(json.dumps(found))
"""
            found.append(json.loads(many_devices.run(program, number=4).splitlines()[-1]))
    return found[0], found[1]


@pytest.mark.slow
@pytest.mark.parametrize("decoding", [text for texts in DECODINGS.values() for text in texts])
def test_translations_are_those_of_one_device(both: tuple[Any, Any], decoding: str) -> None:
    one, four = both
    assert (one["devices"], four["devices"]) == (1, 4)
    assert (one[f"{decoding} on"], four[f"{decoding} on"]) == (1, 4)
    assert four[decoding] == one[decoding]
    by_parameters = one[decoding]
    assert by_parameters[0] != by_parameters[1]
    assert len({str(found["tokens"]) for found in by_parameters[0]}) > 5


@pytest.mark.slow
def test_verbs_and_validation_say_the_same(both: tuple[Any, Any]) -> None:
    one, four = both
    assert four["evaluate"] == one["evaluate"]
    assert four["translate"] == one["translate"]
    assert one["translate"].count("\n") == 37
    assert four["validation"] == one["validation"]
    assert one["validation"].keys() >= {"score", "loss"}
