"""Which program is found in a response: one row for each kind, which fails without its rule."""

import itertools
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcb_multipl_util import extract_code_from_markdown

AREA = "def area(r):\n    return 3.14 * r * r"
DRAFT = "def area(r):\n    return r * r"
VOLUME = "def volume(r, h):\n    return area(r) * h"
WHOLE = f"{AREA}\n\n\n{VOLUME}"
CALLS = "\n".join(f'print(area({n}, "{"ab" * n}"))' for n in range(30))
DRIVER = 'r = float(input())\nif r > 0:\n    print("The area:", area(r))\nelse:\n    exit(1)'
RUST = "pub fn gcd(a: u64, b: u64) -> u64 {\n    if b == 0 { a } else { gcd(b, a % b) }\n}"
SQL = "SELECT name, age\nFROM people\nWHERE age > 30;"
BASH = '#!/usr/bin/env bash\nfor file in "$@"; do\n  mv -- "$file" "${file,,}"\ndone'
FIND = "find . -name '*.log' -delete"
VALVE = "// Opens at noon\nIF Noon THEN\nValve := TRUE;\nEND_IF\n// Closes\nIF Night THEN\nEND_IF"
JAVA = "/**\n * The words of a text.\n * Made by <code>split</code>.\n */\nclass Words {\n}"
STRIP = "import re\n\ndef strip(text):\n    # up to </think>\n    return text[9:]"
PROMPT = 'P = """\n<think>\nBriefly.\n</think>\n"""\nask(P)'
PAGE = "<html>\n<body>\n<p>x</p>\n</body>\n</html>"
ELEMENT = "let x = <p>\n  <code>\n  {y}\n  </code>\n</p>;"
MANUAL = 'TEXT = """\n```sh\nls\n```\n"""\nprint(TEXT)'
NESTED = 'def table(rows):\n    """Make a table.\n\n    ```\n    table([[1]])\n    ```\n    """'
DOCSTRING = f'"""Means.\n\nThe list must not be empty.\nAn empty one fails.\n"""\n\n{AREA}'
COMMENTED = f"# It is an area.\n# It is not rounded.\n# The radius is given.\n{AREA}"
PROOF = "Lemma same : 1 = 1.\nProof.\n  reflexivity.\nQed."
HASKELL = "import Data.List\n\nruns = group"
DATA = '{"name": "Ada",\n"town": "London",\n"tongues": ["English", "French"],\n"age": 36}'
TEMPLATE = "SELECT column\nFROM table\nWHERE condition;"
WORDS = "It does what you want, and no more."
RULER = "-" * 40


def fenced(tag: str, code: str, marks: str = "```") -> str:
    return f"{marks}{tag}\n{code}\n{marks}"


def indented(text: str, by: str) -> str:
    return re.sub("^(?=.)", by, text, flags=re.MULTILINE)


def lines(*parts: str) -> str:
    return "\n".join(parts)


def thought(begin: str, end: str) -> str:
    return f"{begin}Try this:\n{fenced('py', DRAFT)}\n{end}{fenced('py', AREA)}"


