"""A .dtmodel that breaks the contract is told what is wrong; one that keeps it passes."""

import json
import zipfile

import onnx
import pytest
from onnx import TensorProto, helper

from rawnind.darktable.check import check_dtmodel, read_dtmodel
from rawnind.darktable.contract import ModelCard
from rawnind.errors import ConfigError

CARD = dict.fromkeys(ModelCard.model_fields, "text")


def network(
    channels=4,
    scale=2,
    *,
    opset=17,
    names=("input", "output"),
    axes=("height", "width"),
    kind=TensorProto.FLOAT,
):
    """A network of one layer that only changes the size."""
    weights = helper.make_tensor(
        "w", TensorProto.FLOAT, (3 * scale**2, channels, 1, 1), [0.25] * (3 * scale**2 * channels)
    )
    nodes = [
        helper.make_node("Cast", [names[0]], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["f", "w"], ["c"]),
        helper.make_node("DepthToSpace", ["c"], [names[1]], blocksize=scale),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(names[0], kind, [1, channels, *axes])],
        [helper.make_tensor_value_info(names[1], TensorProto.FLOAT, None)],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return model.SerializeToString()


def config(**changes):
    variants = {
        "bayer": {"onnx": "b.onnx", "input_kind": "bayer_v1", "bayer_orientation": "force_rggb",
                  "edge_pad": "mirror_cropped", "wb_norm": "none", "output_scale": "match_gain"},
        "linear": {"onnx": "l.onnx", "input_kind": "linear_v1", "input_colorspace": "lin_rec2020", "wb_norm": "none",
                   "output_scale": "match_gain", "target_mean": None},
    }  # fmt: skip
    return {
        "id": "mine", "name": "mine", "description": "d", "task": "rawdenoise", "type": "multi", "arch": "utnet2",
        "backend": "onnx", "version": "1.0", "tiling": True, "model_card": CARD,
        "attributes": {"input_sizes": [512, 256], "variants": variants},
    } | changes  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def write(settings=None, *, bayer=None, linear=None, folder="mine", name="mine.dtmodel", more=()):
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{folder}/config.json", json.dumps(config() if settings is None else settings))
            archive.writestr(f"{folder}/b.onnx", network() if bayer is None else bayer)
            archive.writestr(f"{folder}/l.onnx", network(3, 1) if linear is None else linear)
            for file in more:
                archive.writestr(file, b"")
        return path

    return write


def test_what_keeps_the_contract_passes(write):
    assert check_dtmodel(write()) == []
    assert set(read_dtmodel(write()).networks) == {"bayer", "linear"}


def test_keys_that_darktable_ignores_are_ignored(write):
    assert check_dtmodel(write(config(coreml_format="mlprogram"), more=["mine/LICENSE"])) == []


def test_one_variant_is_enough(write):
    settings = config()
    del settings["attributes"]["variants"]["linear"]
    assert check_dtmodel(write(settings)) == []


@pytest.mark.parametrize(
    "key", ["id", "name", "description", "task", "backend", "version", "model_card", "attributes"]
)
def test_a_missing_key_is_named(key, write):
    settings = config()
    del settings[key]
    assert check_dtmodel(write(settings)) == [f"mine.dtmodel: config.json: {key}: Field required"]


@pytest.mark.parametrize(("value", "passes"), [(None, True), ("null", True), (0.3, False), ("0.3", False)])
def test_a_photo_is_brightened_by_darktables_default_or_not_at_all(value, passes, write):
    settings = config()
    settings["attributes"]["variants"]["linear"]["target_mean"] = value
    assert (check_dtmodel(write(settings)) == []) is passes


@pytest.mark.parametrize("key", ["wb_norm", "target_mean", "output_scale"])
def test_what_darktable_would_fill_with_another_default_is_required(key, write):
    settings = config()
    del settings["attributes"]["variants"]["linear"][key]
    assert f"variants.linear.{key}: Field required" in check_dtmodel(write(settings))[0]


