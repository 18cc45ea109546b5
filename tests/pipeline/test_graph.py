"""A plan is the same after serialisation, the bridge stays on the head, and Ray Data prints nothing."""

import gc
import io
import logging
import pickle

import ray
from ray._private.log import PlainRayHandler
from ray.util.state import get_actor

from rawnind.options import Options
from rawnind.pipeline.graph import quiet_ray_data, start_bridge
from rawnind.pipeline.job import Job
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


def test_the_bridge_asks_for_a_place_on_the_head_which_other_nodes_cannot_give(cluster, sample_set, tmp_path):
    plan = make_plan(load_index(sample_set).scenes, SceneFilter(limit=1), Recipe())
    job = Job(output=str(tmp_path), run="run", root="", plan=plan, options=Options())
    bridge = start_bridge(job, max_scenes=1)
    try:
        ray.get(bridge.open_scenes.remote())
        place = get_actor(bridge._actor_id.hex(), address=cluster).required_resources
        assert place == {"node:__internal_head__": 0.001}
    finally:
        ray.kill(bridge)


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
