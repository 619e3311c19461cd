"""The words of the grammar: every operation with its phrasings and its Python.

An element is an "int", a "word" or a "char"; a chain of operations goes
source -> filters and maps in any order -> arrangement -> reduction. In the templates `{x}` is
one element, `{xs}` a list expression, `{gen}` what may stand inside a call's parentheses,
`{c}` a constant or a parameter, and `{of}` the noun phrase of everything before.
"""

from dataclasses import dataclass

SMALL = tuple(range(2, 10))
COUNTS = (2, 3, 4, 5)
LETTERS = tuple("abcdeilmnoprst")


@dataclass(frozen=True)
class Source:
    """Where the elements come from: parameters, the noun for the elements, the iterable."""

    key: str
    element: str
    params: tuple[str, ...]
    heads: tuple[str, ...]
    tails: tuple[str, ...]
    code: str
    word: str
    is_list: bool = True


@dataclass(frozen=True)
class Filter:
    """Keeps elements: an adjective before the noun, or a clause "that ..." behind it."""

    key: str
    element: str
    adjective: str
    clauses: tuple[str, ...]
    code: str
    word: str
    constants: tuple[int | str, ...] = ()


@dataclass(frozen=True)
class Map:
    """Changes each element into one of kind `gives`."""

    key: str
    element: str
    gives: str
    nouns: tuple[str, ...]
    steps: tuple[str, ...]
    code: str
    word: str
    constants: tuple[int | str, ...] = ()


@dataclass(frozen=True)
class Arrange:
    """Reorders or cuts the list; `named` needs the list more than once."""

    key: str
    nouns: tuple[str, ...]
    steps: tuple[str, ...]
    code: str
    word: str
    named: bool = False
    elements: tuple[str, ...] = ("int", "word", "char")
    constants: tuple[int | str, ...] = ()


@dataclass(frozen=True)
class Reduce:
    """`loop` is (start value, one update line or more with the element `{x}` and `{r}`, result)."""

    key: str
    element: str
    nouns: tuple[str, ...]
    code: str
    word: str
    returns: str
    named: bool = False
    loop: tuple[str, str, str] | None = None
    constants: tuple[int | str, ...] = ()


# A table reads better with one entry to a line or two.
# fmt: off

def _ints(key: str, params: tuple[str, ...], heads: str, tails: str, code: str, word: str,
          is_list: bool = True) -> Source:
    return Source(key, "int", params, tuple(heads.split("|")), tuple(tails.split("|")), code, word,
                  is_list)


