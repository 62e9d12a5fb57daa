import pytest

from predictor_service.evaluation.verbs import root_verb


@pytest.mark.parametrize(
    ("prompt", "verb"),
    [
        ("Generate a new solution to the climate crisis.", "generate"),
        ("Please write a poem about rain, and describe it.", "write"),
        ("Given a list of words, sort them.", "sort"),
        ("What is a noun? Give one.", "question"),
        ("  Is this sentence right?", "question"),
        ("Rewriting history", "other"),
        ("", "other"),
        ("CLASSIFY this:\n\nwhat is it", "classify"),
    ],
)
def test_the_first_verb_of_an_instruction_names_its_task(prompt: str, verb: str) -> None:
    assert root_verb(prompt) == verb