TOKENS = ["<|im_end|>", "</s>", "<end_of_turn>", "<eos>", "[/INST]", "<\uff5cend\u2581it\uff5c>"]
KINDS = {
    # in reasoning and after it
    "closed": (thought("<think>\n", "</think>\n"), AREA),
    "another name": (thought("<inner_monologue>", "</inner_monologue>"), AREA),
    "capitals in brackets": (thought("[THINK]", "[/THINK]"), AREA),
    "triangles": (thought("◁think▷", "◁/think▷\n"), AREA),
    "bars": (thought("<|begin_of_thought|>", "<|end_of_thought|>"), AREA),
    "attributes, never closed": (f'<think effort="low">\n{AREA}', None),
    "never opened": (thought("", "</think>"), AREA),
    "closed in a line": (f"So I join them.</think>{SQL}", SQL),
    "never closed": (f"[THINK]\n{fenced('py', AREA)}", None),
    "closed, opened again": (f"<think>a</think>Wait.\n<think>\n{AREA}", None),
    "before and after": (f"<think>a</think>\n{fenced('', AREA)}\n<think>b</think>", AREA),
    "a draft before it alone": (f"{fenced('', WHOLE)}\n</think>\n{fenced('', AREA)}", AREA),
    "after the answer": (f"<code>\n{AREA}\n</code><reasoning>Pi.</reasoning>", AREA),
    "a heading in brackets": (f"[Analysis]\n{fenced('', AREA)}", AREA),
    "a plan, then the answer": (f"<plan>Sort.</plan>\n<answer>\n{AREA}\n</answer>", AREA),
    "harmony": (thought("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"), AREA),
    "harmony, from its start": (f"<|start|>assistant<|channel|>analysis<|message|>{AREA}", None),
    "harmony without tokens": (thought("analysisWe ", "assistantfinal"), AREA),
    "channel": (thought("<|channel>thought\n", "<channel|>"), AREA),
    "a program names the mark": (fenced("py", STRIP), STRIP),
    "an unfenced one does": (STRIP, STRIP),
    "a program names both": (fenced("py", PROMPT), PROMPT),
    "quoted in it": (f'<think>I close with "</think>" at the end:\n{AREA}', None),
    "quoted as code": (f"{fenced('', AREA)}\nIt is cut at `</think>`.", AREA),
    # tokens, and marks around the answer
    **{f"{token} at the end": (f"```py\n{AREA}{token}\n", AREA) for token in TOKENS},
    "token at the beginning": (f"<|python_tag|>{AREA}", AREA),
    "role": (f"<|im_start|>assistant\n{AREA}", AREA),
    "token in a program": ('x = "</s>"', 'x = "</s>"'),
    "answer": (f"<answer>\n{PROOF}\n</answer>", PROOF),
    "answer, cut off": ("<answer>\nvalve opens\nvalve closes", "valve opens\nvalve closes"),
    "answer, its name longer": (f"<final_answer>{SQL}</final_answer>", SQL),
    "then its use": (f"<answer>\n{AREA}\n</answer>\n{fenced('', CALLS)}", AREA),
    "brackets": (f"[PYTHON]\n{AREA}\n[/PYTHON]\n[TESTS]\n{CALLS}\n[/TESTS]", AREA),
    "named in prose": ("Use the <output> element.\nIt shows it.", None),
    "attributes": (f'<artifact type="code">\n{AREA}\n</artifact>', AREA),
    "behind words": (f"The query is: <code>{SQL}</code>", SQL),
    "closing mark only": (f"{AREA}</code>\n", AREA),
    "an element in a program stays": (f"Take this, please.\n\n{ELEMENT}\n\n{WORDS}", ELEMENT),
    "a comment stays": (JAVA, JAVA),
    "a program that asks for it stays": (f'{SQL}\nx = "<answer>"\n{SQL}',) * 2,
    # fences
    "sentences around": (f"Here:\n\n{fenced('python', AREA)}\n\nIt is an area.", AREA),
    "windows newlines": (fenced("", AREA).replace("\n", "\r\n"), AREA),
    "carriage returns": (fenced("", AREA).replace("\n", "\r"), AREA),
    "white space in it": ("```r\nx <- 1  \n\n\n\ty <- 2\n```", "x <- 1  \n\n\n\ty <- 2"),
    "tildes": (f"So:\n{fenced('r', 'x <- 1', '~~~')}\nBye.", "x <- 1"),
    "longer": (fenced("", MANUAL.replace("sh\n", "\n"), "````"), MANUAL.replace("sh\n", "\n")),
    "in a list": (f"1. So:\n\n{indented(fenced('', WHOLE), '   ')}\n2. Run it.", WHOLE),
    "behind a list mark": (f"- {indented(fenced('', WHOLE), '  ')[2:]}", WHOLE),
    "in a quote": (f"So:\n\n{indented(fenced('', AREA), '> ')}", AREA),
    "indented alone": (f"   ```python\n{WHOLE}\n   ```", WHOLE),
    "blank without width": (f"\u200b{fenced('', AREA)[:-3]}\u200b```\n{WORDS}", AREA),
    "fence behind words": (f"Here it is: ```python\n  {AREA}\n```", f"  {AREA}"),
    "before words": (f"Put ``` before it and\n{fenced('', AREA)}", AREA),
    "a span, no fence": (f"```sketch```\n{AREA}", AREA),
    "a span on a line": (f"```area``` is\n{fenced('', AREA)}", AREA),
    "attributes of data": (f'```json title="a"\n{DATA}\n```\n{fenced("", AREA)}', AREA),
    "code on its line": (f"```python {AREA}\n```", AREA),
    "code on its line, no tag": (f"```{AREA}\n```", AREA),
    "unclosed": (f"Here:\n```python\n{AREA}", AREA),
    "closed behind code": (f"```python\n{AREA}```\n{WORDS}", AREA),
    "closed deeper": (f"```python\n{AREA}\n        ```\n{WORDS}", AREA),
    "an indented one in it": (fenced("python", NESTED), NESTED),
    "one behind a tab in it": (fenced("go", "/*\n\t```\n*/\nx()"), "/*\n\t```\n*/\nx()"),
    "one with a tag in it": (f"{fenced('python', MANUAL)}\nDone.", MANUAL),
    "around all": (fenced("markdown", f"Here:\n{fenced('py', AREA)}\nBye."), AREA),
    "twice": (fenced("", fenced("lua", "return 1")), "return 1"),
    "closing only, then examples": (f"{AREA}\n```\n# Examples\n{CALLS}\n```", AREA),
    "closing only, code after words": (f"Here it is:\n\n{SQL}\n```\n\n{WORDS}\n- Fast.", SQL),
    "signs before it": (f"area(r):\n{fenced('', AREA)}", AREA),
    # without a fence
    **{code.split()[0]: (code, code) for code in (BASH, HASKELL, VALVE)},
    "few signs": (f"Here is the program.\n\n{VALVE}\n\n{WORDS}", VALVE),
    "sentences in a docstring": (DOCSTRING, DOCSTRING),
    "sentences in comments": (COMMENTED, COMMENTED),
    "prose around": (f"Take this, please.\n\n{AREA}\n\n{WORDS}\n\n- It is `pi`.", AREA),
    "prose in other letters": (f"Źródło:\n\n{AREA}\n\nŁatwe do użycia.", AREA),
    "prose without spaces": (f"代码如下\n\n{AREA}\n\n面积是对的", AREA),
    "words without a stop": (f"Sure, here is the one you want\n\n{AREA}", AREA),
    "a word, a span, a subtitle": (f"Sure!\n`area`\n## Code\n{AREA}\n## Cost\nIt is low.", AREA),
    "a table": (f"{AREA}\n\n| r | area |\n|---|---|", AREA),
    "a ruler in it": (f"{SQL}\n{RULER}\n{SQL}", f"{SQL}\n{RULER}\n{SQL}"),
    "byte order mark": (f"\ufeff{AREA}", AREA),
    "headings": (f"# Words\n\nI count them.\n\n{AREA}\n\n## Cost\n\n{WORDS}", AREA),
    "rulers": (f"Here.\n{RULER}\narea.py\n{RULER}\n{AREA}\n{RULER}\n{WORDS}", AREA),
    "two ways": (f"One way:\n{SQL}\n{WORDS}\nAnother way:\n{TEMPLATE}", SQL),
    "steps, then all": (f"Step 1:\n{SQL}\nStep 2:\n{TEMPLATE}\nFull query:\n{SQL[:-1]}", SQL[:-1]),
    "tokens": (f"Here:\n<tool_call>lua\n<|lua|>\n{AREA}", AREA),
    "list of fragments": ("Steps:\n1. x = f(a)\n2. y = g(x)\n   - z = h(y)", None),
    "titles": (f"**Area**\n\n{AREA}\n\n**Use**\n\nprint(area(2))", None),
    "steps": (f"Step 1: define\n{AREA}\nStep 2: call\nprint(area(2))", None),
    "items": (f"{AREA}\n- Then you call it.\nprint(area(2))", None),
    "sentences between": (f"Write this.\n{AREA}\nThen write this.\n{VOLUME}", None),
    "acronyms": ("SQL joins are what you need.", None),
    "code spans only": ("Use `sorted(xs)` and take `[-1]`.\n\n- `xs[0]` is the first.", None),
    "empty block": ("Here:\n```python\n```", None),
    "placeholder": (lines("Put it here:", "```", "# your code here", "...", "```"), None),
    "installation": (fenced("sh", "$ pip install requests\nnpm install react"), None),
    "no installation": (fenced("sh", "git log | head"), "git log | head"),
    # several blocks
    "longer data": (lines(fenced("json", DATA), fenced("sql", SQL)), SQL),
    "longer output": (lines(fenced("", DATA), fenced("sql", SQL)), SQL),
    "no tags": (lines("From", fenced("", "Input: one\nMore: two"), fenced("", AREA)), AREA),
    "page, no tag": (lines(fenced("html", PAGE), fenced("", AREA)), AREA),
    "script": (lines(fenced("bash", BASH), fenced("cron", "0 3 * * * ls")), BASH),
    "prose, command": (lines(fenced("", f"{WORDS}\nYes."), fenced("bash", FIND)), FIND),
    "input before": (lines(fenced("py", "xs = [3, 1, 2]"), fenced("py", WHOLE)), WHOLE),
    "another way": (lines(fenced("py", WHOLE), "Or:", fenced("py", WHOLE + ".0")), WHOLE),
    "assertions": (lines(fenced("py", AREA), "Try it out:", fenced("py", CALLS)), AREA),
    "driver": (lines(fenced("py", AREA), "To run it:", fenced("py", DRIVER)), AREA),
    "tests": (lines("### Tests", "Run:", fenced("py", VOLUME), "So:", fenced("py", AREA)), AREA),
    "tests, said in it": (lines(fenced("py", f"# Tests\n{VOLUME}"), fenced("py", AREA)), AREA),
    "general form": (
        lines("The general form:", fenced("", "find A -x"), fenced("", FIND)),
        FIND,
    ),
    "original": (lines("### Original", fenced("", DRAFT), "Now:", fenced("", AREA)), AREA),
    "your code": (lines("See your original code:", fenced("", DRAFT), fenced("", AREA)), AREA),
    "tables": (lines("Given these tables:", fenced("sql", TEMPLATE), fenced("sql", SQL)), SQL),
    "another language": (lines(fenced("c", "0;" * 20), fenced("rust", RUST)), RUST),
    "parts, then all": (lines(*(fenced("", x) for x in (AREA, VOLUME, WHOLE))), WHOLE),
    "final": (lines(fenced("", DRAFT), "Final version:", fenced("", WHOLE)), WHOLE),
    "all again": (lines(fenced("", DRAFT), fenced("", WHOLE), "Full:", fenced("", WHOLE)), WHOLE),
    "combined": (lines(fenced("", SQL), "All put together:", fenced("", TEMPLATE)), TEMPLATE),
    "corrected": (lines(fenced("", DRAFT), "Wait, pi is missing:", fenced("", AREA)), AREA),
    "called full, but less": (lines(fenced("", WHOLE), "Full:", fenced("", DRAFT)), WHOLE),
    "imports": (lines(fenced("", HASKELL[:16]), fenced("", HASKELL[18:])), HASKELL),
    "imports, then all": (lines(fenced("", HASKELL[:16]), fenced("", HASKELL)), HASKELL),
    "questions": (lines("Q1.", fenced("", AREA), "Q2.", fenced("", SQL)), f"{AREA}\n\n{SQL}"),
}