_NUMBERS = "numbers|integers|values|elements"
SOURCES = (
    _ints("list", ("ints",), _NUMBERS, "in {0}|of {0}|of the list {0}", "{0}", "numbers"),
    _ints("range", ("size",), "numbers|integers", "from 1 to {0}|between 1 and {0} inclusive",
          "range(1, {0} + 1)", "up_to", False),
    _ints("digits", ("size",), "digits", "of {0}|of the number {0}", "[int(d) for d in str({0})]",
          "digits"),
    _ints("divisors", ("size",), "divisors|positive divisors", "of {0}",
          "[d for d in range(1, {0} + 1) if {0} % d == 0]", "divisors"),
    _ints("values", ("table",), "values", "of {0}|in the dictionary {0}", "{0}.values()", "values",
          False),
    _ints("pair_sums", ("ints", "ints"), "pairwise sums|elementwise sums", "of {0} and {1}",
          "[a + b for a, b in zip({0}, {1})]", "pair_sums"),
    _ints("pair_products", ("ints", "ints"), "pairwise products|elementwise products",
          "of {0} and {1}", "[a * b for a, b in zip({0}, {1})]", "pair_products"),
    _ints("pair_gaps", ("ints", "ints"), "pairwise absolute differences", "of {0} and {1}",
          "[abs(a - b) for a, b in zip({0}, {1})]", "gaps"),
    _ints("pair_max", ("ints", "ints"), "pairwise maximums", "of {0} and {1}",
          "[max(a, b) for a, b in zip({0}, {1})]", "larger"),
    _ints("both", ("ints", "ints"), _NUMBERS, "of {0} followed by those of {1}", "{0} + {1}",
          "joined"),
    _ints("common", ("ints", "ints"), _NUMBERS, "of {0} also found in {1}",
          "[a for a in {0} if a in {1}]", "common"),
    _ints("missing", ("ints", "ints"), _NUMBERS, "of {0} not found in {1}",
          "[a for a in {0} if a not in {1}]", "missing"),
    _ints("flat", ("rows",), _NUMBERS, "in the rows of {0}|of the nested list {0}",
          "[a for row in {0} for a in row]", "flat"),
    _ints("row_sums", ("rows",), "row sums|sums of the rows", "of {0}",
          "[sum(row) for row in {0}]", "row_sums"),
    _ints("row_sizes", ("rows",), "row lengths|lengths of the rows", "of {0}",
          "[len(row) for row in {0}]", "row_sizes"),
    _ints("text_digits", ("text",), "digits", "in {0}|in the string {0}",
          "[int(ch) for ch in {0} if ch.isdigit()]", "digits"),
    Source("words", "word", ("words",), ("words", "strings"), ("in {0}", "of {0}",
           "of the list {0}"), "{0}", "words"),
    Source("split", "word", ("text",), ("words",), ("in {0}", "of the sentence {0}",
           "of the text {0}"), "{0}.split()", "words"),
    Source("commas", "word", ("text",), ("comma-separated parts", "parts between commas"),
           ("of {0}",), "{0}.split(',')", "parts"),
    Source("keys", "word", ("table",), ("keys",), ("of {0}", "in the dictionary {0}"), "list({0})",
           "keys"),
    Source("chars", "char", ("text",), ("characters", "letters and other characters"),
           ("in {0}", "of {0}", "of the string {0}"), "{0}", "chars", False),
)

