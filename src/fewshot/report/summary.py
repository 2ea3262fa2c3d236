"""The report in words: what was run, what came out, what differs, and what could not be compared."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from fewshot.report.compare import Comparison
from fewshot.report.contents import Contents, method_name, row_name, tested_on
from fewshot.report.learner_table import chance_pct
from fewshot.report.measure import Row
from fewshot.report.verdict import Word

MAX_FAMILIES = 6
MAX_NAMES = 6

Named = Callable[[Row], str]  # row -> its name in a sentence


def summary(contents: Contents) -> list[tuple[str, list[str]]]:
    """Return (heading, sentences), made from the numbers of the report; headings without sentences are left out."""
    if not contents.cells:
        return [("What was run", [f"No result exists yet: {_count(len(contents.missing), 'evaluation')} missing."])]
    parts = [
        ("What was run", what_was_run(contents)),
        ("What came out", what_came_out(contents)),
        ("What differs", what_differs(contents)),
        ("Against earlier numbers", against_earlier_numbers(contents)),
        ("What could not be compared", what_could_not_be_compared(contents)),
        ("The counterparts", counterparts(contents)),
    ]
    return [(heading, found) for heading, sentences in parts if (found := list(sentences))]


def what_was_run(contents: Contents) -> Iterator[str]:
    """Yield how many learners were trained and tested, on what."""
    rows = [cell.row for cell in contents.cells]
    learners = {(row.entry.group, row.selection): row for row in rows}
    trained = sum(row.is_trained for row in learners.values())
    rest = f", {trained} trained and {len(learners) - trained} untrained" if trained < len(learners) else ""
    seeds = _range(len(row.runs) for row in rows)
    yield (
        f"{_count(len(learners), 'learner')}{rest}, with {_count(seeds, 'training seed')} each, trained on "
        f"{_listed(_unique(row.entry.dataset for row in rows))}."
    )
    episodes = _range(len(row.runs[0].accuracies) for row in rows)
    ways = _range(row.protocol["n_way"] for row in rows)
    queries = _range(row.protocol["n_query"] for row in rows)
    yield (
        f"Tested on {episodes} frozen episodes of {_listed(_unique(row.entry.target for row in rows))}: {ways}-way, "
        f"{_listed(f'{shot}-shot' for shot in sorted({row.shot for row in rows}))}, {queries} queries per class."
    )
    if contents.missing:
        yield f"The report is partial: {_count(len(contents.missing), 'evaluation')} missing."


def what_came_out(contents: Contents) -> Iterator[str]:
    """Yield the best row of each family of rows tested on the same episodes, and the rows not significantly worse."""
    name, place = _names(contents), _places(contents)
    for family in contents.comparisons[:MAX_FAMILIES]:
        best = family.rows[family.best]
        ties = [row for row, mark in zip(family.rows, family.marks, strict=True) if mark == "tied"]
        tied = f"; not significantly worse: {_some(map(name, ties))}" if ties else ""
        alone = len(family.rows) == 1
        yield (
            f"{place(family)}: {name(best)} {'has' if alone else 'is best with'} {_percent(best)} %{tied}. "
            f"Chance is {chance_pct(best):.3g} %."
        )
    if len(contents.comparisons) > MAX_FAMILIES:
        yield f"The table shows {len(contents.comparisons) - MAX_FAMILIES} more."


def what_differs(contents: Contents) -> Iterator[str]:
    """Yield how many pairs of rows differ, and which do not."""
    name, place = _names(contents), _places(contents)
    for family in contents.comparisons[:MAX_FAMILIES]:
        pairs = {pair: family.difference(*pair) for pair in family.differences}
        same = [pair for pair, gap in pairs.items() if not gap.is_significant]
        if not pairs:
            continue
        listed = [f"{name(family.rows[i])} and {name(family.rows[j])}" for i, j in same]
        rest = f"; not different: {_some(listed)}" if listed else ""
        yield (
            f"{place(family)}: {len(pairs) - len(same)} of {_count(len(pairs), 'pair')} of rows differ significantly "
            f"(paired, Holm-corrected){rest}."
        )


def against_earlier_numbers(contents: Contents) -> Iterator[str]:
    """Yield the verdicts on the rows and on the differences that were expected, and the rows that deviate."""
    judged = [cell for cell in contents.cells if cell.verdict.is_comparable]
    name = _names(contents)
    if judged:
        yield f"Of {_count(len(judged), 'comparable number')}, {_verdicts(cell.verdict.word for cell in judged)}."
    for word in ("higher", "lower"):
        found = [f"{name(cell.row)}, {cell.row.shot}-shot" for cell in judged if cell.verdict.word == word]
        if found:
            yield f"Significantly {word} than its counterpart: {_some(found)}."
    gaps = contents.expected_differences
    if gaps:
        yield f"Of {_count(len(gaps), 'expected difference')}, {_verdicts(gap.word for gap in gaps)}."


def what_could_not_be_compared(contents: Contents) -> Iterator[str]:
    """Yield the reasons why numbers have no verdict, and how often each occurs."""
    refused = [cell for cell in contents.cells if cell.verdict.word == "not comparable"]
    reasons = Counter(reason for cell in refused for reason in cell.verdict.reasons)
    if refused:
        listed = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
        yield f"{_count(len(refused), 'number')} not comparable with the closest counterpart: {listed}."
    alone = sum(cell.verdict.word == "none published" for cell in contents.cells)
    if alone:
        yield f"{_count(alone, 'number')} without any counterpart."
    if not refused and not alone:
        yield "Nothing: every number has a comparable counterpart."


def counterparts(contents: Contents) -> Iterator[str]:
    """Yield what "expected" and "published" mean, with the sources that occur."""
    numbers = [cell.verdict.number for cell in contents.cells if cell.verdict.number is not None]
    ours = _unique(number.source.title for number in numbers if number.settings_hash is not None)
    papers = _unique(number.source.title for number in numbers if number.settings_hash is None)
    if ours:
        yield f"“Expected” is a number of this project's own earlier runs: {_some(ours)}."
    if papers:
        yield f"“Published” is a number printed in a paper: {_some(papers)}."


def _names(contents: Contents) -> Named:
    """Return how rows are called: by method, and by backbone where that alone tells two rows apart."""
    labels = contents.labels
    backbones: dict[str, set[str]] = defaultdict(set)
    for cell in contents.cells:
        backbones[cell.method].add(cell.row.entry.backbone)

    def name(row: Row) -> str:
        method = method_name(labels[row.entry.group], row)
        return row_name(labels, row) if len(backbones[method]) > 1 else method

    return name


def _places(contents: Contents) -> Callable[[Comparison], str]:
    """Return what a family of rows is called: "glyphs, 5-shot", and its number of episodes where that varies."""
    note = contents.episodes_note
    return lambda family: f"{_place(family.rows[0])}{note(family.rows[0])}"


def _place(row: Row) -> str:
    return f"{tested_on(row)}, {row.shot}-shot"


def _percent(row: Row) -> str:
    return f"{100 * row.estimate.mean:.2f} ± {100 * row.estimate.ci95:.2f}"


def _verdicts(words: Iterable[Word]) -> str:
    """Return "12 are undecided, 3 agree"."""
    verbs = {"agrees": ("agrees", "agree")}
    texts = []
    for word, count in Counter(words).most_common():
        one, several = verbs.get(word, (f"is {word}", f"are {word}"))
        texts.append(f"{count} {one if count == 1 else several}")
    return _listed(texts)


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _listed(texts: Iterable[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def _some(texts: Iterable[str]) -> str:
    """Return the texts, or the first of them and how many more there are."""
    listed = list(texts)
    more = [f"{len(listed) - MAX_NAMES} more"] if len(listed) > MAX_NAMES else []
    return _listed([*listed[:MAX_NAMES], *more])


def _range(values: Iterable[int]) -> str:
    """Return "5" or "1 to 8"."""
    found: Sequence[int] = sorted(set(values))
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _count(number: int | str, noun: str) -> str:
    """Return "1 row" or "2 rows"."""
    return f"{number} {noun}" if str(number) == "1" else f"{number} {noun}s"