@pytest.mark.parametrize(("response", "program"), KINDS.values(), ids=KINDS)
def test_the_program_in(response, program):
    assert extract_code_from_markdown(response) == program


LANGUAGES = {"python3": "py", "C++17": "cpp", "Node.js": "js", "JavaScript, Node 24": "javascript"}
LANGUAGES |= {"rs": "rust", "pl": "perl", "ml": "ocaml", "jl": "julia", "rkt": "racket", "C#": "cs"}


@pytest.mark.parametrize(("lang", "tag"), LANGUAGES.items())
def test_blocks_in_the_language_are_preferred(lang, tag):
    response = lines(fenced("lua", WHOLE), "Or:", fenced(tag, AREA), fenced("", VOLUME))
    assert extract_code_from_markdown(response, lang) == AREA
    assert extract_code_from_markdown(response, "Fortran") == WHOLE


def test_a_language_called_text_is_no_tag_of_text():
    response = lines(fenced("iecst", VALVE), "Output:", fenced("text", "n = 1"))
    assert extract_code_from_markdown(response, "Structured Text") == VALVE


ODD_LINES = ["```", "```py", "    x = 1", "\treturn x", "> ~~~", "- ```", "# Usage:", "</think>"]
ANY_LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))
LINES = st.lists(ANY_LINE | st.sampled_from(ODD_LINES)).map("\n".join)