FILTERS = (
    Filter("even", "int", "even", ("are even", "are divisible by 2"), "{x} % 2 == 0", "even"),
    Filter("odd", "int", "odd", ("are odd", "are not even"), "{x} % 2 == 1", "odd"),
    Filter("positive", "int", "positive", ("are positive", "are above zero"), "{x} > 0",
           "positive"),
    Filter("negative", "int", "negative", ("are negative", "are below zero"), "{x} < 0",
           "negative"),
    Filter("nonzero", "int", "nonzero", ("are not zero",), "{x} != 0", "nonzero"),
    Filter("above", "int", "", ("are greater than {c}", "are larger than {c}", "exceed {c}"),
           "{x} > {c}", "above", SMALL),
    Filter("below", "int", "", ("are less than {c}", "are smaller than {c}"), "{x} < {c}",
           "below", SMALL),
    Filter("at_least", "int", "", ("are at least {c}",), "{x} >= {c}", "at_least", SMALL),
    Filter("at_most", "int", "", ("are at most {c}",), "{x} <= {c}", "at_most", SMALL),
    Filter("multiple", "int", "", ("are divisible by {c}", "are multiples of {c}"),
           "{x} % {c} == 0", "multiple", (3, 4, 5, 6, 7)),
    Filter("no_multiple", "int", "", ("are not divisible by {c}", "are not multiples of {c}"),
           "{x} % {c} != 0", "not_multiple", (3, 4, 5, 6, 7)),
    Filter("ends", "int", "", ("end in the digit {c}", "have {c} as the last digit"),
           "abs({x}) % 10 == {c}", "ending", tuple(range(10))),
    Filter("two_digit", "int", "two-digit", ("have two digits",), "10 <= abs({x}) <= 99",
           "two_digit"),
    Filter("one_digit", "int", "one-digit", ("have a single digit",), "abs({x}) <= 9",
           "one_digit"),
    Filter("not_equal", "int", "", ("are not equal to {c}", "differ from {c}"), "{x} != {c}",
           "other_than", SMALL),
    Filter("long", "word", "", ("are longer than {c} characters", "have more than {c} letters"),
           "len({x}) > {c}", "long", SMALL),
    Filter("short", "word", "", ("are shorter than {c} characters", "have fewer than {c} letters"),
           "len({x}) < {c}", "short", SMALL),
    Filter("length", "word", "", ("have exactly {c} characters", "have length {c}"),
           "len({x}) == {c}", "of_length", SMALL),
    Filter("starts", "word", "", ("start with {c}", "begin with the letter {c}"),
           "{x}.startswith({c})", "starting", LETTERS),
    Filter("ends_with", "word", "", ("end with {c}", "end in the letter {c}"),
           "{x}.endswith({c})", "ending", LETTERS),
    Filter("contains", "word", "", ("contain {c}", "contain the letter {c}"), "{c} in {x}",
           "with", LETTERS),
    Filter("lacks", "word", "", ("do not contain {c}", "lack the letter {c}"), "{c} not in {x}",
           "without", LETTERS),
    Filter("even_length", "word", "", ("have an even length",), "len({x}) % 2 == 0", "even_length"),
    Filter("palindromes", "word", "palindromic", ("are palindromes", "read the same backwards"),
           "{x} == {x}[::-1]", "palindromes"),
    Filter("capitalized", "word", "capitalized", ("start with an uppercase letter",),
           "{x}[:1].isupper()", "capitalized"),
    Filter("vowels", "char", "", ("are vowels",), "{x} in 'aeiou'", "vowels"),
    Filter("not_vowels", "char", "", ("are not vowels",), "{x} not in 'aeiou'", "non_vowels"),
    Filter("digit", "char", "", ("are digits",), "{x}.isdigit()", "digits"),
    Filter("letter", "char", "alphabetic", ("are letters",), "{x}.isalpha()", "letters"),
    Filter("upper", "char", "uppercase", ("are uppercase",), "{x}.isupper()", "uppercase"),
    Filter("lower", "char", "lowercase", ("are lowercase",), "{x}.islower()", "lowercase"),
    Filter("not_space", "char", "", ("are not spaces",), "{x} != ' '", "nonspace"),
    Filter("before", "char", "", ("come before {c} in the alphabet",), "'a' <= {x} < {c}",
           "before", LETTERS[3:]),
    Filter("not_char", "char", "", ("are not {c}", "differ from {c}"), "{x} != {c}", "except",
           LETTERS),
)

