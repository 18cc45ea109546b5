import pytest
import torch


@pytest.fixture(autouse=True)
def _one_core():
    """Two threads on two busy cores are many times slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