@given(LINES, st.sampled_from("`~"), st.sampled_from(["", "python", "c++", "text"]))
def test_any_program_comes_back_from_a_fence_longer_than_those_in_it(body, mark, tag):
    program = f"x = 1\n{body}\nprint(x)"
    longest = max(map(len, re.findall("`+|~+", program)), default=0)
    response = f"Here it is.\n\n{fenced(tag, program, mark * max(3, longest + 1))}\n\nIt prints x."
    assert extract_code_from_markdown(response) == program


@given(LINES, st.text())
def test_every_line_of_a_program_stood_in_the_response(response, lang):
    program = extract_code_from_markdown(response, lang) or ""
    assert all(line in response for line in program.split("\n"))


STATES = {
    "before a fence": "{}\n```py\nx = 1\n```",
    "in a fence": "~~~py\n{}\n~~~\n{}",
    "in an unclosed fence": "Ab {}x\n```\n{}",
    "in reasoning": "<think>{}</think>\n{}x = 1",
    "unfenced": "Ab {}x\n\n{}x = (1)\n",
}
UNITS = [*'`~> \t\nA1é.!(="|[<_', "- ", "a\n", "b c", "# a\n", "A b:\n", "/*\n", "import a\n"]
UNITS += ["```\n", "```py\nx\n```\n", "<a>", "<|a|>", "<think>\n", "</think>", "<answer>\n", "your"]


