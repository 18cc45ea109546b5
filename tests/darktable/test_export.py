"""What is exported keeps the contract, computes what torch computes, and says what it was trained on."""

import json
import zipfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from rawnind.cli import main
from rawnind.darktable.check import check_dtmodel, load_session
from rawnind.darktable.contract import REQUIRED
from rawnind.darktable.export import export_model
from rawnind.darktable.model_card import TrainingData, describe_data, model_card
from rawnind.darktable.onnx_graph import compare, encode_onnx
from rawnind.denoise.frame import denoise_frame
from rawnind.denoise.network import open_denoiser
from rawnind.errors import ConfigError
from rawnind.feed.crop_options import Input
from rawnind.records import Cfa
from rawnind.training.checkpoint import load_network
from rawnind.training.model import ModelKind, NetworkConfig
from tests.denoise.test_frame import photo
from tests.feed.folder_maker import FolderMaker
from tests.networks import write_checkpoint

CONFIG_KEYS = {  # what darktable 5.6 ships with its own denoiser, and `type` as its build files have it
    "id", "name", "description", "task", "type", "arch", "backend", "version", "tiling", "model_card", "attributes",
}  # fmt: skip
CARD_KEYS = {
    "long_description", "scope", "author", "source", "paper", "license", "training_data", "training_data_license", "notes",
}  # fmt: skip
BAYER = {
    "onnx": "model_bayer.onnx", "input_kind": "bayer_v1", "bayer_orientation": "force_rggb", "edge_pad": "mirror_cropped",
    "wb_norm": "none", "output_scale": "match_gain",
}  # fmt: skip
LINEAR = {
    "onnx": "model_linear.onnx", "input_kind": "linear_v1", "input_colorspace": "lin_rec2020", "wb_norm": "none",
    "output_scale": "match_gain", "target_mean": None,
}  # fmt: skip


@pytest.fixture
def checkpoints(tmp_path):
    rgb = NetworkConfig(funit=4, input=Input.RGB)
    return [
        write_checkpoint(tmp_path / "b.pt", spread=0.1),
        write_checkpoint(tmp_path / "rgb.pt", rgb, spread=0.1),
    ]


def config_of(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(f"{path.stem}/config.json"))


def test_both_variants_are_exported_key_by_key(checkpoints, tmp_path):
    path = tmp_path / "rawdenoise-mine.dtmodel"
    report = export_model(checkpoints, path)
    assert check_dtmodel(path) == []
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    assert names == [
        f"rawdenoise-mine/{name}" for name in ("config.json", "model_bayer.onnx", "model_linear.onnx")
    ]
    config = config_of(path)
    assert set(config) == CONFIG_KEYS
    assert set(config) >= REQUIRED
    assert set(config["model_card"]) == CARD_KEYS
    assert config["attributes"] == {
        "input_sizes": [2048, 1536, 1024, 768, 512, 384, 256],
        "variants": {"bayer": BAYER, "linear": LINEAR},
    }
    assert (config["id"], config["task"], config["type"]) == ("rawdenoise-mine", "rawdenoise", "multi")
    assert max(report.differences.values()) < 1e-4


@pytest.mark.parametrize("number", [0, 1])
def test_a_single_checkpoint_gives_a_single_variant(number, checkpoints, tmp_path):
    path = tmp_path / "one.dtmodel"
    export_model([checkpoints[number]], path)
    assert list(config_of(path)["attributes"]["variants"]) == [("bayer", "linear")[number]]


@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig(funit=4, model=ModelKind.UNET),
        NetworkConfig(funit=4, preupsample=True),
        NetworkConfig(funit=4, model=ModelKind.UNET, input=Input.RGB),
    ],
)
def test_every_kind_of_network_computes_the_same_in_onnx(config, tmp_path):
    network, _ = load_network(write_checkpoint(tmp_path / "c.pt", config, spread=0.1))
    data = encode_onnx(network)
    assert compare(network, data) < 1e-5
    levels = torch.rand(1, config.channels, 48, 80)
    (found,) = load_session(data).run(["output"], {"input": levels.numpy()})
    assert np.allclose(found, network(levels).detach().numpy(), atol=1e-5)


def test_a_network_that_differs_is_not_exported(tmp_path):
    network, _ = load_network(write_checkpoint(tmp_path / "a.pt", spread=0.1))
    other, _ = load_network(write_checkpoint(tmp_path / "b.pt", spread=0.1))
    with pytest.raises(ConfigError, match="differs from torch's"):
        compare(network, encode_onnx(other))


