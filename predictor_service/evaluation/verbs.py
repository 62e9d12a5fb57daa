"""What a prompt asks for: its root verb, by a simple rule."""

import re

QUESTION, OTHER = "question", "other"
LOOK_AT_CHARACTERS = 200

ASKS = re.compile(
    r"\W*(what|who|whom|whose|when|where|why|which|how|is|are|was|were|do|does|did|can|could|would|should|will)\b"
)
VERBS = re.compile(
    r"""(?<!\ba\ )(?<!\ban\ )(?<!\bthe\ )\b(
    add|analy[sz]e|answer|arrange|assign|brainstorm|build|calculate|categori[sz]e|change|choose|cite|classify|combine|
    come|compare|complete|compose|compute|conclude|construct|contrast|convert|correct|count|create|decide|define|delete|
    demonstrate|describe|design|detect|determine|develop|devise|discuss|distinguish|divide|draft|draw|edit|estimate|
    evaluate|examine|expand|explain|express|extract|fill|find|fix|form|format|formulate|generate|give|guess|highlight|
    identify|illustrate|imagine|implement|improve|infer|insert|invent|judge|label|list|locate|make|match|modify|name|
    offer|optimi[sz]e|organi[sz]e|outline|output|paraphrase|parse|perform|plan|play|predict|prepare|present|produce|
    propose|provide|rank|rate|rearrange|recommend|reconstruct|reduce|remove|rename|reorder|rephrase|replace|report|
    research|respond|retrieve|return|reverse|review|revise|rewrite|round|select|sequence|show|simplify|simulate|solve|
    sort|specify|spell|split|state|suggest|sum|summari[sz]e|tell|transform|translate|turn|update|use|verify|visuali[sz]e|
    write)\b""",
    re.VERBOSE,
)


def root_verb(prompt: str) -> str:
    """The first of `VERBS` near the prompt's beginning; "question" where an asking word begins it; else "other".

    So "Please write a poem" is "write", "What is a noun? Give one." is "question". Nothing is parsed: a noun that looks
    like a verb is taken for one, unless an article stands before it.
    """
    text = prompt[:LOOK_AT_CHARACTERS].lower()
    if ASKS.match(text):
        return QUESTION
    verb = VERBS.search(text)
    return verb[1] if verb else OTHER
