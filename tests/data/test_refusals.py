"""What is refused is counted: accepted + refused = total, whoever counts."""

from cm3leon_jax.data.refusals import Reason, Refusals, RefusedError


def _counted(num_accepted, *reasons, max_lines=1000):
    made = Refusals(accepted=num_accepted, max_lines=max_lines)
    for index, reason in enumerate(reasons):
        made.refuse(f"row {index}", RefusedError(reason, "look at it"))
    return made


def test_accepted_and_refused_are_the_total_by_reason():
    made = _counted(3, Reason.MODE, Reason.LICENCE, Reason.MODE)
    found = made.to_json()
    assert found["accepted"] + found["refused"] == found["total"] == 6
    assert found["by_reason"] == {"licence": 1, "mode": 2}
    assert str(made) == "3 accepted + 3 refused (2 mode, 1 licence) = 6"


def test_counts_of_hosts_add_up_to_those_of_one():
    reasons = [Reason.MODE, Reason.LICENCE, Reason.TOO_LONG]
    together = Refusals()
    for part in (_counted(2, *reasons[:1]), _counted(5), _counted(0, *reasons[1:])):
        together.add(part.to_json())
    whole = _counted(7, *reasons).to_json()
    assert together.to_json() | {"lines": []} == whole | {"lines": []}
    assert len(together.lines) == 3


def test_lines_are_kept_up_to_a_limit_and_counted_beyond_it():
    made = _counted(0, *[Reason.MODE] * 5, max_lines=2)
    assert made.lines == ["row 0: mode: look at it", "row 1: mode: look at it"]
    made.add(_counted(0, Reason.MODE).to_json())
    assert len(made.lines) == 2 and made.refused == 6


def test_names_of_files_that_are_no_unicode_do_not_break_the_list():
    made = Refusals()
    made.refuse("a\udcff.png", RefusedError(Reason.UNREADABLE, "damaged"))
    assert made.lines == ["a?.png: unreadable: damaged"]
