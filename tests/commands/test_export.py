"""export: a directory for another engine, complete or not there."""

import json
import shlex
from pathlib import Path

import pytest

import nat_ar.__main__ as command_line
from nat_ar.commands import export
from nat_ar.commands.export import Export
from nat_ar.config_json import ConfigError
from nat_ar.export import stablehlo
from nat_ar.runtime import files

pytestmark = pytest.mark.slow


def test_a_run_becomes_a_directory_of_either_format(
    tiny_runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ar = str(tiny_runs.autoregressive.directory)
    engine, programs = tmp_path / "engine", tmp_path / "programs"
    export.run(Export(ar, "ctranslate2", str(engine), quantization="int8"))
    export.run(Export(ar, "stablehlo", str(programs), decoding="Greedy", buckets=(8,), rows=2))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{engine}: ctranslate2, step 0 of {ar}, ")
    assert {path.name for path in engine.iterdir()} == {
        *("model.bin", "config.json", "shared_vocabulary.json", "joint.model", "card.json"),
    }
    assert {path.name for path in programs.iterdir()} == {
        *("decode_8.stablehlo", "weights.npz", "run.py", "joint.model", "card.json"),
    }
    cards = [files.read_json(path / "card.json", remedy="") for path in (engine, programs)]
    assert [card["kind"] for card in cards] == ["ctranslate2", "stablehlo"]
    assert [card["decoding"] for card in cards] == ["Beam(size=4)", "Greedy()"]
    assert cards[0]["options"]["beam_size"] == 4
    assert cards[0]["quantization"] == "int8"
    assert (cards[1]["rows"], cards[1]["platforms"]) == (2, ["cpu"])
    for card in cards:
        assert card["run"] == ar
        assert card["checkpoint_step"] == 0
        assert card["versions"].keys() == {"nat_ar", "python", "jax", "jaxlib", "sentencepiece"}
    words = shlex.split(cards[1]["command"])
    parsed = command_line.parse("export", words[4:])
    assert (parsed.output, parsed.rows, parsed.buckets) == (str(programs), 2, (8,))


def test_the_card_names_the_rescorer(tiny_runs, tmp_path: Path) -> None:
    output = tmp_path / "out"
    export.run(
        Export(
            str(tiny_runs.length_nat.directory),
            output=str(output),
            decoding="LengthBeam(rescore=True)",
            buckets=(8,),
        )
    )
    card = json.loads((output / "card.json").read_text("utf-8"))
    rescorer = tiny_runs.autoregressive
    assert card["rescorer"] == {"run": str(rescorer.directory), **rescorer.load().fingerprint}


def test_a_directory_that_is_there_is_left_alone(tiny_runs, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine", "utf-8")
    with pytest.raises(ValueError, match="holds files: name a new or an empty directory"):
        export.run(Export(str(tiny_runs.autoregressive.directory), output=str(tmp_path)))
    with pytest.raises(ValueError, match="note is a file: name a new or an empty directory"):
        export.run(Export(str(tiny_runs.autoregressive.directory), output=str(tmp_path / "note")))
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


def test_an_export_that_fails_leaves_nothing(
    tiny_runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(exported: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(stablehlo, "serialise", fail)
    with pytest.raises(KeyboardInterrupt):
        export.run(
            Export(
                str(tiny_runs.autoregressive.directory),
                output=str(tmp_path / "out"),
                buckets=(8,),
            )
        )
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_named_before_any_work(tiny_runs, tmp_path: Path) -> None:
    nat, output = str(tiny_runs.length_nat.directory), str(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"got LengthNat; --format stablehlo takes every method"):
        export.run(Export(nat, "ctranslate2", output))
    ar = str(tiny_runs.autoregressive.directory)
    for name in ("ctranslate2", "stablehlo"):
        with pytest.raises(ConfigError, match=r"leave int8 out"):
            export.run(Export(ar, name, output, decoding="Greedy() int8"))
    with pytest.raises(ConfigError, match=r"decoding of LengthNat: .* got 'Beam\(\)'"):
        export.run(Export(nat, "stablehlo", output, decoding="Beam()"))
    with pytest.raises(ConfigError, match="ctranslate2 takes no rows, got 4: leave it out"):
        Export(nat, "ctranslate2", rows=4)
    with pytest.raises(ConfigError, match="stablehlo takes no quantization, got 'int8'"):
        Export(nat, quantization="int8")
    with pytest.raises(ConfigError, match="buckets must be some of 8, "):
        Export(nat, buckets=(7,))
    with pytest.raises(ValueError, match="onnx"):
        command_line.parse("export", [nat, "--format", "onnx"])
    assert list(tmp_path.iterdir()) == []