def cpu_seconds(text: str, times: int = 1) -> float:
    spent = []
    for _ in range(times):  # what disturbs a measurement does not disturb all of them
        started = time.process_time()
        extract_code_from_markdown(text)
        spent.append(time.process_time() - started)
    return min(spent)


@pytest.mark.parametrize("frame", STATES.values(), ids=STATES)
def test_time_grows_linearly(frame):
    for units in itertools.product(UNITS, UNITS):
        for one_by_one in (True, False):
            few, some, many = (frame.replace("{}", run(*units, one_by_one, n)) for n in (1, 2, 8))
            if cpu_seconds(few) > 0.004:  # linear time is some 0.001 s
                assert cpu_seconds(many, 3) < 8 * cpu_seconds(some, 3), units  # or 4, or 16


def run(first: str, second: str, one_by_one: bool, kilobytes: int) -> str:
    """Two units in turn, or the one and then the other, so many times."""
    n = 1000 * kilobytes // len(first + second)
    return (first + second) * n if one_by_one else first * n + second * n


@pytest.mark.parametrize("frame", STATES.values(), ids=STATES)
def test_a_long_response_takes_seconds(frame):
    hostile = "".join(unit * (300_000 // len(UNITS) // len(unit)) for unit in UNITS)
    assert cpu_seconds(frame.replace("{}", hostile)) < 4
