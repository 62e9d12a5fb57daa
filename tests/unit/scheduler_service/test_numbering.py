from scheduler_service.numbering import Numbering


def heard(*messages: tuple[int, int]) -> list[str]:
    numbering = Numbering()
    return [numbering.hear(*message) for message in messages]


def test_messages_in_order_are_news_and_what_is_missing_is_a_gap() -> None:
    assert heard((1, 5), (1, 6), (1, 8), (1, 9)) == ["next", "next", "gap", "next"]


def test_another_epoch_is_told_as_such_and_an_older_one_is_a_repeat() -> None:
    assert heard((1, 5), (2, 1), (2, 2), (1, 6), (2, 3)) == ["next", "epoch", "next", "repeated", "next"]


def test_repeats_in_any_order_change_nothing() -> None:
    assert heard((1, 5), (1, 5), (1, 3), (1, 4), (1, 2), (1, 6)) == ["next", *["repeated"] * 4, "next"]


def test_one_damaged_number_makes_repeats_of_few_that_follow() -> None:
    for damaged, again in (((1, 2**60), "gap"), ((9, 1), "epoch")):
        following = heard((1, 5), damaged, (1, 6), (1, 7), (1, 8), (1, 9))[2:]
        assert following == ["repeated", "repeated", again, "next"]


def test_after_a_new_subscription_anything_is_news() -> None:
    numbering = Numbering()
    numbering.hear(7, 70)
    numbering.forget()
    assert numbering.hear(1, 1) == "next"
