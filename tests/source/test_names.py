"""What a RawNIND file name says, and which names are refused."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawnind.errors import printable
from rawnind.records import Cfa
from rawnind.source.names import (
    NO_FLAGS,
    RAW_EXTENSIONS,
    FileKind,
    PhotoName,
    Refused,
    kind_of,
    parse_name,
    parse_scene,
)

SHA1 = "854554a34b339413462eb1538d4cb0fa95d468b5"

scenes = st.from_regex(r"[a-zé0-9][A-Za-z0-9é日_.+ -]{0,30}", fullmatch=True).filter(
    lambda scene: ".." not in scene and not scene.upper().endswith("_GT")
)
isos = st.one_of(
    st.integers(1, 409600).map(lambda iso: (str(iso), iso)),
    st.integers(1, 409600).map(lambda iso: (f"Hi {iso}", iso)),
    st.just(("Unknown", None)),
)


@given(
    cfa=st.sampled_from([("Bayer", Cfa.BAYER), ("X-Trans", Cfa.X_TRANS)]),
    unknown=st.booleans(),
    test=st.booleans(),
    scene=scenes,
    gt=st.booleans(),
    iso=isos,
    sha1=st.text("0123456789abcdef", min_size=40, max_size=40),
    extension=st.sampled_from(sorted(RAW_EXTENSIONS) + [ext.upper() for ext in sorted(RAW_EXTENSIONS)]),
)
def test_a_name_parses_into_the_parts_it_was_made_of(*, cfa, unknown, test, scene, gt, iso, sha1, extension):
    prefix = "UNK_" * unknown + "TEST_" * test
    filename = f"{cfa[0]}_{prefix}{scene}_{'GT_' * gt}ISO{iso[0]}_sha1={sha1}.{extension}"
    name = parse_name(filename)
    assert isinstance(name, PhotoName), name
    assert (name.cfa, name.ground_truth, name.iso, name.sha1) == (cfa[1], gt, iso[1], sha1)
    assert name.spelling.scene == scene
    assert (name.spelling.unknown_sensor, name.spelling.test_reserve) == (unknown, test)
    assert kind_of(filename) is FileKind.RAW


@pytest.mark.parametrize(
    ("scene", "said"),
    [
        ("copeaux_", "copeaux_"),
        ("MuseeL-coral2-dark-A7C", "MuseeL-coral2-dark-A7C"),
        ("a_ISO200_b", "a_ISO200_b"),
        ("TEST_UNK_a", "a"),
        ("GT_a", "GT_a"),
    ],
)
def test_scenes_that_look_like_other_parts_of_the_name(scene, said):
    name = parse_name(f"Bayer_{scene}_GT_ISO100_sha1={SHA1}.arw")
    assert (name.spelling.scene, name.ground_truth, name.iso) == (said, True, 100)


@pytest.mark.parametrize("scene", ["no_gt", "two_gt", "no_Gt", "gt", "x_GT_b"])
def test_gt_marks_a_ground_truth_in_capitals_before_the_iso_only(scene):
    name = parse_name(f"Bayer_{scene}_ISO3200_sha1={SHA1}.arw")
    assert (name.spelling.scene, name.ground_truth, name.iso) == (scene, False, 3200)
    truth = parse_name(f"Bayer_{scene}_GT_ISO100_sha1={SHA1}.arw")
    assert (truth.spelling.scene, truth.ground_truth, truth.iso) == (scene, True, 100)


def test_composed_and_decomposed_letters_spell_one_scene():
    composed, decomposed = "TEST_K\u00fcche", "TEST_Ku\u0308che"
    assert parse_scene(composed) == parse_scene(decomposed)
    name = parse_name(f"Bayer_{decomposed}_ISO100_sha1={SHA1}.arw")
    assert (name.spelling.scene, name.spelling.test_reserve) == ("K\u00fcche", True)
    assert name.filename == f"Bayer_{decomposed}_ISO100_sha1={SHA1}.arw"


@pytest.mark.parametrize(
    ("filename", "why"),
    [
        (f"../Bayer_a_ISO100_sha1={SHA1}.arw", "path"),
        (f"/etc/Bayer_a_ISO100_sha1={SHA1}.arw", "path"),
        (f"C:\\Bayer_a_ISO100_sha1={SHA1}.arw", "path"),
        (f"Bayer_a/../../b_ISO100_sha1={SHA1}.arw", "path"),
        (f"Bayer_a..b_ISO100_sha1={SHA1}.arw", "'..'"),
        (f"Bayer_a\nb_ISO100_sha1={SHA1}.arw", "control character"),
        (f"Bayer_a\0_ISO100_sha1={SHA1}.arw", "control character"),
        (f"Bayer_a\udcff_ISO100_sha1={SHA1}.arw", "broken encoding"),
        (f"Bayer_a_ISO100_sha1={SHA1}.arw\n", "control character"),
        (f"Bayer_{'a' * 201}_ISO100_sha1={SHA1}.arw", "scene's name"),
        (f"Bayer_-rf_ISO100_sha1={SHA1}.arw", "scene's name"),
        (f"Bayer_TEST__ISO100_sha1={SHA1}.arw", "scene's name"),
        (f"X-TRAN\u017f_a_ISO100_sha1={SHA1}.arw", "not a RawNIND name"),
        (f"Foveon_a_ISO100_sha1={SHA1}.x3f", "not a RawNIND name"),
        (f"Bayer_a_ISO_sha1={SHA1}.arw", "not a RawNIND name"),
        (f"Bayer_a_ISO\u0661\u0660\u0660_sha1={SHA1}.arw", "not a RawNIND name"),
        (f"Bayer_a_ISO100_sha1={SHA1[:-1]}.arw", "not a RawNIND name"),
        ("DSC01234.ARW", "not a RawNIND name"),
        ("", "not a RawNIND name"),
    ],
)
def test_what_is_no_name_is_refused_with_the_reason(filename, why):
    refused = parse_name(filename)
    assert isinstance(refused, Refused)
    assert why in refused.why
    assert refused.file.isprintable()


@given(st.text(string.printable + "\udcff\x00é", max_size=60))
def test_any_text_is_a_name_or_refused(text):
    answer = parse_name(text)
    assert isinstance(answer, Refused | PhotoName)
    assert printable(text).isprintable()


def test_capitals_are_settled():
    name = parse_name(f"x-trans_a_iso100_SHA1={SHA1.upper()}.RAF")
    assert (name.cfa, name.sha1) == (Cfa.X_TRANS, SHA1)


@pytest.mark.parametrize(
    ("filename", "kind"),
    [("a.xmp", FileKind.XMP), ("a.arw.XMP", FileKind.XMP), ("a.jpg", FileKind.IMAGE), ("a.RW2", FileKind.RAW),
     ("a.yaml", FileKind.OTHER), ("arw", FileKind.OTHER), ("", FileKind.OTHER)],
)  # fmt: skip
def test_files_are_told_apart_by_their_extension(filename, kind):
    assert kind_of(filename) is kind


def test_folders_say_what_their_files_must_be():
    said = NO_FLAGS.below("src").below("X-Trans").below("UNK_TEST_a").below("gt")
    assert said.contradicts(parse_name(f"X-Trans_a_GT_ISO100_sha1={SHA1}.raf")) is None
    for other in ("Bayer_a_GT", "X-Trans_b_GT", "X-Trans_a"):
        assert "its name has" in said.contradicts(parse_name(f"{other}_ISO100_sha1={SHA1}.raf"))
    assert said.below("gt") is None
    assert NO_FLAGS.below("src").below("src") is None
    assert NO_FLAGS.below("thumbnails") is None


def test_a_scene_is_settled_whatever_its_prefixes():
    assert {parse_scene(prefix + "7D-2").scene for prefix in ("", "TEST_", "UNK_", "UNK_TEST_")} == {"7D-2"}
    assert isinstance(parse_scene(".."), Refused)