def test_equal_checkpoints_give_equal_files(checkpoints, tmp_path):
    (tmp_path / "x").mkdir()
    for folder in (tmp_path, tmp_path / "x"):
        export_model(checkpoints[:1], folder / "m.dtmodel")
    assert (tmp_path / "m.dtmodel").read_bytes() == (tmp_path / "x" / "m.dtmodel").read_bytes()


def test_the_exported_model_denoises_as_its_checkpoint(checkpoints, tmp_path):
    path = tmp_path / "m.dtmodel"
    export_model(checkpoints, path)
    for cfa, checkpoint in ((Cfa.BAYER, checkpoints[0]), (Cfa.X_TRANS, checkpoints[1])):
        frame = photo(cfa, 96, 120)
        expected = denoise_frame(frame, open_denoiser(checkpoint, cfa)).rgb
        assert np.abs(denoise_frame(frame, open_denoiser(path, cfa)).rgb - expected).max() < 1e-4


def test_a_model_without_a_variant_for_the_sensor_is_refused(checkpoints, tmp_path):
    export_model(checkpoints[:1], tmp_path / "m.dtmodel")
    with pytest.raises(ConfigError, match="has no variant for x-trans"):
        open_denoiser(tmp_path / "m.dtmodel", Cfa.X_TRANS)


def test_the_card_says_what_the_folder_says_and_what_is_unknown(checkpoints, tmp_path):
    data = FolderMaker(tmp_path / "out").scene("a", camera="SONY ILCE-7C", iso=3200).finish()
    path = tmp_path / "m.dtmodel"
    export_model(checkpoints, path, data=data)
    card = config_of(path)["model_card"]
    assert "SONY ILCE-7C" in card["training_data"]
    assert "ISO 3200" in card["training_data"]
    assert card["license"].startswith("unknown")
    assert card["training_data_license"].startswith("unknown")


def test_the_card_takes_the_licence_of_the_data_card(tmp_path):
    FolderMaker(tmp_path).scene("a").finish()
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-sa-4.0\npretty_name: Mine\n---\n# Mine\n")
    data = describe_data(str(tmp_path))
    assert data.license == "cc-by-sa-4.0"
    assert data.text.startswith("Mine; ")
    for text in ("no card", "---\nlicense: unknown\n---\n", "---\nlicense: [1]\n---\n", "---\n- a\n---\n"):
        (tmp_path / "README.md").write_text(text)
        assert describe_data(str(tmp_path)).license.startswith("unknown: ")


def test_the_card_takes_what_its_author_states():
    data = TrainingData(text="12 crops", license="cc-by-sa-4.0")
    card = model_card(data, "d", b"author: Ada\nlicense: GPL-3.0-or-later\n")
    assert (card.author, card.license, card.training_data_license) == (
        "Ada",
        "GPL-3.0-or-later",
        "cc-by-sa-4.0",
    )
    for wrong in (b"autor: Ada", b"author: 3", b"[a]", b"author: ''", b"a: b: c"):
        with pytest.raises(ConfigError):
            model_card(data, "d", wrong)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["b.pt", "--to", "m.zip"], "must end in .dtmodel"),
        (["b.pt", "--to", "nowhere/m.dtmodel"], "make it first"),
        (["b.pt", "b.pt", "--to", "m.dtmodel"], "is a second network for --input raw"),
        (["noisy.pt", "--to", "m.dtmodel"], "also takes the noise"),
        (["text.pt", "--to", "m.dtmodel"], "text.pt is not a checkpoint"),
        (["b.pt", "missing.pt", "--to", "m.dtmodel"], "missing.pt does not exist"),
        (["b.pt", "--to", "a b.dtmodel"], "the name a b of the model is wrong"),
        (["b.pt", "--to", "taken.dtmodel"], "exists already"),
        (["b.pt", "--to", "m.dtmodel", "--data", "."], "--data"),
        (["b.pt", "--to", "m.dtmodel", "--card", "text.pt"], "model card"),
        ([], "Missing argument"),
    ],
)
def test_a_wrong_call_is_one_sentence_and_leaves_nothing(
    arguments, sentence, checkpoints, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "noisy.pt", NetworkConfig(funit=4, conditioned=True))
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "taken.dtmodel").write_text("mine")
    before = sorted(tmp_path.iterdir())
    result = CliRunner().invoke(main, ["export-model", *arguments])
    assert result.exit_code == 2
    assert sentence in result.output
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_says_what_it_wrote(checkpoints, tmp_path):
    path = tmp_path / "m.dtmodel"
    result = CliRunner().invoke(main, ["export-model", *map(str, checkpoints), "--to", str(path)])
    assert result.exit_code == 0
    assert "bayer within" in result.output
    assert "linear within" in result.output
    assert "passed the check" in result.output
