from engine_adapter.agent.reports import Reports


def test_a_plan_that_knows_of_every_report_is_not_old() -> None:
    reports = Reports()
    assert reports.age_ns(0, 100) == 0
    reports.sent(1, 100)
    assert reports.age_ns(1, 900) == 0


def test_a_plan_is_as_old_as_the_first_report_that_it_does_not_know_of() -> None:
    reports = Reports()
    for step, sent_ns in ((1, 100), (4, 200), (5, 300)):
        reports.sent(step, sent_ns)
    assert reports.age_ns(0, 1000) == 900
    assert reports.age_ns(1, 1000) == 800
    assert reports.age_ns(3, 1000) == 800
    assert reports.age_ns(4, 1000) == 700
    # What was heard once stays heard.
    assert reports.age_ns(1, 1000) == 700


def test_another_stream_was_told_everything() -> None:
    reports = Reports()
    reports.sent(1, 100)
    reports.opened()
    assert reports.age_ns(0, 1000) == 0