MAPS = (
    Map("square", "int", "int", ("squares of {of}",), ("square each one", "square each of them"),
        "{x} ** 2", "squared"),
    Map("cube", "int", "int", ("cubes of {of}",), ("cube each one",), "{x} ** 3", "cubed"),
    Map("double", "int", "int", ("doubles of {of}",), ("double each one",
        "multiply each of them by 2"), "{x} * 2", "doubled"),
    Map("negate", "int", "int", ("negations of {of}",), ("negate each one",), "-{x}", "negated"),
    Map("absolute", "int", "int", ("absolute values of {of}",), ("take each absolute value",),
        "abs({x})", "absolute"),
    Map("add", "int", "int", ("results of adding {c} to {of}",), ("add {c} to each one",
        "increase each of them by {c}"), "{x} + {c}", "plus", SMALL),
    Map("subtract", "int", "int", ("results of subtracting {c} from {of}",),
        ("subtract {c} from each one", "decrease each of them by {c}"), "{x} - {c}", "minus",
        SMALL),
    Map("times", "int", "int", ("products of {c} and each of {of}",), ("multiply each one by {c}",),
        "{x} * {c}", "times", (3, 4, 5, 6, 7)),
    Map("remainder", "int", "int", ("remainders modulo {c} of {of}",),
        ("take the remainder of each one modulo {c}",), "{x} % {c}", "mod", (3, 4, 5, 6, 7)),
    Map("quotient", "int", "int", ("integer quotients by {c} of {of}",),
        ("divide each one by {c}, rounding down",), "{x} // {c}", "divided", (2, 3, 4, 5)),
    Map("cap", "int", "int", ("minimums of {c} and each of {of}",), ("cap each one at {c}",
        "replace those above {c} by {c}"), "min({x}, {c})", "capped", SMALL),
    Map("floor", "int", "int", ("maximums of {c} and each of {of}",),
        ("raise each one to at least {c}", "replace those below {c} by {c}"), "max({x}, {c})",
        "raised", SMALL),
    Map("distance", "int", "int", ("distances from {c} of {of}",),
        ("take the distance of each one from {c}",), "abs({x} - {c})", "distance", SMALL),
    Map("digit_sum", "int", "int", ("digit sums of {of}",),
        ("replace each one by the sum of its digits",), "sum(int(d) for d in str(abs({x})))",
        "digit_sums"),
    Map("last_digit", "int", "int", ("last digits of {of}",), ("replace each one by its last digit",
        ), "abs({x}) % 10", "last_digits"),
    Map("lengths", "word", "int", ("lengths of {of}",), ("take the length of each one",),
        "len({x})", "lengths"),
    Map("vowel_counts", "word", "int", ("vowel counts of {of}",),
        ("count the vowels of each one",), "sum(ch in 'aeiou' for ch in {x})", "vowel_counts"),
    Map("letter_counts", "word", "int", ("counts of the letter {c} in {of}",),
        ("count the letter {c} in each one",), "{x}.count({c})", "letter_counts", LETTERS),
    Map("upper", "word", "word", ("uppercase forms of {of}",), ("convert each one to uppercase",),
        "{x}.upper()", "upper"),
    Map("capital", "word", "word", ("capitalized forms of {of}",), ("capitalize each one",),
        "{x}.capitalize()", "capital"),
    Map("backwards", "word", "word", ("reversals of {of}",), ("reverse each one",
        "spell each one backwards"), "{x}[::-1]", "backwards"),
    Map("heads", "word", "word", ("first letters of {of}",), ("take the first letter of each one",),
        "{x}[:1]", "initials"),
    Map("prefix", "word", "word", ("first {c} letters of {of}",),
        ("keep the first {c} letters of each one",), "{x}[:{c}]", "prefixes", (2, 3, 4)),
    Map("suffix", "word", "word", ("last {c} letters of {of}",),
        ("keep the last {c} letters of each one",), "{x}[-{c}:]", "suffixes", (2, 3, 4)),
    Map("twice", "word", "word", ("doubled forms of {of}",), ("repeat each one twice",),
        "{x} * 2", "twice"),
    Map("append", "word", "word", ("results of appending {c} to {of}",), ("append {c} to each one",
        ), "{x} + {c}", "with_suffix", LETTERS),
    Map("remove", "word", "word", ("results of removing {c} from {of}",),
        ("remove the letter {c} from each one",), "{x}.replace({c}, '')", "removed", LETTERS),
    Map("char_upper", "char", "char", ("uppercase forms of {of}",),
        ("convert each one to uppercase",), "{x}.upper()", "upper"),
    Map("char_lower", "char", "char", ("lowercase forms of {of}",),
        ("convert each one to lowercase",), "{x}.lower()", "lower"),
    Map("char_swap", "char", "char", ("case-swapped forms of {of}",), ("swap the case of each one",
        ), "{x}.swapcase()", "swapped"),
    Map("char_repeat", "char", "word", ("{c}-fold repetitions of {of}",),
        ("repeat each one {c} times",), "{x} * {c}", "repeated", (2, 3, 4)),
    Map("char_mark", "char", "word", ("results of appending a dash to {of}",),
        ("put a dash after each one",), "{x} + '-'", "dashed"),
    Map("char_code", "char", "int", ("character codes of {of}",),
        ("take the character code of each one",), "ord({x})", "codes"),
)

