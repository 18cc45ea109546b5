"""What a report says of a rejected or failed pair: the number that decided, its limit, and advice."""

import pytest

from rawnind.reasons import Reason
from rawnind.report.verdicts import advice, verdict
from tests.output.result_maker import RECIPE


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_advice(reason):
    assert advice(reason).endswith(".")


def test_the_number_that_decided_is_on_the_wrong_side_of_its_limit():
    row = {"reason": "alignment_loss", "alignment_loss": 0.09, "expected_loss": 0.04}
    decided = verdict(row, RECIPE.as_dict())
    assert (decided.value, decided.limit) == (pytest.approx(0.05), RECIPE.max_alignment_loss)
    assert decided.value > decided.limit
    assert verdict({"reason": "truncated"}, RECIPE.as_dict()) is None


@pytest.mark.parametrize(
    ("reason", "column", "accepted"),
    [("alignment_uncertain", "alignment_score", 90.0), ("misaligned", "residual", 0.2)],
)
def test_a_number_that_its_limit_accepts_did_not_decide(reason, column, accepted):
    """The photos of a scene that repeats correlate well; what decided is in the pair's detail."""
    assert verdict({"reason": reason, column: accepted}, RECIPE.as_dict()) is None
