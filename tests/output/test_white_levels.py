from rawnind.output.white_levels import white_level_warnings
from tests.feed.folder_maker import FolderMaker


def test_a_camera_whose_data_clip_elsewhere_is_named_and_one_that_agrees_is_not(tmp_path):
    maker = FolderMaker(tmp_path / "out").scene("a", crops=1, noise={"white_level_data": 12160.0})
    maker.scene("b", crops=1, camera="Canon 5D", noise={"white_level_data": 15900.0}).scene("c", crops=1)
    maker.finish()
    (warning,) = white_level_warnings(maker.store)
    assert warning == (
        "Sony A7: the data clip at 12160 in 1 photo, LibRaw's white level is 16000 (-24.0%); overexposure is taken from the data"
    )