ARRANGES = (
    Arrange("ascending", ("{of}, sorted in ascending order", "{of} in sorted order"),
            ("sort them in ascending order", "sort the result"), "sorted({gen})", "sorted"),
    Arrange("descending", ("{of}, sorted in descending order",),
            ("sort them in descending order", "sort from largest to smallest"),
            "sorted({gen}, reverse=True)", "descending"),
    Arrange("reversed", ("{of} in reverse order",), ("reverse the order",), "{xs}[::-1]",
            "reversed"),
    Arrange("unique", ("{of}, without duplicates", "distinct values among {of}"),
            ("drop duplicates", "remove repeated values"), "list(dict.fromkeys({gen}))", "unique"),
    Arrange("first_k", ("first {c} of {of}",), ("keep the first {c}",), "{xs}[:{c}]", "first",
            constants=COUNTS),
    Arrange("last_k", ("last {c} of {of}",), ("keep the last {c}",), "{xs}[-{c}:]", "last",
            constants=COUNTS),
    Arrange("skip_k", ("{of}, skipping the first {c}", "{of} except the first {c}"),
            ("skip the first {c}",), "{xs}[{c}:]", "after", constants=COUNTS),
    Arrange("drop_last", ("{of}, leaving out the last one", "{of} except the last one"),
            ("leave out the last one",), "{xs}[:-1]", "but_last"),
    Arrange("alternate", ("{of} at even positions", "every second one of {of}"),
            ("keep every second one, starting with the first",), "{xs}[::2]", "alternate"),
    Arrange("rotate", ("{of}, rotated left by {c}",), ("rotate the list left by {c}",),
            "{xs}[{c}:] + {xs}[:{c}]", "rotated", True, constants=(1, 2, 3)),
    Arrange("mirror", ("{of} followed by themselves in reverse",),
            ("append the reversed list to it",), "{xs} + {xs}[::-1]", "mirrored", True),
    Arrange("running", ("running sums of {of}", "cumulative sums of {of}"),
            ("take the running sums",), "[sum({xs}[:i + 1]) for i in range(len({xs}))]", "running",
            True, ("int",)),
    Arrange("steps", ("differences between neighbours among {of}",),
            ("take the difference of each one from the next",),
            "[b - a for a, b in zip({xs}, {xs}[1:])]", "steps", True, ("int",)),
    Arrange("weighted", ("{of}, each multiplied by its index",), ("multiply each one by its index",),
            "[i * v for i, v in enumerate({gen})]", "weighted", False, ("int",)),
    Arrange("longest_first", ("{of}, sorted from longest to shortest",),
            ("sort them from longest to shortest",), "sorted({gen}, key=len, reverse=True)",
            "longest_first", False, ("word",)),
    Arrange("by_length", ("{of}, sorted by length",), ("sort them by length",),
            "sorted({gen}, key=len)", "by_length", False, ("word",)),
)

