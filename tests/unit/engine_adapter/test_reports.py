from engine_adapter.agent.reports import APART_NS, KEPT, Reports

MS = 1_000_000


def test_a_plan_that_knows_of_every_report_is_not_old() -> None:
    reports = Reports()
    assert reports.age_ns(0, 100 * MS) == 0
    reports.sent(1, 100 * MS)
    assert reports.age_ns(1, 900 * MS) == 0


def test_a_plan_is_as_old_as_the_first_report_that_it_does_not_know_of() -> None:
    reports = Reports()
    for step, sent_ms in ((1, 100), (4, 200), (5, 300)):
        reports.sent(step, sent_ms * MS)
    assert reports.age_ns(0, 1000 * MS) == 900 * MS
    assert reports.age_ns(1, 1000 * MS) == 800 * MS
    assert reports.age_ns(3, 1000 * MS) == 800 * MS
    assert reports.age_ns(4, 1000 * MS) == 700 * MS
    # What was heard once stays heard.
    assert reports.age_ns(1, 1000 * MS) == 700 * MS


def test_reports_of_which_no_plan_ever_tells_take_no_more_room_than_a_plan_lives() -> None:
    reports = Reports()
    for step in range(100_000):
        reports.sent(step, step * MS)
    assert len(reports._unheard) == KEPT
    assert reports.age_ns(0, 100_000 * MS) >= (KEPT - 1) * APART_NS


def test_another_stream_was_told_everything() -> None:
    reports = Reports()
    reports.sent(1, 100 * MS)
    reports.opened()
    assert reports.age_ns(0, 1000 * MS) == 0