@pytest.mark.parametrize(
    ("where", "value", "sentence"),
    [
        (("task",), "denoise", "task: Input should be 'rawdenoise'"),
        (("version",), 1.0, "version: Input should be a valid string"),
        (("id",), "../mine", "id: Value error, it must consist of letters"),
        (("id",), "other", "id is other, and must be mine"),
        (("attributes", "input_sizes"), [500], "multiple of 16"),
        (("attributes", "input_sizes"), [], "at least 1 item"),
        (("attributes", "variants"), {}, "neither variants.bayer nor variants.linear"),
        (
            ("attributes", "variants", "bayer", "input_kind"),
            "bayer_v2",
            "input_kind: Input should be 'bayer_v1'",
        ),
        (
            ("attributes", "variants", "bayer", "onnx"),
            "gone.onnx",
            "names gone.onnx, which is not in the archive",
        ),
        (("attributes", "variants", "bayer", "onnx"), "../b.onnx", "onnx: Value error"),
        (("attributes", "variants", "linear", "wb_norm"), "as_shot", "wb_norm: Input should be 'none'"),
    ],
)
def test_a_wrong_value_is_named(where, value, sentence, write):
    settings = json.loads(json.dumps(config()))
    part = settings
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = value
    assert sentence in "; ".join(check_dtmodel(write(settings)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"opset": 13}, "has opset 13, and must have 17"),
        ({"names": ("x", "output")}, "its inputs are ['x'], and must be ['input']"),
        ({"names": ("input", "y")}, "its outputs are ['y'], and must be ['output']"),
        ({"axes": (64, 64)}, "height and width dynamic"),
        ({"axes": ("h", "w")}, "must have [1, 4, 'height', 'width']"),
        ({"channels": 3}, "its input has the shape [1, 3, 'height', 'width']"),
        ({"scale": 1}, "for 32 x 32 its output has the shape (1, 3, 32, 32), and must have (1, 3, 64, 64)"),
        ({"kind": TensorProto.DOUBLE}, "and must be float32"),
    ],
)
def test_a_wrong_network_is_described(changes, sentence, write):
    problems = check_dtmodel(write(bayer=network(**changes)))
    assert sentence in "; ".join(problems)
    assert all(problem.startswith("mine.dtmodel: the network of variants.bayer") for problem in problems)


def test_a_network_that_fits_no_tile_is_described(write):
    model = onnx.load_from_string(network())
    model.graph.initializer[0].dims[1] = 2
    assert check_dtmodel(write(bayer=model.SerializeToString()))


@pytest.mark.parametrize("data", [b"", b"not a network", network()[:-60]])
def test_a_damaged_network_is_described(data, write):
    assert any("variants.linear" in problem for problem in check_dtmodel(write(linear=data)))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"folder": "other"}, "must lie in the folder mine/"),
        ({"name": "mine.zip"}, "must end in .dtmodel"),
        ({"more": ["../evil"]}, "would be unpacked outside"),
        ({"more": ["mine\\evil"]}, "would be unpacked outside"),
        ({"more": ["loose.txt"]}, "must lie in the folder mine/"),
        ({"settings": []}, "config.json"),
    ],
)
def test_a_wrong_archive_is_described(arguments, sentence, write):
    path = write(**arguments)
    assert sentence in "; ".join(check_dtmodel(path))
    with pytest.raises(ConfigError):
        read_dtmodel(path)


def test_what_is_no_archive_is_described(tmp_path, write):
    text = tmp_path / "text.dtmodel"
    text.write_text("hello")
    assert "not a readable zip archive" in check_dtmodel(text)[0]
    assert "does not exist" in check_dtmodel(tmp_path / "gone.dtmodel")[0]
    cut = write()
    cut.write_bytes(cut.read_bytes()[:-40])
    assert "not a readable zip archive" in check_dtmodel(cut)[0]
    path = write()
    data = bytearray(path.read_bytes())
    data[data.index(b"DepthToSpace")] ^= 0xFF
    path.write_bytes(data)
    assert check_dtmodel(path)
