"""A plan is the same after serialisation, and Ray Data prints nothing."""

import gc
import io
import logging
import pickle

from ray._private.log import PlainRayHandler

from rawnind.pipeline.graph import quiet_ray_data
from rawnind.pipeline.pickled_plan import PickledPlan
from rawnind.planning import SceneFilter, make_plan
from rawnind.recipe import Recipe
from rawnind.source.index import load_index


def test_a_plan_unpickles_unchanged_and_garbage_collection_stays_enabled(sample_set):
    plan = make_plan(load_index(sample_set).scenes, SceneFilter(exclude_test_reserve=True), Recipe())
    buffers = []
    data = pickle.dumps(PickledPlan(plan), protocol=5, buffer_callback=buffers.append)
    assert pickle.loads(data, buffers=buffers) == plan
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()


def test_what_ray_data_logs_is_not_printed(monkeypatch):
    handlers = logging.getLogger("ray.data").handlers
    terminal = next(each for each in handlers if isinstance(each, PlainRayHandler))
    monkeypatch.setattr(terminal, "stream", io.StringIO())
    monkeypatch.setattr(terminal, "level", logging.INFO)
    for text in ("shown", "hidden"):
        logging.getLogger("ray.data._internal.execution").error(text)
        assert terminal.stream.getvalue().count("shown") == 1
        assert "hidden" not in terminal.stream.getvalue()
        quiet_ray_data()