REDUCES = (
    Reduce("sum", "int", ("sum of {of}", "total of {of}"), "sum({gen})", "sum", "int",
           loop=("0", "{r} += {x}", "{r}")),
    Reduce("product", "int", ("product of {of}",), "", "product", "int",
           loop=("1", "{r} *= {x}", "{r}")),
    Reduce("max", "int", ("largest of {of}, or 0 if there are none",
           "maximum of {of}, or 0 if there are none"), "max({gen}, default=0)", "max", "int"),
    Reduce("min", "int", ("smallest of {of}, or 0 if there are none",
           "minimum of {of}, or 0 if there are none"), "min({gen}, default=0)", "min", "int"),
    Reduce("count", "any", ("number of {of}", "count of {of}"), "len({xs})", "count", "int",
           loop=("0", "{r} += 1", "{r}")),
    Reduce("distinct", "any", ("number of distinct values among {of}",), "len(set({gen}))",
           "count_distinct", "int"),
    Reduce("spread", "int", ("difference between the largest and smallest of {of}, or 0 if there "
           "are none",), "max({xs}) - min({xs}) if {xs} else 0", "spread", "int", True),
    Reduce("mean", "int", ("integer average of {of}, or 0 if there are none",),
           "sum({xs}) // len({xs}) if {xs} else 0", "average", "int", True),
    Reduce("first", "any", ("first of {of}, or None if there are none",),
           "{xs}[0] if {xs} else None", "first", "any", True),
    Reduce("final", "any", ("last of {of}, or None if there are none",),
           "{xs}[-1] if {xs} else None", "last", "any", True),
    Reduce("any_above", "int", ("whether any of {of} is greater than {c}",),
           "any({x} > {c} for {x} in {xs})", "any_above", "bool", constants=SMALL),
    Reduce("all_above", "int", ("whether all of {of} are greater than {c}",),
           "all({x} > {c} for {x} in {xs})", "all_above", "bool", constants=SMALL),
    Reduce("all_even", "int", ("whether all of {of} are even",),
           "all({x} % 2 == 0 for {x} in {xs})", "all_even", "bool"),
    Reduce("sum_even", "int", ("whether the sum of {of} is even",), "sum({gen}) % 2 == 0",
           "even_sum", "bool"),
    Reduce("alternating", "int", ("alternating sum of {of}, starting with a plus",),
           "sum({xs}[::2]) - sum({xs}[1::2])", "alternating", "int", True),
    Reduce("increasing", "int", ("whether {of} never decrease",), "{xs} == sorted({xs})",
           "is_sorted", "bool", True),
    Reduce("max_index", "int", ("index of the largest of {of}, or -1 if there are none",),
           "{xs}.index(max({xs})) if {xs} else -1", "argmax", "int", True),
    Reduce("ends_sum", "int", ("sum of the first and last of {of}, or 0 if there are none",),
           "{xs}[0] + {xs}[-1] if {xs} else 0", "ends", "int", True),
    Reduce("median", "int", ("middle of the sorted {of}, or 0 if there are none",),
           "sorted({xs})[len({xs}) // 2] if {xs} else 0", "median", "int", True),
    Reduce("tally", "any", ("dictionary from each of {of} to how often it occurs",),
           "{{v: {xs}.count(v) for v in {xs}}}", "tally", "dict", True),
    Reduce("positions", "any", ("dictionary from each of {of} to its last position",),
           "{{v: i for i, v in enumerate({gen})}}", "positions", "dict"),
    Reduce("by_parity", "int", ("dictionary from 'even' and 'odd' to the lists of such numbers "
           "among {of}",), "", "by_parity", "dict",
           loop=("{{'even': [], 'odd': []}}",
                 "{r}['odd' if {x} % 2 else 'even'].append({x})", "{r}")),
    Reduce("square_map", "int", ("dictionary from each of {of} to its square",),
           "{{v: v ** 2 for v in {xs}}}", "square_map", "dict"),
    Reduce("pairs", "int", ("list of pairs of neighbours among {of}",), "list(zip({xs}, {xs}[1:]))",
           "pairs", "list", True),
    Reduce("concat", "word", ("concatenation of {of}",), "''.join({gen})", "concat", "str"),
    Reduce("join_dash", "word", ("string of {of} joined by dashes",), "'-'.join({gen})", "dashed",
           "str"),
    Reduce("join_space", "word", ("string of {of} joined by spaces",), "' '.join({gen})", "joined",
           "str"),
    Reduce("join_comma", "word", ("string of {of} joined by commas",), "','.join({gen})", "commas",
           "str"),
    Reduce("longest", "word", ("longest of {of}, or '' if there are none",),
           "max({gen}, key=len, default='')", "longest", "str"),
    Reduce("shortest", "word", ("shortest of {of}, or '' if there are none",),
           "min({gen}, key=len, default='')", "shortest", "str"),
    Reduce("total_length", "word", ("total length of {of}",), "sum(len({x}) for {x} in {xs})",
           "total_length", "int", loop=("0", "{r} += len({x})", "{r}")),
    Reduce("length_map", "word", ("dictionary from each of {of} to its length",),
           "{{v: len(v) for v in {xs}}}", "length_map", "dict"),
    Reduce("by_length", "word", ("dictionary from each length to the list of those of {of} with "
           "that length",), "", "group_by_length", "dict",
           loop=("{{}}", "{r}.setdefault(len({x}), []).append({x})", "{r}")),
    Reduce("by_letter", "word", ("dictionary from each first letter to the list of those of {of} "
           "starting with it",), "", "group_by_letter", "dict",
           loop=("{{}}", "{r}.setdefault({x}[:1], []).append({x})", "{r}")),
    Reduce("any_long", "word", ("whether any of {of} is longer than {c} characters",),
           "any(len({x}) > {c} for {x} in {xs})", "any_long", "bool", constants=SMALL),
    Reduce("text", "char", ("string of {of}", "string made of {of}"), "''.join({gen})", "text",
           "str", loop=("''", "{r} += {x}", "{r}")),
    Reduce("commas", "char", ("string of {of} separated by commas",), "','.join({gen})", "commas",
           "str"),
    Reduce("palindrome", "char", ("whether {of} read the same backwards",), "{xs} == {xs}[::-1]",
           "is_palindrome", "bool", True),
)

