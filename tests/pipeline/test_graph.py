"""A plan is the same after serialisation."""

import gc
import pickle

from rawnind.pipeline.graph import PickledPlan
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