CONDITIONS = (
    ("ints", "more_than", "{p} has more than {c} elements", "len({p}) > {c}"),
    ("ints", "fewer_than", "{p} has fewer than {c} elements", "len({p}) < {c}"),
    ("ints", "even_count", "{p} has an even number of elements", "len({p}) % 2 == 0"),
    ("ints", "holds", "{p} contains {c}", "{c} in {p}"),
    ("ints", "big_sum", "the sum of {p} is greater than {c}", "sum({p}) > {c}"),
    ("words", "more_than", "{p} has more than {c} elements", "len({p}) > {c}"),
    ("words", "even_count", "{p} has an even number of elements", "len({p}) % 2 == 0"),
    ("text", "long", "{p} is longer than {c} characters", "len({p}) > {c}"),
    ("text", "spaced", "{p} contains a space", "' ' in {p}"),
    ("size", "even", "{p} is even", "{p} % 2 == 0"),
    ("size", "above", "{p} is greater than {c}", "{p} > {c}"),
    ("size", "multiple", "{p} is divisible by {c}", "{p} % {c} == 0"),
)

PARAMETER_NAMES = {
    "ints": ("numbers", "nums", "values", "xs", "items", "data", "lst", "arr", "scores", "sequence",
             "ys", "others", "readings", "prices", "weights", "ages", "points", "list1",
             "list2", "series", "batch", "first", "second", "left", "right"),
    "words": ("words", "strings", "names", "tokens", "labels", "terms", "strs", "parts", "titles",
              "tags", "entries", "lines", "fields", "cities", "colors", "fruits"),
    "text": ("text", "s", "string", "sentence", "phrase", "line", "message", "word", "txt",
             "content", "title", "value", "source"),
    "size": ("n", "number", "num", "x", "value", "size", "m", "limit", "stop", "count", "total"),
    "table": ("table", "mapping", "counts", "stock", "scores", "prices", "lookup", "ages",
              "inventory", "grades"),
    "rows": ("rows", "matrix", "grid", "table", "lists", "groups", "nested", "board"),
    "bound": ("k", "limit", "threshold", "bound", "amount", "cutoff", "step", "base", "offset"),
    "mark": ("letter", "char", "mark", "symbol"),
}

ANNOTATIONS = {
    "ints": "list[int]", "words": "list[str]", "text": "str", "size": "int",
    "table": "dict[str, int]", "rows": "list[list[int]]", "bound": "int", "mark": "str",
}

DESCRIPTIONS = {
    "ints": "a list of integers {0}", "words": "a list of strings {0}", "text": "a string {0}",
    "size": "a positive integer {0}", "table": "a dictionary {0} of integers by name",
    "rows": "a list of lists of integers {0}", "bound": "an integer {0}", "mark": "a letter {0}",
}
